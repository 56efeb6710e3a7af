"""Answers written once, part by part, and the rows to train on that are made of them."""

import sys

import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from transformers import LlamaConfig, LlamaForCausalLM
from two_ranks import on_two_ranks

from rlrec.policies.tiny import build_tokenizer
from rlrec.trail.grammar import TrendGrammar
from rlrec.trail.output import parse_answer
from rlrec.trail.prompts import TrendPrompts
from rlrec.trail.trends import check_trends, summarise_trends
from rlrec.trail.writing import SCHEMA, draw_answers, training_rows, write_answers

PROMPTS = TrendPrompts("compact", "film")
GRAMMAR = TrendGrammar(PROMPTS)
TOKENIZER = build_tokenizer(["none"], [*GRAMMAR.words, "Horror", "Drama"])
SAMPLES = pl.DataFrame(
    {
        "item_id": [f"i{n}" for n in range(7)],
        "window": pl.Series([5] * 7, dtype=pl.Int32),
        "window_start": [1_412_121_600] * 7,
        "history": [list(range(n)) for n in range(7)],
        "history_cut": [0] * 7,
        "title": ["Alien"] * 7,
        "categories": [["Horror"], ["Drama"], [], ["Horror", "Drama"], ["Drama"], [], ["Horror"]],
        "description": [""] * 7,
        "popularity": [3, 0, 1, 2, 9, 8, 150],
        "change_rate": [0.0] * 7,
    }
)


class Policy:
    """Gives a small random model and counts how often it was asked for it."""

    def __init__(self):
        self.loads = 0

    def __call__(self):
        self.loads += 1
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        return LlamaForCausalLM(LlamaConfig(vocab_size=len(TOKENIZER), **sizes, **special))


def write(folder, policy, samples=SAMPLES, **options):
    options = {"max_new_tokens": 6, "batch_size": 4, "part_size": 3, **options}
    return write_answers(folder, samples, PROMPTS, TOKENIZER, policy, **options)


def test_an_answer_to_each_sample_in_order(tmp_path):
    answers = write(tmp_path, Policy())
    assert answers.schema == pl.Schema(SCHEMA)
    assert answers["item_id"].to_list() == SAMPLES["item_id"].to_list()
    assert answers["text"].n_unique() == 7
    for row in answers.iter_rows(named=True):
        read = PROMPTS.parse(row["text"])
        assert (row["score"], row["explanation"], row["problem"]) == read[:3]


def test_what_is_there_is_not_written_again(tmp_path):
    policy = Policy()
    first = write(tmp_path, policy)
    files = sorted(tmp_path.glob("[!.]*"))
    assert len(files) == 3
    assert_frame_equal(write(tmp_path, policy), first)
    assert policy.loads == 1
    before = {file: file.stat().st_mtime_ns for file in files}
    files[1].unlink()  # as if the run had been stopped in between
    assert_frame_equal(write(tmp_path, policy), first)
    assert policy.loads == 2
    assert {file: file.stat().st_mtime_ns for file in (files[0], files[2])} == {f: before[f] for f in files[::2]}


def test_other_prompts_or_settings_are_written_anew(tmp_path):
    policy = Policy()
    first = write(tmp_path, policy)
    assert not write(tmp_path, policy, seed=1).equals(first)
    write(tmp_path, policy, max_new_tokens=5)
    changed = SAMPLES.with_columns(history=pl.Series([[4, 4]] * 7))
    write(tmp_path, policy, changed)
    assert policy.loads == 4
    assert_frame_equal(write(tmp_path, policy), first)
    # the label is in no prompt, so another label asks nothing new
    assert_frame_equal(write(tmp_path, policy, SAMPLES.with_columns(popularity=pl.lit(0))), first)
    assert policy.loads == 4


def test_two_ranks_share_the_work(tmp_path):
    on_two_ranks(__file__, tmp_path)
    first, second = (pl.read_parquet(tmp_path / f"rank{rank}.parquet") for rank in range(2))
    assert_frame_equal(first, second)
    assert first["item_id"].to_list() == SAMPLES["item_id"].to_list()
    policy = Policy()
    assert_frame_equal(write(tmp_path / "answers", policy), first)  # one process reads what two have written
    assert policy.loads == 0


def test_no_samples(tmp_path):
    policy = Policy()
    assert write(tmp_path, policy, SAMPLES[:0]).schema == pl.Schema(SCHEMA)
    assert policy.loads == 0


def test_few_shot_prompts_are_asked(tmp_path):
    prompts = TrendPrompts(domain="film")
    example = (SAMPLES.row(3, named=True), prompts.answer("2", "Up."))
    policy, options = Policy(), {"max_new_tokens": 2, "batch_size": 4}
    plain = write_answers(tmp_path, SAMPLES[:2], prompts, TOKENIZER, policy, **options)
    write_answers(tmp_path, SAMPLES[:2], prompts, TOKENIZER, policy, examples=[example], **options)
    assert policy.loads == 2
    assert plain["problem"].to_list() == ["no answer object"] * 2


def answered(texts):
    keys = SAMPLES[: len(texts)].select("item_id", "window")
    return keys.hstack(pl.DataFrame([parse_answer(text)._asdict() for text in texts], infer_schema_length=None))


def test_training_rows_have_the_true_score_and_the_models_text():
    prompts = TrendPrompts(domain="film")
    score = '"predict_popularity_score": '
    texts = [
        f'{{{score}"7", "explanation_of_score": "So it is 7."}}',
        f'{{{score}"high", "explanation_of_score": "It is high."}}',  # the score is not needed
        f'{{{score}"7"}}',
        f'{{{score}"7", "explanation_of_score": "So it',
        "",
        "<think>Well",
        "It is",
    ]
    rows, counts = training_rows(SAMPLES, answered(texts), prompts)
    assert counts == {
        "samples": 7,
        "kept": 2,
        "no explanation": 1,
        "cut off": 1,
        "empty": 1,
        "thinking not finished": 1,
        "no answer object": 1,
    }
    assert [row["item_id"] for row in rows] == ["i0", "i1"]
    assert rows[0]["prompt"] == prompts.prompt(SAMPLES.row(0, named=True))
    assert rows[0]["completion"] == prompts.answer("3", "So it is 7.")
    assert rows[1]["completion"] == prompts.answer("0", "It is high.")
    assert rows[0]["history"] == []
    assert rows[0]["change_rate"] == 0.0


def test_training_rows_of_a_chat():
    prompts = TrendPrompts(domain="film", conversational=True)
    text = '{"predict_popularity_score": "7", "explanation_of_score": "Up."}'
    rows, _ = training_rows(SAMPLES[:1], answered([text]), prompts)
    assert rows[0]["prompt"] == prompts.prompt(SAMPLES.row(0, named=True))
    assert rows[0]["completion"] == [{"role": "assistant", "content": prompts.answer("3", "Up.")}]


def test_every_sample_needs_an_answer():
    with pytest.raises(ValueError, match="Item 'i2' has no answer for window 5; write answers to all the samples"):
        training_rows(SAMPLES, answered(["x", "y"]), TrendPrompts())


def test_drawn_answers_are_whole_true_and_label_blind():
    answers = draw_answers(SAMPLES, GRAMMAR, seed=3)
    assert answers["score"].to_list() == [0, 0, 1, 2, 3, 4, 5]  # the last count
    assert answers["problem"].null_count() == 7
    assert_frame_equal(draw_answers(SAMPLES.with_columns(popularity=pl.lit(0)), GRAMMAR, seed=3), answers)
    shown = [PROMPTS.shown(row) for row in SAMPLES.iter_rows(named=True)]
    checks = check_trends(answers["explanation"].to_list(), shown, SAMPLES["window_start"].to_list())
    assert summarise_trends(checks)["trend_accuracy"] == 1.0
    rows, counts = training_rows(SAMPLES, answers, PROMPTS)
    assert counts == {"samples": 7, "kept": 7}
    assert rows[6]["completion"] == f"162 <exp_start> {answers['explanation'][6]} <exp_end>"


if __name__ == "__main__":  # one of the two ranks
    from accelerate import PartialState

    rank = PartialState(cpu=True).process_index
    write(f"{sys.argv[1]}/answers", Policy()).write_parquet(f"{sys.argv[1]}/rank{rank}.parquet")
