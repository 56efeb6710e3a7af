"""SELLER's command line: to the end, killed and started again, and every refused input."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import polars as pl
import pytest
from command_lines import ROOT, assert_refused, launch, recipe
from local_endpoint import Server
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

from recipes import seller
from rlrec import utility
from rlrec.data import prepare
from rlrec.files import sha256
from rlrec.policies.injection import IDENTITY_FILE
from rlrec.policies.tiny import build_tokenizer
from rlrec.seller import run as seller_run

sys.path.insert(0, str(Path(__file__).parent / "policies"))
import tiny_hugging_face

SELLER = ["--config", "seller/smoke", "--template_steps", "5", "--max_new_tokens", "12"]
FAST = [*SELLER, "--baselines", "random", "--ablations", "without_de", "--explanation_types", "category",
        "--max_steps", "2", "--timing_samples", "0"]  # fmt: skip
TABLE_2 = {"random", "empty", "llm", "peter", "pepler", "xrec", "seller", "ground_truth"}
FIGURE_2 = {f"seller_without_{part}" for part in ("be", "se", "ct", "de")}
TABLE_4 = {f"{row}_{kind}_only" for row in ("seller", "ground_truth") for kind in ("category", "intent")}
UTILITY = {f"{metric}@{k}" for metric in ("recall", "ndcg") for k in (5, 10)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "seller"
    run = launch(ROOT / "recipes" / "seller.py", *SELLER, "--output_dir", folder)
    assert run.returncode == 0, run.stderr[-3000:]
    return folder, run


def rows_of(folder):
    return json.loads((folder / "results.json").read_text())["rows"]


def test_to_the_end(finished):
    folder, run = finished
    results = json.loads((folder / "results.json").read_text())
    assert (results["schema"], results["system"], results["dataset"]) == (1, "seller", "simulated-sequences")
    rows = results["rows"]
    assert set(rows) == TABLE_2 | FIGURE_2 | TABLE_4
    for name, metrics in rows.items():
        assert set(metrics) >= UTILITY | {f"{metric}/masked" for metric in UTILITY} | {"titles_named"}, name
        assert all(0 <= metrics[metric] <= 1 for metric in UTILITY), name
    for name in TABLE_2 | FIGURE_2:
        assert {"bleu", "categories_right", "interest_right", "mood_right"} <= set(rows[name]), name
    truth = rows["ground_truth"]
    assert [truth[name] for name in ("bleu", "categories_right", "interest_right", "mood_right")] == pytest.approx(
        [1, 1, 1, 1]
    )
    assert rows["empty"]["bleu"] == 0
    assert results["details"]["ground_truth"] == {"rows": 280, "written": 280, "missing": 0, "problems": {}}
    assert set(results["controls"]["training_seconds"]) == {"xrec", "seller"}
    assert set(results["controls"]["inference_seconds"]) == {"xrec", "seller", "llm"}
    for heading in (
        "seller on simulated-sequences",
        "With the target's title masked",
        "Time per sample",
        "Recall@10 d",
    ):
        assert run.stdout.count(f"## {heading}") == 1, heading
    assert "MiB full" in run.stdout


def test_files(finished):
    folder = finished[0]
    samples = pl.read_parquet(folder / "samples.parquet")
    assert dict(samples["split"].value_counts().iter_rows()) == {"train": 200, "validation": 40, "test": 40}
    told = pl.read_parquet(folder / "explanations.parquet")
    assert told.columns[:5] == ["user_id", "item_id", "split", "row", "text"]
    assert set(told["row"]) == TABLE_2 | FIGURE_2
    assert len(told) == 40 * len(TABLE_2 | FIGURE_2)
    without = told.filter(pl.col("row") == "seller_without_de")["text"].to_list()
    assert without == told.filter(pl.col("row") == "llm")["text"].to_list()  # nothing is left to train
    users = pl.read_parquet(folder / "users.parquet")
    rows = rows_of(folder)
    for name in ("seller", "seller_intent_only"):
        assert users[f"recall@10_{name}"].mean() == pytest.approx(rows[name]["recall@10"])
    trained = {path.name for path in (folder / "stages").iterdir()}
    assert trained == {"pepler", "xrec", "seller"} | FIGURE_2 - {"seller_without_de"}
    assert (folder / "report" / "seller_simulated-sequences_cases.md").is_file()


def test_the_utility_command_reads_a_run(finished, capsys, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    encoder = tiny_hugging_face.write_bert(tmp_path / "bert", tiny_hugging_face.build_tokenizer())
    utility.main([str(folder), "--encoder", encoder, "--epochs", "1", "--rank", "2"])
    assert "| ground_truth " in capsys.readouterr().out
    found = json.loads((folder / "utility.json").read_text())
    assert set(found["rows"]) == TABLE_2 | FIGURE_2
    assert found["samples"] == {"test": 40, "train": 200, "validation": 40}


def test_training_moves_the_adapter_alone(finished):
    first, last = (
        load_file(finished[0] / "stages" / "seller" / name / "adapter.safetensors")
        for name in ("checkpoint-2", "checkpoint-4")
    )
    assert not any(name.startswith("llm.") for name in last)
    assert any(not first[name].equal(last[name]) for name in last)


def test_a_finished_run_is_read_and_not_made_again(finished, monkeypatch, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(finished[0], folder)
    for part in ("results.json", "explanations.parquet", "users.parquet"):
        (folder / part).unlink()
    for name in ("finish_stage", "write_texts", "peter_explanations", "fit_sequences"):
        monkeypatch.setattr(seller_run, name, None)
    monkeypatch.setattr("rlrec.seller.rows.utility", None)
    monkeypatch.setattr("rlrec.seller.rows.seconds_per_sample", None)
    recipe(monkeypatch, *SELLER, "--output_dir", folder, module=seller)
    assert rows_of(folder) == rows_of(finished[0])


def test_a_run_killed_in_training_ends_with_the_same_rows(finished, monkeypatch, tmp_path):
    """Stopped at SELLER's last step, whose checkpoint is then cut short; nothing that came later was made."""
    folder = tmp_path / "killed"
    shutil.copytree(finished[0], folder)
    stage = folder / "stages" / "seller"
    for path in (folder / "results.json", stage / "done.json", stage / "checkpoint-4" / "trainer_state.json"):
        path.unlink()
    for path in (stage / "adapter", folder / "explanations" / "seller", folder / "utility"):
        shutil.rmtree(path)
    recipe(monkeypatch, *SELLER, "--output_dir", folder, module=seller)
    assert rows_of(folder) == rows_of(finished[0])


def test_an_adapter_of_another_base_is_refused(finished, monkeypatch, capsys, tmp_path):
    folder = tmp_path / "other"
    shutil.copytree(finished[0], folder)
    shutil.rmtree(folder / "explanations" / "xrec")
    path = folder / "stages" / "xrec" / "adapter" / IDENTITY_FILE
    identity = json.loads(path.read_text())
    identity["base"]["weights_sha256"] = "0" * 64
    path.write_text(json.dumps(identity))
    stage = folder / "stages" / "xrec"
    done = json.loads((stage / "done.json").read_text())
    done["files"][str(path.relative_to(stage))] = sha256(path)
    (stage / "done.json").write_text(json.dumps(done))
    error = assert_refused(monkeypatch, capsys, *SELLER, "--output_dir", folder, module=seller)
    assert "load the base that the adapter was trained on" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--baselines", "random", "bpr"], "baselines names 'bpr', but must be of random, empty, llm, peter, pepler"),
        (["--ablations", "without_all"], "ablations names 'without_all', but must be of without_be, without_se"),
        (["--explanation_types", "mood"], "explanation_types names 'mood', but must be of category, intent."),
        (
            ["--ground_truth", "oracle"],
            "ground_truth is 'oracle', but must be one of template, file, model",
        ),
        (["--ground_truth", "file"], "ground_truth is 'file', which needs ground_truth_source."),
        (
            ["--ground_truth", "endpoint", "--ground_truth_source", "http://localhost:1/v1"],
            "ground_truth is 'endpoint', which needs ground_truth_model",
        ),
        (["--evaluate", "train"], "evaluate is 'train', but must be one of test, validation."),
        (["--sequence_length", "0"], "sequence_length is 0, but must be at least 1."),
        (["--missing_share", "1"], "missing_share is 1.0, but must be at least 0 and below 1."),
        (["--sasrec_objective", "hinge"], "sasrec_objective is 'hinge', but must be one of softmax, bpr."),
        (["--category_threshold", "0"], "category_threshold 0.0, but all must be above 0."),
        (["--prompt_style", "paper"], "the embedded LLM reads compact prompts"),
        (["--bertscore_model", "no/such/folder"], "no/such/folder is not a folder with safetensors"),
        (["--eer_rank", "65"], "eer_rank is 65, but must be from 1 to 64, the EER's width."),
        (["--num_held_out", "0"], "num_held_out is 0, but must be at least 1."),
    ],
)
def test_refused_before_anything_is_loaded(options, message, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(seller_run.SELLERRun, "_load_policies", None)
    assert message in assert_refused(
        monkeypatch, capsys, *SELLER, "--output_dir", tmp_path / "x", *options, module=seller
    )


def test_another_family_of_language_models_is_refused(monkeypatch, capsys, tmp_path):
    tokenizer = build_tokenizer([], ["explain", "film"])
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 1, "vocab_size": len(tokenizer)}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    error = assert_refused(
        monkeypatch, capsys, *SELLER, "--model_name_or_path", tmp_path / "gpt2", "--output_dir", tmp_path / "x",
        module=seller,
    )  # fmt: skip
    assert "GPT2LMHeadModel" in error
    assert "take a model of Llama, Mistral, Qwen2, Qwen3" in error
    assert not (tmp_path / "x" / "sasrec").exists()


def test_a_chat_model_of_hugging_face(monkeypatch, tmp_path):
    """The paper's prompts inside of a chat template; nobody has taught this model anything."""
    folder = tiny_hugging_face.write_llama(
        tmp_path / "llama", tiny_hugging_face.build_tokenizer(tiny_hugging_face.CHAT_TEMPLATE)
    )
    options = ["--model_name_or_path", folder, "--num_samples", "20", "--num_held_out", "4", "--output_dir",
               tmp_path / "x", "--baselines", "xrec", "--max_length", "2048"]  # fmt: skip
    recipe(monkeypatch, *FAST, *options, module=seller)
    assert 0 <= rows_of(tmp_path / "x")["seller"]["recall@10"] <= 1
    assert (tmp_path / "x" / "stages" / "xrec" / "adapter" / "adapter.safetensors").is_file()


def changed_world(folder, items=None, interactions=None):
    """A small world with other columns, in a folder."""
    world = prepare("simulated-sequences", num_users=40, num_items=30, interactions_per_user=8)
    world = dataclasses.replace(
        world,
        items=world.items.with_columns(items or []),
        interactions=world.interactions if interactions is None else interactions(world.interactions),
    )
    world.write(folder)
    return folder


def test_items_without_categories_or_text(monkeypatch, tmp_path):
    """No titles, no categories, no descriptions, no reasons: ids alone."""
    items = [
        pl.lit("").alias("title"),
        pl.lit(None, pl.List(pl.String)).alias("categories"),
        pl.lit("").alias("description"),
    ]
    data = changed_world(tmp_path / "data", items, lambda frame: frame.drop("reasons"))
    options = ["--data_dir", data, "--output_dir", tmp_path / "x", "--baselines", "random", "xrec"]
    recipe(monkeypatch, *FAST, *options, module=seller)
    rows = rows_of(tmp_path / "x")
    assert 0 <= rows["seller"]["recall@10"] <= 1
    assert rows["seller"]["titles_named"] == 0
    assert "mood_right" not in rows["seller"]


def test_sequences_of_length_one(monkeypatch, tmp_path):
    """Only the target is in a sequence of one; and histories of one item are samples like others."""
    data = changed_world(tmp_path / "data")
    recipe(
        monkeypatch, *FAST, "--data_dir", data, "--output_dir", tmp_path / "x", "--sequence_length", "1", module=seller
    )
    assert pl.read_parquet(tmp_path / "x" / "samples.parquet")["history"].list.len().max() == 1
    assert 0 <= rows_of(tmp_path / "x")["seller"]["recall@10"] <= 1


def test_an_endpoint_that_fails_midway_is_asked_again(monkeypatch, capsys, tmp_path):
    answer = json.dumps({"category_explanation": "A film of its kind.", "intent_explanation": "To see something."})
    options = ["--data_dir", changed_world(tmp_path / "data"), "--output_dir", tmp_path / "x", "--num_samples", "60",
               "--num_held_out", "10", "--history_items", "1", "--ground_truth", "endpoint", "--ground_truth_model",
               "m"]  # fmt: skip
    working, cache = [False], tmp_path / "x" / "ground_truth.jsonl"
    with Server(lambda number, body: answer if working[0] or number < 9 else (400, "{}")) as server:
        options += ["--ground_truth_source", server.url]
        error = assert_refused(monkeypatch, capsys, *FAST, *options, module=seller)
        assert "have no ground truth" in error
        assert "start the same command again" in error
        assert len(cache.read_text().splitlines()) == 9
        working[0], before = True, len(server.bodies)
        recipe(monkeypatch, *FAST, *options, module=seller)
        assert len(cache.read_text().splitlines()) == 9 + len(server.bodies) - before
    results = json.loads((tmp_path / "x" / "results.json").read_text())
    assert results["details"]["ground_truth"]["missing"] == 0
    assert set(pl.read_parquet(tmp_path / "x" / "samples.parquet")["ground_truth"]) == {
        "A film of its kind. To see something."
    }


def test_ground_truth_from_a_file_that_lacks_some(monkeypatch, tmp_path):
    data = changed_world(tmp_path / "data")
    interactions = pl.read_parquet(data / "interactions.parquet")
    rows = interactions.select("user_id", "item_id").with_columns(
        category_explanation=pl.lit("Its kind."), intent_explanation=pl.lit("A wish.")
    )
    rows.filter(pl.int_range(pl.len()) % 10 != 0).write_parquet(tmp_path / "texts.parquet")
    recipe(
        monkeypatch, *FAST, "--data_dir", data, "--output_dir", tmp_path / "x", "--ground_truth", "file",
        "--ground_truth_source", tmp_path / "texts.parquet", "--missing_share", "0.5", module=seller,
    )  # fmt: skip
    results = json.loads((tmp_path / "x" / "results.json").read_text())
    counts = results["details"]["ground_truth"]
    assert counts["problems"] == {"not in the file": counts["missing"]}
    assert counts["missing"] > 0
    assert sum(results["details"]["dataset_size"].values()) == counts["written"]


def test_tuning_leaves_the_test_samples_alone(monkeypatch, tmp_path):
    data = changed_world(tmp_path / "data")
    for name in ("test", "validation"):
        options = ["--evaluate", name, "--data_dir", data, "--output_dir", tmp_path / name]
        recipe(monkeypatch, *FAST, *options, "--num_held_out", "1000", module=seller)
    tested, tuned = (pl.read_parquet(tmp_path / name / "samples.parquet") for name in ("test", "validation"))
    keys = ["user_id", "item_id"]
    held_out = tested.filter(pl.col("split") == "test").select(keys)
    assert tuned.join(held_out, on=keys, how="semi").is_empty()
    assert len(tuned.filter(pl.col("split") != "train")) == len(tested.filter(pl.col("split") == "validation"))
