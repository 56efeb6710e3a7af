"""Popularity per window: a world counted by hand, ML-100K counted in plain Python, and leaks that are planted."""

import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rlrec.data import DataError, PreparedDataset, popularity, prepare
from rlrec.data.popularity import INPUTS, LABELS, popularity_data
from rlrec.data.simulated import simulate

DAY = 86_400
FIRST = 10_000 * DAY  # 1997-05-19
# Users per 30-day window 1 to 5, and the sixth, which the data do not fill.
COUNTS = {"a": [2, 0, 3, 1, 4, 0], "b": [0, 1, 2, 0, 1, 1], "c": [0, 0, 0, 2, 0, 0], "d": [0, 0, 0, 0, 3, 1]}


def dataset(rows) -> PreparedDataset:
    """From (user, item, seconds since the first midnight or None)."""
    rows = [(user, item, 3.0, None if time is None else FIRST + time) for user, item, time in rows]
    schema = {"user_id": pl.String, "item_id": pl.String, "rating": pl.Float64, "timestamp": pl.Int64}
    interactions = pl.DataFrame(rows, schema=schema, orient="row")
    items = interactions.select("item_id").unique().sort("item_id")
    return PreparedDataset(interactions, items, {})


def hand_counted() -> PreparedDataset:
    rows = [
        (f"u{user}", item, (30 * window + 29 * (user % 2)) * DAY + 3600 * user)  # both ends of a window
        for item, counts in COUNTS.items()
        for window, count in enumerate(counts)
        for user in range(count)
    ]
    rows.append(("u0", "a", 62 * DAY))  # in window 3 again: still one user
    return dataset(rows)


def samples_of(data, item, column):
    return data.samples.filter(pl.col("item_id") == item)[column].to_list()


def test_histories_targets_and_change_rates():
    data = popularity_data(hand_counted())
    assert data.samples.columns == ["split", *INPUTS, *LABELS]
    assert samples_of(data, "a", "window") == [2, 3, 4, 5]
    assert samples_of(data, "a", "split") == ["train", "train", "validation", "test"]
    assert samples_of(data, "a", "window_start") == [FIRST + days * DAY for days in (30, 60, 90, 120)]
    assert samples_of(data, "a", "history") == [[2], [2, 0], [2, 0, 3], [2, 0, 3, 1]]
    assert samples_of(data, "a", "popularity") == [0, 3, 1, 4]
    assert samples_of(data, "a", "change_rate") == pytest.approx([-1, 3, -2 / 3, 3])  # (3 - 0) / max(0, 1) = 3
    assert samples_of(data, "a", "users_before") == [2, 2, 5, 6]
    assert samples_of(data, "b", "history") == [[], [1], [1, 2], [1, 2, 0]]
    assert samples_of(data, "b", "change_rate") == [1, 1, -1, 1]
    assert samples_of(data, "d", "history") == [[], [], [], []]
    assert samples_of(data, "d", "popularity") == [0, 0, 0, 3]
    assert data.interactions.group_by("window").len().sort("window").rows() == [(1, 2), (2, 1), (3, 6), (4, 3), (5, 8)]


def test_counts_are_reported():
    metadata = popularity_data(hand_counted(), max_history=2).metadata
    assert metadata == {
        "window_days": 30,
        "windows": 5,
        "first_day": "1997-05-19",
        "target_windows": {"train": [2, 3], "validation": [4], "test": [5]},
        "samples": {"train": 8, "validation": 4, "test": 4},
        "cold_samples": {"train": 3 + 2, "validation": 2, "test": 1},
        "histories_cut": 3,  # a in 4 and 5, b in 5
        "empty_windows": 0,
        "interactions_after_last_window": 2,
        "cold": "catalogue",
        "k_core": 0,
    }


def test_long_histories_keep_their_recent_end():
    data = popularity_data(hand_counted(), max_history=2)
    assert samples_of(data, "a", "history") == [[2], [2, 0], [0, 3], [3, 1]]
    assert samples_of(data, "a", "history_cut") == [0, 0, 1, 2]
    assert samples_of(data, "b", "history_cut") == [0, 0, 0, 1]
    assert samples_of(data, "a", "users_before") == [2, 2, 5, 6]


@pytest.mark.parametrize(
    ("cold", "candidates"),
    [
        ("catalogue", ["abcd", "abcd", "abcd", "abcd"]),
        ("first_window", ["ab", "ab", "abc", "abcd"]),
        ("none", ["a", "ab", "ab", "abc"]),
    ],
)
def test_who_is_a_candidate(cold, candidates):
    samples = popularity_data(hand_counted(), cold=cold).samples
    by_window = samples.group_by("window", maintain_order=True).agg(pl.col("item_id").str.join(""))
    assert by_window["item_id"].to_list() == candidates


def test_splits_are_by_window():
    data = popularity_data(hand_counted(), validation_windows=0, test_windows=3)
    assert data.metadata["target_windows"] == {"train": [2], "test": [3, 4, 5]}
    ten_days = popularity_data(hand_counted(), window_days=10)
    assert ten_days.metadata["windows"] == 15
    assert ten_days.metadata["target_windows"]["test"] == [15]


def test_times_before_1970_have_windows_too():
    early = hand_counted()
    early.interactions = early.interactions.with_columns(pl.col("timestamp") - 11_000 * DAY)
    data = popularity_data(early)
    assert data.metadata["first_day"] == "1967-04-07"
    assert samples_of(data, "a", "history")[-1] == [2, 0, 3, 1]


def test_timestamps_missing_or_not_in_seconds():
    with pytest.raises(DataError, match=r"The interactions have no timestamp.*use another dataset"):
        popularity_data(dataset([("u", "a", None), ("v", "a", None)]))
    with pytest.raises(DataError, match=r"1 of 2 interactions have no timestamp"):
        popularity_data(dataset([("u", "a", None), ("v", "a", 5)]))
    with pytest.raises(DataError, match="There is no interaction"):
        popularity_data(dataset([]))
    milliseconds = hand_counted()
    milliseconds.interactions = milliseconds.interactions.with_columns(pl.col("timestamp") * 1000)
    with pytest.raises(DataError, match=r"22 of 22 timestamps.*look like milliseconds; divide them by 1000"):
        popularity_data(milliseconds)


def test_too_few_windows():
    with pytest.raises(DataError, match=r"fill 1 window of 30 days \(1997-05-19 to 1997-06-18\), but 4 are needed"):
        popularity_data(dataset([("u", "a", 0), ("v", "a", 40 * DAY)]))
    three = [("u", "a", 0), ("v", "a", 90 * DAY - 1)]
    with pytest.raises(DataError, match=r"fill 3 windows of 30 days .* smaller window_days"):
        popularity_data(dataset(three))
    assert popularity_data(dataset(three), validation_windows=0).metadata["windows"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_days": 0}, "window_days is 0"),
        ({"max_history": 0}, "max_history is 0"),
        ({"test_windows": -1}, "test_windows is -1"),
        ({"cold": "all"}, "use one of catalogue, first_window, none"),
    ],
)
def test_arguments_outside_their_range(options, message):
    with pytest.raises(ValueError, match=message):
        popularity_data(hand_counted(), **options)


def leaks(build, prepared) -> list[int]:
    """Target windows T whose samples change when what happens from T on (after T, for the labels) is another story."""
    rng = np.random.default_rng(0)
    windows = (prepared.interactions["timestamp"] - prepared.interactions["timestamp"].min() // DAY * DAY) // (
        30 * DAY
    )
    windows = windows.to_numpy() + 1
    catalogue = prepared.items["item_id"].to_numpy()
    truth, found = build(prepared), []
    for window in truth["window"].unique().sort():
        item = prepared.interactions["item_id"].to_numpy().copy()
        future = windows >= window
        item[future] = rng.choice(catalogue[: len(catalogue) // 2], future.sum())
        other = build(PreparedDataset(prepared.interactions.with_columns(item_id=pl.Series(item)), prepared.items, {}))
        inputs, earlier = pl.col("window") == window, pl.col("window") < window
        now = [samples.filter(inputs).drop(LABELS) for samples in (truth, other)]
        before = [samples.filter(earlier) for samples in (truth, other)]  # training labels end before validation
        if not (now[0].equals(now[1]) and before[0].equals(before[1])):
            found.append(window)
    return found


@pytest.fixture(scope="module")
def world():
    """600 interactions of 25 items over six windows."""
    rng = np.random.default_rng(1)
    times = np.sort(rng.integers(0, 180 * DAY, 600))
    times[[0, -1]] = 0, 180 * DAY - 1
    items = rng.choice(25, 600, p=np.arange(1, 26) / 325)
    return dataset([(f"u{k % 50}", f"i{item:02}", int(time)) for k, (item, time) in enumerate(zip(items, times))])


def test_nothing_of_the_future_is_in_the_samples(world):
    assert leaks(lambda prepared: popularity_data(prepared).samples, world) == []
    assert leaks(lambda prepared: popularity_data(prepared, cold="none", max_history=2).samples, world) == []


def test_planted_leaks_are_caught(world, monkeypatch):
    def normalised(prepared):  # a usual one: popularity relative to the item's busiest window, of all windows
        samples = popularity_data(prepared).samples
        return samples.with_columns(scale=pl.col("popularity").max().over("item_id"))

    assert leaks(normalised, world) == [2, 3, 4, 5, 6]
    with monkeypatch.context() as patch:
        patch.setattr(popularity, "past_counts", lambda counts, window: counts[:, :window])  # one window too many
        assert leaks(lambda prepared: popularity_data(prepared).samples, world) == [2, 3, 4, 5, 6]


def test_candidates_by_first_window_know_the_future():
    """Why they are not the default: d enters the list of window 5 only because it has users in window 5."""
    assert leaks(lambda prepared: popularity_data(prepared, cold="first_window").samples, hand_counted()) != []


def test_a_simulated_world_has_samples():
    data = popularity_data(simulate(num_users=50, num_items=20, interactions_per_user=10))
    assert data.samples["popularity"].sum() > 0


@pytest.mark.skipif("RLREC_DATA_DIR" not in os.environ, reason="RLREC_DATA_DIR names no folder of real data")
def test_ml_100k_has_seven_windows():
    folder = Path(os.environ["RLREC_DATA_DIR"]) / "ml-100k"
    data = popularity_data(prepare("ml-100k", folder))
    ratings = [tuple(map(int, line.split("\t"))) for line in (folder / "u.data").read_text().splitlines()]
    first = min(rating[3] for rating in ratings) // DAY
    users = defaultdict(set)
    for user, item, _, time in ratings:
        users[str(item), (time // DAY - first) // 30 + 1].add(user)
    assert data.metadata["windows"] == 7
    assert data.metadata["samples"] == {"train": 4 * 1682, "validation": 1682, "test": 1682}
    assert data.metadata["interactions_after_last_window"] == sum(len(u) for (_, w), u in users.items() if w == 8)
    for row in data.samples.filter(pl.col("item_id").is_in(["50", "258", "1653"])).iter_rows(named=True):
        counts = [len(users[row["item_id"], window]) for window in range(1, row["window"] + 1)]
        while counts[:-1] and counts[0] == 0:
            counts.pop(0)
        assert (row["history"], row["popularity"]) == (counts[:-1], counts[-1])
    test = data.samples.filter(pl.col("window") == 7)
    assert test["popularity"].sum() == data.interactions.filter(pl.col("window") == 7).height
