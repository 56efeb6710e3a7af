"""TALLRec: its loss by hand, tuning that learns, resuming, and other models than the embedded one."""

import functools
import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from peft import LoraConfig
from sklearn.metrics import roc_auc_score
from transformers import TrainingArguments

from reward_models import FirstTokenScorer
from rlrec.baselines import tallrec
from rlrec.baselines.tallrec import answer_loss, calibrated_ratings, encode, probabilities, tallrec_fit
from rlrec.data.prompts import PromptTemplate
from rlrec.policies.loading import pretrained_policies

sys.path.insert(0, str(Path(__file__).parents[1] / "policies"))
from tiny_hugging_face import CHAT_TEMPLATE, build_tokenizer, write_llama


def test_the_loss_by_hand():
    """P(No) = 0.2 for the first row, where No is right; P(Yes) = 0.3 + 0.4 for the second."""
    logits = torch.tensor([[0.2, 0.3, 0.4, 0.1]]).log().repeat(2, 1)
    loss = answer_loss(logits + 7, torch.tensor([0, 1]), no_ids=[0], yes_ids=[1, 2])
    assert float(loss) == pytest.approx(-(np.log(0.2) + np.log(0.7)) / 2)


def test_ratings_are_a_line_in_the_probability():
    targets, validation = np.array([0.1, 0.3, 0.5]), np.array([0.0, 0.5, 1.0])
    assert calibrated_ratings(targets, validation, np.array([0.25, 1.0])) == pytest.approx([0.2, 0.5])
    constant = calibrated_ratings(targets, np.full(3, 0.5), np.array([0.5, 0.9]))
    assert constant == pytest.approx([0.3, 0.3])  # nothing to learn from: the mean


@pytest.fixture
def question(small_world):
    return small_world.template.question


@pytest.fixture
def samples(small_world):
    """Labels that the crowd word of the prompt gives away."""
    liked = pl.col("crowd").is_in(["popular", "beloved"]).cast(pl.Int64)
    told = small_world.samples.with_columns(label=liked)
    return {split: told.filter(pl.col("split") == split) for split in ("train", "validation", "test")}


@pytest.fixture
def fit(small_policies, samples, question, tmp_path):
    config = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[], disable_tqdm=True)
    options = {"learning_rate": 1e-2, "seed": 3, "epochs": 3, "batch_size": 32, "device_batch": 32}
    given = {"policies": small_policies, "samples": samples, "question": question, "make_scorer": FirstTokenScorer}
    return functools.partial(tallrec_fit, **given, to_predictions=probabilities, config=config, **options)


def test_it_learns_what_the_prompt_says(fit, samples, tmp_path):
    fitted = fit(folder=tmp_path / "row")
    labels = samples["test"]["label"].to_numpy()
    assert ((fitted.predictions > 0) & (fitted.predictions < 1)).all()
    assert roc_auc_score(labels, fitted.predictions) > 0.9
    log = json.loads((tmp_path / "row" / "learning_rate_0.01" / "log_history.json").read_text())
    losses = [record["eval_loss"] for record in log if "eval_loss" in record]
    assert len(losses) == 3
    assert (fitted.loss, fitted.epoch) == (min(losses), 1 + losses.index(min(losses)))


def test_what_was_interrupted_goes_on_and_what_is_done_is_read(fit, samples, tmp_path, monkeypatch):
    few = {split: part.head(96) for split, part in samples.items()}
    fit = functools.partial(fit, samples=few)
    expected = fit(folder=tmp_path / "whole")
    step, calls = tallrec.TALLRecTrainer.training_step, []

    def interrupted(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 5:  # in the second epoch of three steps
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(tallrec.TALLRecTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(folder=tmp_path / "row")
    resumed = fit(folder=tmp_path / "row")
    assert len(calls) == 5 + 6  # the second and the third epoch
    assert resumed.predictions.tolist() == pytest.approx(expected.predictions.tolist(), abs=1e-5)
    before = len(calls)
    assert fit(folder=tmp_path / "row").predictions.tolist() == resumed.predictions.tolist()
    assert len(calls) == before


def test_gradient_accumulation_changes_nothing(fit, samples, tmp_path):
    few = {split: part.head(96) for split, part in samples.items()}  # three steps of 32
    losses = []
    for device_batch in (32, 8):
        folder = tmp_path / str(device_batch)
        fit(folder=folder, epochs=1, samples=few, device_batch=device_batch)
        log = json.loads((folder / "learning_rate_0.01" / "log_history.json").read_text())
        losses.append([record[name] for record in log for name in ("train_loss", "eval_loss") if name in record])
    assert len(losses[0]) == 2
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)


@pytest.mark.parametrize("chat", [True, False])
def test_any_causal_model(chat, fit, samples, tmp_path):
    name = write_llama(tmp_path / "llama", build_tokenizer(CHAT_TEMPLATE if chat else None))
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    policies = pretrained_policies(name, lora, dtype="float32")
    question = PromptTemplate("paper", "film", conversational=chat).question
    few = {split: part.head(24) for split, part in samples.items()}
    options = {"epochs": 1, "batch_size": 8, "device_batch": 4, "policies": policies, "samples": few}
    fitted = fit(folder=tmp_path / "row", question=question, **options)
    assert fitted.predictions.shape == (len(few["test"]),)
    assert np.isfinite(fitted.loss)


def test_long_prompts_lose_their_beginning(small_policies, samples, question):
    tokenizer = small_policies.tokenizer
    rows = encode(tokenizer, samples["test"], question, max_length=4)
    assert all(len(row["input_ids"]) == 4 for row in rows)
    assert all(row["input_ids"][-1] == tokenizer.convert_tokens_to_ids("answer") for row in rows)
    assert [row["labels"] for row in rows] == samples["test"]["label"].to_list()
