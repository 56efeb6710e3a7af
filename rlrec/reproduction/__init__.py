"""From the description of a paper's table to that table, made here: runs, statistics, tables, pictures, one page."""
