"""The papers' tables and figures as <system>.yaml of this folder describes them, loaded and checked.

A file has `configs` ({dataset: packaged configuration}, those with pretrained language models under `pretrained`),
`runs` ({key: recipe, options, ...}) and `tables` ({"table 1": caption, metrics, rows, ...}). Rows come in groups that
one run makes, in the table's order. A group without a run has the reason why nobody makes its rows, one with a run may
have the reason why that does not make them on every dataset.
"""

import importlib.resources
from collections.abc import Iterable, Mapping
from functools import cache

from rlrec.configs import check_known, load_yaml
from rlrec.reproduction.tables import PaperTable, Row, Run

SYSTEMS = ("expctr", "recpie", "trail", "seller")
METRICS = {
    "expctr": ("auc", "log_loss", "mae", "rmse", "cited_real", "polarity_right", "verdict_consistency"),
    "recpie": ("rmse", "mae", "auc", "bleurt", "coverage", "informativeness", "fluency"),
    "trail": tuple(f"{metric}@{k}" for metric in ("hr", "ndcg", "jaccard") for k in (5, 10)),
    "seller": (*(f"{metric}@{k}" for metric in ("recall", "ndcg") for k in (5, 10)), "bleu", "bertscore",
               "training_time", "inference_time"),
}  # fmt: skip
FILE_KEYS = {"configs", "pretrained", "runs", "tables"}
RUN_KEYS = {"recipe", "name", "options", "seeds", "minutes", "rows_in_one", "datasets"}
TABLE_KEYS = {"caption", "metrics", "datasets", "rows", "reference", "gain", "footnotes"}
GROUP_KEYS = {"run", "rows", "reason", "paper"}
OPTIONAL = {"pretrained", "name", "options", "seeds", "minutes", "rows_in_one", "footnotes", "run", "reason", "paper"}


def paper_table(system: str, number: str) -> PaperTable:
    """One table ("table 1") or figure ("figure 4") of a system's paper.

    Raises:
        ValueError: an unknown system, table or figure; the nearest name is suggested.

    >>> paper_table("seller", "table 3").metrics
    ('bleu', 'bertscore')
    """
    check_known(system, SYSTEMS, "system")
    tables = load_tables(system)
    check_known(number, tables, f"table or figure of {system}:")
    return tables[number]


@cache
def load_tables(system: str) -> dict[str, PaperTable]:
    """{"table 1": ...} of a system, in the order of its file."""
    return tables_of(system, load_yaml(importlib.resources.files(__package__) / f"{system}.yaml"))


def tables_of(system: str, described: Mapping) -> dict[str, PaperTable]:
    """The tables that a description's mapping holds.

    Raises:
        ValueError: an unknown or missing key, or an unknown metric, run, row or dataset; where and which is said.
    """
    where = f"{system}.yaml"
    _check_keys(described, FILE_KEYS, where)
    configs = described["configs"] | described.get("pretrained", {})
    runs = {key: _run(f"{where}, run {key}", key, run, configs) for key, run in described["runs"].items()}
    return {key: _table(system, key, table, runs, configs) for key, table in described["tables"].items()}


def _run(where: str, key: str, run: Mapping, configs: Mapping[str, str]) -> Run:
    _check_keys(run, RUN_KEYS, where, OPTIONAL | {"datasets"})
    datasets = run.get("datasets", configs)
    for dataset in (*datasets, *run.get("minutes", {})):
        _check(dataset, configs, f"{where}: dataset")
    return Run(
        name=run.get("name", key),
        recipe=run["recipe"],
        config={dataset: configs[dataset] for dataset in datasets},
        options=run.get("options", {}),
        seeds=run.get("seeds"),
        minutes=run.get("minutes", {}),
        rows_in_one=run.get("rows_in_one", False),
    )


def _table(system: str, key: str, table: Mapping, runs: Mapping[str, Run], configs: Mapping) -> PaperTable:
    where = f"{system}.yaml, {key}"
    _check_keys(table, TABLE_KEYS, where)
    if not key.startswith(("table ", "figure ")):
        raise ValueError(f"{where}: the name must begin with 'table ' or 'figure '.")
    rows = [row for group in table["rows"] for row in _rows(where, group, runs)]
    names = [row.name for row in rows]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{where}: row {min(doubled)!r} is listed twice.")
    for metric in table["metrics"]:
        _check(metric.partition("/")[0], METRICS[system], f"{where}: metric")  # "hr@10/cold" is of a group of items
    for dataset in table["datasets"]:
        _check(dataset, configs, f"{where}: dataset")
    for row in (table["reference"], *table["gain"]):
        _check(row, names, f"{where}: row")
    return PaperTable(
        system=system,
        number=key.removeprefix("table "),
        caption=table["caption"],
        metrics=tuple(table["metrics"]),
        rows=tuple(rows),
        runs={row.run: runs[row.run] for row in rows if row.run is not None},
        datasets=tuple(table["datasets"]),
        reference=table["reference"],
        gain=tuple(table["gain"]),
        footnotes=tuple(table.get("footnotes", ())),
    )


def _rows(where: str, group: Mapping, runs: Mapping[str, Run]) -> list[Row]:
    _check_keys(group, GROUP_KEYS, where)
    run, reason = group.get("run"), group.get("reason")
    if run is None and reason is None:
        raise ValueError(f"{where}: the rows {', '.join(group['rows'])} need a run, or the reason why they have none.")
    if run is not None:
        _check(run, runs, f"{where}: run")
    paper = group.get("paper", {})
    for name in paper:
        _check(name, group["rows"], f"{where}: row")
    return [Row(name, run, reason, paper.get(name)) for name in group["rows"]]


def _check_keys(mapping, known: set[str], where: str, optional: set[str] = OPTIONAL) -> None:
    if not isinstance(mapping, Mapping):
        raise ValueError(f"{where} must hold 'key: value' lines, but has {mapping!r}.")
    for key in mapping:
        _check(key, known, f"{where}: key")
    for key in sorted(known - optional - set(mapping)):
        raise ValueError(f"{where}: {key} is missing.")


def _check(name: str, known: Iterable[str], what: str) -> None:
    try:
        check_known(name, known, "such")
    except ValueError as error:
        raise ValueError(f"{what} {name!r} is unknown;{str(error).partition(';')[2]}") from None
