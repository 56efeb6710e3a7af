"""The world's rules, found again in its interactions, and what knowing them is worth."""

import time

import numpy as np
import polars as pl
import pytest

from rlrec.data import DataError, prepare
from rlrec.data.simulated_sequences import GENRES, MOODS, simulate_sequences, simulate_sequences_with_truth

COUNT = len(MOODS)


@pytest.fixture(scope="module")
def made():
    start = time.process_time()
    world, truth = simulate_sequences_with_truth()
    assert time.process_time() - start < 8.0
    return world, truth


def sequences(world):
    """Of each user the films' rows, and the states: category x 8 + mood, in time order."""
    ordered = world.interactions.sort("user_id", "timestamp").group_by("user_id", maintain_order=True)
    for items, reasons in ordered.agg("item_id", "reasons").select("item_id", "reasons").iter_rows():
        states = [GENRES.index(category) * COUNT + MOODS.index(mood) for mood, category in reasons]
        yield [int(item[1:]) - 1 for item in items], states


def test_size(made):
    world, _ = made
    assert (world.metadata["users"], world.metadata["items"]) == (2000, 400)
    assert 78_000 < world.metadata["interactions"] < 82_000
    per_user = world.interactions["user_id"].value_counts()["count"]
    assert (per_user.min(), per_user.max()) == (20, 60)
    assert world.interactions.n_unique(["user_id", "item_id"]) == world.interactions.height
    assert (world.metadata["domain"], world.metadata["has_timestamps"]) == ("film", True)
    assert world.interactions.group_by("user_id").agg(pl.col("timestamp").diff().min())["timestamp"].min() > 0
    # Users begin at different times, and nearly all go on after four fifths of all interactions.
    cut = world.interactions["timestamp"].quantile(0.8)
    assert world.interactions.filter(pl.col("timestamp") > cut)["user_id"].n_unique() > 1_900


def test_interest_moves_as_it_should(made):
    states = [np.array(states) for _, states in sequences(made[0])]
    category = np.concatenate([np.stack([s[:-1], s[1:]]) // COUNT for s in states], axis=1)
    mood = np.concatenate([np.stack([s[:-1], s[1:]]) % COUNT for s in states], axis=1)
    step = (category[1] - category[0]) % len(GENRES)
    shares = np.bincount(step, minlength=8) / step.size
    # Stay, next, the one after, and 0.1 among five others.
    assert shares == pytest.approx([0.3, 0.45, 0.15] + [0.02] * 5, abs=0.01)
    assert (mood[0] == mood[1]).mean() == pytest.approx(0.92, abs=0.01)


def test_the_reasons_are_a_mood_and_a_category_of_the_film(made):
    world, _ = made
    rows = world.interactions.join(world.items, on="item_id").select("reasons", "categories", "description")
    for (mood, category), categories, description in rows.iter_rows():
        assert category in categories
        assert mood in description


def test_descriptions_name_exactly_categories_and_moods_and_titles_neither(made):
    items = made[0].items
    for title, categories, description in items.select("title", "categories", "description").iter_rows():
        words = description.replace(",", "").rstrip(".").split()
        moods = [word for word in words if word in MOODS]
        assert len(moods) in (2, 3)
        assert len(categories) in (1, 2)
        told = f"{', '.join(moods[:-1])} and {moods[-1]} {' and '.join(categories)}"
        assert description == f"A {told} film of {title[-5:-1]}."
        assert not any(word in title.lower() for word in GENRES + MOODS)
    assert items["title"].n_unique() == 400


def test_what_the_sequence_is_worth(made):
    """Recall@10 of the next film, and whether the mood is named, for who knows nothing, the past, or the state.

    Forward filtering: beliefs over the 64 states, by the world's rules, from the films alone.
    """
    world, truth = made
    match = (truth.item_categories[:, :, None] & truth.item_moods[:, None, :]).reshape(400, 64).astype(float)
    chain = np.kron(truth.category_chain, truth.mood_chain)
    counts = np.zeros(400)
    for films, _ in list(sequences(world))[400:]:
        np.add.at(counts, films, 1)
    hits = {"popularity": [], "films before": [], "state before": [], "state": []}
    moods = {"film alone": [], "films before": []}
    for films, states in list(sequences(world))[:400]:  # users apart from those that make the counts
        unseen, belief = np.ones(400), np.full(64, 1 / 64)
        *past, target = films
        for film in past:
            belief = (belief * match[film] / np.maximum((truth.popularity * unseen) @ match, 1e-9) + 1e-12) @ chain
            belief /= belief.sum()
            unseen[film] = 0
        open_weight = truth.popularity * unseen
        totals = np.maximum(open_weight @ match, 1e-9)
        known = np.eye(64)
        beliefs = {"films before": belief, "state before": chain[states[-2]], "state": known[states[-1]]}
        scores = {name: open_weight * (match @ (state / totals)) for name, state in beliefs.items()}
        for name, score in {**scores, "popularity": counts * unseen}.items():
            hits[name].append((score > score[target]).sum() < 10)
        true = states[-1] % COUNT
        alone = match[target] / (truth.popularity @ match)
        for name, state in {"film alone": alone, "films before": belief * match[target] / totals}.items():
            moods[name].append(state.reshape(-1, COUNT).sum(0).argmax() == true)
    recall = {name: np.mean(values) for name, values in hits.items()}
    named = {name: np.mean(values) for name, values in moods.items()}
    print({name: round(float(value), 3) for name, value in recall.items()}, named)
    assert recall["popularity"] < 0.13
    assert recall["films before"] > 0.25
    assert recall["state before"] > 0.3
    assert recall["state"] > 0.6
    assert named["film alone"] < 0.55
    assert named["films before"] > 0.85


def test_few_films_leave_users_stuck_and_all_rules_but_the_chains_hold():
    world = simulate_sequences(num_users=60, num_items=12, interactions_per_user=8)
    assert world.interactions.n_unique(["user_id", "item_id"]) == world.interactions.height
    rows = world.interactions.join(world.items, on="item_id").select("reasons", "categories", "description")
    assert all(c in categories and m in description for (m, c), categories, description in rows.iter_rows())


def test_seed_and_prepare():
    size = {"num_users": 30, "num_items": 60, "interactions_per_user": 9}
    world = prepare("simulated-sequences", seed=4, **size)
    assert world.interactions.equals(simulate_sequences(seed=4, **size).interactions)
    assert not world.interactions.equals(simulate_sequences(seed=5, **size).interactions)
    assert world.metadata["simulation"] == {**size, "seed": 4}
    assert world.metadata["moods"] == list(MOODS)


def test_impossible_sizes():
    with pytest.raises(DataError, match="interactions_per_user 40 a user has up to 60 films, but there are only 50"):
        simulate_sequences(num_items=50)
    with pytest.raises(DataError, match="at least one user"):
        simulate_sequences(num_users=0)
