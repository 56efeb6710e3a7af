import time

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from rlrec.data import DataError, simulate
from rlrec.data.simulated import ASPECTS, simulate_with_truth


def heuristic_aucs(seed, bias):
    """AUCs of four predictors over every interaction with ten earlier ones, computed by plain loops."""
    world, truth = simulate_with_truth(seed=seed, bias=bias)
    rows = world.interactions.select("user_id", "item_id", "rating").rows()
    liked = [int(rating > 3) for _, _, rating in rows]
    categories = dict(zip(world.items["item_id"], map(set, world.items["categories"].to_list())))
    likes, counts = {}, {}
    for (_, item, _), like in zip(rows, liked):
        likes[item] = likes.get(item, 0) + like
        counts[item] = counts.get(item, 0) + 1
    labels, scores = [], {"like_rate": [], "item_mean": [], "matches": [], "oracle": []}
    for index, (user, item, _) in enumerate(rows):
        history = range(index - 10, index)
        if index < 10 or rows[index - 10][0] != user:
            continue
        labels.append(liked[index])
        scores["like_rate"].append(sum(liked[k] for k in history))
        others = counts[item] - 1
        scores["item_mean"].append((likes[item] - liked[index]) / others if others else 0.5)
        shared = ((2 * liked[k] - 1) * len(categories[item] & categories[rows[k][1]]) for k in history)
        scores["matches"].append(sum(shared))
        scores["oracle"].append(truth.utility[index])
    aucs = {name: roc_auc_score(labels, values) for name, values in scores.items()}
    print(f"seed {seed} bias {bias}: positive {np.mean(liked):.3f}", {k: round(v, 3) for k, v in aucs.items()})
    return aucs, np.mean(liked)


@pytest.mark.parametrize("seed", [0, 1])
def test_default_world_mixes_base_rates_and_reasons(seed):
    aucs, positive = heuristic_aucs(seed, bias=True)
    assert 0.45 < positive < 0.55
    assert 0.65 < aucs["like_rate"] < 0.71
    assert 0.68 < aucs["item_mean"] < 0.73
    assert 0.68 < aucs["matches"] < 0.75
    assert 0.88 < aucs["oracle"] < 0.95


@pytest.mark.parametrize("seed", [0, 1])
def test_harder_world_has_no_base_rates(seed):
    aucs, positive = heuristic_aucs(seed, bias=False)
    assert 0.45 < positive < 0.55
    assert aucs["like_rate"] == pytest.approx(0.5, abs=0.02)
    assert aucs["item_mean"] == pytest.approx(0.5, abs=0.02)
    assert 0.70 < aucs["matches"] < 0.82
    assert aucs["oracle"] > 0.93


def test_reasons_are_the_aspects_the_user_cares_about_and_the_review_names_them():
    world, truth = simulate_with_truth(num_users=60, num_items=50, interactions_per_user=10, seed=3)
    categories = dict(zip(world.items["item_id"], world.items["categories"].to_list()))
    for row in world.interactions.iter_rows(named=True):
        preferences = truth.preferences[int(row["user_id"][1:]) - 1]
        expected = {
            f"{'+' if preferences[ASPECTS.index(aspect)] > 0 else '-'}{aspect}"
            for aspect in categories[row["item_id"]]
            if preferences[ASPECTS.index(aspect)] != 0
        }
        assert set(row["reasons"]) == expected
        named = {aspect for aspect in ASPECTS if f"the {aspect}" in row["review"].lower()}
        assert named == {reason[1:] for reason in expected}


def test_each_user_likes_three_and_dislikes_three_aspects_evenly():
    _, truth = simulate_with_truth(num_users=80, num_items=20, interactions_per_user=2)
    assert ((truth.preferences > 0).sum(1) == 3).all()
    assert ((truth.preferences < 0).sum(1) == 3).all()
    # 80 users with three liked aspects of eight: 30 users each.
    assert ((truth.preferences > 0).sum(0) == 30).all()
    assert ((truth.preferences < 0).sum(0) == 30).all()


def test_titles_are_unique_natural_and_say_nothing_about_aspects():
    world = simulate(num_users=800, num_items=500, interactions_per_user=40)
    titles = world.items["title"]
    assert titles.n_unique() == world.items.height == 500
    assert titles.str.contains(r"^[A-Z][A-Za-z ]+ \((19|20)\d\d\)$").all()
    for aspect in ASPECTS:
        assert not titles.str.to_lowercase().str.contains(aspect).any()
    assert world.items["categories"].list.len().is_in([1, 2]).all()


def test_descriptions_name_exactly_the_categories():
    items = simulate(num_users=30, num_items=20, interactions_per_user=10).items
    for title, categories, description in items.select("title", "categories", "description").rows():
        assert description == f"A {title[-5:-1]} film full of {' and '.join(categories)}."


def test_seeded_timestamps_increase_and_metadata():
    world = simulate(num_users=40, num_items=30, interactions_per_user=12, seed=7)
    assert world.interactions.equals(
        simulate(num_users=40, num_items=30, interactions_per_user=12, seed=7).interactions
    )
    other = simulate(num_users=40, num_items=30, interactions_per_user=12, seed=8)
    assert not world.interactions.equals(other.interactions)
    steps = world.interactions.group_by("user_id").agg(pl.col("timestamp").diff().min())
    assert (steps["timestamp"] > 0).all()
    assert world.interactions.n_unique(["user_id", "item_id"]) == world.interactions.height == 40 * 12
    metadata = world.metadata
    assert (metadata["domain"], metadata["default_threshold"], metadata["rating_scale"]) == ("film", 3.0, [1.0, 5.0])
    assert metadata["rejected"] == {}
    assert metadata["has_timestamps"] is True


def test_default_size_is_fast():
    start = time.perf_counter()
    simulate()
    assert time.perf_counter() - start < 2.0


def test_impossible_sizes():
    with pytest.raises(DataError, match="interactions_per_user is 30 but there are only 20 films"):
        simulate(num_items=20)
    with pytest.raises(DataError, match="at least one user"):
        simulate(num_users=0)
