"""The world's rules, found again in its interactions: seasons, releases, launches, bursts; and what each is worth."""

import math
import re
import time
from datetime import datetime, timedelta, timezone

import numpy as np
import polars as pl
import pytest

from rlrec.data import DataError, PreparedDataset, prepare
from rlrec.data.popularity import INPUTS, popularity_data
from rlrec.data.simulated_trends import FILM_CATEGORIES, MONTHS, STUDIOS, simulate_trends, simulate_trends_with_truth

START, WINDOW = datetime(2018, 1, 1, tzinfo=timezone.utc), 30 * 86_400
DESCRIPTION = re.compile(r"An? (.+) film by (\w+), most watched in (.+), released in (\w+ \d{4})\.")


def users_per_window(world, num_items=300):
    """(items, windows) distinct users, counted without the code under test; row k is film "i(k+1)"."""
    rows = world.interactions.with_columns(window=(pl.col("timestamp") - int(START.timestamp())) // WINDOW)
    counts = np.zeros((num_items, 30), int)
    for item, window, users in rows.group_by("item_id", "window").agg(pl.col("user_id").n_unique()).iter_rows():
        counts[int(item[1:]) - 1, window] = users
    return counts


def categories_of(world, num_items=300):
    found = [()] * num_items
    for item, categories in world.items.select("item_id", "categories").iter_rows():
        found[int(item[1:]) - 1] = tuple(categories)
    return found


@pytest.fixture(scope="module")
def worlds():
    """Three worlds: (prepared, truth, users per film and window, categories of each film)."""
    made = [simulate_trends_with_truth(seed=seed) for seed in range(3)]
    return [(world, truth, users_per_window(world), categories_of(world)) for world, truth in made]


def test_windows_are_those_that_popularity_data_finds(worlds):
    for world, _, counts, _ in worlds:
        data = popularity_data(world)
        assert data.metadata["windows"] == 30
        assert data.metadata["interactions_after_last_window"] == data.metadata["empty_windows"] == 0
        assert data.metadata["target_windows"] == {"train": [*range(2, 29)], "validation": [29], "test": [30]}
        for window in (2, 15, 30):
            sample = data.samples.filter(pl.col("window") == window)
            rows = [int(item[1:]) - 1 for item in sample["item_id"]]
            assert sample["popularity"].to_list() == counts[rows, window - 1].tolist()
        assert world.interactions.height == counts.sum()  # at most one interaction of a user per film and window
        assert 28_000 < counts.sum() < 32_000
        assert counts[:, -2:].sum() > 2_500


@pytest.mark.parametrize("category", FILM_CATEGORIES)
def test_each_category_has_its_month_every_year(worlds, category):
    """Films of this category alone, in their second year and later: three times as many users in season."""
    middles = [START + timedelta(days=30 * window + 15) for window in range(30)]
    near = np.array([abs((middle.month - FILM_CATEGORIES[category].month + 6) % 12 - 6) for middle in middles])
    in_season, out_of_season = [], []
    for _, truth, counts, categories in worlds:
        old = np.arange(30) - truth.release[:, None] >= 12
        mine = np.array([own == (category,) for own in categories])[:, None]
        in_season.extend(counts[mine & old & (near == 0)])
        out_of_season.extend(counts[mine & old & (near >= 3)])
    assert len(in_season) > 20
    assert np.mean(in_season) > 3 * np.mean(out_of_season)


def test_nobody_watches_a_film_before_its_release_and_cold_films_come_late(worlds):
    for world, truth, counts, _ in worlds:
        windows = np.arange(30)
        assert (counts[windows < truth.release[:, None]] == 0).all()
        assert (truth.expected[windows < truth.release[:, None]] == 0).all()
        samples = popularity_data(world).samples.filter(pl.col("window") >= 29)
        for window, rows in samples.filter(users_before=0).group_by("window"):
            released = [truth.release[int(item[1:]) - 1] + 1 for item in rows["item_id"]]
            assert released.count(window[0]) >= 3
            assert sum(rows["popularity"]) > 10


def test_descriptions_are_true_and_say_nothing_else(worlds):
    for world, truth, _, _ in worlds:
        for row in world.items.iter_rows(named=True):
            categories, studio, months, released = DESCRIPTION.fullmatch(row["description"]).groups()
            first = START + timedelta(days=30 * int(truth.release[int(row["item_id"][1:]) - 1]))
            assert categories.split(" and ") == row["categories"]
            assert studio in STUDIOS
            assert months.split(" and ") == [MONTHS[FILM_CATEGORIES[name].month - 1] for name in row["categories"]]
            assert released == f"{MONTHS[first.month - 1]} {first.year}"
            assert row["title"].endswith(f"({first.year})")
            assert not any(name in row["title"].lower() for name in FILM_CATEGORIES)


def test_horror_is_gone_when_history_peaks(worlds):
    """Users by age of the film, season taken out: horror opens at its height, history films need three windows."""
    by_age = {name: np.zeros(8) for name in ("horror", "history")}
    for _, truth, counts, categories in worlds:
        for name, sums in by_age.items():
            season = truth.season[list(FILM_CATEGORIES).index(name)]
            for row, own in enumerate(categories):
                release = truth.release[row]
                if own == (name,) and 0 <= release <= 22:
                    sums += (counts[row] / season)[release : release + 8]
    horror, history = by_age["horror"], by_age["history"]
    assert horror[0] == horror.max()
    assert horror[4:].sum() < 0.5 * horror[:2].sum()
    assert history[3:6].mean() > 2 * history[0]


def test_large_studios_open_high(worlds):
    opening = {studio: [] for studio in STUDIOS}
    for world, truth, _, _ in worlds:
        for item, text in world.items.select("item_id", "description").iter_rows():
            row = int(item[1:]) - 1
            if truth.release[row] >= 0:
                first = truth.expected[row, truth.release[row]] / truth.quality[row]
                opening[DESCRIPTION.fullmatch(text)[2]].append(first)
    means = [np.mean(values) for values in opening.values()]
    assert means == sorted(means, reverse=True)
    assert means[0] > 4 * means[-1]


def test_bursts_last_one_window_and_the_rest_is_chance(worlds):
    for _, truth, counts, _ in worlds:
        burst = truth.bursts > 1
        after = np.zeros_like(burst)
        after[:, 1:] = burst[:, :-1] & ~burst[:, 1:]
        assert 0.1 < burst.mean() < 0.14
        assert 2.5 < counts[burst].sum() / truth.expected[burst].sum() < 5
        # Who comes twice counts once: a little less than one.
        assert 0.85 < counts[after].sum() / truth.expected[after].sum() < 1.02
        quiet = ~burst & (truth.expected < 10)
        residual = (counts - truth.expected)[quiet] ** 2
        assert 0.9 < residual.sum() / truth.expected[quiet].sum() < 1.1  # Poisson: the variance is the mean


def test_users_have_tastes(worlds):
    """Two films of one user share a category more often than two films drawn at random."""
    world, _, _, _ = worlds[0]
    own = world.interactions.join(world.items, on="item_id").select("user_id", "categories").sample(6_000, seed=0)
    pairs = own.join(own, on="user_id").filter(pl.col("categories") != pl.col("categories_right"))
    mixed = own["categories"].sample(6_000, shuffle=True, seed=1)
    chance = pl.DataFrame({"a": own["categories"], "b": mixed}).filter(pl.col("a") != pl.col("b"))
    shared = pl.col("categories").list.set_intersection("categories_right").list.len() > 0
    by_chance = pl.col("a").list.set_intersection("b").list.len() > 0
    assert pairs.select(shared.mean()).item() > 1.1 * chance.select(by_chance.mean()).item()


def ranked_list_metrics(order, test_users):
    """HR@10 and NDCG@10 of one list, averaged over the users' item sets."""
    rank = {item: k for k, item in enumerate(order[:10])}
    hits, gains = [], []
    for items in test_users:
        found = [rank[item] for item in items if item in rank]
        ideal = sum(1 / math.log2(k + 2) for k in range(min(10, len(items))))
        hits.append(bool(found))
        gains.append(sum(1 / math.log2(k + 2) for k in found) / ideal)
    return np.mean(hits), np.mean(gains)


def test_the_last_window_misleads_and_knowing_the_rules_helps(worlds):
    for world, truth, counts, _ in worlds:
        data = popularity_data(world)
        test = data.interactions.filter(window=30).group_by("user_id").agg("item_id")["item_id"].to_list()
        rankings = {
            "last": counts[:, 28],
            "mean of three": counts[:, 26:29].mean(axis=1),
            "expected": truth.expected[:, 29],
            "true": counts[:, 29],
        }
        found = {}
        for name, scores in rankings.items():
            order = [f"i{row + 1}" for row in np.argsort(-scores, kind="stable")]
            found[name] = ranked_list_metrics(order, test)
        print({name: tuple(round(float(value), 3) for value in pair) for name, pair in found.items()})
        for metric in range(2):
            naive = max(found["last"][metric], found["mean of three"][metric])
            assert 1.25 * naive < found["expected"][metric] < found["true"][metric]


def test_what_happens_in_the_last_window_is_not_in_its_samples(worlds):
    world = worlds[0][0]
    before = popularity_data(world).samples.filter(window=30).select(INPUTS)
    items = world.interactions["item_id"].to_numpy().copy()
    last = (world.interactions["timestamp"] - int(START.timestamp())).to_numpy() >= 29 * WINDOW
    items[last] = np.random.default_rng(0).permutation(items[last])
    other = PreparedDataset(world.interactions.with_columns(item_id=pl.Series(items)), world.items, world.metadata)
    after = popularity_data(other).samples.filter(window=30)
    assert after.select(INPUTS).equals(before)
    assert after["popularity"].sum() > 1_000


def test_it_is_a_dataset_like_the_others_and_the_same_every_time():
    size = {"num_users": 100, "num_items": 40, "interactions_per_user": 20}
    world = prepare("simulated-trends", **size, seed=7)
    again, other = simulate_trends(**size, seed=7), simulate_trends(**size, seed=8)
    assert world.interactions.equals(again.interactions)
    assert world.items.equals(again.items)
    assert not world.interactions.equals(other.interactions)
    assert world.interactions.columns == ["user_id", "item_id", "rating", "timestamp"]
    assert world.interactions["rating"].is_in([1.0, 2.0, 3.0, 4.0, 5.0]).all()
    assert (world.metadata["name"], world.metadata["domain"], world.metadata["rejected"]) == (
        "simulated-trends",
        "film",
        {},
    )
    # The first second of 2018 and the last of day 900, whatever the size, so that all windows are full.
    times = world.interactions["timestamp"]
    assert (times.min(), times.max()) == (1_514_764_800, 1_514_764_800 + 900 * 86_400 - 1)
    assert world.metadata["simulation"] == {**size, "seed": 7, "windows": 30, "window_days": 30}
    assert prepare("simulated-trends", **size, threshold=4, label_rule="ge").metadata["label_rule"] == "ge"


def test_default_size_is_fast():
    start = time.perf_counter()
    simulate_trends()
    assert time.perf_counter() - start < 2.0


def test_impossible_sizes():
    with pytest.raises(DataError, match="at least one user"):
        simulate_trends(num_items=0)
    with pytest.raises(DataError, match="1 users with 2 films each leave the first or the last of 30 windows empty"):
        simulate_trends(num_users=1, num_items=5, interactions_per_user=2)
