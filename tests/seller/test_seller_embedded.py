"""The embedded LLM of SELLER: it learns the template's language from invented users, and nobody's history."""

import numpy as np
import polars as pl
import pytest
import torch

from rlrec.data.simulated_sequences import GENRES, MOODS, simulate_sequences
from rlrec.policies.injection import PLACEHOLDER, encode_prompts
from rlrec.policies.tiny import TinyConfig
from rlrec.seller.embedded import HINTS, InventedUsers, _loss, _telling, embedded_llm
from rlrec.seller.ground_truth import template
from rlrec.seller.prompts import SellerPrompts

PROMPTS = SellerPrompts("compact", "film")
CONFIG = TinyConfig(template_steps=40, batch_size=16, learning_rate=8e-3)
ODD = pl.DataFrame(  # no description, no categories; a category of several words, and one with a comma
    {"title": ["A", "B"], "categories": [["Film Noir", "Food, Drink"], []], "description": [None, None]},
    schema_overrides={"categories": pl.List(pl.String), "description": pl.String},
)


@pytest.fixture(scope="module")
def world():
    return simulate_sequences(num_users=40, num_items=60, interactions_per_user=10)


@pytest.fixture(scope="module")
def embedded(world):
    return embedded_llm(world.items, MOODS, PROMPTS, CONFIG)


def unknown_words(tokenizer, texts):
    return {text for text in texts if tokenizer.unk_token_id in tokenizer(text)["input_ids"]}


def test_it_knows_every_word_that_it_will_read_and_write(world, embedded):
    _, tokenizer = embedded
    rows = world.items.to_dicts()
    users = InventedUsers(rows, MOODS)
    invented = [users.draw(np.random.default_rng(seed)) for seed in range(200)]
    texts = [*GENRES, *MOODS, *(item["description"] for item in rows)]
    texts += [PROMPTS.answer(*template(row, "film")) for row in invented]
    for row in invented:
        texts += [prompt.replace(PLACEHOLDER, " ") for prompt in (PROMPTS.prompt(row), PROMPTS.xrec(row))]
    assert unknown_words(tokenizer, texts) == set()
    answer = PROMPTS.answer("This film belongs to comedy.", "You turn to comedy, in the mood for something tense.")
    assert tokenizer.decode(tokenizer(answer)["input_ids"], skip_special_tokens=True) == answer


def test_attention_is_multi_head_so_that_equation_10_is_exact(embedded):
    model, tokenizer = embedded
    assert model.config.num_key_value_heads == model.config.num_attention_heads
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)  # the placeholder is one behind


def test_invented_users_read_items_alone(world):
    users = InventedUsers(world.items.to_dicts(), MOODS)
    rows = [users.draw(np.random.default_rng(seed)) for seed in range(300)]
    assert {len(row["history_categories"]) for row in rows} == set(range(1, 13))
    for row in rows:
        mood, category = row["reasons"]
        assert mood in row["description"]
        assert category in row["categories"]
        assert row["category_sequence"]
    of_first_target = {tuple(row["reasons"]) for row in rows if row["title"] == rows[0]["title"]}
    assert len(of_first_target) > 1 or len(rows[0]["categories"]) == 1  # no reason is the item's own


def test_it_learns_the_language(world, embedded):
    model, tokenizer = embedded
    users = InventedUsers(world.items.to_dicts(), MOODS)
    rng = np.random.default_rng(1)
    with torch.no_grad():
        loss = float(_loss(model, tokenizer, [users.draw(rng) for _ in range(64)], PROMPTS, rng))
    assert loss < 0.4 * np.log(len(tokenizer))
    prompt = encode_prompts(tokenizer, [PROMPTS.plain(users.draw(rng))], len(tokenizer))[0]
    written = model.generate(torch.tensor([prompt]), max_new_tokens=30, do_sample=False)[0, len(prompt) :]
    category, intent = PROMPTS.parse(tokenizer.decode(written, skip_special_tokens=True))
    assert category.startswith("This film belongs to ")
    assert intent.startswith("You ")


def test_telling_words_are_those_of_the_answer_that_are_not_the_templates(embedded):
    _, tokenizer = embedded
    row = {"categories": ["comedy", "western"], "history_categories": [["musical"]], "reasons": ["tense", "western"]}
    answer = tokenizer(PROMPTS.answer(*template(row, "film")), add_special_tokens=False)["input_ids"]
    told = tokenizer.convert_ids_to_tokens(_telling(row, tokenizer, answer))
    assert sorted(told) == ["comedy", "musical", "tense", "western"]
    assert len(told) > HINTS
    assert _telling({"categories": [], "history_categories": [[]], "reasons": []}, tokenizer, answer) == []


def test_it_comes_from_the_cache_the_second_time(world, embedded, monkeypatch):
    monkeypatch.setattr("rlrec.seller.embedded.bootstrap", lambda *_: pytest.fail("trained again"))
    ablation = SellerPrompts("compact", "film", vectors=1, category_texts=False)
    model, _ = embedded_llm(world.items, MOODS, ablation, CONFIG)
    for name, weights in embedded[0].state_dict().items():
        assert torch.equal(weights, model.state_dict()[name])


def test_items_without_categories_or_text(world):
    model, tokenizer = embedded_llm(ODD, (), PROMPTS, TinyConfig(template_steps=2, batch_size=4))
    texts = ["Film-Noir Film Noir Food-Drink Food, Drink none", "This film has no known category."]
    assert unknown_words(tokenizer, texts) == set()
    assert all(torch.isfinite(weights).all() for weights in model.state_dict().values())
