"""What the table of a paper is: its rows, the runs that make them, and its cells."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: as in results.json: "fm", "expctr_aug".
        run: key of `PaperTable.runs`; None: not implemented.
        reason: why it is not implemented.
        paper: its name among the paper's values, where that differs.
    """

    name: str
    run: str | None
    reason: str | None = None
    paper: str | None = None


@dataclass(frozen=True)
class Run:
    """What makes cells.

    Attributes:
        name: of the run.
        recipe: "baselines", "expctr" ...
        config: {dataset: packaged configuration}.
        options: further command-line options, the same for all seeds.
        seeds: most seeds; None: as many as asked.
        minutes: {dataset: measured minutes of one seed on two cores}.
        rows_in_one: many rows in one process.
    """

    name: str
    recipe: str
    config: Mapping[str, str]
    options: Mapping[str, object]
    seeds: int | None
    minutes: Mapping[str, float]
    rows_in_one: bool


@dataclass(frozen=True)
class PaperTable:
    """A table of a paper.

    Attributes:
        system: "expctr", "recpie", "trail" or "seller".
        number: of the table in the paper.
        caption: for readers.
        metrics: its columns.
        rows: in the paper's order.
        runs: {name: what makes the rows}.
        datasets: that configurations exist for, the paper's own among them.
        reference: the row that the others are tested against, the paper's system.
        gain: (row without, row with), whose relative gain is computed for us and for the paper.
        footnotes: below the table.
    """

    system: str
    number: str
    caption: str
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    runs: Mapping[str, Run]
    datasets: tuple[str, ...]
    reference: str
    gain: tuple[str, str]
    footnotes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One row on one dataset with one seed.

    Attributes:
        row: name of the row.
        dataset: its name.
        seed: of the run.
        status: "done", "missing", "failed" or "not implemented".
        values: {metric: value}; empty unless done.
        folder: of the run, with results.json and predictions.parquet or users.parquet.
        reason: why there are no values.
    """

    row: str
    dataset: str
    seed: int
    status: str
    values: Mapping[str, float | None]
    folder: Path | None
    reason: str | None = None
