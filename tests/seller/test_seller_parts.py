"""What a SELLER run is made of: features of a sequence, texts in parts, truth by rule, and seconds."""

import json

import polars as pl
import pytest
import torch
from tiny_seller import config, features, model, samples, tokenizer

from rlrec.recommenders import SASRec
from rlrec.seller.features import SequenceFeatures, item_states, whole_sequences
from rlrec.seller.quality import reason_metrics, text_metrics
from rlrec.seller.timing import seconds_per_sample
from rlrec.seller.writing import write_in_parts
from rlrec.tables import UTILITY, masked_table, summarise, task_of, time_table


class Letters:
    """Encodes a text as (length, 1)."""

    def encode(self, texts):
        return torch.tensor([[float(len(text)), 1.0] for text in texts])


def test_sequences_end_with_the_target_and_leave_out_the_unknown():
    frame = pl.DataFrame({"history": [["a", "x", "b"], ["c"]], "item_id": ["c", "a"]})
    assert whole_sequences(frame, ["a", "b", "c"], 5).tolist() == [[1, 2, 3], [3, 1, 0]]
    assert whole_sequences(frame, ["a", "b", "c"], 2).tolist() == [[2, 3], [3, 1]]
    assert whole_sequences(frame, ["a", "b", "c"], 1).tolist() == [[3], [1]]


def test_states_of_texts_stand_in_the_order_of_the_items():
    items = pl.DataFrame({"item_id": ["a", "b"], "title": ["Heat", ""], "categories": [["war"], None],
                          "description": [None, ""]})  # fmt: skip
    states = item_states(items, ["b", "a"], Letters())
    assert states.tolist() == [[0, 0], [0, 1], [len("Heat. Categories: war."), 1]]


def test_features_are_the_states_of_the_batch_alone():
    sasrec = SASRec(num_items=4, dim=8, max_length=5).eval()
    sequences = torch.tensor([[1, 2, 3, 1, 2], [3, 0, 0, 0, 0], [2, 3, 0, 0, 0]])
    given = SequenceFeatures(sequences, sasrec, torch.arange(8.0).view(4, 2))(torch.tensor([2, 1]))
    assert given["sequence_mask"].tolist() == [[True, True], [True, False]]
    assert given["semantic"].tolist() == [[[4, 5], [6, 7]], [[6, 7], [0, 1]]]
    assert torch.allclose(given["behaviour"][0], sasrec.states(torch.tensor([[2, 3]]))[0], atol=1e-6)
    assert not given["behaviour"].requires_grad


def test_texts_are_written_part_by_part_and_never_twice(tmp_path):
    calls = []

    def write(part):
        calls.append((part.start, part.stop))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return [text.upper() for text in "abcde"[part]]

    with pytest.raises(KeyboardInterrupt):
        write_in_parts(tmp_path, list("abcde"), write, part_size=2)
    assert write_in_parts(tmp_path, list("abcde"), write, part_size=2) == list("ABCDE")
    assert calls == [(0, 2), (2, 4), (2, 4), (4, 6)]
    assert write_in_parts(tmp_path, list("abcdf"), write, part_size=2)[:4] == list("ABCD")  # another fifth is asked
    assert calls[4:] == [(4, 6)]


def test_true_by_rule():
    frame = pl.DataFrame(
        {"categories": [["war", "drama"], ["sci-fi"], ["war"]], "reasons": [["sad", "war"], ["sad", "sci-fi"], []]},
        schema_overrides={"reasons": pl.List(pl.String)},
    )
    told = [
        ("A drama about war.", "You return to drama after war, something sad."),  # the wrong interest first
        ("A sci-fi war film.", "You turn to sci-fi, something grand."),  # one category too many, the wrong mood
        ("", ""),
    ]
    assert reason_metrics(told, frame, ["sad", "grand"]) == {
        "categories_right": 1 / 3,
        "interest_right": 1 / 3,
        "mood_right": 1 / 3,
    }


def test_bleu_is_a_share():
    assert text_metrics(["a b c d e"], ["a b c d e"], None, "cpu") == {"bleu": pytest.approx(1.0)}


def test_seconds_are_measured_and_the_model_is_as_before():
    trained, rows = model(), samples(8)
    before = {name: value.clone() for name, value in trained.trained_state().items()}
    systems = {
        "seller": (trained, rows, features(8), [row["prompt"] for row in rows], features(8)),
    }
    seconds = seconds_per_sample(systems, tokenizer(), config("unused"), max_new_tokens=3, batch_size=4, repeats=2)
    assert set(seconds) == {"training_seconds", "inference_seconds"}
    assert all(0 < each["seller"] < 10 for each in seconds.values())
    assert all(torch.equal(before[name], value) for name, value in trained.trained_state().items())


def record(seed, seller, masked, seconds):
    rows = {"seller": {"recall@10": seller, "recall@10/masked": masked, "titles_named": 0.5, "bleu": 0.2},
            "random": {"recall@10": 0.1, "recall@10/masked": 0.1}}  # fmt: skip
    controls = {"training_seconds": {"xrec": 2.0, "seller": seconds}, "inference_seconds": {"xrec": 1.0, "llm": 0.5}}
    return {"system": "seller", "dataset": "kuairec", "seed": seed, "rows": rows, "controls": controls}


def test_tables():
    results = [record(0, 0.3, 0.2, 1.0), record(1, 0.5, 0.2, 2.0)]
    summary = summarise(json.loads(json.dumps(results)))
    assert task_of(summary) is UTILITY
    assert masked_table(summary) == (
        ["row", "Recall@10, masked"], [["random", "0.1000 ± 0.0000"], ["SELLER", "0.2000 ± 0.0000"]]
    )  # fmt: skip
    assert time_table(results) == (
        ["row", "training", "inference", "paper training", "paper inference"],
        [
            ["XRec", "1.000 ± 0.000", "1.000 ± 0.000", "1.000", "1.000"],
            ["SELLER", "0.750 ± 0.354", "–", "0.735", "0.448"],
            ["untuned LLM", "–", "0.500 ± 0.000", "–", "0.328"],
        ],
    )
    paper = {(line["row"], line["metric"]): line["paper"] for line in summary.iter_rows(named=True)}
    assert (paper["seller", "recall@10"], paper["random", "recall@10"], paper["seller", "bleu"]) == (
        0.2132,
        0.196,
        0.2072,
    )
