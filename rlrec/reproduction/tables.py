"""What a table or figure of a paper consists of: rows, the runs that make them, and cells with values."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: as in results.json ("fm", "expctr_aug"). Where several runs make a row of one name, what tells them apart
            stands behind "@": "expctr_aug@beta=0.01" is the row expctr_aug of the run with that beta.
        run: key of `PaperTable.runs`; None: not implemented.
        reason: why not; of a row with a run, why not on the datasets that the run does not have.
        paper: name in the paper's values where it differs.
    """

    name: str
    run: str | None
    reason: str | None = None
    paper: str | None = None


@dataclass(frozen=True)
class Run:
    """What makes cells: one recipe with one set of options, on several datasets and seeds.

    Attributes:
        name: of its folder. Runs of one name have options that only add rows, and share the folder.
        recipe: "baselines", "expctr", ...
        config: {dataset: packaged configuration}.
        options: further command-line options, the same for all seeds.
        seeds: most seeds (rows of language models: 3); None: as many as asked.
        minutes: {dataset: measured minutes of one seed on two cores}.
        rows_in_one: baselines: many rows in one process, each with a folder of its own below the run's.
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
    """A table or figure of a paper.

    Attributes:
        system: "expctr", "recpie", "trail" or "seller".
        number: "1" of a table, "figure 4" of a figure.
        caption: what it shows.
        metrics: its columns.
        rows: in order, those that are not implemented among them.
        runs: {key: run}.
        datasets: that configurations exist for; the paper's own among them.
        reference: the row the others are tested against (the paper's system).
        gain: (row without, row with): the relative gain recomputed for us and for the paper.
        footnotes: sentences below it.
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
    """A row on one dataset with one seed.

    Attributes:
        row, dataset, seed: which.
        status: "done", "missing", "failed" or "not implemented".
        values: {metric: value}; {} unless done.
        folder: of the run, with results.json and predictions.parquet or users.parquet.
        reason: why it is not done, where that is known.
    """

    row: str
    dataset: str
    seed: int
    status: str
    values: Mapping[str, float | None]
    folder: Path | None
    reason: str | None = None
