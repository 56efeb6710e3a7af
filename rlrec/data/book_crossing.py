"""Book-Crossing (C.-N. Ziegler et al., Improving Recommendation Lists Through Topic Diversification, WWW 2005).

Three forms are recognised by the files present:

- the original dump: BX-Books.csv and BX-Book-Ratings.csv (latin-1, ``;``, every field in quotes, quotes inside fields
  escaped with a backslash or not at all);
- Kaggle's: Books.csv and Ratings.csv (quoted CSV, with ``,`` or ``;``, column names vary);
- the tab-separated form: items_info.dat and book_ratings.dat, whose exporter split fields at every ``;`` so that
  "R &amp; B" fills two columns; these are joined again.

Rating 0 is implicit feedback in all of them: such rows are dropped, and counted among the rejected. There are no
timestamps and no categories.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from rlrec.data.raw import Quarantine, find, read_csv_records, read_lines, read_numbers
from rlrec.data.schema import (
    CATEGORIES,
    DESCRIPTION,
    DUPLICATE_ITEM,
    EMPTY_TITLE,
    IMPLICIT,
    ITEM_ID,
    MALFORMED,
    MISSING_ID,
    NOT_A_NUMBER,
    RATING,
    ROW,
    TIMESTAMP,
    TITLE,
    USER_ID,
    WRONG_COLUMNS,
    DataError,
    RawData,
    clean_text,
    clean_title,
    rejected_rows,
)

ADVICE = (
    "put BX-Books.csv and BX-Book-Ratings.csv, or Kaggle's Books.csv and Ratings.csv, or items_info.dat and "
    "book_ratings.dat there (the original host is offline; mirrors and Kaggle have copies)."
)
LICENCE = "Free for research use with acknowledgement of Ziegler et al., WWW 2005."

# (items file, ratings file) of each form.
_FORMS = (
    ("BX-Books.csv", "BX-Book-Ratings.csv"),
    ("Books.csv", "Ratings.csv"),
    ("items_info.dat", "book_ratings.dat"),
)
_ALIASES = {
    USER_ID: ("user-id", "user_id", "userid"),
    ITEM_ID: ("isbn",),
    RATING: ("book-rating", "rating"),
    TITLE: ("book-title", "title"),
    "author": ("book-author", "author"),
    "year": ("year-of-publication", "year"),
    "publisher": ("publisher",),
}


def read_book_crossing(raw_dir: str | Path | None, progress=lambda message: None) -> RawData:
    """Read whichever form of Book-Crossing lies in `raw_dir` or in a folder directly below it.

    Ratings run from 1 to 10; the default threshold is 5 (ExpCTR, section 5.1.1). The description of a book names
    author, year and publisher.

    Raises:
        DataError: a file is missing, empty or not in a known form.
    """
    folder = find(raw_dir, tuple(ratings for _, ratings in _FORMS), ADVICE)
    if folder is None:
        raise DataError(f"{raw_dir}: no ratings file of Book-Crossing found; {ADVICE}")
    books, ratings = next((folder / b, folder / r) for b, r in _FORMS if (folder / r).is_file())
    progress(f"reading {ratings.name} and {books.name}")
    if ratings.suffix == ".dat":
        columns = {USER_ID: pl.String, ITEM_ID: pl.String, RATING: pl.Float64}
        header = ("user", "item", "rating")
        interactions, rejected = read_numbers(
            ratings, columns, separator="\t", header=header, header_lines=1, advice=ADVICE
        )
        records = _dat_books(books)
    elif ratings.name.startswith("BX-"):
        interactions, rejected = _ratings(ratings, _dump_records(ratings))
        records = _dump_books(books)
    else:
        interactions, rejected = _ratings(ratings, _named_records(ratings, (USER_ID, ITEM_ID, RATING)))
        records = _named_records(books, (ITEM_ID, TITLE, "author", "year", "publisher"))
    implicit = pl.col(RATING) == 0
    rejected = pl.concat([rejected, rejected_rows(interactions.filter(implicit), ratings.name, RATING, IMPLICIT)])
    items, bad_items = _items(books, records)
    return RawData(
        interactions=interactions.filter(~implicit).with_columns(pl.lit(None, pl.Int64).alias(TIMESTAMP)),
        items=items,
        rejected=pl.concat([rejected, bad_items]),
        interactions_file=ratings.name,
        rating_scale=(1.0, 10.0),
        default_threshold=5.0,
        domain="book",
        licence=LICENCE,
        raw_files=[ratings, books],
    )


# Each generator yields (line, fields) or (line, reason, raw text) for a line that cannot be used.


def _dump_records(path: Path) -> Iterator[tuple]:
    """Lines of the original dump, cut at ``";"``: the one sequence its broken quoting leaves alone."""
    for number, line in read_lines(path, "latin-1", ADVICE):
        fields = [
            field.replace('\\"', '"').strip()
            for field in line.strip().removeprefix('"').removesuffix('"').split('";"')
        ]
        if number == 1:
            if fields[0].lower() not in ("user-id", "isbn"):
                raise DataError(f"{path}: the first line is {line[:100]!r}, not the header of the dump; {ADVICE}")
        elif line.strip():
            # A missing year or rating is written as NULL without quotes.
            yield number, fields


def _dump_books(path: Path) -> Iterator[tuple]:
    for number, fields in _dump_records(path):
        book = _anchored(fields)
        yield (number, book) if book else (number, WRONG_COLUMNS, ";".join(fields))


def _dat_books(path: Path) -> Iterator[tuple]:
    for number, line in read_lines(path, "utf-8", ADVICE):
        if number == 1:
            if not line.startswith("Book_ID\tISBN\tBook-Title"):
                raise DataError(
                    f"{path}: the first line is {line[:100]!r}, not the header of items_info.dat; {ADVICE}"
                )
        elif line.strip():
            # "&amp<TAB> Sons" was "&amp; Sons".
            fields = re.sub(r"(&#?\w+)\t ?", r"\1; ", line).rstrip("\t").split("\t")
            book = _anchored([fields[0], *fields[2:]])  # without the ISBN
            yield (number, book) if book else (number, WRONG_COLUMNS, line)


def _anchored(fields: list[str]) -> list[str] | None:
    """[id, title, author, year, publisher] from [id, title..., author, year, publisher..., three image URLs].

    Titles and publishers may have been torn apart at ``;``. The year is the anchor: the last all-digit field.
    """
    while len(fields) > 4 and fields[-1].startswith("http"):
        fields = fields[:-1]
    years = [k for k in range(2, len(fields) - 1) if re.fullmatch(r"\d{1,4}", fields[k].strip())]
    if not years:
        return None
    year = years[-1]
    if year == 2:  # the dump has rows with title and author in one field: DK Readers (Level 4)\";Michael Teitelbaum
        title, separator, author = fields[1].rpartition('";')
        return [fields[0], title, author, fields[2], ";".join(fields[3:])] if separator else None
    title, publisher = ";".join(fields[1 : year - 1]), ";".join(fields[year + 1 :])
    return [fields[0], title, fields[year - 1], fields[year], publisher]


def _named_records(path: Path, wanted: tuple[str, ...]) -> Iterator[tuple]:
    """Kaggle's CSV files, columns found by name; only author, year and publisher may be absent."""
    first = next(read_lines(path, "utf-8-sig", ADVICE))[1]
    delimiter = ";" if first.count(";") > first.count(",") else ","
    names = [name.strip().strip('"').lower() for name in first.split(delimiter)]
    positions = [next((names.index(name) for name in _ALIASES[column] if name in names), None) for column in wanted]
    for column, position in zip(wanted, positions):
        if position is None and column in (USER_ID, ITEM_ID, RATING, TITLE):
            raise DataError(f"{path}: the header has no column {' or '.join(map(repr, _ALIASES[column]))}; {ADVICE}")
    for number, fields, raw in read_csv_records(path, delimiter, "utf-8-sig", ADVICE):
        if number == 1:
            continue
        if fields is None:
            yield number, MALFORMED, raw
        elif len(fields) != len(names):
            yield number, WRONG_COLUMNS, raw
        else:
            yield number, ["" if position is None else fields[position].strip() for position in positions]


def _ratings(path: Path, records: Iterator[tuple]) -> tuple[pl.DataFrame, pl.DataFrame]:
    quarantine = Quarantine(path)
    rows: list[tuple] = []
    for number, fields, *raw in records:
        if raw:
            quarantine.add(number, "line", raw[0], fields)
        elif len(fields) != 3:
            quarantine.add(number, "line", ";".join(fields), WRONG_COLUMNS)
        elif not fields[0] or not fields[1]:
            quarantine.add(number, ITEM_ID if fields[0] else USER_ID, "", MISSING_ID)
        else:
            rows.append((number, *fields))
    frame = pl.DataFrame(
        rows, schema={ROW: pl.UInt32, USER_ID: pl.String, ITEM_ID: pl.String, RATING: pl.String}, orient="row"
    )
    number = pl.col(RATING).cast(pl.Float64, strict=False)
    bad = rejected_rows(frame.filter(number.is_null()), path.name, RATING, NOT_A_NUMBER)
    return frame.with_columns(number).drop_nulls(RATING), pl.concat([quarantine.frame(), bad])


def _items(path: Path, records: Iterator[tuple]) -> tuple[pl.DataFrame, pl.DataFrame]:
    quarantine = Quarantine(path)
    rows: dict[str, tuple] = {}
    for number, fields, *raw in records:
        if raw:
            quarantine.add(number, "line", raw[0], fields)
            continue
        item, title, author, year, publisher = fields
        if not item:
            quarantine.add(number, ITEM_ID, item, MISSING_ID)
        elif item in rows:
            quarantine.add(number, ITEM_ID, item, DUPLICATE_ITEM)
        elif not (cleaned := clean_title(title)):
            quarantine.add(number, TITLE, title, EMPTY_TITLE)
        else:
            author, year, publisher = author.strip(), year.strip().strip("0") and year.strip(), publisher.strip()
            parts = [f"by {author}" if author else "", f"published in {year}" if year else "", publisher]
            description = clean_text(", ".join(part for part in parts if part))
            rows[item] = (item, cleaned, [], description)
    schema = {ITEM_ID: pl.String, TITLE: pl.String, CATEGORIES: pl.List(pl.String), DESCRIPTION: pl.String}
    return pl.DataFrame(list(rows.values()), schema=schema, orient="row"), quarantine.frame()
