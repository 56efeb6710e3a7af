"""A reproduced table as Markdown, CSV and LaTeX: what came out here beside what the paper prints.

`write_table` writes, named <system>_table_<number> or <system>_figure_<number>:

    .md            per dataset the table, what its marks mean, relative gains, what has failed or is missing
    .csv           every number in long form, with all tests, of all datasets
    .tex           per dataset a table for the booktabs package
    .html          one page with all that, the pictures, texts of test samples and how it was made
    figures/       the pictures of that page, PNG and PDF

Best and second best are found among the values as printed, so that rows which differ in no printed digit share a
place; what ranks by the truth (upper bound, ground truth) takes no part.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl

from rlrec.evaluation.significance import mean_and_sd
from rlrec.paper_values import paper_values
from rlrec.reproduction.statistics import PREDICTED, statistics
from rlrec.reproduction.tables import Cell, PaperTable, Row
from rlrec.results import write_text_atomic
from rlrec.row_names import UPPER_BOUND, row_base, row_label
from rlrec.tables import (
    LOWER_IS_BETTER,
    cell,
    defused,
    latex_escape,
    latex_table,
    markdown_table,
    metric_label,
    spreadsheet_safe,
)

DIGITS = 4  # as in the papers' tables
LEVEL = 0.05
BETTER, WORSE = "▲", "▼"
ABSENT = "–"
TRUTHS = (UPPER_BOUND, "ground_truth")
SYSTEMS = {"expctr": "ExpCTR", "recpie": "RecPIE", "trail": "TRAIL", "seller": "SELLER"}


@dataclass(frozen=True)
class Entry:
    """What stands in one place of a table.

    Attributes:
        text: the value, or why there is none.
        place: 1 for the best of its column, 2 for the second best, None for others.
        mark: behind it: fewer seeds, better or worse than the reference.
    """

    text: str
    place: int | None = None
    mark: str = ""

    def rendered(self, escape, best: str, second: str) -> str:
        """The entry in some format; `best` and `second` are templates with one {}."""
        text = {1: best, 2: second}.get(self.place, "{}").format(escape(self.text))
        return text + (f" {escape(self.mark)}" if self.mark else "")


@dataclass(frozen=True)
class Sheet:
    """The table of one dataset, before any format.

    Attributes:
        title: for readers.
        header: names of the columns.
        body: of each row its label and entries.
        gains: header and cells of the relative gains; without cells where there are none.
        notes: what the marks mean, what is missing, footnotes.
        statistics: see `rlrec.reproduction.statistics`.
    """

    dataset: str
    title: str
    header: list[str]
    body: list[tuple[str, list[Entry]]]
    gains: tuple[list[str], list[list[str]]]
    notes: list[str]
    statistics: pl.DataFrame


def write_table(
    table: PaperTable, cells: Sequence[Cell], output_dir: Path, seeds: int, pictures: bool = True
) -> list[Path]:
    """Write the files of this module's docstring and return their paths.

    Args:
        table: the paper's.
        cells: of all datasets that were asked for.
        output_dir: made when missing.
        seeds: how many were asked for.
        pictures: draw them (needs the `plot` extra).

    Raises:
        ValueError: two folders of one dataset and seed hold different test samples or labels.
    """
    from rlrec.reproduction.html import write_report_html

    output_dir, name = Path(output_dir), file_name(table)
    sheets = [make_sheet(table, cells, dataset, seeds) for dataset in dict.fromkeys(cell.dataset for cell in cells)]
    texts = {
        ".md": "\n\n".join(map(sheet_markdown, sheets)) + "\n",
        ".csv": spreadsheet_safe(long_table(table, cells, sheets)).write_csv(),
        ".tex": "\n\n".join(map(sheet_latex, sheets)) + "\n",
    }
    written = [write_text_atomic(output_dir / f"{name}{ending}", text) for ending, text in texts.items()]
    figures = []
    if pictures:
        from rlrec.reproduction.figures import table_figures  # the `plot` extra

        figures = [drawn for sheet in sheets for drawn in table_figures(table, cells, sheet.dataset, output_dir, name)]
        written += [path for figure in figures for path in figure.paths]
    return [*written, write_report_html(table, cells, sheets, figures, output_dir / f"{name}.html")]


def file_name(table: PaperTable) -> str:
    """What the files of a table are called, without an ending: letters, digits and underscores."""
    return re.sub(r"\W+", "_", f"{table.system}_{kind(table)}")


def kind(table: PaperTable) -> str:
    """ "table 1" or "figure 4"."""
    return table.number if table.number.startswith("figure ") else f"table {table.number}"


def heading(table: PaperTable) -> str:
    """ "ExpCTR, Table 1"."""
    return f"{SYSTEMS.get(table.system, table.system)}, {kind(table).capitalize()}"


# -- what stands where ------------------------------------------------------------------------------------------------
def make_sheet(table: PaperTable, cells: Sequence[Cell], dataset: str, seeds: int) -> Sheet:
    """The table of one dataset."""
    cells = [cell for cell in cells if cell.dataset == dataset]
    found = statistics(table, cells, dataset, seeds)
    lines = {(line["row"], line["metric"]): line for line in found.iter_rows(named=True)}
    source = paper_dataset(table, dataset)
    printed = {metric: _printed(table, source, metric) for metric in table.metrics}
    header, columns = ["row"], []
    for metric in table.metrics:
        header.append(metric_label(metric, arrow=True))
        columns.append(_own_entries(table, cells, metric, lines))
        if printed[metric]:
            header.append(_of_paper("paper", source, dataset))
            columns.append(_paper_entries(table, metric, printed[metric]))
    body = [(row_label(row.name), list(entries)) for row, entries in zip(table.rows, zip(*columns))]
    gains = gain_table(table, cells, dataset)
    title = f"{heading(table)}, on {dataset}: {table.caption}"
    notes = _notes(table, cells, found, seeds, source if any(printed.values()) else None)
    return Sheet(dataset, title, header, body, gains, notes, found)


def _own_entries(
    table: PaperTable, cells: Sequence[Cell], metric: str, lines: Mapping[tuple[str, str], Mapping]
) -> list[Entry]:
    means = {row.name: lines[row.name, metric]["mean"] for row in table.rows if (row.name, metric) in lines}
    where, entries = places(means, metric), []
    for row in table.rows:
        line = lines.get((row.name, metric))
        if line is None:
            # said once in a row
            entries.append(Entry(_why_empty(row, cells) if metric == table.metrics[0] else ABSENT))
            continue
        marks = [f"(n={line['seeds']})"] if line["seeds"] < line["asked"] else []
        if line["p_holm"] is not None and line["p_holm"] < LEVEL:
            marks.append(BETTER if (line["difference"] < 0) == (metric in LOWER_IS_BETTER) else WORSE)
        entries.append(Entry(cell(line["mean"], line["sd"], DIGITS), where.get(row.name), " ".join(marks)))
    return entries


def _why_empty(row: Row, cells: Sequence[Cell]) -> str:
    if row.run is None:
        return "not implemented"
    states = {cell.status for cell in cells if cell.row == row.name}
    if "done" in states:  # and has no such metric
        return ABSENT
    return next((state for state in ("failed", "not implemented") if state in states), "missing")


def _paper_entries(table: PaperTable, metric: str, printed: Mapping[str, tuple[float, float | None]]) -> list[Entry]:
    where = places({row: value for row, (value, _) in printed.items()}, metric)
    return [
        Entry(cell(*printed[row.name], DIGITS), where.get(row.name)) if row.name in printed else Entry(ABSENT)
        for row in table.rows
    ]


def paper_dataset(table: PaperTable, dataset: str) -> str:
    """The dataset of the paper whose values stand beside: the same, or the first of the table's that the paper has."""
    for name in (dataset, *table.datasets):
        if any(_printed(table, name, metric) for metric in table.metrics):
            return name
    return dataset


def _of_paper(what: str, source: str, dataset: str) -> str:
    return what if source == dataset else f"{what}, {source}"


def _printed(table: PaperTable, dataset: str, metric: str) -> dict[str, tuple[float, float | None]]:
    """{row: (the paper's value, its deviation or None)} of the rows for which it has one."""
    values = paper_values(dataset, table.system)
    found = {}
    for row in table.rows:
        own = values.get(row.paper or row.name, {})
        if own.get(metric) is not None:
            found[row.name] = (own[metric], (own.get("deviations") or {}).get(metric))
    return found


def places(values: Mapping[str, float], metric: str) -> dict[str, int]:
    """1 for the best rows and 2 for the second best, by the digits that are printed; nobody is best of one.

    >>> places({"a": 0.51234, "b": 0.51231, "c": 0.5, "d": 0.4}, "auc")
    {'a': 1, 'b': 1, 'c': 2}
    >>> places({"a": 0.3, "b": 0.2, "upper_bound": 0.1}, "rmse"), places({"a": 0.3}, "rmse")
    ({'b': 1, 'a': 2}, {})
    """
    rounded = {row: round(value, DIGITS) for row, value in values.items() if row_base(row) not in TRUTHS}
    if len(rounded) < 2:
        return {}
    order = sorted(set(rounded.values()), reverse=metric not in LOWER_IS_BETTER)[:2]
    return {row: place for place, best in enumerate(order, start=1) for row, value in rounded.items() if value == best}


# -- relative gains ---------------------------------------------------------------------------------------------------
def relative_gain(without: float, with_it: float, metric: str) -> float:
    """By how much of `without` the metric is better; above 0: better.

    >>> round(relative_gain(0.5222, 0.6173, "auc"), 3), round(relative_gain(0.4, 0.3, "rmse"), 2)
    (0.182, 0.25)
    """
    gain = (with_it - without) / abs(without)
    return -gain if metric in LOWER_IS_BETTER else gain


def gain_table(table: PaperTable, cells: Sequence[Cell], dataset: str) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the relative gain of `table.gain` in percent: here, a mean over seeds, and in the paper."""
    without, with_it = table.gain
    done = {(cell.row, cell.seed): cell.values for cell in cells if cell.dataset == dataset and cell.status == "done"}
    source = paper_dataset(table, dataset)
    here, there = [], []
    for metric in table.metrics:
        gains = []
        for seed in dict.fromkeys(seed for _, seed in done):
            pair = [done.get((row, seed), {}).get(metric) for row in table.gain]
            if None not in pair and pair[0]:
                gains.append(100 * relative_gain(*pair, metric))
        here.append(_percent(*mean_and_sd(gains)) if gains else ABSENT)
        printed = _printed(table, source, metric)
        known = without in printed and with_it in printed and printed[without][0]
        gain = 100 * relative_gain(printed[without][0], printed[with_it][0], metric) if known else None
        there.append(ABSENT if gain is None else _percent(gain))
    body = [
        line
        for line in (["here", *here], [_of_paper("the paper", source, dataset), *there])
        if set(line[1:]) != {ABSENT}
    ]
    title = f"{row_label(with_it)} over {row_label(without)}"
    return [title, *(metric_label(metric) for metric in table.metrics)], body


def _percent(mean: float, sd: float | None = None) -> str:
    return f"{mean:+.1f}{'' if sd is None else f' ± {sd:.1f}'} %".replace("-", "−")


# -- notes ------------------------------------------------------------------------------------------------------------
def _notes(table: PaperTable, cells: Sequence[Cell], found: pl.DataFrame, seeds: int, source: str | None) -> list[str]:
    several = f"Mean ± standard deviation over {seeds} seeds" if seeds > 1 else "One seed"
    notes = [f"{several}. Bold: best of a column; underlined: second best, by the digits printed."]
    if len(found.filter(pl.col("seeds") < pl.col("asked"))):
        notes.append(f"(n=k): the value rests on k seeds, fewer than the {seeds} asked for.")
    tested = set(found.filter(pl.col("p_value").is_not_null())["metric"])
    if tested:
        notes.append(
            f"{BETTER} better, {WORSE} worse than {row_label(table.reference)}, p < .05: bootstrap of the difference "
            "over test users, adjusted by Holm's method over the rows. It tells how sure the difference between these "
            "trained models is, not that of another training; that is in the deviation."
        )
        if PREDICTED & tested:
            notes.append("Of a recommender fitted several times the first fit is tested; its value is their mean.")
    notes += _untested(table, found, tested)
    if source:
        notes.append(f"Paper: as printed there for {source}, on its own samples and with its own language models.")
    absent = {row.name: row.reason for row in table.rows if row.run is None}
    absent |= {entry.row: entry.reason for entry in cells if entry.status == "not implemented"}
    for reason in dict.fromkeys(absent.values()):
        rows = [row_label(row) for row in absent if absent[row] == reason]
        notes.append(f"Not implemented: {'; '.join(rows)}{_because(reason)}")
    for status, told in (("failed", "Failed"), ("missing", "Missing")):
        seeds_of: dict[tuple[str, str | None], list[int]] = {}
        for entry in cells:
            if entry.status == status:
                seeds_of.setdefault((entry.row, entry.reason), []).append(entry.seed)
        alike: dict[tuple[tuple[int, ...], str | None], list[str]] = {}
        for (row, reason), of_seeds in seeds_of.items():
            alike.setdefault((tuple(sorted(of_seeds)), reason), []).append(row_label(row))
        for (of_seeds, reason), rows in alike.items():
            which = f"seed{'s' if len(of_seeds) > 1 else ''} {', '.join(map(str, of_seeds))}"
            notes.append(f"{told}, {which}: {'; '.join(rows)}{_because(reason)}")
    return [*notes, *table.footnotes]


def _untested(table: PaperTable, found: pl.DataFrame, tested: set[str]) -> list[str]:
    """Which metrics, and which rows of the metrics that are tested, have values here and no test."""
    notes, others = [], found.filter(pl.col("row") != table.reference)
    names = [metric for metric in table.metrics if metric not in tested and metric in others["metric"]]
    if names:
        lacks = table.reference not in found["row"]
        why = f"{row_label(table.reference)} has no value" if lacks else "runs keep no value of each user"
        notes.append(f"Not tested, since {why}: {', '.join(map(metric_label, names))}.")
    alone = others.filter(pl.col("metric").is_in(sorted(tested)), pl.col("p_value").is_null())["row"]
    if rows := [row_label(row) for row in alone.unique(maintain_order=True)]:
        which = f"no finite values on the test samples of {row_label(table.reference)}"
        notes.append(f"Not tested, since they have {which}: {'; '.join(rows)}.")
    return notes


def _because(reason: str | None) -> str:
    return f" ({' '.join(reason.split())})." if reason else "."


# -- formats ----------------------------------------------------------------------------------------------------------
def sheet_markdown(sheet: Sheet) -> str:
    """A sheet as Markdown; whatever is not ours (reasons, captions) is escaped."""
    render = partial(Entry.rendered, escape=defused, best="**{}**", second="<u>{}</u>")
    body = [[defused(label), *(render(entry) for entry in entries)] for label, entries in sheet.body]
    parts = [f"## {markdown_escape(sheet.title)}", markdown_table([*map(defused, sheet.header)], body, escape=str)]
    if sheet.gains[1]:
        parts.append(markdown_table(*sheet.gains))
    return "\n\n".join([*parts, "\n".join(f"- {markdown_escape(note)}" for note in sheet.notes)])


def markdown_escape(text: str) -> str:
    r"""Text that Markdown shows as it stands, in one line.

    >>> print(markdown_escape("<b> *a*_b | [x](y)"))
    \<b\> \*a\*\_b \| \[x\](y)
    """
    return re.sub(r"([\\`*_\[\]<>|#~$&])", r"\\\1", " ".join(text.split()))


def sheet_latex(sheet: Sheet) -> str:
    """A sheet as a table for booktabs, the notes below it in small print."""
    render = partial(Entry.rendered, escape=latex_escape, best=r"\textbf{{{}}}", second=r"\underline{{{}}}")
    body = [[latex_escape(label), *(render(entry) for entry in entries)] for label, entries in sheet.body]
    text = latex_table([latex_escape(name) for name in sheet.header], body, sheet.title, escape=str)
    gains = [" ".join([line[0], *(f"{name} {value}" for name, value in zip(sheet.gains[0][1:], line[1:]))])
             for line in sheet.gains[1]]  # fmt: skip
    notes = [*sheet.notes, *(f"{sheet.gains[0][0]}, {gain}" for gain in gains)]
    small = "\n".join(rf"\par {latex_escape(note)}" for note in notes)
    return text.replace(r"\end{table}", f"\\vspace{{2pt}}\n\\footnotesize\\raggedright\n{small}\n\\end{{table}}")


def long_table(table: PaperTable, cells: Sequence[Cell], sheets: Sequence[Sheet]) -> pl.DataFrame:
    """Every number in long form: one line per dataset, row and metric, rows without values too."""
    frames = []
    for sheet in sheets:
        found = {(line["row"], line["metric"]): line for line in sheet.statistics.iter_rows(named=True)}
        source = paper_dataset(table, sheet.dataset)
        for metric in table.metrics:
            printed = _printed(table, source, metric)
            for row in table.rows:
                own = [entry for entry in cells if entry.row == row.name and entry.dataset == sheet.dataset]
                paper, deviation = printed.get(row.name, (None, None))
                line = {"dataset": sheet.dataset, "row": row.name, "label": row_label(row.name), "metric": metric}
                line["status"] = "done" if (row.name, metric) in found else _why_empty(row, own)
                line |= {name: None for name in sheet.statistics.columns if name not in line}
                line |= found.get((row.name, metric), {}) | {"paper": paper, "paper_sd": deviation}
                line["paper_dataset"] = None if paper is None else source
                frames.append(line)
    return pl.DataFrame(frames, infer_schema_length=None)
