"""RecPIE's command line: to the end, killed and started again, and every refused input."""

import json
import shutil

import polars as pl
import pytest
from command_lines import KILL_SWITCH, ROOT, assert_refused, launch, recipe

from recipes import controls, recpie
from rlrec.recpie import run as recpie_run

RECPIE = ["--config", "recpie/smoke", "--warmup_steps_copy", "0", "--template_steps", "20", "--num_users", "30"]
RECPIE += ["--num_items", "30", "--interactions_per_user", "10", "--ppo_epochs", "0.8"]


@pytest.fixture(scope="module")
def recpie_finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "recpie"
    run = launch(ROOT / "recipes" / "recpie.py", *RECPIE, "--output_dir", folder)
    assert run.returncode == 0, run.stderr[-3000:]
    return folder, run


def test_recpie_to_the_end(recpie_finished):
    folder, run = recpie_finished
    results = json.loads((folder / "results.json").read_text())
    assert (results["schema"], results["system"], results["dataset"]) == (1, "recpie", "simulated")
    rows = results["rows"]
    assert {"global_mean", "user_mean", "item_mean", "gru", "gru_like_rate_item_mean", "gru_categories"} <= set(rows)
    assert {"recpie_bootstrap", "recpie", "recpie_positive_only", "recpie_free", "recpie_llm_embeddings"} <= set(rows)
    assert {"ncf", "recpie_ncf"} <= set(rows)
    for name, row in rows.items():
        assert {"rmse", "mae", "rmse_stars", "mae_stars", "auc"} <= set(row), name
        assert row["rmse_stars"] == pytest.approx(4 * row["rmse"]), name
        assert 0 <= row["auc"] <= 1, name
    for name in ("recpie_bootstrap", "recpie", "recpie_positive_only"):
        assert {"coverage", "signed_coverage", "signed_precision"} <= set(rows[name]), name
    assert set(results["controls"]["recpie_shuffled"]) == {"rmse", "auc"}
    losses = results["details"]["rounds"]["recpie"]
    assert [kept["round"] for kept in losses] == [0, 1]
    assert losses[0]["policy_loss"] is None
    assert 0 < losses[1]["policy_loss"] < 1
    predictions = pl.read_parquet(folder / "predictions.parquet")
    assert {"score_recpie", "score_gru", "explanation_recpie_pos", "explanation_recpie_neg"} <= set(
        predictions.columns
    )
    assert (folder / "report" / "recpie_simulated.md").read_text().count("| RecPIE ") >= 2
    assert "Traceback" not in run.stderr


def test_a_recpie_run_killed_in_ppo_ends_with_the_same_rows(recpie_finished, tmp_path, monkeypatch):
    """Killed in the second rollout of the second variant: the first is read back, the second goes on."""
    (tmp_path / "kill_switch.py").write_text(KILL_SWITCH)
    rewards = ["--reward_funcs", "recpie", "kill_switch.watch"]
    command = [*RECPIE, *rewards, "--output_dir", tmp_path / "run"]
    stages = tmp_path / "run" / "stages"
    first = json.loads((recpie_finished[0] / "stages" / "recpie_round_1" / "done.json").read_text())["global_step"]
    killed = launch(ROOT / "recipes" / "recpie.py", *command, PYTHONPATH=f"{tmp_path}:{ROOT}", KILL_AT=str(first + 2))
    assert killed.returncode == -9, killed.stderr[-3000:]
    assert (stages / "recpie_round_1" / "done.json").is_file()
    assert [path.name for path in (stages / "recpie_positive_only_round_1").glob("checkpoint-*")] == ["checkpoint-1"]
    monkeypatch.syspath_prepend(tmp_path)
    recipe(monkeypatch, *command, module=recpie)
    results, whole = (
        json.loads((folder / "results.json").read_text()) for folder in (tmp_path / "run", recpie_finished[0])
    )
    assert results["rows"] == whole["rows"]
    assert results["controls"] == whole["controls"]
    assert results["details"]["rounds"] == whole["details"]["rounds"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recommender_epoch", "1"], "Unknown key 'recommender_epoch' in the command line; did you mean 'recomme"),
        (["--reward_funcs", "recpi"], "There is no reward 'recpi'; did you mean 'recpie'?"),
        (["--reward_funcs", "lc"], "reward_funcs names 'lc', which reads one explanation of ExpCTR's"),
        (["--reward_weights", "1", "2"], "There are 2 reward_weights for the rewards recpie."),
        (["--variant", "contrast"], "variant is 'contrast', but must be one of contrastive, positive, general"),
        (["--variant", "summary"], "The embedded policy cannot write the variant 'summary', only contrastive"),
        (["--more_variants", "aspects"], "The embedded policy cannot write the variant 'aspects'"),
        (["--per_device_train_batch_size", "63"], "splits a pair: make it a multiple of 2 (2 * num_generations)."),
        (["--per_device_train_batch_size", "5000"], "with 2 explanations each, and one rollout takes 5000"),
        (["--folds", "500"], "training samples, and folds is 500: take fewer."),
        (["--num_samples", "60"], "training samples with 1 explanations each, and one rollout takes 64"),
        (
            ["--num_samples", "80", "--per_device_train_batch_size", "16"],
            "validation samples, and early stopping needs 10: the dataset is too small.",
        ),
        (["--threshold", "6"], "have the label 0 (rule: rating >= 6)"),
        (["--loss_type", "recpie", "--beta", "0"], "loss_type='recpie' needs the reference's log-probabilities"),
    ],
)
def test_mistakes_in_recpie_are_one_sentence_before_any_model_is_loaded(
    arguments, message, tmp_path, monkeypatch, capsys
):
    def no_model(*arguments):
        raise AssertionError("a model was loaded before the input was refused")

    monkeypatch.setattr(recpie_run, "load_policies", no_model)
    given = [*RECPIE, "--output_dir", tmp_path / "run", *arguments]
    assert message in assert_refused(monkeypatch, capsys, *given, module=recpie)
    assert not (tmp_path / "run").exists()


def test_controls_of_the_finished_run(recpie_finished, tmp_path, capsys):
    folder = shutil.copytree(recpie_finished[0], tmp_path / "run")
    controls.main([str(folder), "--fits", "1", "--permutations", "2"])
    told = json.loads((folder / "controls.json").read_text())
    found = {(row["control"], row["way"]): row["metrics"] for row in told["rows"]}
    assert {row["reader"] for row in told["rows"]} == {"RecPIE's recommender"}
    ways = [
        ("as it is", "as trained"),
        ("no explanations", "refitted"),
        ("explanations of another user", "as trained"),
    ]
    ways += [("verdict masked", "refitted"), ("sentiment alone", "refitted"), ("frozen recommender", "as trained")]
    for key in ways:
        assert found[key]["rmse"]["low"] <= found[key]["rmse"]["value"] <= found[key]["rmse"]["high"]
        assert 0 <= found[key]["auc"]["value"] <= 1
    assert set(found["shuffled labels", "refitted"]) == {"auc"}
    assert "RMSE [95 %]" in capsys.readouterr().out


def test_pairs_may_be_odd_where_there_is_one_side(recpie_finished, tmp_path, monkeypatch, capsys):
    """One explanation a sample: 33 a rollout are no mistake, so what is refused is another thing."""
    given = [*RECPIE, "--variant", "positive", "--per_device_train_batch_size", "33", "--folds", "500"]
    given += ["--more_variants", "general", "--output_dir", tmp_path / "run"]
    assert "folds is 500" in assert_refused(monkeypatch, capsys, *given, module=recpie)


def test_another_consumer_table_is_refused(recpie_finished, tmp_path, monkeypatch, capsys):
    """The recommender of round 0 was swapped after its policy had been trained."""
    folder = tmp_path / "run"
    shutil.copytree(recpie_finished[0], folder)
    recommenders = folder / "recommenders" / "recpie"
    table = (recommenders / "round_1" / "recommender" / "model.safetensors").read_bytes()
    swapped = recommenders / "round_0" / "recommender" / "model.safetensors"
    swapped.write_bytes(table)
    swapped.with_name(f".{swapped.name}.sha256").unlink()
    for file in (folder / "explanations").glob("recpie_round_1_*"):
        file.unlink()
    error = assert_refused(monkeypatch, capsys, *RECPIE, "--output_dir", folder, module=recpie)
    assert "was saved with consumer_table_sha256" in error
    assert "take the recommender, users and soft prompt of the same run and round." in error
