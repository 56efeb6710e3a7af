"""The rows that only count, by hand."""

import polars as pl
import pytest

from rlrec.data.popularity import popularity_data
from rlrec.data.simulated import simulate
from rlrec.evaluation.ranking import jaccard, rank_items, ranking_metrics
from rlrec.trail.baselines import (
    choose_windows,
    last_window_popularity,
    moving_average,
    total_popularity,
    true_popularity,
)


def samples(histories, popularity=None):
    return pl.DataFrame(
        {
            "split": ["validation"] * len(histories),
            "window": [9] * len(histories),
            "item_id": [f"i{row}" for row in range(len(histories))],
            "history": pl.Series(histories, dtype=pl.List(pl.Int32)),
            "users_before": [sum(history) for history in histories],
            "popularity": popularity or [0] * len(histories),
        }
    )


def test_scores_by_hand():
    rows = samples([[8, 1, 3], [5], []], [7, 0, 2])
    assert last_window_popularity(rows).tolist() == [3, 5, 0]
    assert moving_average(rows, 2).tolist() == [2, 5, 0]
    assert moving_average(rows, 50).tolist() == [4, 5, 0]
    assert total_popularity(rows).tolist() == [12, 5, 0]
    assert true_popularity(rows).tolist() == [7, 0, 2]
    with pytest.raises(ValueError, match="at least 1"):
        moving_average(rows, 0)


def test_the_span_is_that_of_the_best_validation_ranking():
    # The users want i0, which only a mean over three or more windows puts first.
    rows = samples([[9, 9, 0], [0, 5, 5], [0, 0, 1]])
    wanted = pl.DataFrame({"user_id": ["u"], "item_id": ["i0"], "window": [9]})
    assert choose_windows(rows, wanted, spans=(6, 1, 3, 2)) == 3
    with pytest.raises(ValueError, match="no test samples"):
        choose_windows(rows.with_columns(split=pl.lit("test")), wanted)


def test_the_upper_bound_is_one_in_jaccard_and_above_the_others():
    data = popularity_data(simulate(num_users=200, num_items=60, interactions_per_user=20))
    test = data.samples.filter(pl.col("split") == "test")
    bound = rank_items(test, true_popularity(test))
    assert jaccard(bound, test)[0] == {"jaccard@5": 1.0, "jaccard@10": 1.0}
    reached = ranking_metrics(bound, data.interactions)[0]
    for scores in (last_window_popularity(test), total_popularity(test), moving_average(test, 3)):
        metrics = ranking_metrics(rank_items(test, scores), data.interactions)[0]
        assert all(metrics[name] <= reached[name] for name in metrics)
