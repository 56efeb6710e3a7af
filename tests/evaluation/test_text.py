"""Text metrics against hand-worked values, plain loops over tiny models, and other packages."""

import math
import sys

import numpy as np
import pytest
import torch
from tiny_checkpoints import save_bart, save_bert, save_bleurt, save_gpt2
from transformers import AutoModel, AutoModelForSequenceClassification

from rlrec.evaluation.text import (
    Checkpoint,
    bert_score,
    bleu,
    bleurt,
    explanation_quality,
    load_language_model,
    log_likelihoods,
    rouge,
)

EXPLANATIONS = ["they liked the pool", "good", "the rooms and the pool is nice", "great gift card"]
REVIEWS = ["the pool is nice", "great gift card and good", "rooms", "nice nice"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("checkpoints")
    return {
        "bert": save_bert(root / "bert"),
        "bleurt": save_bleurt(root / "bleurt"),
        "bart": save_bart(root / "bart"),
        "gpt2": save_gpt2(root / "gpt2"),
    }


def test_bleu_by_hand():
    # 1- to 4-grams that match: 4 of 5, 3 of 4, 2 of 3, 1 of 2; same length, so no brevity penalty
    score, signature = bleu(["the cat sat on mats"], ["the cat sat on them"])
    assert score == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    assert "nrefs:1|case:mixed|eff:no|tok:13a" in signature
    # half as long as the reference: brevity penalty exp(1 - 10 / 5)
    short, _ = bleu(["a b c d e"], ["a b c d e f g h i j"])
    assert short == pytest.approx(100 * math.exp(-1))


def test_rouge_by_hand():
    scores = rouge(["The pool is nice", ""], ["nice is the big pool", "pool"])
    # 4 of 4 and 4 of 5 words; no pair of neighbours; the longest common subsequence is "the pool"
    assert scores["rouge1"] == pytest.approx([2 * 1 * 0.8 / 1.8, 0])
    assert scores["rouge2"] == pytest.approx([0, 0])
    assert scores["rougeL"] == pytest.approx([2 * 0.5 * 0.4 / 0.9, 0])


def test_bleurt_is_the_head_on_reference_then_explanation(folders):
    checkpoint = Checkpoint.load(folders["bleurt"], AutoModelForSequenceClassification)
    scores, cut = bleurt(checkpoint, EXPLANATIONS, REVIEWS, batch_size=3)
    assert cut == 0
    for score, explanation, review in zip(scores, EXPLANATIONS, REVIEWS):
        inputs = checkpoint.tokenizer(review, explanation, return_tensors="pt")
        assert inputs["token_type_ids"].max() == 1
        assert score == pytest.approx(checkpoint.model(**inputs).logits.item(), abs=1e-5)


def test_bleurt_cuts_and_counts(folders):
    checkpoint = Checkpoint.load(folders["bleurt"], AutoModelForSequenceClassification, max_length=8)
    _, cut = bleurt(checkpoint, EXPLANATIONS, REVIEWS)
    assert cut == 3  # 4 + 4, 1 + 5, 7 + 1 and 3 + 2 words with three special tokens each


def test_bert_score_by_a_loop(folders):
    checkpoint = Checkpoint.load(folders["bert"], AutoModel)
    scores, _ = bert_score(checkpoint, [*EXPLANATIONS, ""], [*REVIEWS, "pool"], batch_size=2)
    for score, *pair in zip(scores, EXPLANATIONS, REVIEWS):
        a, b = (
            checkpoint.model(**checkpoint.tokenizer(words, return_tensors="pt")).last_hidden_state[0, 1:-1]
            for words in pair
        )
        cosines = [[torch.cosine_similarity(x, y, dim=0).item() for y in b] for x in a]
        precision = np.mean([max(row) for row in cosines])
        recall = np.mean([max(column) for column in zip(*cosines)])
        assert score == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-5)
    assert scores[-1] == 0
    first_layer, _ = bert_score(checkpoint, EXPLANATIONS, REVIEWS, layer=1)
    assert not np.allclose(first_layer, scores[:-1])


def test_bert_score_is_that_of_torchmetrics_one_pair_at_a_time(folders):
    torchmetrics = pytest.importorskip("torchmetrics.functional.text.bert")
    checkpoint = Checkpoint.load(folders["bert"], AutoModel)

    theirs = [
        torchmetrics.bert_score(
            [explanation], [review], model=checkpoint.model, user_tokenizer=checkpoint.tokenizer, max_length=16
        )["f1"].item()
        for explanation, review in zip(EXPLANATIONS, REVIEWS)
    ]
    assert bert_score(checkpoint, EXPLANATIONS, REVIEWS)[0] == pytest.approx(theirs, abs=1e-5)


def test_bart_score_by_a_loop(folders):
    checkpoint = load_language_model(folders["bart"])
    values, cut = log_likelihoods(checkpoint, EXPLANATIONS, REVIEWS, batch_size=3)
    assert cut == 0
    for value, source, target in zip(values, EXPLANATIONS, REVIEWS):
        source_ids = checkpoint.tokenizer(source, return_tensors="pt")["input_ids"]
        target_ids = checkpoint.tokenizer(target)["input_ids"]  # <s> ... </s>
        decoder, logs = [checkpoint.model.config.decoder_start_token_id], []
        for token in target_ids:
            logits = checkpoint.model(input_ids=source_ids, decoder_input_ids=torch.tensor([decoder])).logits
            logs.append(logits[0, -1].log_softmax(-1)[token].item())
            decoder.append(token)
        assert value == pytest.approx(np.mean(logs), abs=1e-5)


def test_log_likelihood_of_a_causal_model_by_a_loop(folders):
    checkpoint = load_language_model(folders["gpt2"])
    sources = ["", "good", "the pool is", ""]
    values, _ = log_likelihoods(checkpoint, sources, REVIEWS, batch_size=3)
    for value, source, target in zip(values, sources, REVIEWS):
        read, logs = checkpoint.tokenizer(source)["input_ids"] or [2], []  # 2: <s>
        for token in checkpoint.tokenizer(target)["input_ids"]:
            logs.append(checkpoint.model(torch.tensor([read])).logits[0, -1].log_softmax(-1)[token].item())
            read = [*read, token]
        assert value == pytest.approx(np.mean(logs), abs=1e-5)


def test_causal_model_cuts_the_source_first(folders):
    checkpoint = load_language_model(folders["gpt2"], max_length=4)
    values, cut = log_likelihoods(checkpoint, ["good great gift", "good"], ["the pool", "the pool"])
    assert cut == 1
    assert values[0] == pytest.approx(log_likelihoods(checkpoint, ["good great"], ["the pool"])[0][0], abs=1e-5)
    assert log_likelihoods(checkpoint, [""], ["the pool and the rooms"])[1] == 1
    assert np.isnan(log_likelihoods(checkpoint, [""], [""])[0]).all()


def test_a_checkpoint_is_frozen(folders):
    checkpoint = load_language_model(folders["bart"])
    assert not any(module.training for module in checkpoint.model.modules())
    assert not any(parameter.requires_grad for parameter in checkpoint.model.parameters())
    assert checkpoint.max_length == 32  # the model's positions


def test_everything_with_checkpoint_and_flags(folders):
    rows = explanation_quality(
        [*EXPLANATIONS, "", "good"],
        [*REVIEWS, "pool", None],
        bleurt_path=folders["bleurt"],
        bert_path=folders["bert"],
        informativeness_path=folders["bart"],
        fluency_path=folders["gpt2"],
        batch_size=2,
    )
    scores = {row["metric"]: row for row in rows}
    assert list(scores) == [
        "bleu", "rouge1", "rouge2", "rougeL", "bertscore", "bleurt", "informativeness", "fluency"
    ]  # fmt: skip
    for row in rows:
        assert isinstance(row["score"], float)
        assert math.isfinite(row["score"])
        assert row["flags"]["without_reference"] == 1
        assert row["flags"]["empty_explanations"] == 1
        assert row["flags"]["rows"] == (4 if row["metric"] == "fluency" else 5)
        model = row["metric"] in ("bertscore", "bleurt", "informativeness", "fluency")
        assert (row["checkpoint"] is not None) == model == ("weights" in row["flags"]) == ("truncated" in row["flags"])
    assert scores["bleurt"]["checkpoint"] == str(folders["bleurt"])
    assert scores["bleurt"]["flags"]["weights"] != scores["bertscore"]["flags"]["weights"]
    values, _ = log_likelihoods(load_language_model(folders["gpt2"]), [""] * 4, EXPLANATIONS)
    assert scores["fluency"]["score"] == pytest.approx(values.mean(), abs=1e-5)
    assert scores["fluency"]["flags"]["probability"] == pytest.approx(np.exp(values).mean(), abs=1e-5)
    assert scores["fluency"]["flags"]["given"] == "explanation"
    assert scores["informativeness"]["flags"]["given"] == "review | explanation"


def test_without_paths_only_what_needs_no_model():
    rows = explanation_quality(["good"], ["good"])
    assert [row["metric"] for row in rows] == ["bleu", "rouge1", "rouge2", "rougeL"]


def test_bad_input(folders, tmp_path):
    with pytest.raises(ValueError, match=r"none of the 2 rows has one; prepare the dataset with its reviews"):
        explanation_quality(["a", "b"], [None, " "])
    with pytest.raises(ValueError, match="1 explanations and 2 references"):
        explanation_quality(["a"], ["a", "b"])
    with pytest.raises(FileNotFoundError, match="not a folder with safetensors"):
        explanation_quality(["a"], ["a"], bleurt_path=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        explanation_quality(["a"], ["a"], fluency_path=tmp_path)
    with pytest.raises(ValueError, match=r"no weights for .* of BertForSequenceClassification"):
        explanation_quality(["a"], ["a"], bleurt_path=folders["bert"])
    three = Checkpoint.load(save_bleurt(tmp_path / "three", num_labels=3), AutoModelForSequenceClassification)
    with pytest.raises(ValueError, match="has 3 outputs; BLEURT is a regression with one"):
        bleurt(three, ["a"], ["a"])


@pytest.mark.parametrize(
    ("metric", "module", "package"),
    [(bleu, "sacrebleu.metrics", "sacrebleu"), (rouge, "rouge_score.rouge_scorer", "rouge-score")],
)
def test_a_missing_package_is_named_with_its_extra(metric, module, package, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"needs the package `{package}`: pip install 'rlrec\[text\]'"):
        metric(["a"], ["a"])
