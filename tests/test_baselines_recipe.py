"""The baselines' real command lines: rows in folders of their own, skipped, redone, merged; and refused input."""

import io
import json

import polars as pl
import pytest
from command_lines import ROOT, assert_refused, launch, recipe

from recipes import baselines
from rlrec.baselines import clicks, ratings

WORLD = ["--num_users", "96", "--num_items", "40", "--interactions_per_user", "10", "--num_samples", "416"]
WORLD += ["--history_length", "4", "--warmup_steps_copy", "5", "--template_steps", "10"]
SETTINGS = ["--config", "baselines/smoke", *WORLD]
RECPIE = ["--config", "recpie/smoke", "--num_users", "40", "--num_items", "30", "--warmup_steps_copy", "5"]
RECPIE += ["--template_steps", "5", "--fits", "1", "--grid_epochs", "2", "--grid_learning_rates", "0.01"]
RECPIE += ["--grid_weight_decays", "0", "--tallrec_epochs", "1", "--tallrec_learning_rates", "0.004"]


def read(folder) -> dict:
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two rows of the smoke configuration under `accelerate launch`, and what was printed."""
    folder = tmp_path_factory.mktemp("runs") / "baselines"
    launcher = ["-m", "accelerate.commands.launch", "--config_file", ROOT / "accelerate_configs" / "cpu.yaml"]
    command = [ROOT / "recipes" / "baselines.py", *SETTINGS, "--rows", "deepfm", "tallrec", "--output_dir", folder]
    run = launch(*launcher, *command)
    assert run.returncode == 0, run.stderr[-3000:]
    return folder, run


def test_rows_and_what_they_say_together(finished):
    folder, run = finished
    together, joined = read(folder), pl.read_parquet(folder / "predictions.parquet")
    assert (together["system"], together["dataset"], together["seed"]) == ("expctr", "simulated", 0)
    assert list(together["rows"]) == ["deepfm", "tallrec"]
    for row, metrics in together["rows"].items():
        alone, predictions = read(folder / row), pl.read_parquet(folder / row / "predictions.parquet")
        assert alone["rows"] == {row: metrics}
        assert set(metrics) == {"auc", "log_loss", "mae", "rmse"}
        assert predictions.drop(f"score_{row}").equals(joined.select(predictions.columns[:-1]))
        assert predictions[f"score_{row}"].equals(joined[f"score_{row}"])
        assert together["details"]["tuning"][row] == alone["details"]["tuning"]
        assert alone["wall_time_s"] > 0
    tuning = together["details"]["tuning"]
    assert [point["weight_decay"] for point in tuning["deepfm"]["grid"]] == [1e-6, 1e-4]
    assert tuning["deepfm"]["fits"] == 2
    assert tuning["tallrec"]["chosen"] == {"learning_rate": 4e-3}
    assert len(joined) == together["details"]["dataset_size"]["test"]
    assert "| DeepFM " in run.stdout
    assert "| TALLRec " in run.stdout
    assert "Traceback" not in run.stderr


def test_a_row_that_fails_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    make_row = clicks.ClickBaselines.make_row

    def failing(run, row):
        if row == "fm":
            raise ValueError("nothing to learn from")
        return make_row(run, row)

    monkeypatch.setattr(clicks.ClickBaselines, "make_row", failing)
    with pytest.raises(SystemExit) as exit_:
        recipe(monkeypatch, *SETTINGS, "--rows", "fm", "deepfm", "--output_dir", tmp_path, module=baselines)
    assert exit_.value.code == 2
    assert "error: fm: nothing to learn from" in capsys.readouterr().err
    assert list(read(tmp_path)["rows"]) == ["deepfm"]
    assert not (tmp_path / "fm").exists()


def test_samples_are_those_of_expctrs_run(finished, monkeypatch):
    from rlrec.arguments import DataArguments
    from rlrec.expctr.run import load_samples

    data = DataArguments(num_users=96, num_items=40, interactions_per_user=10, num_samples=416, history_length=4)
    _, samples = load_samples(data, 0, lambda message: None)
    test = samples.filter(pl.col("split") == "test")
    assert (
        pl.read_parquet(finished[0] / "predictions.parquet")
        .select("user_id", "item_id", "label")
        .equals(test.select("user_id", "item_id", "label"))
    )


def three_rows(predictions):
    """The first three rows of a Parquet file, as one."""
    file = io.BytesIO()
    pl.read_parquet(predictions).head(3).write_parquet(file)
    return file.getvalue()


def test_finished_rows_stay_and_damaged_ones_are_made_anew(finished, monkeypatch, capsys):
    folder, _ = finished
    before = {row: (folder / row / "results.json").stat().st_mtime_ns for row in ("deepfm", "tallrec")}
    rows, predictions = read(folder)["rows"], folder / "deepfm" / "predictions.parquet"
    command = [*SETTINGS, "--rows", "tallrec", "deepfm", "--output_dir", folder]
    recipe(monkeypatch, *command, module=baselines)
    assert {row: (folder / row / "results.json").stat().st_mtime_ns for row in before} == before
    capsys.readouterr()
    results = folder / "deepfm" / "results.json"
    for damaged, content, told in (
        (results, b'{"schema": 1', "results.json is damaged"),
        (results, b'{"schema": 99}', "has no system, dataset"),
        (predictions, predictions.read_bytes()[:100], "predictions.parquet is damaged"),
        (predictions, None, "neither predictions.parquet nor users.parquet"),
        (predictions, three_rows(predictions), "3 predictions for 41 test samples"),
    ):
        damaged.unlink() if content is None else damaged.write_bytes(content)
        damaged.with_name(f".{damaged.name}.sha256").unlink()  # as of a file from elsewhere
        recipe(monkeypatch, *command, module=baselines)
        printed = capsys.readouterr().out
        sentence = next(line for line in printed.splitlines() if "cannot be used" in line)
        assert sentence.startswith(f"The row in {folder / 'deepfm'} cannot be used (")
        assert told in sentence
        assert sentence.endswith("): it is made anew.")
        assert read(folder)["rows"] == rows
    assert (folder / "tallrec" / "results.json").stat().st_mtime_ns == before["tallrec"]


def test_ratings(tmp_path, monkeypatch, capsys):
    """RecPIE's samples, and every kind of row that Table 2 has here."""
    wanted = ["ncf", "din", "unisrec", "peter", "tallrec"]
    recipe(monkeypatch, *RECPIE, "--rows", *wanted, "--output_dir", tmp_path / "run", module=baselines)
    results = read(tmp_path / "run")
    assert (results["system"], set(results["rows"])) == ("recpie", set(wanted))
    predictions = pl.read_parquet(tmp_path / "run" / "predictions.parquet")
    for row, metrics in results["rows"].items():
        assert set(metrics) == {"rmse", "mae", "rmse_stars", "mae_stars", "auc"}
        scores = predictions[f"score_{row}"]
        assert metrics["rmse"] == pytest.approx((scores - predictions["target"]).pow(2).mean() ** 0.5)
    assert results["details"]["tuning"]["tallrec"]["chosen"] == {"learning_rate": 4e-3}
    again = [*RECPIE, "--rows", "ncf", "--output_dir", tmp_path / "run"]
    made = tmp_path / "run" / "ncf" / "results.json"
    before = made.stat().st_mtime_ns
    recipe(monkeypatch, *again, "--beta", "0.3", module=baselines)  # PPO's: no row depends on it
    assert made.stat().st_mtime_ns == before
    error = assert_refused(monkeypatch, capsys, *again, "--training_fraction", "0.5", module=baselines)
    assert "holds a run with training_fraction = 1.0, not 0.5; give another --output_dir" in error


def test_the_systems_own_folder_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = ["--config", "expctr/smoke", *WORLD, "--rows", "deepfm", "--grid_epochs", "1", "--fits", "1"]
    recipe(monkeypatch, *config, module=baselines)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["expctr-smoke-baselines"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "deepfn"], "expctr has no baseline 'deepfn'; did you mean 'deepfm'?"),
        (["--rows", "moviegoer"], "expctr has no baseline 'moviegoer'; there are fm, dssm,"),
        (["--system", "recpy"], "There are no baselines for the system 'recpy'; did you mean 'recpie'?"),
        (["--system", "seller"], "no baselines for the system 'seller'; give --system, one of expctr, recpie"),
        (["--config", "expctr/ml-100"], "There is no configuration 'expctr/ml-100'; did you mean 'expctr/ml-100k'?"),
        (["--fits", "0"], "fits is 0, but must be above 0."),
        (["--fit", "2"], "Unknown key 'fit' in the command line; did you mean 'fits'?"),
        (["--num_samples", "10"], "too small"),
    ],
)
def test_mistakes_are_one_sentence(monkeypatch, capsys, tmp_path, arguments, message):
    given = [*SETTINGS, "--output_dir", tmp_path / "run", *arguments]
    error = assert_refused(monkeypatch, capsys, *given, module=baselines)
    assert message in error
    assert not (tmp_path / "run").exists()


def test_rows_of_other_settings_are_not_mixed(finished, monkeypatch, capsys):
    given = [*SETTINGS, "--rows", "deepfm", "--output_dir", finished[0], "--fits", "5"]
    error = assert_refused(monkeypatch, capsys, *given, module=baselines)
    assert "holds a run with fits = 2, not 5; give another --output_dir" in error


def test_help(monkeypatch, capsys):
    with pytest.raises(SystemExit) as exit_:
        recipe(monkeypatch, "--help", module=baselines)
    output = " ".join(capsys.readouterr().out.split())
    assert exit_.value.code == 0
    for words in ("--rows", "fm dssm deepfm", "--grid_learning_rates", "--tallrec_epochs", "expctr/simulated"):
        assert words in output


def test_the_help_names_every_row():
    told = baselines.BaselineArguments.__dataclass_fields__["rows"].metadata["help"]
    for system in (clicks.ClickBaselines, ratings.RatingBaselines):
        assert f"{system.system}: {' '.join(system.names)}." in told
