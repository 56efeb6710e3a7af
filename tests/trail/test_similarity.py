"""TRAIL's eqs. 1-6 by hand, against a plain reference and dtaidistance, and top-k against the full matrix."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rlrec.data import prepare
from rlrec.data.popularity import popularity_data
from rlrec.trail import similarity
from rlrec.trail.similarity import (
    dtw,
    dtw_pairs,
    latest_similarity,
    metadata_similarity,
    pack_histories,
    similarity_matrix,
    top_neighbours,
    trend_similarity,
    z_normalised,
)


def reference_dtw(first, second) -> float:
    """Eqs. 1 and 2 letter by letter, with the border in row and column 0."""
    costs = np.full((len(first) + 1, len(second) + 1), np.inf)
    costs[0, 0] = 0.0
    for i in range(1, len(first) + 1):
        for j in range(1, len(second) + 1):
            before = min(costs[i - 1, j], costs[i, j - 1], costs[i - 1, j - 1])
            costs[i, j] = abs(first[i - 1] - second[j - 1]) + before
    return costs[-1, -1]


def random_histories(count, longest, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, count)
    return [rng.poisson(rng.lognormal(1, 1), length) for length in lengths]


def random_samples(count, items, seed=0, longest=12):
    rng = np.random.default_rng(seed)
    embeddings = rng.normal(size=(items, 4))
    embeddings[0] = 0  # an item without text
    return random_histories(count, longest, seed), rng.normal(size=count), embeddings, rng.integers(0, items, count)


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [
        ([3], [5], 2),
        ([1, 2, 3], [1, 2, 3], 0),
        ([1, 2, 3], [1, 1, 2, 2, 3], 0),  # a slower copy
        ([0, 5, 0], [0, 0, 0], 5),
        # costs 1 0 3 / 4 3 0: 1, 1, 4 in row 1; row 2: 4 + 1, 3 + 1, 0 + 1
        ([1, 4], [0, 1, 4], 1),
        ([2, 0], [0, 2], 4),
        ([], [1, 2], np.inf),
        ([1], [], np.inf),
        ([], [], 0),
    ],
)
def test_dtw_by_hand(first, second, distance):
    assert dtw(first, second) == distance
    assert dtw(second, first) == distance


@pytest.mark.parametrize("z_normalise", [False, True])
def test_dtw_equals_the_plain_reference(z_normalise):
    histories = random_histories(40, 25)
    left, right = np.divmod(np.arange(40 * 40), 40)
    ready = [z_normalised(h.astype(float)) if z_normalise else h for h in histories]
    expected = [reference_dtw(ready[i], ready[j]) for i, j in zip(left, right)]
    distances = dtw_pairs(histories, left, right, z_normalise, threads=2)
    np.testing.assert_allclose(distances, expected, rtol=0, atol=1e-9)


def test_dtw_equals_dtaidistance():
    oracle = pytest.importorskip("dtaidistance.dtw")
    histories = [h for h in random_histories(60, 50, seed=1) if len(h)]
    left, right = np.divmod(np.arange(len(histories) ** 2), len(histories))
    for z_normalise in (False, True):
        ready = [z_normalised(h.astype(float)) if z_normalise else h.astype(float) for h in histories]
        expected = [oracle.distance_fast(ready[i], ready[j], inner_dist="euclidean") for i, j in zip(left, right)]
        distances = dtw_pairs(histories, left, right, z_normalise)
        np.testing.assert_allclose(distances, expected, rtol=0, atol=1e-9)


def test_z_normalised_by_hand():
    assert z_normalised(np.array([1.0, 3.0, 1.0, 3.0])).tolist() == [-1, 1, -1, 1]
    assert z_normalised(np.array([0.1, 0.1, 0.1])).tolist() == [0, 0, 0]
    assert z_normalised(np.array([])).tolist() == []
    # the same shape on another level: apart as printed, the same when normalised
    assert dtw_pairs([[1, 2, 3], [10, 20, 30]], [0], [1]).tolist() == [9 + 18 + 27]
    assert dtw_pairs([[1, 2, 3], [10, 20, 30]], [0], [1], z_normalise=True) == pytest.approx([0], abs=1e-12)


def test_the_three_similarities_by_hand():
    assert trend_similarity(np.array([1.0])).tolist() == [0.5]
    latest = latest_similarity([0.0, 1.0], [1.0], sigma=0.5)
    np.testing.assert_allclose(latest, [[np.exp(-2)], [1.0]], rtol=1e-15)
    cosines = metadata_similarity(np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[1.0, 1.0], [-2.0, 0.0]]))
    np.testing.assert_allclose(cosines, [[0.5**0.5, -1.0], [0.0, 0.0]], rtol=1e-15)


def test_total_by_hand():
    # samples: item 0 rising, item 1 flat, item 1 cold; texts at 60 degrees
    histories, rates = [[1, 2], [1, 1], []], [1.0, 0.0, 0.0]
    embeddings = np.array([[2.0, 0.0], [0.5, 0.75**0.5]])
    total = similarity_matrix(histories, rates, embeddings, [0, 1, 1])
    rising_flat = 0.4 / 2 + 0.2 * np.exp(-0.5) + 0.4 * 0.5
    rising_cold = 0.2 * np.exp(-0.5) + 0.4 * 0.5
    flat_cold = 0.2 + 0.4
    expected = [[1, rising_flat, rising_cold], [rising_flat, 1, flat_cold], [rising_cold, flat_cold, 1]]
    np.testing.assert_allclose(total, expected, rtol=1e-12)
    other = similarity_matrix(histories, rates, embeddings, [0, 1, 1], alpha=1, beta=0, gamma=2)
    assert other[0, 1] == pytest.approx(1 / 2 + 2 * 0.5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"z_normalise": True},
        {"skip_same_item": True, "threads": 2},
        {"alpha": 1.0, "beta": 0.0, "gamma": 0.0},  # the trend alone: many ties
        {"alpha": 0.0, "sigma": 0.1},
    ],
)
def test_top_neighbours_are_those_of_the_full_matrix(options, monkeypatch):
    monkeypatch.setattr(similarity, "BLOCK_ELEMENTS", 7 * 30)  # blocks of seven rows
    samples = random_samples(200, 30)
    shared = {key: value for key, value in options.items() if key not in ("skip_same_item", "threads")}
    total = similarity_matrix(*samples, **shared).round(12)  # blocks multiply in another order
    np.fill_diagonal(total, -np.inf)
    if "skip_same_item" in options:
        total[np.equal.outer(samples[3], samples[3])] = -np.inf
    indices, similarities = top_neighbours(*samples, k=5, **options)
    expected = -np.sort(-total, axis=1)[:, :5]
    np.testing.assert_allclose(similarities, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(np.take_along_axis(total, indices, axis=1), expected, rtol=0, atol=1e-9)
    assert all(len(set(row)) == 5 for row in indices.tolist())


def test_ties_go_to_the_lower_index():
    indices, similarities = top_neighbours([[1, 2]] * 6, [0.0] * 6, np.ones((1, 3)), [0] * 6, k=3)
    assert indices.tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [0, 1, 2], [0, 1, 2]]
    np.testing.assert_allclose(similarities, 1.0, rtol=1e-12)


def test_memory_grows_with_blocks_and_not_with_pairs(monkeypatch):
    count = 3000  # a matrix of all pairs would take 72 MB
    monkeypatch.setattr(similarity, "BLOCK_ELEMENTS", 100_000)
    samples = random_samples(count, 200, longest=6)
    top_neighbours(*random_samples(10, 3), k=2)  # compiled outside the measurement
    tracemalloc.start()
    top_neighbours(*samples, k=2, threads=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


def test_bad_input_is_named():
    histories, rates, embeddings, items = [[1.0], [2.0]], [0.0, 0.0], np.eye(2), [0, 1]
    with pytest.raises(ValueError, match="History 1 holds nan"):
        pack_histories([[1.0], [2.0, np.nan]])
    with pytest.raises(ValueError, match="left and right must number histories from 0 to 1"):
        dtw_pairs(histories, [0], [2])
    with pytest.raises(ValueError, match="two lists of the same length"):
        dtw_pairs(histories, [0, 1], [1])
    with pytest.raises(ValueError, match=r"2 histories, but change_rates \(1,\)"):
        similarity_matrix(histories, rates[:1], embeddings, items)
    with pytest.raises(ValueError, match="rows of the embeddings, 0 to 1; got 0 to 2"):
        similarity_matrix(histories, rates, embeddings, [0, 2])
    with pytest.raises(ValueError, match="Row 1 of change_rates is not finite"):
        similarity_matrix(histories, [0.0, np.inf], embeddings, items)
    with pytest.raises(ValueError, match="Row 0 of embeddings is not finite"):
        similarity_matrix(histories, rates, embeddings * [[np.nan], [1]], items)
    with pytest.raises(ValueError, match="weights are not negative, sigma is > 0"):
        similarity_matrix(histories, rates, embeddings, items, sigma=0)
    with pytest.raises(ValueError, match="k is 2, but sample 0 has 1 possible"):
        top_neighbours(histories, rates, embeddings, items, k=2)
    with pytest.raises(ValueError, match="k is 1, but sample 0 has 0 possible"):
        top_neighbours(histories, rates, embeddings, [1, 1], k=1, skip_same_item=True)
    with pytest.raises(ValueError, match="k is 1, but sample 0 has 0 possible"):
        top_neighbours([], [], embeddings, [], k=1)


@pytest.mark.skipif("RLREC_DATA_DIR" not in os.environ, reason="RLREC_DATA_DIR names no folder of real data")
def test_ml_100k_neighbours():
    prepared = prepare("ml-100k", Path(os.environ["RLREC_DATA_DIR"]) / "ml-100k")
    train = popularity_data(prepared).samples.filter(pl.col("split") == "train")
    catalogue = prepared.items.sort("item_id")
    genres = catalogue["categories"].explode().drop_nulls().unique().sort().to_list()
    embeddings = np.array([[genre in row for genre in genres] for row in catalogue["categories"]], dtype=np.float32)
    items = catalogue["item_id"].search_sorted(train["item_id"]).to_numpy()
    rates = train["change_rate"].to_numpy()
    indices, similarities = top_neighbours(train["history"], rates, embeddings, items, k=2, skip_same_item=True)
    assert indices.shape == similarities.shape == (len(train), 2)
    assert (items[indices] != items[:, None]).all()
    assert (similarities[:, 0] >= similarities[:, 1]).all()
    histories = [tuple(history) for history in train["history"].to_list()]
    units = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-9)
    for row in (0, 1234, len(train) - 1):
        distances = {history: reference_dtw(histories[row], history) for history in set(histories)}
        total = 0.4 / (1 + np.array([distances[history] for history in histories]))
        total += 0.2 * np.exp(-((rates - rates[row]) ** 2) / 2) + 0.4 * (units[items] @ units[items[row]])
        total[items == items[row]] = -np.inf
        np.testing.assert_allclose(similarities[row], -np.sort(-total)[:2], atol=1e-6)
