"""Metrics of predicted ratings, by hand, and the rows that need no recommender."""

import polars as pl
import pytest

from rlrec.data.splits import recpie_samples
from rlrec.evaluation.ratings import rating_heuristics, rating_metrics

TARGETS, PREDICTIONS, LABELS = [1.0, 0.5, 0.0, 0.75], [0.5, 0.5, 0.25, 1.25], [1, 0, 0, 1]


def test_by_hand():
    # errors .5, 0, .25, .5: squares .25, 0, .0625, .25
    metrics = rating_metrics(TARGETS, PREDICTIONS, LABELS)
    rmse, mae = (0.5625 / 4) ** 0.5, 1.25 / 4
    assert metrics == pytest.approx(
        # AUC: of the four pairs 1.25 beats both, .5 ties with .5 and beats .25
        {"rmse": rmse, "mae": mae, "rmse_stars": 4 * rmse, "mae_stars": 4 * mae, "auc": 3.5 / 4}
    )


def test_stars_are_those_of_the_scale():
    metrics = rating_metrics(TARGETS, PREDICTIONS, LABELS, stars=10.0)
    assert metrics["mae_stars"] == pytest.approx(10 * metrics["mae"])
    assert metrics["rmse_stars"] == pytest.approx(10 * metrics["rmse"])


def test_auc_ranks_and_does_not_clip():
    """Two ratings above the scale are no tie."""
    assert rating_metrics([1.0, 1.0], [1.2, 1.1], [1, 0])["auc"] == 1.0
    assert rating_metrics([1.0, 1.0], [1.1, 1.2], [1, 0])["auc"] == 0.0


@pytest.mark.parametrize(
    ("predictions", "labels", "message"),
    [
        ([0.5, 0.5], [1, 1], "1"),
        ([0.5, float("nan")], [0, 1], "(?i)finite|nan"),
        ([0.5], [0, 1], "1"),
    ],
)
def test_what_cannot_be_measured_is_refused(predictions, labels, message):
    with pytest.raises(ValueError, match=message):
        rating_metrics([0.0, 1.0], predictions, labels)


def test_heuristics_by_hand():
    samples = pl.DataFrame(
        {
            "split": ["train", "train", "validation", "test", "test"],
            "target": [1.0, 0.5, 0.0, 0.25, 0.0],
            "user_mean": [0.0, 0.1, 0.2, 0.3, 0.4],
            "item_rating_mean": [0.5, 0.6, 0.7, 0.8, 0.9],
        }
    )
    rows = rating_heuristics(samples)
    assert {name: values.tolist() for name, values in rows.items()} == {
        "global_mean": [0.75, 0.75],  # of the training ratings
        "user_mean": [0.3, 0.4],
        "item_mean": [0.8, 0.9],
    }


def test_heuristics_of_real_samples_do_not_read_the_test_ratings():
    items = pl.DataFrame({"item_id": [f"i{k}" for k in range(12)], "title": "T", "categories": [["C"]] * 12})
    rows = [(f"u{u}", f"i{k}", float(1 + (u * k + k) % 5), 100 + k) for u in range(8) for k in range(12)]
    schema = {"user_id": pl.String, "item_id": pl.String, "rating": pl.Float64, "timestamp": pl.Int64}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    before = recpie_samples(frame, items, rating_scale=(1, 5))
    is_last = pl.col("timestamp") == 111  # tested
    flipped = frame.with_columns(rating=pl.when(is_last).then(6 - pl.col("rating")).otherwise("rating"))
    after = recpie_samples(flipped, items, rating_scale=(1, 5))
    assert before.filter(pl.col("split") == "test")["target"].to_list() != (
        after.filter(pl.col("split") == "test")["target"].to_list()
    )
    first, second = rating_heuristics(before), rating_heuristics(after)
    for name, values in first.items():
        assert values.tolist() == pytest.approx(second[name].tolist()), name
