"""Personal lists beside TRAIL's one list: by hand, against the evaluation of one list, and every row once."""

import numpy as np
import polars as pl
import pytest

from rlrec.arguments import DataArguments, PolicyArguments
from rlrec.baselines import BaselineArguments, RankingBaselines, rankings
from rlrec.baselines.rankings import ROWS, Window, fit_scores, make_lists, ranking_row
from rlrec.data.popularity import PopularityData, popularity_data
from rlrec.data.simulated_trends import simulate_trends
from rlrec.evaluation.ranking import cold_or_warm, group_metrics, rank_items, ranking_metrics
from rlrec.results import read_predictions, read_results, read_users
from rlrec.trail import TRAILArguments, TRAILConfig
from rlrec.trail.trends import trend_classes
from rlrec.trail.windows import load_windows


def by_hand() -> PopularityData:
    """Window 1: u1 had a and b, u2 a, u3 b. Window 2: u1 has c, and a again; u4, who is new, b; u2 has z."""
    samples = pl.DataFrame(
        {
            "split": "test",
            "item_id": ["d", "c", "b", "a"],
            "window": 2,
            "history": pl.Series([[], [], [2], [2]], dtype=pl.List(pl.Int32)),
            "users_before": [0, 0, 2, 9],
            "popularity": [0, 1, 1, 1],
        }
    )
    interactions = pl.DataFrame(
        {
            "user_id": ["u1", "u1", "u2", "u3", "u1", "u1", "u4", "u2"],
            "item_id": ["a", "b", "a", "b", "c", "a", "b", "z"],
            "timestamp": range(8),
            "window": [1, 1, 1, 1, 2, 2, 2, 2],
        }
    )
    return PopularityData(samples, interactions, {})


SCORES = np.array([[1, 5, 3, 5], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def test_lists_by_hand():
    window = Window.of(by_hand(), 2)
    assert window.items == ["a", "b", "c", "d"]  # as in rank_items: last popularity, then id
    assert window.users == ["u1", "u2", "u3", "u4"]
    lists = make_lists(window, 2, lambda users: SCORES[users], repeats=True)
    rows = {tuple(row[:3]): row[3:] for row in lists.had.select(
        "window", "user_id", "item_id", "position", "cold_or_warm", "position_cold_or_warm").iter_rows()}  # fmt: skip
    assert rows == {
        (2, "u1", "c"): (3, "cold", 3),  # b, d, c, a
        (2, "u1", "a"): (4, "warm", 1),
        (2, "u4", "b"): (2, "cold", 1),  # a, b, c, d
        (2, "u2", "z"): (None, None, None),  # no candidate, but wanted
    }
    assert lists.counts.tolist() == [3, 3, 3, 3]
    lists = make_lists(window, 2, lambda users: SCORES[users], repeats=False)
    places = dict(lists.had.select(pl.col("user_id") + pl.col("item_id"), "position").iter_rows())
    assert places == {"u1c": 2, "u1a": None, "u4b": 2, "u2z": None}  # u1: d, c
    assert lists.counts.tolist() == [1, 1, 3, 3]  # u4 was not known before


def test_user_neighbours_by_hand():
    """The cosine of {a, b} and {a} is 1 / sqrt(2), that of {a} and {b} is 0; a new user gets what is popular."""
    scores, _ = fit_scores("userknn", Window.of(by_hand(), 2), {"k": 2}, seed=0)
    half = 1 / np.sqrt(2)
    expected = [[half, half, 0, 0], [half, half, 0, 0], [half, half, 0, 0], [2, 2, 0, 0]]
    np.testing.assert_allclose(scores(slice(0, 4)), expected, atol=1e-6)
    np.testing.assert_allclose(scores(slice(1, 3)), expected[1:3], atol=1e-6)
    nearest, _ = fit_scores("userknn", Window.of(by_hand(), 2), {"k": 1}, seed=0)
    np.testing.assert_allclose(nearest(slice(1, 2)), [[half, half, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("name", rankings.NEXT_ITEM)
def test_next_item_models_know_nothing_of_users_without_history(name):
    """u4 is new and gets what is popular; the others get what the model says, in which no two scores are equal."""
    setting = {"dim": 8, "dropout": 0.0, "epochs": 1}
    scores, _ = fit_scores(name, Window.of(by_hand(), 2), setting, seed=0)
    found = scores(slice(0, 4))
    assert found[3].tolist() == [2, 2, 0, 0]
    assert all(len(set(row)) == 4 for row in found[:3].tolist())
    np.testing.assert_array_equal(scores(slice(3, 4)), found[3:])


@pytest.fixture(scope="module")
def popularity() -> PopularityData:
    return popularity_data(simulate_trends(num_users=150, num_items=40, interactions_per_user=15), test_windows=2)


def test_the_same_list_for_all_is_measured_as_one_list(popularity):
    """Where every user has the same list, nothing may differ from the metrics of TRAIL's rows."""
    rng, frames, scores_of = np.random.default_rng(0), [], {}
    test = popularity.samples.filter(pl.col("split") == "test")
    scores = rng.random(test.height)
    lists = rank_items(test, scores)
    for number in lists:
        window = Window.of(popularity, number)
        place = {item: -row for row, item in enumerate(lists[number])}
        scores_of[number] = np.array([[place[item] for item in window.items]] * len(window.users))
        frames.append(make_lists(window, number, lambda users, n=number: scores_of[n][users], repeats=True).had)
    counts = test.select("window", "item_id", pl.lit(0).alias("count"))
    row = rankings._table_row("some", test, pl.concat(frames), counts, {})
    means, users = ranking_metrics(lists, popularity.interactions)
    assert {name: row.metrics[name] for name in means} == pytest.approx(means)
    assert row.users["user_id"].to_list() == users["user_id"].to_list()
    assert row.users["items"].to_list() == users["items"].to_list()
    np.testing.assert_allclose(row.users["ndcg@10_some"], users["ndcg@10"])
    for groups in (cold_or_warm(test), trend_classes(test)):
        for group, (of_group, _) in group_metrics(lists, popularity.interactions, groups).items():
            assert row.metrics[f"hr@10/{group}"] == pytest.approx(of_group["hr@10"])
            assert row.metrics[f"ndcg@10/{group}"] == pytest.approx(of_group["ndcg@10"])


@pytest.mark.parametrize("name", ROWS)
def test_every_row(name, popularity, monkeypatch):
    if name == "bpr":
        pytest.importorskip("cornac")
    monkeypatch.setitem(rankings.FIT, "epochs", 3)
    monkeypatch.setitem(rankings.BPR_FIXED, "max_iter", 5)
    row = ranking_row(name, popularity, grid={name: rankings.GRID[name][:2]})
    test = popularity.samples.filter(pl.col("split") == "test")
    _, users = ranking_metrics(rank_items(test, np.zeros(test.height)), popularity.interactions)
    assert row.users.columns == ["window", "user_id", "items", f"hr@10_{name}", f"ndcg@10_{name}"]
    assert row.users["user_id"].to_list() == users["user_id"].to_list()
    assert row.users["items"].to_list() == users["items"].to_list()
    assert row.metrics["hr@10"] == pytest.approx(row.users[f"hr@10_{name}"].mean())
    assert {"hr@5", "ndcg@5", "ndcg@10", "jaccard@5", "jaccard@10", "hr@10/cold", "ndcg@10/warm"} <= set(row.metrics)
    assert len(row.predictions) == test.height
    assert sum(row.predictions) > 0
    assert len(row.details["grid"]) == 4  # two settings, with repeats and without
    assert row.details["chosen"]["ndcg@10"] == max(one["ndcg@10"] for one in row.details["grid"])
    again = ranking_row(name, popularity, grid={name: rankings.GRID[name][:2]})
    assert again.metrics == row.metrics


def test_the_test_window_does_not_change_what_is_chosen(popularity):
    """With the test windows' interactions mixed up, the chosen setting and the lists' candidates stay as they were."""
    last = popularity.samples.filter(pl.col("split") == "validation")["window"].max()
    rows = popularity.interactions
    early, late = rows.filter(pl.col("window") <= last), rows.filter(pl.col("window") > last)
    mixed = late.with_columns(pl.col("item_id").shuffle(seed=1))
    changed = PopularityData(popularity.samples, pl.concat([early, mixed]), popularity.metadata)
    first, second = (ranking_row("userknn", data).details for data in (popularity, changed))
    assert first == second


def test_what_cannot_be_made_is_refused(popularity):
    with pytest.raises(ValueError, match="no ranking row 'diff'"):
        ranking_row("diff", popularity)
    samples = popularity.samples.filter(pl.col("split") != "validation")
    with pytest.raises(ValueError, match="there is none"):
        ranking_row("userknn", PopularityData(samples, popularity.interactions, {}))


def test_rows_are_left_in_folders(tmp_path):
    """On the windows of TRAIL's run: results, users for paired tests, and counts for every test sample."""
    arguments = (
        BaselineArguments(rows=["userknn"]),
        TRAILArguments(),
        DataArguments(dataset="simulated-trends", num_users=100, num_items=40, interactions_per_user=10),
        PolicyArguments(),
        TRAILConfig(output_dir=str(tmp_path), seed=3, report_to="none", bf16=False),
        None,
    )
    run = RankingBaselines(*arguments)
    assert run.unfinished == ["userknn"]
    run.write_row("userknn")
    record = read_results(tmp_path / "userknn")
    assert (record["system"], record["dataset"], record["seed"]) == ("trail", "simulated-trends", 3)
    users = read_users(tmp_path / "userknn")
    assert record["rows"]["userknn"]["hr@10"] == pytest.approx(users["hr@10_userknn"].mean())
    _, popularity = load_windows(*arguments[1:3], seed=3)
    test = popularity.samples.filter(pl.col("split") == "test")
    assert read_predictions(tmp_path / "userknn")["item_id"].to_list() == test["item_id"].to_list()
    assert RankingBaselines(*arguments).unfinished == []
