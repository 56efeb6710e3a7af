"""Ranking metrics against values worked by hand, ties and groups, and the expectation of a random list."""

import math

import numpy as np
import polars as pl
import pytest

from rlrec.evaluation.ranking import (
    cold_or_warm,
    group_metrics,
    jaccard,
    random_expectation,
    rank_items,
    ranking_metrics,
)

LOG = [1 / math.log2(position + 1) for position in range(1, 11)]  # gain at position 1 to 10


def frame(pairs, window=None):
    rows = pl.DataFrame(pairs, schema=["user_id", "item_id"], orient="row")
    return rows if window is None else rows.with_columns(pl.lit(window).alias("window"))


def test_hit_ratio_and_ndcg_by_hand():
    ranking = list("abcdefghijkl")
    had = [("u1", "a"), ("u1", "c"), ("u2", "f"), ("u3", "l"), ("u3", "z"), ("u1", "a")]  # u1 had a twice
    means, users = ranking_metrics(ranking, frame(had))
    assert users["user_id"].to_list() == ["u1", "u2", "u3"]
    assert users["items"].to_list() == [2, 1, 2]
    assert users["hr@5"].to_list() == [1, 0, 0]
    assert users["hr@10"].to_list() == [1, 1, 0]  # l is at position 12, z in no list
    assert users["ndcg@5"].to_list() == pytest.approx([(1 + 0.5) / (1 + LOG[1]), 0, 0])
    assert users["ndcg@10"].to_list() == pytest.approx([1.5 / (1 + LOG[1]), 1 / math.log2(7), 0])
    assert means["hr@5"] == pytest.approx(1 / 3)
    assert means["hr@10"] == pytest.approx(2 / 3)
    assert means["ndcg@10"] == pytest.approx((1.5 / (1 + LOG[1]) + 1 / math.log2(7)) / 3)


def test_the_ideal_holds_at_most_k_items():
    ranking = [f"i{n:02}" for n in range(20)]
    means, _ = ranking_metrics(ranking, frame([("u", item) for item in ranking[:8]]))
    assert means == {"hr@5": 1, "ndcg@5": pytest.approx(1), "hr@10": 1, "ndcg@10": pytest.approx(1)}
    means, _ = ranking_metrics(ranking[::-1], frame([("u", item) for item in ranking[:8]]))
    assert means["ndcg@10"] == 0


def test_windows_are_pooled_over_their_users():
    rows = pl.concat([frame([("u1", "a")], 3), frame([("u1", "a"), ("u2", "b"), ("u3", "b")], 4)])
    rows = pl.concat([rows, frame([("u1", "b")], 9)])  # a window without a list
    means, users = ranking_metrics({3: ["a", "b"], 4: ["b", "a"]}, rows, cutoffs=(1,))
    assert users.select("window", "user_id", "hr@1").rows() == [(3, "u1", 1), (4, "u1", 0), (4, "u2", 1), (4, "u3", 1)]
    assert means == {"hr@1": 0.75, "ndcg@1": 0.75}


def test_ties_go_to_last_window_then_item_id_and_missing_scores_come_last():
    samples = pl.DataFrame(
        {
            "window": [7] * 6 + [8],
            "item_id": ["10", "9", "c", "d", "e", "f", "c"],
            "history": [[1, 2], [3, 2], [], [0], [8], [5], [1]],
        }
    )
    scores = [1.0, 1.0, 1.0, 2.0, float("nan"), None, 0.0]
    assert rank_items(samples, scores) == {7: ["d", "10", "9", "c", "e", "f"], 8: ["c"]}
    shuffled = samples.with_columns(pl.Series("score", scores, strict=False)).sample(
        fraction=1.0, shuffle=True, seed=1
    )
    assert rank_items(shuffled, shuffled["score"])[7] == ["d", "10", "9", "c", "e", "f"]


def test_jaccard_by_hand():
    truth = pl.DataFrame({"item_id": list("abcdefg"), "popularity": [9, 8, 7, 3, 3, 3, 0]})
    # The true top 5 is a, b, c and two of the tied d, e, f.
    assert jaccard(list("abcfe"), truth, (5,))[0] == {"jaccard@5": 1.0}
    assert jaccard(list("abdef"), truth, (5,))[0]["jaccard@5"] == pytest.approx(4 / 6)  # a, b and two of d, e, f
    assert jaccard(list("abgxy"), truth, (5,))[0]["jaccard@5"] == pytest.approx(2 / 8)
    # Only six items have users, so the true top 10 has six: ten listed, five of them in it.
    assert jaccard(list("gabcde") + list("uvwx"), truth, (10,))[0]["jaccard@10"] == pytest.approx(5 / 11)
    windows = pl.concat([truth.with_columns(window=pl.lit(1)), truth.with_columns(window=pl.lit(2))])
    means, per_window = jaccard({1: list("abc"), 2: list("abx")}, windows, (3,))
    assert per_window.rows() == [(1, 1.0), (2, 0.5)]
    assert means == {"jaccard@3": 0.75}


def test_groups_restrict_the_list_and_the_users():
    groups = pl.DataFrame({"item_id": list("abcdx"), "group": ["warm", "cold", "warm", "cold", None]})
    had = frame([("u1", "a"), ("u1", "d"), ("u2", "b"), ("u3", "c"), ("u4", "x")])
    results = group_metrics(["a", "b", "c", "d", "x"], had, groups, cutoffs=(1, 2))
    cold, users = results["cold"]  # list b, d; u1 has d, u2 has b
    assert users.select("user_id", "hr@1", "hr@2").rows() == [("u1", 0, 1), ("u2", 1, 1)]
    assert cold["ndcg@2"] == pytest.approx((LOG[1] + 1) / 2)
    _, users = results["warm"]  # list a, c; u1 has a, u3 has c
    assert users.select("user_id", "hr@1", "hr@2").rows() == [("u1", 1, 1), ("u3", 0, 1)]
    assert set(results) == {"cold", "warm"}


def test_a_group_can_change_from_window_to_window():
    samples = pl.DataFrame({"window": [5, 5, 6], "item_id": ["a", "b", "a"], "users_before": [4, 5, 9]})
    groups = cold_or_warm(samples)
    assert groups["group"].to_list() == ["cold", "warm", "warm"]
    had = pl.concat([frame([("u", "a")], 5), frame([("u", "a"), ("v", "b")], 6)])
    results = group_metrics({5: ["b", "a"], 6: ["a", "b"]}, had, groups, cutoffs=(1,))
    assert results["cold"][1].select("window", "user_id", "hr@1").rows() == [(5, "u", 1)]
    assert results["warm"][1].select("window", "user_id", "hr@1").rows() == [(6, "u", 1)]  # b has no group in 6


def test_random_expectation_is_the_mean_over_shuffled_lists():
    rng = np.random.default_rng(0)
    items = [f"i{n:02}" for n in range(30)]
    pairs = [(f"u{n}", item) for n in range(40) for item in rng.choice(items, rng.integers(1, 27), replace=False)]
    pairs.append(("u0", "not a candidate"))
    had = frame(pairs)
    runs = [ranking_metrics(list(rng.permutation(items)), had)[0] for _ in range(300)]
    expected = random_expectation(items, had)
    for name, value in expected.items():
        values = [run[name] for run in runs]
        assert value == pytest.approx(np.mean(values), abs=4 * np.std(values) / 300**0.5 + 1e-9), name


def test_random_expectation_by_hand():
    # Two of four items, top 1: 1/2; top 5 of four items: certain.
    had = frame([("u", "a"), ("u", "b")])
    assert random_expectation(list("abcd"), had, (1, 5))["hr@1"] == pytest.approx(0.5)
    assert random_expectation(list("abcd"), had, (1, 5))["hr@5"] == 1.0
    assert random_expectation({1: list("abcd")}, had.with_columns(window=pl.lit(1)), (1,))["ndcg@1"] == 0.5


@pytest.mark.parametrize(
    ("ranking", "rows", "message"),
    [
        (["a", "a"], frame([("u", "a")]), "'a' stands twice"),
        ([], frame([("u", "a")]), "empty"),
        ({1: ["a"]}, frame([("u", "a")]), "no column window"),
        ({1: ["a"]}, frame([("u", "a")], 2), "nothing to compare"),
        (["a"], pl.concat([frame([("u", "a")], 1), frame([("u", "a")], 2)]), "one list for 2 windows"),
    ],
)
def test_lists_that_fit_nothing_are_refused(ranking, rows, message):
    with pytest.raises(ValueError, match=message):
        ranking_metrics(ranking, rows)


def test_scores_that_fit_nothing_are_refused():
    samples = pl.DataFrame({"window": [1], "item_id": ["a"], "history": [[1]]})
    with pytest.raises(ValueError, match="shape"):
        rank_items(samples, [1.0, 2.0])
    with pytest.raises(ValueError, match="infinite"):
        rank_items(samples, [float("inf")])
    groups = pl.DataFrame({"item_id": ["a", "a"], "group": ["cold", "warm"]})
    with pytest.raises(ValueError, match="twice"):
        group_metrics(["a"], frame([("u", "a")]), groups)
