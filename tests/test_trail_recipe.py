"""TRAIL's command line: to the end, killed and started again, and every refused input."""

import dataclasses
import json
import math
import shutil

import polars as pl
import pytest
from command_lines import ROOT, assert_refused, launch, recipe

from recipes import trail
from rlrec.data import prepare
from rlrec.trail import run as trail_run

TRAIL = ["--config", "trail/smoke", "--template_steps", "5", "--max_new_tokens", "12"]
COUNTED = {"last_window", "moving_average", "total_popularity", "pare", "upper_bound"}
WRITTEN = {"llm", "trail", "trail_without_sup", "trail_without_con"}
RANKED = {f"{metric}@{k}" for metric in ("hr", "ndcg", "jaccard") for k in (5, 10)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "trail"
    run = launch(ROOT / "recipes" / "trail.py", *TRAIL, "--output_dir", folder)
    assert run.returncode == 0, run.stderr[-3000:]
    return folder, run


def test_to_the_end(finished):
    folder, run = finished
    results = json.loads((folder / "results.json").read_text())
    assert (results["schema"], results["system"], results["dataset"]) == (1, "trail", "simulated-trends")
    rows = results["rows"]
    assert set(rows) == {"random"} | COUNTED | WRITTEN
    for name in COUNTED | WRITTEN:
        assert set(rows[name]) >= RANKED | {"hr@10/cold", "ndcg@10/warm"}, name
        assert all(0 <= rows[name][metric] <= 1 for metric in RANKED), name
    assert rows["upper_bound"]["jaccard@10"] == 1
    assert rows["upper_bound"]["ndcg@10"] == max(rows[name]["ndcg@10"] for name in COUNTED | WRITTEN)
    for name in WRITTEN:
        assert {"malformed", "repaired", "trend_accuracy"} <= set(rows[name]), name
    assert results["details"]["dropped"]["train"]["kept"] == 200
    assert results["details"]["popularity"]["window_days"] == 30
    assert run.stdout.count("simulated-trends: 30 windows of 30 days") == 1

    predictions = pl.read_parquet(folder / "predictions.parquet")
    assert len(predictions) == results["details"]["dataset_size"]["test"]
    assert {f"score_{name}" for name in COUNTED | WRITTEN} <= set(predictions.columns)
    assert predictions["explanation_trail"].str.len_chars().sum() > 0
    users = pl.read_parquet(folder / "users.parquet")
    assert users["hr@10_trail"].mean() == pytest.approx(rows["trail"]["hr@10"])
    judged = pl.read_parquet(folder / "explanations.parquet")
    assert judged.columns == ["description", "history", "window_start", "popularity", "score", "explanation"]
    assert len(judged) == len(predictions)


def test_unseen_items_are_thinned_out_in_training_alone():
    rows = {"users_before": [0, 0, 0, 3], "popularity": [0, 0, 2, 0]}
    kept = trail_run._thinned(pl.DataFrame(rows), 0.0, seed=0)
    assert kept.rows() == [(0, 2), (3, 0)]
    assert len(trail_run._thinned(pl.DataFrame(rows), 1.0, seed=0)) == 4


def test_both_terms_are_logged_and_an_ablation_lacks_its_own(finished):
    def logged(stage, name):
        records = json.loads((finished[0] / "logs" / f"{stage}.json").read_text())
        return [record[name] for record in records if name in record]

    for stage in ("trail", "trail_without_sup"):
        assert len(logged(stage, "loss_con")) == 4
        assert all(math.isfinite(value) for value in logged(stage, "loss_sup") + logged(stage, "loss_con"))
    assert logged("trail_without_con", "loss_con") == []
    assert len(logged("trail_without_con", "eval_loss_sup")) == 2
    assert logged("trail", "eval_loss_sup")[-1] < logged("trail_without_sup", "eval_loss_sup")[-1]
    counts = json.loads((finished[0] / "stages" / "trail" / "prepared.json").read_text())
    assert counts == {"train": {"rows": 200, "cut": 0}, "eval": {"rows": 38, "cut": 0}}


def test_a_finished_run_is_read_and_not_trained_again(finished, monkeypatch, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(finished[0], folder)
    for part in ("results.json", "predictions.parquet", "users.parquet"):
        (folder / part).unlink()
    monkeypatch.setattr(trail_run, "finish_stage", None)
    recipe(monkeypatch, *TRAIL, "--output_dir", folder, module=trail)
    rows = [json.loads((f / "results.json").read_text())["rows"] for f in (finished[0], folder)]
    assert rows[0] == rows[1]


def test_a_run_killed_in_training_ends_with_the_same_rows(finished, monkeypatch, tmp_path):
    """Stopped at the last step of the second stage, whose newest checkpoint is then cut short."""
    folder = tmp_path / "killed"
    shutil.copytree(finished[0], folder)
    stage = folder / "stages" / "trail_without_sup"
    for path in (folder / "results.json", stage / "done.json", stage / "checkpoint-4" / "trainer_state.json"):
        path.unlink()
    shutil.rmtree(stage / "adapter")
    shutil.rmtree(folder / "explanations" / "trail_without_sup")
    recipe(monkeypatch, *TRAIL, "--output_dir", folder, module=trail)
    rows = [json.loads((f / "results.json").read_text())["rows"] for f in (finished[0], folder)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--score", "guessed"], "score is 'guessed', but must be one of written, expected."),
        (["--lora_target_modules", "query"], "The adapter (--lora_...) does not fit a llama model: Target modules"),
        (["--unseen_share", "2"], "unseen_share is 2.0, but must lie between 0 and 1."),
        (["--cold", "frozen"], "cold is 'frozen', but must be one of catalogue, first_window, none."),
        (["--ablations", "without_all"], "ablations names 'without_all', but must be of without_sup, without_con."),
        (["--few_shot", "5"], "few_shot is set, but the embedded policy reads one sample at a time"),
        (["--window_days", "400"], "The interactions fill 2 windows of 400 days"),
        (["--dataset", "simulated", "--test_windows", "90"], "for test; use a smaller window_days or more data."),
        (["--lambda_con", "-1"], "lambda_con (-1.0) must not be negative"),
        (["--per_device_train_batch_size", "2"], "no sample has a negative"),
        (["--template_file", "mine.txt"], "template_file is for the prompt style 'paper'; the compact style has no"),
        (["--prompt_style", "paper"], "the embedded policy reads compact prompts"),
    ],
)
def test_refused(options, message, monkeypatch, capsys, tmp_path):
    assert message in assert_refused(
        monkeypatch, capsys, *TRAIL, "--output_dir", tmp_path / "x", *options, module=trail
    )


def test_split_weights_are_refused_before_anything_is_loaded(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setattr(trail_run, "TRAILRun", None)
    error = assert_refused(monkeypatch, capsys, *TRAIL, "--output_dir", tmp_path / "x", module=trail)
    assert "which ZeRO-3 and FSDP split over processes: launch it with" in error


@pytest.mark.parametrize(
    ("timestamp", "message"),
    [
        (pl.lit(None, pl.Int64), "The interactions have no timestamp, and popularity over time needs one for each"),
        (pl.col("timestamp") * 1000, "they look like milliseconds; divide them by 1000."),
        (pl.lit(1_600_000_000, pl.Int64), "The interactions fill 0 windows of 30 days"),
    ],
)
def test_timestamps_that_cannot_be_used(timestamp, message, monkeypatch, capsys, tmp_path):
    world = prepare("simulated-trends", num_users=40, num_items=20, interactions_per_user=10)
    spoiled = dataclasses.replace(world, interactions=world.interactions.with_columns(timestamp=timestamp))
    spoiled.write(tmp_path / "data")
    error = assert_refused(
        monkeypatch, capsys, *TRAIL, "--data_dir", tmp_path / "data", "--output_dir", tmp_path / "x", module=trail
    )
    assert message in error


def test_items_without_any_text(monkeypatch, tmp_path):
    """No titles, no categories, no descriptions: histories alone."""
    world = prepare("simulated-trends", num_users=60, num_items=30, interactions_per_user=10)
    empty = [
        pl.lit("").alias("title"),
        pl.lit(None, pl.List(pl.String)).alias("categories"),
        pl.lit("").alias("description"),
    ]
    dataclasses.replace(world, items=world.items.with_columns(empty)).write(tmp_path / "data")
    recipe(
        monkeypatch, *TRAIL, "--data_dir", tmp_path / "data", "--output_dir", tmp_path / "x", "--max_steps", "2",
        module=trail,
    )  # fmt: skip
    rows = json.loads((tmp_path / "x" / "results.json").read_text())["rows"]
    assert 0 <= rows["trail"]["hr@10"] <= 1
