"""The planner on folders made by hand: what is done, what is not, and the commands that make the rest."""

import dataclasses
import json
from pathlib import Path

import pytest

from rlrec.configs import load_config
from rlrec.files import replacing
from rlrec.reproduction.descriptions import load_tables, paper_table, tables_of
from rlrec.reproduction.find_data import find_data
from rlrec.reproduction.plan import DEFAULT_MEMORY, Request, merged, reduced
from rlrec.reproduction.schedule import listing, slurm_script

DESCRIBED = {
    "configs": {"simulated": "recpie/simulated", "ml-100k": "recpie/ml-100k"},
    "pretrained": {"yelp": "recpie/yelp"},
    "runs": {
        "recpie": {"recipe": "recpie", "seeds": 2, "minutes": {"simulated": 8}},
        "variants": {"recipe": "recpie", "name": "recpie", "seeds": 2, "options": {"more_variants": ["general"]}},
        "aspects": {"recipe": "recpie", "name": "recpie", "seeds": 2, "datasets": ["yelp"],
                    "options": {"more_variants": ["aspects"]}},
        "half": {"recipe": "recpie", "options": {"training_fraction": 0.5}},
        "baselines": {"recipe": "baselines", "rows_in_one": True, "minutes": {"simulated": 4}},
    },
    "tables": {
        "table 1": {
            "caption": "All kinds of rows",
            "metrics": ["rmse"],
            "datasets": ["simulated", "ml-100k", "yelp"],
            "rows": [
                {"reason": "nobody has it", "rows": ["anr"]},
                {"run": "baselines", "rows": ["din", "ncf"]},
                {"run": "variants", "rows": ["recpie_general"]},
                {"run": "aspects", "rows": ["recpie_aspect_terms"]},
                {"run": "half", "rows": ["recpie@training_fraction=0.5"]},
                {"run": "recpie", "rows": ["recpie"]},
            ],
            "reference": "recpie",
            "gain": ["din", "recpie"],
        }
    },
}  # fmt: skip
TABLE = tables_of("recpie", DESCRIBED)["table 1"]


def write_results(folder: Path, rows=("recpie",), seed=0, dataset="simulated", **changes) -> None:
    record = {"schema": 1, "system": "recpie", "dataset": dataset, "seed": seed, "controls": {}}
    record |= {"rows": {row: {"rmse": 0.25} for row in rows}, **changes}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(record))


@pytest.fixture
def request_(tmp_path):
    return Request(TABLE, ("simulated",), (0, 1, 2), tmp_path)


def status(request, row="recpie", seed=0, dataset="simulated"):
    return next(c for c in request.cells() if (c.row, c.seed, c.dataset) == (row, seed, dataset))


def options_of(job) -> dict[str, list[str]]:
    """{option: values} of a job's command line."""
    found = {}
    for argument in job.arguments:
        if argument.startswith("--"):
            values = found.setdefault(argument[2:], [])
        else:
            values.append(argument)
    return found


def test_cells_and_their_seeds(request_):
    cells = request_.cells()
    counts = {row.name: sum(cell.row == row.name for cell in cells) for row in TABLE.rows}
    # runs of recpie and variants have two seeds at most
    assert counts == {"anr": 3, "din": 3, "ncf": 3, "recpie_general": 2, "recpie_aspect_terms": 2,
                      "recpie@training_fraction=0.5": 3, "recpie": 2}  # fmt: skip
    assert {cell.status for cell in cells if cell.row == "anr"} == {"not implemented"}
    assert status(request_, "anr").reason == "nobody has it"
    assert status(request_, "recpie_aspect_terms").status == "not implemented"
    assert "pretrained language model" in status(request_, "recpie_aspect_terms").reason
    assert {cell.status for cell in cells} == {"not implemented", "missing"}


def test_done_damaged_and_foreign(request_, tmp_path):
    folder = tmp_path / "recpie" / "simulated" / "recpie" / "seed-0"
    write_results(folder)
    done = status(request_)
    assert (done.status, done.values, done.folder, done.reason) == ("done", {"rmse": 0.25}, folder, None)
    assert status(request_, "recpie_general").status == "missing"  # the file has no such row
    for change, reason in (
        ({"schema": 7}, "has schema 7, and this version reads 1"),
        ({"seed": 3}, "is of recpie on simulated with seed 3, not of recpie on simulated with seed 0"),
        ({"dataset": "yelp"}, "is of recpie on yelp with seed 0"),
        ({"system": "trail"}, "is of trail on simulated"),
    ):
        write_results(folder, **change)
        assert status(request_).status == "missing"
        assert reason in status(request_).reason
    rows = {"schema": 1, "system": "recpie", "dataset": "simulated", "seed": 0, "controls": {}, "rows": ["recpie"]}
    (folder / "results.json").write_text(json.dumps(rows))
    assert status(request_).status == "missing"
    for damaged in ('{"schema": 1, "sys', "[]", "\x00\xff"):
        (folder / "results.json").write_bytes(damaged.encode("latin-1"))
        assert status(request_).status == "missing"
        assert "results.json" in status(request_).reason or "codec" in status(request_).reason
    cells = request_.cells()
    assert "to be made again" in listing(request_, cells, request_.jobs(cells), workers=1)
    assert any(cell.row == "recpie" and cell.seed == 0 for job in request_.jobs(cells) for cell in job.cells)


def test_damaged_values_of_samples_are_made_again(request_, tmp_path):
    folder = tmp_path / "recpie" / "simulated" / "recpie" / "seed-0"
    write_results(folder)
    with replacing(folder / "predictions.parquet") as path:
        path.write_bytes(b"as it was written")
    assert status(request_).status == "done"
    (folder / "predictions.parquet").write_bytes(b"as it was")
    assert status(request_).status == "missing"
    assert f"{folder / 'predictions.parquet'} is damaged" in status(request_).reason


def test_other_settings_are_not_mixed(request_, tmp_path):
    folder = tmp_path / "recpie" / "simulated" / "recpie" / "seed-0"
    config = load_config("recpie/simulated")
    before = {name: config[name] for name in ("dataset", "learning_rate", "num_iterations")} | {"raw_dir": "/moved"}
    write_results(folder)
    (folder / "settings.json").write_text(json.dumps(before))
    assert status(request_).status == "done"
    (folder / "settings.json").write_text(json.dumps(before | {"num_iterations": 7}))
    assert status(request_).status == "missing"
    assert "was made with num_iterations = 7, and 2 is asked for now; delete it" in status(request_).reason
    other = dataclasses.replace(request_, options={"recpie": {"num_iterations": "7.0"}})
    assert status(other).status == "done"


def test_rows_of_one_process_have_folders_of_their_own(request_, tmp_path):
    write_results(tmp_path / "recpie" / "simulated" / "baselines" / "seed-1" / "din", rows=("din",), seed=1)
    assert status(request_, "din", 1).status == "done"
    jobs = {job.folder.parts[-2:]: job for job in request_.jobs(request_.cells())}
    assert options_of(jobs["baselines", "seed-1"])["rows"] == ["ncf"]
    assert options_of(jobs["baselines", "seed-0"])["rows"] == ["din", "ncf"]
    assert options_of(jobs["baselines", "seed-0"])["system"] == ["recpie"]


def test_one_job_a_folder(request_, tmp_path):
    jobs = request_.jobs(request_.cells())
    assert sorted("/".join(job.folder.parts[-2:]) for job in jobs) == [
        *(f"baselines/seed-{seed}" for seed in range(3)),
        *(f"half/seed-{seed}" for seed in range(3)),
        *(f"recpie/seed-{seed}" for seed in range(2)),
    ]
    job = next(job for job in jobs if job.folder.parts[-2:] == ("recpie", "seed-1"))
    folder = tmp_path / "recpie" / "simulated" / "recpie" / "seed-1"
    assert [(cell.row, cell.seed) for cell in job.cells] == [("recpie_general", 1), ("recpie", 1)]
    assert options_of(job) == {"config": ["recpie/simulated"], "seed": ["1"], "output_dir": [str(folder)],
                               "more_variants": ["general"]}  # fmt: skip
    assert job.command(["accelerate", "launch"])[:3] == ["accelerate", "launch", "recipes/recpie.py"]
    assert (job.minutes, job.memory, job.pretrained) == (8, DEFAULT_MEMORY, False)
    half = next(job for job in jobs if "half" in job.folder.parts)
    assert options_of(half)["training_fraction"] == ["0.5"]
    assert half.minutes is None
    assert jobs[-1].minutes == 4  # those of unknown length first, then the long ones


def test_rows_of_other_tables_stay(request_, tmp_path):
    """A finished run with more rows is started again with what made those, or they would be gone."""
    settings = {"more_variants": ["positive"], "robustness": ["free", "ncf"], "rounds": 2}
    folder = tmp_path / "recpie" / "simulated" / "recpie" / "seed-0"
    write_results(folder, rows=("recpie", "recpie_positive_only"), details={"hyperparameters": settings})
    job = next(job for job in request_.jobs(request_.cells()) if job.folder == folder)
    assert options_of(job)["more_variants"] == ["positive", "general"]
    assert options_of(job)["robustness"] == ["free", "ncf"]
    assert "rounds" not in options_of(job)
    write_results(folder, rows=("recpie", "recpie_general"), details={"hyperparameters": settings})
    assert request_.renew(job) is None  # another process has made it meanwhile


def test_times_and_memory_of_finished_runs(request_, tmp_path):
    runs = tmp_path / "recpie" / "simulated"
    write_results(runs / "recpie" / "seed-1", seed=1, wall_time_s=600.0, peak_memory_bytes={"process": 3 * 2**30})
    write_results(runs / "baselines" / "seed-1" / "din", ("din",), seed=1, wall_time_s=60.0)
    jobs = {job.folder.parts[-2:]: job for job in request_.jobs(request_.cells())}
    assert (jobs["recpie", "seed-0"].minutes, jobs["recpie", "seed-0"].memory) == (10, 3 * 2**30)
    assert jobs["baselines", "seed-0"].minutes == 2  # two rows of a minute
    told = listing(request_, request_.cells(), list(jobs.values()), workers=2)
    assert "simulated: 7 rows, 18 cells: 2 done, 11 missing, 5 not implemented" in told
    assert "not implemented: anr (nobody has it)" in told
    assert "nothing is known of the others" in told


def test_real_data(tmp_path):
    raw, prepared = tmp_path / "ml-100k", tmp_path / "prepared"
    for folder in (raw, prepared):
        folder.mkdir()
    (prepared / "metadata.json").write_text(json.dumps({"name": "yelp"}))
    (prepared / "interactions.parquet").write_bytes(b"")
    request = Request(TABLE, ("ml-100k", "yelp"), (0,), tmp_path / "out", {"ml-100k": raw, "yelp": prepared})
    jobs = request.jobs(request.cells())
    given = {job.name: options_of(job) for job in jobs}
    assert given["recpie recpie on ml-100k, seed 0"]["raw_dir"] == [str(raw)]
    assert given["recpie recpie on yelp, seed 0"]["data_dir"] == [str(prepared)]
    assert given["recpie recpie on yelp, seed 0"]["more_variants"] == ["general", "aspects"]
    assert {job.pretrained for job in jobs if "yelp" in job.name} == {True}
    write_results(tmp_path / "out" / "recpie" / "yelp" / "recpie" / "seed-0", dataset="yelp")
    assert status(request, dataset="yelp").status == "done"
    assert status(request, "recpie_aspect_terms", dataset="yelp").status == "missing"

    nowhere = Request(TABLE, ("ml-100k", "yelp", "simulated"), (0,), tmp_path, {"ml-100k": raw})
    with pytest.raises(ValueError, match="yelp: no data; give --data yelp=FOLDER"):
        nowhere.check_data()
    assert nowhere.with_data_alone().datasets == ("ml-100k", "simulated")
    nowhere.with_data_alone().check_data()


def test_configurations_of_ones_own(tmp_path):
    own = tmp_path / "mine.yaml"
    own.write_text("dataset: simulated\nmodel_name_or_path: tiny\n")
    options = {"recpie": {"rounds": 1}, "baselines": {"fits": 1}}
    request = Request(TABLE, ("ml-100k",), (0,), tmp_path, configs={"ml-100k": str(own)}, options=options)
    request.check_data()  # it is simulated now
    jobs = {job.recipe: job for job in request.jobs(request.cells())}
    assert options_of(jobs["recpie"])["config"] == [str(own)]
    assert (options_of(jobs["recpie"])["rounds"], options_of(jobs["baselines"])["fits"]) == (["1"], ["1"])
    assert jobs["recpie"].folder.is_relative_to(tmp_path / "recpie" / "mine")


def test_smoke(tmp_path):
    raw = tmp_path / "ml-100k"
    raw.mkdir()
    request = Request(TABLE, ("ml-100k", "yelp"), (0,), tmp_path, {"ml-100k": raw}, smoke=True)
    request.check_data()
    given = {job.name: options_of(job) for job in request.jobs(request.cells())}
    real, simulated = given["recpie recpie on ml-100k, seed 0"], given["recpie recpie on yelp, seed 0"]
    assert real["config"] == simulated["config"] == ["recpie/smoke"]
    assert (real["dataset"], real["raw_dir"], real["num_samples"]) == (["ml-100k"], [str(raw)], ["600"])
    assert given["recpie baselines on ml-100k, seed 0"]["num_samples"] == ["600"]  # rows must share test samples
    assert "raw_dir" not in simulated
    assert simulated["more_variants"] == ["general"]  # the embedded policy writes no aspect terms
    assert status(request, "recpie_aspect_terms", dataset="yelp").status == "not implemented"
    write_results(tmp_path / "recpie" / "yelp" / "recpie" / "seed-0")
    assert status(request, dataset="yelp").status == "done"  # on the simulated world


def test_quality_is_read_where_it_was_measured(tmp_path):
    table = paper_table("recpie", "table 4")
    request = Request(table, ("amazon-gift-cards",), (0,), tmp_path)
    folder = tmp_path / "recpie" / "amazon-gift-cards" / "recpie" / "seed-0"
    write_results(folder, ("recpie", "recpie_bootstrap"), dataset="amazon")
    cells = [cell for cell in request.cells() if cell.row == "recpie"]
    assert [cell.status for cell in cells] == ["missing"]
    assert f"python -m rlrec.quality {folder}" in cells[0].reason
    assert request.jobs(request.cells()) == []  # nothing that a recipe could do
    measured = [{"metric": "coverage", "score": 0.5}, {"metric": "bleu", "score": 0.1}]
    (folder / "quality.json").write_text(json.dumps({"explanation_recpie_pos": measured}))
    cell = next(cell for cell in request.cells() if cell.row == "recpie")
    assert (cell.status, cell.values["coverage"]) == ("done", 0.5)
    (folder / "quality.json").write_text('{"explanation_rec')
    cell = next(cell for cell in request.cells() if cell.row == "recpie")
    assert cell.status == "missing"
    assert f"{folder / 'quality.json'} is damaged" in cell.reason
    assert request.jobs(request.cells()) == []


def test_relative_times(tmp_path):
    request = Request(paper_table("seller", "table 5"), ("simulated",), (0,), tmp_path)
    seconds = {"training_seconds": {"xrec": 4.0, "seller": 3.0}, "inference_seconds": {"xrec": 2.0, "llm": 0.5}}
    folder = tmp_path / "seller" / "simulated" / "seller" / "seed-0"
    rows = ("xrec", "seller", "llm")
    write_results(folder, rows, dataset="simulated-sequences", system="seller", controls=seconds)
    values = {cell.row: cell.values for cell in request.cells()}
    assert (values["seller"]["training_time"], values["xrec"]["training_time"]) == (0.75, 1.0)
    assert (values["llm"]["inference_time"], "training_time" in values["llm"]) == (0.25, False)


@pytest.mark.parametrize("system", ["expctr", "recpie", "trail", "seller"])
def test_every_table_can_be_planned(system, tmp_path):
    for table in load_tables(system).values():
        data = dict.fromkeys(table.datasets, tmp_path)
        request = Request(table, table.datasets, (0, 1, 2, 3), tmp_path, data)
        cells = request.cells()
        jobs = request.jobs(cells)
        made = [cell for job in jobs for cell in job.cells]
        assert len(made) == len([cell for cell in cells if cell.status == "missing"])
        assert len({job.folder for job in jobs}) == len(jobs)


def test_merged_options_must_agree():
    with pytest.raises(ValueError, match=r"beta = 0\.1 and 0\.5; give them other names"):
        merged({"beta": 0.1}, {"beta": 0.5})


def test_some_rows():
    table = reduced(TABLE, ["recpie", "ncf"])
    assert [row.name for row in table.rows] == ["ncf", "recpie"]


def test_slurm_script(request_, tmp_path):
    jobs = request_.jobs(request_.cells())
    script = slurm_script(request_, jobs, ["accelerate", "launch"])
    assert "#SBATCH --array=0-7" in script
    assert "--gres" not in script
    assert script.count("accelerate launch recipes/") == len(jobs)
    assert script.count("flock -n ") == len(jobs)


def test_folders_with_data(tmp_path):
    for name in ("book_crossing", "ml-100k", "other"):
        (tmp_path / "data" / name).mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    known = ("ml-100k", "book-crossing", "yelp")
    found = find_data([f"ml-100k={elsewhere}", str(tmp_path / "data")], known)
    assert found == {"ml-100k": elsewhere, "book-crossing": tmp_path / "data" / "book_crossing"}
    with pytest.raises(ValueError, match="there is no folder"):
        find_data(["nowhere"], known)
    with pytest.raises(ValueError, match="There is no dataset 'yelpp'; did you mean 'yelp'"):
        find_data([f"yelpp={elsewhere}"], known)
