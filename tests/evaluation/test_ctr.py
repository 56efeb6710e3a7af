"""Metrics against hand-worked numbers."""

import math

import polars as pl
import pytest

from rlrec.evaluation.ctr import ctr_metrics, fit_temperature, heuristic_rows, heuristic_scores, mean_score, scores_at


def test_metrics_by_hand():
    # Pairs (positive, negative): (0.8, 0.4) won, (0.8, 0.6) won, (0.6, 0.4) won, (0.6, 0.6) half: 3.5 / 4.
    metrics = ctr_metrics([0, 0, 1, 1], [0.4, 0.6, 0.8, 0.6])
    assert metrics["auc"] == pytest.approx(0.875)
    assert metrics["log_loss"] == pytest.approx(-(math.log(0.6) + math.log(0.4) + math.log(0.8) + math.log(0.6)) / 4)
    assert metrics["mae"] == pytest.approx((0.4 + 0.6 + 0.2 + 0.4) / 4)
    assert metrics["rmse"] == pytest.approx(math.sqrt((0.16 + 0.36 + 0.04 + 0.16) / 4))


def test_log_loss_of_a_confident_miss_is_clipped():
    metrics = ctr_metrics([0, 1], [0.0, 0.0])
    assert metrics["log_loss"] == pytest.approx(-math.log(1e-7) / 2, rel=1e-6)
    assert metrics["mae"] == 0.5


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([1, 1], [0.2, 0.3], "only label 1"),
        ([], [], "no label"),
        ([0, 2], [0.2, 0.3], "Label 2.0 at row 1"),
        ([0, 1], [0.2, 1.3], "Score 1.3 at row 1 is no probability"),
        ([0, 1], [float("nan"), 0.3], "Score nan at row 0 is not finite"),
        ([0, 1], [0.2], "shape \\(1,\\) but there are 2 labels"),
    ],
)
def test_bad_input_is_refused_with_the_place(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        ctr_metrics(labels, scores)


def test_mean_score():
    assert mean_score([[0.2, 0.4], [1.0, 0.0]]).tolist() == pytest.approx([0.3, 0.5])
    with pytest.raises(ValueError, match="samples, explanations"):
        mean_score([0.2, 0.4])


def test_temperature_by_hand():
    # Margin 4 with three of four labels right: the best sigmoid(4 / T) is 3/4, so 4 / T = ln 3.
    labels, margins = [1, 1, 1, 0], [4.0, 4.0, 4.0, 4.0]
    assert fit_temperature(labels, margins) == pytest.approx(4 / math.log(3), rel=1e-3)
    # A sharper model of the same ranking is cooled by the same factor.
    assert fit_temperature(labels, [40.0] * 4) == pytest.approx(40 / math.log(3), rel=1e-3)


def test_temperature_of_the_mean_of_several_explanations():
    assert scores_at([[math.log(3), 0.0], [4.0, -4.0]], 1.0).tolist() == pytest.approx([0.625, 0.5])
    # Mean score of margins (m, 0) is (sigmoid(m / T) + 1/2) / 2; three of four right ask for 0.75 = (1 + 1/2) / 2,
    # so the best T is the smallest, while the same margins alone ask for sigmoid(4 / T) = 3/4.
    labels = [1, 1, 1, 0]
    assert fit_temperature(labels, [[4.0, 0.0]] * 4) < 0.5
    assert fit_temperature(labels, [[4.0, 4.0]] * 4) == pytest.approx(4 / math.log(3), rel=1e-3)


def test_temperature_of_misleading_margins_ends_at_one_half():
    temperature = fit_temperature([0, 1], [5.0, -5.0])
    assert scores_at([5.0], temperature)[0] == pytest.approx(0.5, abs=0.01)


def test_temperature_of_huge_margins():
    # LC pushes logits far apart; at T = 1 the clip hides any gradient, and the search must still find the bowl.
    assert fit_temperature([1, 1, 1, 0], [400.0] * 4) == pytest.approx(400 / math.log(3), rel=1e-3)


def frame(rows):
    return pl.DataFrame(rows, schema=["split", "label", "like_rate", "item_mean"], orient="row")


def test_heuristic_rows_by_hand():
    train = [("train", label, label * 0.5 + 0.2, 0.5) for label in (0, 1)] * 20
    train += [("train", 1, 0.2, 0.4), ("train", 0, 0.7, 0.6)]
    test = [("test", 1, 0.9, 0.1), ("test", 0, 0.5, 0.2), ("test", 0, 0.1, 0.2)]
    rows = heuristic_rows(frame(train + test))
    assert list(rows) == ["history_like_rate", "item_mean", "like_rate_plus_item_mean"]
    assert rows["history_like_rate"]["auc"] == 1.0
    assert rows["item_mean"]["auc"] == 0.0  # the plain number, though its fitted coefficient is negative
    assert rows["like_rate_plus_item_mean"]["auc"] == 1.0  # 1.0 against 0.7 and 0.3
    assert rows["history_like_rate"]["log_loss"] < math.log(2)


def test_calibration_finds_the_rate_of_a_two_valued_feature():
    # Train: like_rate 0 is liked 1 time in 4, like_rate 1 is liked 3 times in 4; logistic regression is exact there.
    train = [("train", label, 0.0, 0.5) for label in (1, 0, 0, 0)] * 25
    train += [("train", label, 1.0, 0.5) for label in (1, 1, 1, 0)] * 25
    scores = heuristic_scores(frame([*train, ("test", 0, 0.0, 0.5), ("test", 1, 1.0, None)]))
    assert scores["history_like_rate"].tolist() == pytest.approx([0.25, 0.75], abs=1e-3)
    assert scores["item_mean"].tolist() == pytest.approx([0.5, 0.5], abs=1e-3)


def test_heuristics_need_both_classes():
    with pytest.raises(ValueError, match="only label 1"):
        heuristic_rows(frame([("train", 0, 0.1, 0.2), ("train", 1, 0.3, 0.2), ("test", 1, 0.3, 0.2)]))
