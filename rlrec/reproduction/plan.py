"""Which cells of a table there are, which are done, and the commands that make the others.

A run has the folder <output_dir>/<system>/<configuration>/<run>/seed-<seed>, so that tables share runs. A cell is done
when results.json there (of baselines in the row's folder below) can be read and holds the row, for the right system,
dataset and seed, the run had the settings that are asked for now, and the values of the test samples beside it are as
they were written. Nothing here imports torch.
"""

import dataclasses
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from rlrec.configs import check_known, load_config
from rlrec.files import check, read_json
from rlrec.reproduction.tables import Cell, PaperTable, Row, Run, result_row
from rlrec.results import read_results

# Options that add rows to a finished run; the recipes take them up where they were (`Run.evaluation`).
ADDITIVE = {
    "recpie": ("more_variants", "robustness"),
    "trail": ("ablations", "lora_ranks"),
    "seller": ("ablations", "explanation_types"),
}
# Beside the smoke configurations, by recipe: small budgets, and rows of the names that the tables have.
SMOKE = {
    "expctr": {"num_explanations": 4},
    "recpie": {"num_explanations": 4},
    "baselines": {"fits": 1, "grid_epochs": 2, "tallrec_epochs": 1},
}
SMOKE_DATA = {"recpie": {"num_samples": 600}}  # by system, whose recipes must draw the same samples; others' are small
OF_SAMPLES = ("predictions.parquet", "users.parquet")  # whichever of them a run has
QUALITY = ("bleurt", "coverage", "informativeness", "fluency")  # of `python -m rlrec.quality`
DEFAULT_MEMORY = 2 * 2**30  # bytes; the embedded configurations took 1.0 to 1.4 GiB


@dataclass(frozen=True)
class Job:
    """One process that makes cells: a recipe with its arguments.

    Attributes:
        name: for readers.
        folder: of the run; whoever starts the job holds its lock.
        recipe: "expctr", "baselines" ...
        arguments: its command line.
        cells: what it makes, with the folders where results.json will be.
        minutes: it may take, from finished runs of other seeds or as described; None: nobody knows.
        memory: bytes it may need.
        pretrained: whether it loads a language model that wants a GPU.
    """

    name: str
    folder: Path
    recipe: str
    arguments: tuple[str, ...]
    cells: tuple[Cell, ...]
    minutes: float | None
    memory: int
    pretrained: bool

    def command(self, launcher: Sequence[str] = (sys.executable,)) -> list[str]:
        """The whole command line."""
        return [*launcher, recipe_path(self.recipe), *self.arguments]


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        table: the table or figure.
        datasets, seeds: of them, which.
        output_dir: everything lies below it.
        data: {dataset: folder of raw files, or one written by recipes/prepare_data.py}.
        configs: {dataset: configuration} instead of the described ones.
        options: {recipe: {option: value}} beside the described ones.
        smoke: two steps of everything, with the systems' smoke configurations.
    """

    table: PaperTable
    datasets: tuple[str, ...]
    seeds: tuple[int, ...]
    output_dir: Path
    data: Mapping[str, Path] = field(default_factory=dict)
    configs: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    smoke: bool = False

    # -- cells --------------------------------------------------------------------------------------------------------
    def cells(self) -> list[Cell]:
        """All cells as they stand now."""
        return [
            self.cell(row, dataset, seed)
            for dataset in self.datasets
            for row in self.table.rows
            for seed in self.seeds[: self._most_seeds(row)]
        ]

    def cell(self, row: Row, dataset: str, seed: int) -> Cell:
        """One cell as it stands now."""
        run = self.table.runs.get(row.run)
        if run is None:
            return Cell(row.name, dataset, seed, "not implemented", {}, None, row.reason)
        if dataset not in run.config or (self.smoke and "simulated" not in run.config):
            reason = row.reason or "needs a pretrained language model, and the configuration has the embedded one"
            return Cell(row.name, dataset, seed, "not implemented", {}, None, reason)
        folder = self.run_folder(run, dataset, seed)
        folder = folder / row.name if run.rows_in_one else folder
        values, reason = self._values(run, row, dataset, seed, folder)
        return Cell(row.name, dataset, seed, "done" if values else "missing", values, folder, reason)

    def _values(self, run: Run, row: Row, dataset: str, seed: int, folder: Path) -> tuple[dict, str | None]:
        """The row's metrics, and what is wrong with the folder's files where there is results.json and it has none."""
        try:
            record = read_results(folder)
            for name in OF_SAMPLES:  # without them the table could not be written
                check(folder / name)
        except FileNotFoundError:
            return {}, None
        except ValueError as error:  # damaged, or of another schema: it is made again
            return {}, str(error)
        known = (self.table.system, self.recorded_name(run, dataset), seed)
        found = (record["system"], record["dataset"], record["seed"])
        if found != known:
            told = "{} on {} with seed {}".format(*found)
            return {}, f"{folder / 'results.json'} is of {told}, not of {'{} on {} with seed {}'.format(*known)}."
        if changed := self._changed_setting(run, dataset, seed):
            return {}, changed
        name = result_row(row.name)
        values = record["rows"].get(name) if isinstance(record["rows"], Mapping) else None
        if not values:
            return {}, None
        values = {**values, **relative_times(record, name)}
        if set(self.table.metrics) <= set(QUALITY):
            try:
                values |= quality_of(folder, name)
            except ValueError as error:  # damaged: no recipe makes it again
                return {}, f"python -m rlrec.quality {folder} must measure anew: {error}"
            if not any(values.get(metric) is not None for metric in self.table.metrics):
                return {}, f"python -m rlrec.quality {folder} has measured none of the table's metrics."
        return values, None

    def _changed_setting(self, run: Run, dataset: str, seed: int) -> str | None:
        """In which setting a run that is there differs from the one that was asked for; None where in none.

        Its settings.json has what its results depend on; where the data lie may change.
        """
        folder = self.run_folder(run, dataset, seed)
        try:
            before = read_json(folder / "settings.json")
        except (FileNotFoundError, ValueError):  # the recipe says what is wrong with it
            return None
        wanted = {**load_config(self.config(run, dataset)), **self._data_options(run, dataset)}
        wanted |= self._own_options(run)
        for name in sorted(wanted.keys() & before.keys() - {"data_dir", "raw_dir", "seed"}):
            if not _equal(before[name], wanted[name]):
                told = f"{folder} was made with {name} = {before[name]}, and {wanted[name]} is asked for now"
                return f"{told}; delete it, or give another --output_dir."
        return None

    def _own_options(self, run: Run) -> dict[str, object]:
        """The run's options, what the command line adds for its recipe, and what makes a smoke run small."""
        options = {**run.options, **self.options.get(run.recipe, {})}
        if self.smoke:
            options |= SMOKE_DATA.get(self.table.system, {}) | SMOKE.get(run.recipe, {})
        return options

    def _most_seeds(self, row: Row) -> int | None:
        run = self.table.runs.get(row.run)
        return run.seeds if run else None

    # -- jobs ---------------------------------------------------------------------------------------------------------
    def jobs(self, cells: Iterable[Cell]) -> list[Job]:
        """The processes that make the missing ones of these cells, long ones first."""
        groups: dict[tuple, list[Cell]] = {}
        for cell in cells:
            if cell.status == "missing" and not self._is_made(cell):
                run = self.run_of(cell)
                groups.setdefault((run.name, cell.dataset, cell.seed), []).append(cell)
        jobs = [self._job(group) for group in groups.values()]
        return sorted(jobs, key=lambda job: -(job.minutes or math.inf))

    def cells_after(self, failed: Mapping[Path, str]) -> list[Cell]:
        """All cells as they stand now; those missing of runs that failed ({folder: reason}) are marked."""
        cells = []
        for cell in self.cells():
            if cell.status == "missing":
                reason = failed.get(self.run_folder(self.run_of(cell), cell.dataset, cell.seed))
                cell = dataclasses.replace(cell, status="failed", reason=reason) if reason else cell
            cells.append(cell)
        return cells

    def renew(self, job: Job) -> Job | None:
        """The job as it is now; None where another process has made its cells."""
        rows = {row.name: row for row in self.table.rows}
        cells = [self.cell(rows[cell.row], cell.dataset, cell.seed) for cell in job.cells]
        return next(iter(self.jobs(cells)), None)

    def run_of(self, cell: Cell) -> Run:
        """What makes a cell."""
        return self.table.runs[next(row.run for row in self.table.rows if row.name == cell.row)]

    def run_folder(self, run: Run, dataset: str, seed: int) -> Path:
        """Where a run lies."""
        config = dataset if self.smoke else Path(self.config(run, dataset)).name.partition(".")[0]
        return self.output_dir / self.table.system / config / run.name / f"seed-{seed}"

    def config(self, run: Run, dataset: str) -> str:
        """Name of a configuration, or path of a YAML file."""
        return f"{self.table.system}/smoke" if self.smoke else self._full_config(run, dataset)

    def _full_config(self, run: Run, dataset: str) -> str:
        return self.configs.get(dataset, run.config[dataset])

    def recorded_name(self, run: Run, dataset: str) -> str:
        """What results.json calls the dataset."""
        folder = self.data.get(dataset)
        if folder is not None and is_prepared(folder):
            return read_json(folder / "metadata.json")["name"]
        config = self.config(run, dataset) if folder is None else self._full_config(run, dataset)
        return load_config(config)["dataset"]

    def with_data_alone(self) -> "Request":
        """The same for those datasets that need no files or have them; for all where that leaves none."""
        here = tuple(name for name in self.datasets if name in self.data or self._is_simulated(name))
        return dataclasses.replace(self, datasets=here or self.datasets)

    def data_problems(self) -> list[str]:
        """What is missing to make cells; smoke runs simulate it."""
        return [
            f"{name}: no data; give --data {name}=FOLDER, its raw files or what recipes/prepare_data.py made of them "
            "(docs/data.md)."
            for name in self.datasets
            if not self.smoke and name not in self.data and not self._is_simulated(name)
        ]

    def check_data(self) -> None:
        """Raise ValueError where a dataset's files are missing."""
        if problems := self.data_problems():
            raise ValueError(" ".join(problems))

    def _is_simulated(self, dataset: str) -> bool:
        configs = {self._full_config(run, dataset) for run in self.table.runs.values() if dataset in run.config}
        return all(load_config(config)["dataset"].startswith("simulated") for config in configs)

    def _is_made(self, cell: Cell) -> bool:
        """Whether the recipe has done its part of a cell that lacks only `rlrec.quality`."""
        return cell.reason is not None and cell.reason.startswith("python -m rlrec.quality")

    def _job(self, cells: Sequence[Cell]) -> Job:
        dataset, seed, runs = cells[0].dataset, cells[0].seed, [self.run_of(cell) for cell in cells]
        run, folder = runs[0], self.run_folder(runs[0], dataset, seed)
        options = {name: values for name, values in self._finished_options(run, folder).items() if values}
        for each in runs:
            options = merged(options, each.options)
        options |= self._own_options(dataclasses.replace(run, options={}))
        if run.rows_in_one:
            options = {"system": self.table.system, "rows": [cell.row for cell in cells], **options}
        config = self.config(run, dataset)
        arguments = {"config": config, **self._data_options(run, dataset), "seed": seed, "output_dir": folder}
        minutes, memory = self._measured(runs, dataset, len(cells))
        return Job(
            name=f"{self.table.system} {run.name} on {dataset}, seed {seed}",
            folder=folder,
            recipe=run.recipe,
            arguments=tuple(command_line(arguments | options)),
            cells=tuple(cells),
            minutes=minutes,
            memory=memory,
            pretrained=load_config(config).get("model_name_or_path", "tiny") != "tiny",
        )

    def _data_options(self, run: Run, dataset: str) -> dict[str, object]:
        folder = self.data.get(dataset)
        if folder is None:
            return {}
        given = {"data_dir" if is_prepared(folder) else "raw_dir": folder}
        if self.smoke:  # its configuration names a simulated world
            own = load_config(self._full_config(run, dataset))
            given |= {name: own[name] for name in ("dataset", "category", "zip_codes") if name in own}
        return given

    def _finished_options(self, run: Run, folder: Path) -> dict[str, list]:
        """Options with which the folder's results were made: without them a new command would drop their rows."""
        try:
            settings = read_results(folder)["details"]["hyperparameters"]
            return {name: list(settings.get(name) or []) for name in ADDITIVE.get(run.recipe, ())}
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return {}  # there are no results, or they cannot be used

    def _measured(self, runs: Sequence[Run], dataset: str, rows: int) -> tuple[float | None, int]:
        """Minutes and memory, from finished runs of any seed, or as described."""
        run, described = runs[0], [each.minutes[dataset] for each in runs if dataset in each.minutes]
        if self.smoke:
            return 1.0, DEFAULT_MEMORY
        below = self.run_folder(run, dataset, 0).parent
        records = list(_readable(below.glob("*/*/results.json" if run.rows_in_one else "*/results.json")))
        times = [record["wall_time_s"] / 60 for record in records if record.get("wall_time_s")]
        memory = [(record.get("peak_memory_bytes") or {}).get("process", 0) for record in records]
        of_run = sum(self.table.runs[row.run].name == run.name for row in self.table.rows if row.run is not None)
        if run.rows_in_one:
            share = rows / of_run
            minutes = rows * sum(times) / len(times) if times else max(described) * share if described else None
        else:  # a resumed run's time is that of its last process: the longest is the likeliest to be whole
            minutes = max(times, default=max(described, default=None))
        return minutes, max([*memory, DEFAULT_MEMORY])


def _equal(before: object, wanted: object) -> bool:
    """Whether a setting in JSON is the one of a YAML file or a command line, where numbers may be text ("1e-3")."""
    if isinstance(before, list) or isinstance(wanted, list):
        before, wanted = ([*each] if isinstance(each, list) else [each] for each in (before or [], wanted or []))
        return len(before) == len(wanted) and all(map(_equal, before, wanted))
    try:
        return float(before) == float(wanted)
    except (TypeError, ValueError):
        return before == wanted


def merged(options: Mapping[str, object], more: Mapping[str, object]) -> dict[str, object]:
    """Both options; of lists the values of both.

    Raises:
        ValueError: they differ in an option that is no list.

    >>> merged({"more_variants": ["positive"]}, {"more_variants": ["general", "positive"], "rounds": 2})
    {'more_variants': ['positive', 'general'], 'rounds': 2}
    """
    both = dict(options)
    for name, value in more.items():
        if isinstance(value, list):
            value = list(dict.fromkeys([*both.get(name, []), *value]))
        elif both.get(name, value) != value:
            raise ValueError(f"Runs of one folder have {name} = {both[name]!r} and {value!r}; give them other names.")
        both[name] = value
    return both


def command_line(options: Mapping[str, object]) -> list[str]:
    """Options as arguments.

    >>> command_line({"rows": ["fm", "din"], "more_lc": False, "beta": 0.5})
    ['--rows', 'fm', 'din', '--more_lc', 'false', '--beta', '0.5']
    """
    arguments = []
    for name, value in options.items():
        values = value if isinstance(value, list) else [str(value).lower() if isinstance(value, bool) else value]
        arguments += [f"--{name}", *map(str, values)]
    return arguments


def is_prepared(folder: Path) -> bool:
    """Whether recipes/prepare_data.py wrote a folder."""
    return (folder / "metadata.json").is_file() and (folder / "interactions.parquet").is_file()


def relative_times(record: Mapping, row: str) -> dict[str, float]:
    """training_time and inference_time of a row of SELLER's Table 5, where the run measured them: XRec's are 1."""
    times = {}
    for kind in ("training", "inference"):
        seconds = record["controls"].get(f"{kind}_seconds") or {}
        if seconds.get(row) and seconds.get("xrec"):
            times[f"{kind}_time"] = seconds[row] / seconds["xrec"]
    return times


def quality_of(folder: Path, row: str) -> dict[str, float | None]:
    """What `python -m rlrec.quality` has measured of a row's positive explanations; {} where it has not."""
    path = folder / "quality.json"
    if not path.is_file():
        return {}
    measured = read_json(path).get(f"explanation_{row}_pos", [])
    return {line["metric"]: line["score"] for line in measured}


def recipe_path(recipe: str) -> str:
    """A recipe's file, relative to the current folder where it lies below it."""
    path = Path(__file__).parents[2] / "recipes" / f"{recipe}.py"
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def reduced(table: PaperTable, rows: Sequence[str]) -> PaperTable:
    """The table with some of its rows alone."""
    return dataclasses.replace(table, rows=tuple(row for row in table.rows if row.name in rows))


def pairs(texts: Iterable[str]) -> dict[str, str]:
    """NAME=VALUE as {NAME: VALUE}."""
    if wrong := [text for text in texts if "=" not in text]:
        raise ValueError(f"{wrong[0]!r} must be NAME=VALUE.")
    return dict(text.split("=", 1) for text in texts)


def recipe_options(texts: Iterable[str], table: PaperTable) -> dict[str, dict[str, object]]:
    """{recipe: {option: value}} of [RECIPE.]NAME=VALUE; without RECIPE they are for the system's own.

    Raises:
        ValueError: no such text, a value that is no YAML, or a recipe that makes no row of the table.
    """
    options: dict[str, dict[str, object]] = {}
    for name, value in pairs(texts).items():
        recipe, _, option = name.rpartition(".")
        recipe = recipe or table.system
        check_known(recipe, {run.recipe for run in table.runs.values()}, f"recipe of {table.system}'s table:")
        try:
            options.setdefault(recipe, {})[option] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"{name}={value}: the value is no YAML ({str(error).splitlines()[0]}).") from error
    return options


def _readable(paths: Iterable[Path]) -> Iterable[dict]:
    for path in paths:
        try:
            yield read_results(path)
        except (ValueError, OSError):
            continue  # damaged results tell no time
