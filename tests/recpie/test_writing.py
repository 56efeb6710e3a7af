"""Explanations of samples in files: written once, with the consumer's soft prompt, and read back."""

import polars as pl
import pytest
import torch
from torch import nn

from rlrec.explanations import ExplanationStore
from rlrec.policies.soft_prompt import SoftPrompt, attach_soft_prompt
from rlrec.recpie import writing
from rlrec.recpie.prompts import ExplanationPrompts

PROMPTS = ExplanationPrompts("contrastive", "compact", "film")


@pytest.fixture(scope="module")
def samples(small_world):
    return small_world.samples.head(3)


def write(path, samples, policies, load, **options):
    settings = {"count": 2, "max_new_tokens": 6, "batch_size": 4, "seed": 0, "round": 3, **options}
    return writing.write_explanations(path, samples, PROMPTS, policies.tokenizer, load, **settings)


def test_one_store_a_draw_with_every_side(small_policies, samples, tmp_path):
    stores = write(tmp_path / "explanations" / "held_out", samples, small_policies, small_policies.load)
    assert sorted(file.name for file in (tmp_path / "explanations").glob("[!.]*")) == [
        "held_out-0.parquet",
        "held_out-1.parquet",
    ]
    keys = {(*key, side) for key in samples.select("user_id", "item_id").iter_rows() for side in ("pos", "neg")}
    for store in stores:
        frame = store.to_frame()
        assert set(frame.select("user_id", "item_id", "side").iter_rows()) == keys
        assert frame["round"].unique().to_list() == [3]
        assert frame["text"].str.len_chars().min() > 0
    assert not stores[0].to_frame().equals(stores[1].to_frame())  # two draws, not one twice


def test_what_is_written_is_read_back_and_not_written_again(small_policies, samples, tmp_path):
    path = tmp_path / "held_out"
    first = write(path, samples, small_policies, small_policies.load)
    again = write(path, samples, small_policies, lambda: 1 / 0)
    assert [store.to_frame().rows() for store in again] == [store.to_frame().rows() for store in first]

    keys = ("user_id", "item_id")
    edited = ExplanationStore()
    row = {**dict(zip(keys, samples.select(keys).row(0))), "side": "neg", "text": "Written by hand."}
    edited.update([row])
    edited.save(tmp_path / "held_out-0.parquet")
    read = write(path, samples, small_policies, lambda: 1 / 0)[0]
    assert read.texts_for(samples, "neg") == ["Written by hand.", None, None]


def test_a_missing_draw_is_written_again_as_it_was(small_policies, samples, tmp_path):
    first = write(tmp_path / "held_out", samples, small_policies, small_policies.load)
    (tmp_path / "held_out-1.parquet").unlink()
    torch.rand(5)  # what was drawn before does not matter
    again = write(tmp_path / "held_out", samples, small_policies, small_policies.load)
    assert [store.to_frame().rows() for store in again] == [store.to_frame().rows() for store in first]
    other = write(tmp_path / "other", samples, small_policies, small_policies.load, seed=1)
    assert other[0].to_frame().rows() != first[0].to_frame().rows()


def test_the_consumers_of_a_soft_prompt_are_passed_on(small_policies, samples, tmp_path, monkeypatch):
    table = nn.Embedding(2, 8)
    users = samples["user_id"].to_list()

    def load():
        policy = small_policies.load()
        return attach_soft_prompt(policy, SoftPrompt.for_model(policy, table, users[:1]))

    seen = []
    generate = writing.generate_explanations
    monkeypatch.setattr(
        writing, "generate_explanations", lambda *args, **options: seen.append(options) or generate(*args, **options)
    )
    known = samples.filter(pl.col("user_id") == users[0])
    write(tmp_path / "known", known, small_policies, load)
    assert seen[-1]["consumers"] == [users[0]] * 2 * len(known)
    write(tmp_path / "plain", known, small_policies, small_policies.load)
    assert seen[-1]["consumers"] is None
    stranger = samples.head(1).with_columns(user_id=pl.lit("stranger"))
    with pytest.warns(UserWarning, match="2 of 2 consumers, such as 'stranger', are unknown to the soft prompt"):
        stores = write(tmp_path / "stranger", stranger, small_policies, load)
    assert stores[0].texts_for(stranger, "pos")[0]
