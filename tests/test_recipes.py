"""Real command lines: runs to the end, kills and restarts, other models, real files, and every refused input."""

import json
import os
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml
from command_lines import KILL_SWITCH, ROOT, assert_refused, launch, recipe
from PIL import Image

from recipes import controls, prepare_data
from rlrec.expctr import run as expctr_run

sys.path.insert(0, str(Path(__file__).parent / "policies"))
from tiny_hugging_face import CHAT_TEMPLATE, build_tokenizer, write_bert, write_llama

DATA = os.environ.get("RLREC_DATA_DIR")
# The smoke configuration, smaller still; rollouts are of 64 samples: five for stage 1 and three for stage 3
SETTINGS = ["--config", "expctr/smoke", "--num_samples", "416", "--history_length", "4"]
SETTINGS += ["--warmup_steps_copy", "5", "--template_steps", "10"]
WORLD = ["--num_users", "96", "--num_items", "40", "--interactions_per_user", "10"]
NO_CONTROLS = ["--more_lc", "false", "--shuffled_labels", "false"]

METRICS = {"auc", "log_loss", "mae", "rmse"}
HEURISTIC_ROWS = {"history_like_rate", "item_mean", "like_rate_plus_item_mean"}
DEEPFM_ROWS = {"deepfm", "deepfm_like_rate", "deepfm_item_mean", "deepfm_like_rate_item_mean"}
LLM_ROWS = {"icl", "expctr_llm_after_lc", "expctr_llm"}
AUG_ROWS = {"expctr_aug_untuned", "expctr_aug_after_lc", "expctr_aug"}


def assert_results(folder: Path, dataset: str, samples: int) -> dict:
    """The files of a finished run without controls are there and make sense; returns results.json."""
    results = json.loads((folder / "results.json").read_text())
    assert (results["schema"], results["system"], results["dataset"]) == (1, "expctr", dataset)
    rows = results["rows"]
    assert set(rows) >= HEURISTIC_ROWS | DEEPFM_ROWS | LLM_ROWS | AUG_ROWS
    assert {f"{name}_mean2" for name in LLM_ROWS | AUG_ROWS} <= set(rows)
    assert {f"{name}_like_rate_item_mean" for name in AUG_ROWS} <= set(rows)
    for name, row in rows.items():
        assert set(row) >= METRICS, name
        assert all(0 <= row[metric] <= 1 for metric in ("auc", "mae", "rmse")), name
        assert row["log_loss"] > 0, name
    for name in LLM_ROWS:
        assert {"cited_real", "malformed", "temperature", "log_loss_t1"} <= set(rows[name])
    assert 0 <= results["controls"]["shuffled_explanations"]["auc"] <= 1
    assert sum(results["details"]["dataset_size"].values()) == samples
    assert 0 < results["details"]["positive_rate"] < 1
    assert results["wall_time_s"] > 0

    predictions = pl.read_parquet(folder / "predictions.parquet")
    assert len(predictions) == results["details"]["dataset_size"]["test"]
    assert {f"score_{name}" for name in rows if name != "expctr_aug"} <= set(predictions.columns)
    assert predictions["score_expctr_llm_mean2"].is_between(0, 1).all()
    assert predictions["explanation_expctr_llm"].str.len_chars().sum() > 0

    report, name = folder / "report", f"expctr_{dataset}"
    for picture in ("auc", "rewards"):
        with Image.open(report / f"{name}_{picture}.png") as image:
            assert min(image.size) > 300
            assert len(image.convert("L").getcolors(256)) > 10  # something is drawn
    assert "| ICL " in (report / f"{name}.md").read_text()
    case_study = (report / f"{name}_cases.md").read_text()
    explanation = next(text for text in predictions["explanation_expctr_llm"] if text)
    assert case_study.count("**ExpCTR-LLM") == case_study.count("**ICL") >= 4
    assert explanation
    card = (report / f"{name}_card.md").read_text()
    assert card.startswith("---\n")
    assert yaml.safe_load(card.split("---")[1])["tags"]
    return results


# -- the embedded policy, to the end --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The smoke run under `accelerate launch`, and what it printed."""
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    launcher = ["-m", "accelerate.commands.launch", "--config_file", ROOT / "accelerate_configs" / "cpu.yaml"]
    cache = {"RLREC_CACHE_DIR": str(folder.with_name("cache"))}  # the embedded policy of no other test
    run = launch(*launcher, ROOT / "recipes" / "expctr.py", *SETTINGS, *WORLD, "--output_dir", folder, **cache)
    assert run.returncode == 0, run.stderr[-3000:]
    return folder, run


def test_a_run_under_accelerate(finished):
    folder, _ = finished
    results = assert_results(folder, "simulated", 416)
    rows = results["rows"]
    assert {"expctr_llm_more_lc", "expctr_aug_more_lc", "expctr_llm_unrestricted", "icl_unrestricted"} <= set(rows)
    assert {"coverage", "precision"} <= set(rows["expctr_llm"])  # the simulated world's true reasons
    assert set(results["controls"]) == {"shuffled_labels", "shuffled_explanations"}
    assert "recipes/expctr.py --config expctr/smoke" in results["command"]
    stages = {path.parent.name: json.loads(path.read_text()) for path in folder.glob("stages/*/done.json")}
    steps = {name: stage["global_step"] for name, stage in stages.items()}
    assert steps == {"lc": 5, "ic": 3, "more_lc": 3, "shuffled_labels": 5}
    for stage, count in steps.items():
        rewards = [e["reward"] for e in json.loads((folder / "logs" / f"{stage}.json").read_text()) if "reward" in e]
        assert len(rewards) == count


def test_what_a_run_prints(finished):
    _, run = finished
    for words in (
        "simulated: 416 samples (33",
        "Bootstrapping the embedded policy",
        "Stage lc: PPO against lc",
        "Stage 2: DeepFM on ids and 320 explanations",  # of five rollouts
        "Stage ic: PPO against ic",
        "| history like-rate (heuristic)",
        "| ExpCTR-Aug ",
        "wrote ",
    ):
        assert words in run.stdout + run.stderr, words
    assert "Traceback" not in run.stderr


def test_another_run_in_the_same_folder_is_refused(finished, monkeypatch, capsys):
    before = (finished[0] / "results.json").read_bytes()
    with pytest.raises(SystemExit) as exit_:
        recipe(monkeypatch, *SETTINGS, *WORLD, "--output_dir", finished[0], "--beta", "0.2")
    assert exit_.value.code == 2
    assert "holds a run with beta = 0.05, not 0.2; give another --output_dir" in capsys.readouterr().err
    assert (finished[0] / "results.json").read_bytes() == before


def test_a_run_killed_twice_ends_with_the_same_rows(finished, tmp_path):
    """Killed in the third rollout of stage 1, then in the second of stage 3; the rows are those of the other run."""
    (tmp_path / "kill_switch.py").write_text(KILL_SWITCH)
    rewards = ["--reward_funcs", "lc", "kill_switch.watch", "--ic_reward_funcs", "ic", "kill_switch.watch"]
    command = [ROOT / "recipes" / "expctr.py", *SETTINGS, *WORLD, *NO_CONTROLS, *rewards]
    command += ["--output_dir", tmp_path / "run"]
    stages = tmp_path / "run" / "stages"

    killed = launch(*command, PYTHONPATH=str(tmp_path), KILL_AT="3")
    assert killed.returncode == -9, killed.stderr[-3000:]
    assert sorted(path.name for path in (stages / "lc").glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]

    killed = launch(*command, PYTHONPATH=str(tmp_path), KILL_AT="5")  # three rollouts of stage 1 were left
    assert killed.returncode == -9, killed.stderr[-3000:]
    assert (stages / "lc" / "done.json").is_file()
    assert [path.name for path in (stages / "ic").glob("checkpoint-*")] == ["checkpoint-1"]

    run = launch(*command, PYTHONPATH=str(tmp_path))
    assert run.returncode == 0, run.stderr[-3000:]
    results = assert_results(tmp_path / "run", "simulated", 416)
    uninterrupted = json.loads((finished[0] / "results.json").read_text())
    assert results["rows"] == {name: uninterrupted["rows"][name] for name in results["rows"]}
    assert results["controls"]["shuffled_explanations"] == uninterrupted["controls"]["shuffled_explanations"]
    logged = json.loads((tmp_path / "run" / "logs" / "lc.json").read_text())
    assert [entry["step"] for entry in logged if "reward" in entry] == [1, 2, 3, 4, 5]


def test_controls_of_the_finished_run(finished, capsys):
    folder, _ = finished
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    controls.main([str(folder), "--fits", "1", "--permutations", "2"])
    told = json.loads((folder / "controls.json").read_text())
    found = {(row["control"], row["reader"], row["way"]): row["metrics"]["auc"] for row in told["rows"]}
    recorded = json.loads((folder / "results.json").read_text())
    llm, deepfm = "LC score", "DeepFM"
    # what needs no new fit is what the run itself found
    assert found["as it is", llm, "as trained"]["value"] == pytest.approx(recorded["rows"]["expctr_llm"]["auc"])
    shuffled = found["explanations of another user", llm, "as trained"]["value"]
    assert shuffled == pytest.approx(recorded["controls"]["shuffled_explanations"]["auc"])
    retrained = found["shuffled labels, policy retrained", llm, "refitted"]["value"]
    assert retrained == pytest.approx(recorded["controls"]["shuffled_labels"]["auc"])
    assert {("verdict masked", llm, "as trained"), ("verdict masked", deepfm, "refitted")} <= set(found)
    assert {("frozen recommender", deepfm, "as trained"), ("sentiment alone", deepfm, "refitted")} <= set(found)
    assert ("shuffled labels", deepfm, "refitted") in found
    assert told["recorded"] == recorded["controls"]
    assert "| verdict masked " in capsys.readouterr().out
    new = {path.name for path in folder.rglob("[!.]*") if path.is_file()} - {path.name for path in before}
    assert new == {"controls.json", "controls.md"}
    assert all(path.read_bytes() == content for path, content in before.items())


# -- Hugging Face models by path ------------------------------------------------------------------------------------

SMALL_MODEL = ["--num_samples", "160", "--history_length", "2", "--per_device_train_batch_size", "32"]
SMALL_MODEL += ["--max_completion_length", "12", "--lc_epochs", "0.5", "--ic_epochs", "0.25", "--lora_r", "4"]


@pytest.mark.parametrize("chat", [True, False])
def test_any_causal_model_and_encoder_by_path(chat, tmp_path, monkeypatch):
    model = write_llama(tmp_path / "llama", build_tokenizer(CHAT_TEMPLATE if chat else None))
    encoder = write_bert(tmp_path / "bert", build_tokenizer()) if chat else "policy"
    monkeypatch.chdir(tmp_path)
    names = ["--model_name_or_path", model, "--encoder", encoder]
    recipe(monkeypatch, *SETTINGS, *WORLD, *NO_CONTROLS, *SMALL_MODEL, *names, "--output_dir", "run")
    results = assert_results(tmp_path / "run", "simulated", 160)
    assert results["details"]["base_model"] == model
    assert results["details"]["encoder"] == encoder
    assert "expctr_llm_unrestricted" not in results["rows"]  # the restriction is the embedded policy's alone
    explanations = pl.read_parquet(tmp_path / "run" / "explanations" / "icl.parquet")
    assert not any("<|" in text for texts in explanations["explanation"] for text in texts)
    assert (tmp_path / "run" / "embeddings").exists() == chat
    adapter = json.loads((tmp_path / "run" / "stages" / "ic" / "adapter" / "adapter_config.json").read_text())
    assert (adapter["base_model_name_or_path"], adapter["r"]) == (model, 4)


# -- real files -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not DATA, reason="RLREC_DATA_DIR names no folder with raw files")
@pytest.mark.parametrize(
    ("dataset", "folder", "options"),
    [
        ("book-crossing", "book_crossing", ["--k_core", "10"]),
        ("amazon", "amazon_gift_cards", ["--category", "Gift_Cards", "--label_rule", "ge", "--threshold", "5"]),
    ],
)
def test_real_files(dataset, folder, options, tmp_path, monkeypatch):
    prepared = tmp_path / "prepared"
    raw = ["--dataset", dataset, "--raw_dir", f"{DATA}/{folder}", "--output_dir", str(prepared)]
    prepare_data.main([*raw, *options])
    metadata = json.loads((prepared / "metadata.json").read_text())
    recipe(monkeypatch, *SETTINGS, *NO_CONTROLS, "--data_dir", prepared, "--output_dir", tmp_path / "run")
    results = assert_results(tmp_path / "run", dataset, 416)
    assert results["details"]["positive_rate"] == pytest.approx(metadata["positive_rate"], abs=0.1)
    titles = set(pl.read_parquet(prepared / "items.parquet")["title"])
    assert set(pl.read_parquet(tmp_path / "run" / "predictions.parquet")["title"]) <= titles


# -- refused input --------------------------------------------------------------------------------------------------


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path):
    """Like `assert_refused`, with the smoke configuration, and before any model is loaded."""

    def no_model(*arguments):
        raise AssertionError("a model was loaded before the input was refused")

    def refused(*arguments) -> str:
        monkeypatch.setattr(expctr_run, "load_policies", no_model)
        error = assert_refused(monkeypatch, capsys, *SETTINGS, *WORLD, "--output_dir", tmp_path / "run", *arguments)
        assert not (tmp_path / "run").exists()
        return error

    return refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--learning_rat", "1"], "Unknown key 'learning_rat' in the command line; did you mean 'learning_rate'?"),
        (["--reward_funcs", "lv"], "There is no reward 'lv'; did you mean 'lc'"),
        (["--ic_reward_funcs", "ic", "math.hypott"], "There is no reward 'hypott' in math; did you mean 'hypot'"),
        (["--reward_funcs", "ic"], "reward_funcs names 'ic', which needs the CTR model of stage 2"),
        (["--reward_weights", "1", "2"], "There are 2 reward_weights for the rewards lc."),
        (["--lc_form", "cubic"], "lc_form is 'cubic', but must be one of absolute, brier."),
        (["--ic_shift", "up"], "ic_shift is 'up', but must be one of on, off, signed."),
        (["--beta", "-1"], "must not be negative"),
        (["--num_iterations", "2"], "save_steps is 1, which would save inside a rollout cycle of 2 optimizer steps"),
        (["--dataset", "ml-100"], "There is no dataset 'ml-100'; did you mean 'ml-100k'?"),
        (["--dataset", "ml-100k", "--raw_dir", "no/such/folder"], "no/such/folder: folder not found"),
        (["--dataset", "ml-100k", "--raw_dir", "{empty}"], "{empty}"),
        (["--dataset", "ml-100k"], "raw_dir"),
        (["--data_dir", "{empty}"], "{empty}: no metadata.json, so this is not a (fully written) prepared dataset"),
        (["--num_users", "9"], "The dataset has 9 users with enough history, but a user-disjoint split of"),
        (["--num_samples", "30"], "the dataset is too small"),
        (["--num_samples", "70"], "There are 56 training samples, and one rollout takes 64: the dataset is too small"),
        (["--num_samples", "80", "--ic_folds", "70"], "ic_folds is 70: the dataset is too small"),
        (["--interactions_per_user", "1000"], "interactions_per_user is 1000 but there are only 40 films"),
        (["--threshold", "5"], "All 416 samples have the label 0 (rule: rating > 5); choose another --threshold"),
        (["--threshold", "0.5"], "All 416 samples have the label 1 (rule: rating > 0.5)"),
        (["--label_rule", "above"], "label_rule is 'above', but must be 'gt' or 'ge'."),
        (["--min_history", "99"], "The dataset has 0 users with enough history"),
    ],
)
def test_mistakes_are_one_sentence_before_any_model_is_loaded(refused, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    filled = [argument.format(empty=tmp_path / "empty") for argument in arguments]
    assert message.format(empty=tmp_path / "empty") in refused(*filled)


def test_a_broken_raw_file(refused, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "u.data").write_text("1\t1\tfive\t10\n")
    (raw / "u.genre").write_text("unknown|0\nAction|1\n")
    (raw / "u.item").write_text("1|Heat (1995)|||" + "|0" * 2 + "\n")
    error = refused("--dataset", "ml-100k", "--raw_dir", raw)
    assert "no usable interaction is left (rejected rows: 1 x not a number)" in error


def test_no_traceback_in_a_real_terminal(tmp_path):
    run = launch(ROOT / "recipes" / "expctr.py", *SETTINGS, "--reward_funcs", "lcx", "--output_dir", tmp_path / "run")
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].startswith("error: There is no reward 'lcx'; did you mean 'lc'")
    assert "Traceback" not in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_flag_is_told_before_anything_slow_is_imported():
    run = launch("-X", "importtime", ROOT / "recipes" / "expctr.py", "--lc_epoch", "2")
    assert run.returncode == 2
    assert "error: Unknown key 'lc_epoch' in the command line; did you mean 'lc_epochs'?" in run.stderr
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines() if line.startswith("import time:")}
    assert "trl" in imported
    # What `from trl import GRPOConfig` does not import either
    assert not imported & {"scipy.stats", "polars", "datasets", "rlrec.ppo.trainer", "rlrec.experiment"}


def test_help(monkeypatch, capsys):
    with pytest.raises(SystemExit) as exit_:
        recipe(monkeypatch, "--help")
    output = capsys.readouterr().out
    assert exit_.value.code == 0
    for words in ("--reward_funcs", "--num_users", "--model_name_or_path", "--learning_rate", "expctr/simulated"):
        assert words in output


def test_an_unknown_configuration(monkeypatch, capsys):
    error = assert_refused(monkeypatch, capsys, "--config", "expctr/smok")
    assert "There is no configuration 'expctr/smok'; did you mean 'expctr/smoke'?" in error


@pytest.mark.parametrize(
    ("tokenizer", "arguments", "message"),
    [
        ({"yes_and_no": False}, [], 'has no single token for "Yes" in any spelling'),
        ({}, ["--conversational", "true"], "has no chat template; leave it out, or choose a chat model."),
    ],
)
def test_tokenizers_that_will_not_do(tokenizer, arguments, message, tmp_path, monkeypatch, capsys):
    model = write_llama(tmp_path / "llama", build_tokenizer(**tokenizer))
    names = ["--model_name_or_path", model, "--output_dir", tmp_path / "run"]
    assert message in assert_refused(monkeypatch, capsys, *SETTINGS, *WORLD, *SMALL_MODEL, *names, *arguments)
    assert not (tmp_path / "run" / "stages").exists()


def test_no_such_model(tmp_path, monkeypatch, capsys):
    names = ["--model_name_or_path", str(tmp_path / "nowhere"), "--output_dir", tmp_path / "run"]
    assert "nowhere" in assert_refused(monkeypatch, capsys, *SETTINGS, *WORLD, *names)


def test_a_reward_that_raises_in_training(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_bad_rewards.py").write_text(
        "def short(prompts, completions, **columns):\n    return [1.0]\n\n\n"
        "def broken(prompts, completions, **columns):\n    return columns['no_such_column']\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    common = [*SETTINGS, *WORLD, *NO_CONTROLS]
    for name, message in (
        ("short", "Reward function 'short' returned 1 rewards for 64 completions"),
        ("broken", f"raised KeyError: 'no_such_column' ({tmp_path / 'my_bad_rewards.py'}, line 6)"),
    ):
        given = ["--reward_funcs", f"my_bad_rewards.{name}", "--output_dir", tmp_path / name]
        assert message in assert_refused(monkeypatch, capsys, *common, *given)
