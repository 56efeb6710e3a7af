"""PARE: its moving average by hand, cold items, seasons and decays that counting cannot see, saving, and refusals."""

import numpy as np
import polars as pl
import pytest
import torch

from rlrec.data.popularity import popularity_data
from rlrec.data.simulated import simulate
from rlrec.evaluation.ranking import jaccard, rank_items
from rlrec.trail.baselines import last_window_popularity
from rlrec.trail.pare import PARE, fit_pare, poisson_loss


def toy(counts: dict[str, list[int]], categories: dict[str, str], first_target: int = 2):
    """Samples and items from users per window; leading zeros are the time before the release."""
    windows = len(next(iter(counts.values())))
    rows = []
    for target in range(first_target, windows + 1):
        split = {windows: "test", windows - 1: "validation"}.get(target, "train")
        for item, series in counts.items():
            past = np.trim_zeros(series[: target - 1], "f")
            rows.append((split, item, target, list(past), 0, series[target - 1]))
    schema = {
        "split": pl.String,
        "item_id": pl.String,
        "window": pl.Int32,
        "history": pl.List(pl.Int32),
        "history_cut": pl.Int32,
        "popularity": pl.Int32,
    }
    items = pl.DataFrame({"item_id": list(counts), "categories": [[categories[item]] for item in counts]})
    return pl.DataFrame(rows, schema=schema, orient="row"), items


def compare(samples, items, period):
    """Jaccard@5 of PARE and of last-window popularity in the test window."""
    model = fit_pare(samples, items, period=period, epochs=80)
    test = samples.filter(pl.col("split") == "test")
    scores = (model.predict(test), last_window_popularity(test))
    return [jaccard(rank_items(test, values), test, (5,))[0]["jaccard@5"] for values in scores]


def test_a_season_is_learned():
    # Four categories, each popular in one of four phases; last window's hits are this window's past.
    rng = np.random.default_rng(0)
    quality = rng.uniform(5, 12, 20)
    counts = {
        f"i{n}": [int(rng.poisson(quality[n] * (6 if window % 4 == n % 4 else 1))) + 1 for window in range(20)]
        for n in range(20)
    }
    pare, last = compare(*toy(counts, {item: f"season {int(item[1:]) % 4}" for item in counts}), period=4)
    assert last == 0
    assert pare == 1


def test_a_decay_is_learned():
    # Each window brings four "fast" films, of which next to nothing is left in the next one, and one "slow" film.
    rng = np.random.default_rng(1)
    counts, categories = {}, {}
    for n in range(80):
        release = n // 5
        start, keep = (rng.uniform(40, 200), 0.8) if n % 5 == 0 else (rng.uniform(150, 300), 0.05)
        counts[f"i{n}"] = [0] * release + [int(rng.poisson(start * keep**age)) for age in range(16 - release)]
        categories[f"i{n}"] = "slow" if n % 5 == 0 else "fast"
    samples, items = toy(counts, categories)
    pare, last = compare(samples.filter(pl.col("history").list.len() > 0), items, period=1)
    assert last <= 1 / 9  # one of five at most
    assert pare >= 4 / 6  # four of five at least


def test_cold_items_are_told_apart_by_their_categories():
    # Every window brings one "star" (50 users at once) and one "dud" (1 user).
    counts = {}
    for n in range(12):
        counts[f"star{n}"] = [0] * n + [50] + [5] * (11 - n)
        counts[f"dud{n}"] = [0] * n + [1] + [1] * (11 - n)
    samples, items = toy(counts, {item: item.rstrip("0123456789") for item in counts})
    # Candidates are the items that have come out, and those that come out now.
    samples = samples.filter((pl.col("history").list.len() > 0) | (pl.col("popularity") > 0))
    model = fit_pare(samples, items)
    fresh = samples.filter((pl.col("split") == "test") & (pl.col("history").list.len() == 0))
    scores = dict(zip(fresh["item_id"], model.predict(fresh)))
    assert scores["star11"] > 5 * scores["dud11"]


def test_moving_average_by_hand():
    model = PARE({"a": []}, dim=2)  # a smoothing factor of sigmoid(0) = 0.5
    history = torch.tensor([[4.0, 2.0, 8.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0]])  # newest first
    averages = model.moving_average(history, torch.tensor([3, 1, 0]))
    assert averages.tolist() == [4.5, 3.0, 0.0]  # 0.5 * 4 + 0.5 * (0.5 * 2 + 0.5 * 8)


def test_modules_that_know_nothing_take_no_part():
    model = PARE({"a": ["x"], "b": []}, dim=4, period=3)
    model.known_phases[2] = False
    samples = pl.DataFrame(
        {"item_id": ["a", "b", "a"], "window": [3, 3, 5], "history": [[1, 2], [], [7]], "history_cut": [0, 0, 9]},
        schema_overrides={"history": pl.List(pl.Int32)},
    )
    with torch.no_grad():
        logarithms, weights = model(model.encode(samples))
    assert logarithms.shape == (3,)
    assert (weights == 0).tolist() == [[False] * 4, [True] + [False] * 3, [False, False, True, False]]
    assert weights.sum(1).tolist() == pytest.approx([4, 3, 3])


def test_encoding_keeps_the_newest_and_counts_cut_windows():
    model = PARE({"a": []}, dim=2, period=5, max_age=6, max_history=2)
    samples = pl.DataFrame(
        {"item_id": ["a", "new"], "window": [7, 7], "history": [[1, 2, 3], [4]], "history_cut": [9, 0]}
    )
    batch = model.encode(samples)
    assert batch["history"].tolist() == [[3, 2], [4, 0]]
    assert batch["known"].tolist() == [2, 1]
    assert batch["age"].tolist() == [6, 1]  # 3 + 9, capped
    assert batch["phase"].tolist() == [2, 2]
    assert batch["item"].tolist() == [1, 0]


def test_the_loss_is_least_at_the_true_rate():
    rates = torch.tensor([2.0, 3.0, 4.0])
    losses = [float(poisson_loss(torch.log1p(rate.expand(2)), torch.tensor([2.0, 4.0]))) for rate in rates]
    assert losses[1] == min(losses)
    assert losses[1] == pytest.approx(3 - 3 * np.log(3), abs=2e-3)


def test_predictions_are_finite_repeatable_and_survive_saving(tmp_path):
    prepared = simulate(num_users=150, num_items=50, interactions_per_user=15)
    data = popularity_data(prepared)
    before = torch.get_rng_state()
    model, again, other = (fit_pare(data.samples, prepared.items, seed, epochs=3, dim=4) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    test = data.samples.filter(pl.col("split") == "test")
    scores = model.predict(test)
    assert scores.shape == (test.height,)
    assert np.isfinite(scores).all()
    assert (scores >= 0).all()
    assert np.array_equal(scores, again.predict(test))
    assert not np.array_equal(scores, other.predict(test))
    model.save_pretrained(tmp_path)
    assert np.array_equal(PARE.from_pretrained(tmp_path).predict(test), scores)
    assert model.predict(test.head(0)).shape == (0,)


def test_test_windows_are_not_looked_at():
    prepared = simulate(num_users=150, num_items=50, interactions_per_user=15)
    samples = popularity_data(prepared).samples
    spoilt = samples.with_columns(
        pl.when(pl.col("split") == "test").then(999).otherwise(pl.col("popularity")).alias("popularity")
    )
    first, second = (fit_pare(rows, prepared.items, epochs=2, dim=4) for rows in (samples, spoilt))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))


def test_nothing_to_learn_is_refused():
    samples, items = toy({"a": [1, 0, 0, 0]}, {"a": "x"})
    with pytest.raises(ValueError, match="nothing to learn"):
        fit_pare(samples, items)
    with pytest.raises(ValueError, match="period is 0"):
        PARE({}, period=0)
