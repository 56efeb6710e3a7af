"""The description of every table: it loads, and what it names exists; what is wrong in one is said."""

import dataclasses
import itertools
import json
import re
from pathlib import Path

import pytest

from recipes.baselines import SYSTEMS as BASELINES
from rlrec.arguments import DataArguments, PolicyArguments
from rlrec.configs import load_config, packaged_configs
from rlrec.expctr import ExpCTRArguments
from rlrec.paper_values import paper_values
from rlrec.ppo import PPOConfig
from rlrec.recpie import RecPIEArguments
from rlrec.reproduction.descriptions import METRICS, SYSTEMS, load_tables, paper_table, tables_of
from rlrec.reproduction.plan import ADDITIVE, SMOKE
from rlrec.row_names import row_base
from rlrec.seller import SELLERArguments, SELLERConfig
from rlrec.tables import METRIC_LABELS
from rlrec.trail import TRAILArguments, TRAILConfig

ROOT = Path(__file__).parents[2]
DATACLASSES = {
    "expctr": (ExpCTRArguments, DataArguments, PolicyArguments, PPOConfig),
    "recpie": (RecPIEArguments, DataArguments, PolicyArguments, PPOConfig),
    "trail": (TRAILArguments, DataArguments, PolicyArguments, TRAILConfig),
    "seller": (SELLERArguments, DataArguments, PolicyArguments, SELLERConfig),
}
TABLES = [table for system in SYSTEMS for table in load_tables(system).values()]
names = [f"{table.system}-{table.number.replace(' ', '-')}" for table in TABLES]
every_table = pytest.mark.parametrize("table", TABLES, ids=names)

SMALL = {
    "configs": {"simulated": "seller/simulated"},
    "runs": {"seller": {"recipe": "seller"}},
    "tables": {
        "table 1": {
            "caption": "Two rows",
            "metrics": ["ndcg@10"],
            "datasets": ["simulated"],
            "rows": [{"run": "seller", "rows": ["xrec", "seller"]}],
            "reference": "seller",
            "gain": ["xrec", "seller"],
        }
    },
}


def fields_of(recipe: str) -> set[str]:
    return {field.name for each in DATACLASSES[recipe] for field in dataclasses.fields(each) if field.init}


def test_the_papers_tables_are_there():
    assert set(load_tables("expctr")) == {"table 1", "table 2", "figure 3", "figure 4"}
    assert {"table 2", "table 10", "table 4", "table 6", "table 7", "table 8", "table 9"} <= set(load_tables("recpie"))
    assert {"table 2", "table 3", "table 5", "figure 2", "figure 3"} == set(load_tables("trail"))
    assert {"table 2", "table 3", "table 4", "table 5", "figure 2"} == set(load_tables("seller"))


@every_table
def test_what_a_table_names_exists(table):
    assert all(metric in METRICS[table.system] for metric in {name.partition("/")[0] for name in table.metrics})
    for run in table.runs.values():
        assert (ROOT / "recipes" / f"{run.recipe}.py").is_file(), run.name
        for dataset, config in run.config.items():
            assert config in packaged_configs(), config
            assert config.startswith(f"{table.system}/")
            assert load_config(config)["dataset"].partition("-")[0] in (dataset.partition("-")[0], "amazon")
    for row in table.rows:
        assert row.run is None or row_base(row.name.partition("@")[0]), row.name
    assert all(dataset in {d for run in table.runs.values() for d in run.config} for dataset in table.datasets)


@every_table
def test_options_are_those_of_the_recipe(table):
    for run in table.runs.values():
        if run.recipe == "baselines":
            assert {row.name for row in table.rows if table.runs.get(row.run) == run} <= set(
                BASELINES[table.system][0].names
            )
            continue
        known = fields_of(run.recipe)
        assert set(run.options) <= known, run.name
        assert set(ADDITIVE.get(run.recipe, ())) <= known
        assert set(SMOKE.get(run.recipe, ())) <= known
        arguments = DATACLASSES[run.recipe][0]
        own = {field.name for field in dataclasses.fields(arguments)}
        arguments(**{name: value for name, value in run.options.items() if name in own})  # refuses unknown choices


@every_table
def test_runs_of_one_folder_differ_in_what_adds_rows(table):
    for one, other in itertools.combinations(table.runs.values(), 2):
        if one.name == other.name:
            assert (one.recipe, one.rows_in_one, one.seeds) == (other.recipe, other.rows_in_one, other.seeds)
            shared = one.options.items() & other.options.items() if one.recipe == "expctr" else ()
            changed = {*one.options, *other.options} - {name for name, _ in shared}
            if not one.options.get("model_name_or_path"):
                assert changed <= set(ADDITIVE.get(one.recipe, ())), one.name


@pytest.mark.parametrize("system", SYSTEMS)
def test_no_row_of_a_paper_is_missing(system):
    tables = load_tables(system).values()
    listed = {row.paper or row.name for table in tables for row in table.rows}
    for dataset in {dataset for table in tables for dataset in table.datasets}:
        assert set(paper_values(dataset, system)) <= listed


def test_nothing_in_the_package_imports_the_harness():
    files = [path for path in (ROOT / "rlrec").rglob("*.py") if path.parent.name != "reproduction"]
    assert [path for path in files if "rlrec.reproduction" in path.read_text(encoding="utf-8")] == []


def test_metrics_have_labels_or_read_well_without():
    plain = {"bleurt", "coverage", "informativeness", "fluency", "training_time", "inference_time"}
    assert {metric for metrics in METRICS.values() for metric in metrics} <= set(METRIC_LABELS) | plain


def test_a_small_description():
    table = tables_of("seller", SMALL)["table 1"]
    assert (table.number, table.reference, table.gain) == ("1", "seller", ("xrec", "seller"))
    assert [(row.name, row.run, row.reason, row.paper) for row in table.rows] == [
        ("xrec", "seller", None, None),
        ("seller", "seller", None, None),
    ]
    run = table.runs["seller"]
    assert (run.name, run.config, run.seeds, run.rows_in_one) == (
        "seller",
        {"simulated": "seller/simulated"},
        None,
        False,
    )


def changed(path: str, value) -> dict:
    """SMALL with one value changed, or removed where it is None."""
    described = json.loads(json.dumps(SMALL))
    *keys, last = path.split("/")
    place = described
    for key in keys:
        place = place[int(key) if isinstance(place, list) else key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return described


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("tabels", {}, "seller.yaml: key 'tabels' is unknown; did you mean 'tables'?"),
        ("runs/seller/option", {}, "seller.yaml, run seller: key 'option' is unknown; did you mean 'options'?"),
        ("runs/seller/datasets", ["yelp"], "run seller: dataset 'yelp' is unknown; there are simulated."),
        ("runs/seller/recipe", None, "run seller: recipe is missing"),
        ("tables/table 1/metrics", ["ndcg@20"], "table 1: metric 'ndcg@20' is unknown; did you mean 'ndcg@10'?"),
        ("tables/table 1/gain", ["xrek", "seller"], "table 1: row 'xrek' is unknown; did you mean 'xrec'?"),
        ("tables/table 1/reference", "trail", "table 1: row 'trail' is unknown"),
        ("tables/table 1/caption", None, "table 1: caption is missing"),
        ("tables/table 1/rows/0/run", "selle", "table 1: run 'selle' is unknown; did you mean 'seller'?"),
        ("tables/table 1/rows/0/run", None, "xrec, seller need a run, or the reason why they have none"),
        ("tables/table 1/rows/0/rows", ["xrec", "seller", "xrec"], "row 'xrec' is listed twice"),
        ("tables/table 1/rows/0/paper", {"xr": "x"}, "row 'xr' is unknown"),
        ("tables/tabel 2", SMALL["tables"]["table 1"], "must begin with 'table ' or 'figure '"),
    ],
)
def test_what_is_wrong_is_said(path, value, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        tables_of("seller", changed(path, value))


def test_the_nearest_table_is_suggested():
    with pytest.raises(ValueError, match="There is no system 'expctrr'; did you mean 'expctr'"):
        paper_table("expctrr", "table 1")
    with pytest.raises(
        ValueError, match=r"There is no table or figure of expctr: 'table 12'; did you mean 'table \d'"
    ):
        paper_table("expctr", "table 12")
