"""Real command lines: runs to the end, kills and restarts, other models, real files, and every refused input."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml
from PIL import Image

from recipes import expctr, prepare_data, recpie
from rlrec.expctr import run as expctr_run
from rlrec.recpie import run as recpie_run

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "policies"))
from tiny_hugging_face import CHAT_TEMPLATE, build_tokenizer, write_bert, write_llama  # noqa: E402

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


def launch(*arguments, **environment) -> subprocess.CompletedProcess:
    """Run a command with this interpreter, as a user would."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300
    )


def recipe(monkeypatch, *arguments, module=expctr) -> None:
    """The recipe's own `main` on a command line, in this process: for what needs no process of its own."""
    monkeypatch.setattr(sys, "argv", [module.__file__, *map(str, arguments)])
    module.main()


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
    run = launch(*launcher, ROOT / "recipes" / "expctr.py", *SETTINGS, *WORLD, "--output_dir", folder)
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


KILL_SWITCH = '''
import os

calls = 0


def watch(prompts, completions, **columns):
    """Worth nothing; ends its process as the operating system would, at the call that KILL_AT names."""
    global calls
    calls += 1
    if calls == int(os.environ.get("KILL_AT", 0)):
        os.kill(os.getpid(), 9)
    return [0.0] * len(completions)
'''


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


def assert_refused(monkeypatch, capsys, *arguments, module=expctr) -> str:
    """The recipe ends with exit code 2 and one line on stderr, which is returned."""
    with pytest.raises(SystemExit) as exit_:
        recipe(monkeypatch, *arguments, module=module)
    error = capsys.readouterr().err.splitlines()[-1]
    assert exit_.value.code == 2
    assert error.startswith("error: ")
    assert "\n" not in error
    return error


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


# -- RecPIE ----------------------------------------------------------------------------------------------------------

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
    (recommenders / "round_0" / "recommender" / "model.safetensors").write_bytes(table)
    for file in (folder / "explanations").glob("recpie_round_1_*"):
        file.unlink()
    error = assert_refused(monkeypatch, capsys, *RECPIE, "--output_dir", folder, module=recpie)
    assert "was saved with consumer_table_sha256" in error
    assert "take the recommender, users and soft prompt of the same run and round." in error
