"""Bootstrap intervals against brute force, cluster effects and speed; paired tests."""

import time

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from rlrec.evaluation.significance import (
    auc_difference,
    auc_interval,
    mean_and_sd,
    mean_difference,
    paired_tests,
    percentile_interval,
    resample_counts,
    resampled_sums,
    rmse_difference,
    weighted_auc,
)


def noisy_scores(count, signal, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    return labels, [strength * labels + rng.normal(size=count) for strength in signal]


def test_weighted_auc_equals_auc_of_the_repeated_rows():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    scores = rng.integers(0, 9, 60) / 8  # many ties
    weights = rng.integers(0, 4, (20, 60))
    expected = [roc_auc_score(np.repeat(labels, w), np.repeat(scores, w)) for w in weights]
    assert weighted_auc(labels, scores, weights).tolist() == pytest.approx(expected)


def test_weighted_auc_of_one_class_is_nan():
    assert np.isnan(weighted_auc([0, 1], [0.1, 0.2], [[2, 0]])).all()


def test_resampled_users_come_whole():
    counts = resample_counts(5, 50, np.random.default_rng(0), clusters=np.array([0, 0, 1, 1, 1]))
    assert (counts[:, 0] == counts[:, 1]).all()
    assert (counts[:, 2] == counts[:, 4]).all()
    assert (counts[:, 0] + counts[:, 2] == 2).all()


def test_interval_agrees_with_delong_like_normal_theory():
    labels, (scores,) = noisy_scores(2000, [1.0], seed=1)
    interval = auc_interval(labels, scores)
    # Hanley and McNeil (1982): the standard error of this AUC is about 0.0106.
    auc, (positives, negatives) = interval["auc"], (labels.sum(), (1 - labels).sum())
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = (auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)) / (
        positives * negatives
    )
    assert interval["auc"] == pytest.approx(roc_auc_score(labels, scores))
    assert interval["high"] - interval["low"] == pytest.approx(2 * 1.96 * variance**0.5, rel=0.1)


def test_difference_is_significant_only_when_there_is_one():
    labels, (weak, strong) = noisy_scores(1000, [0.3, 1.2], seed=2)
    result = auc_difference(labels, weak, strong)
    assert 0 < result["low"] < result["difference"] < result["high"]
    assert result["p_value"] == 1 / 2000
    same = auc_difference(labels, weak, 2 * weak + 1)
    assert (same["difference"], same["low"], same["high"], same["p_value"]) == (0, 0, 0, 1)


def test_users_with_equal_samples_widen_the_interval():
    labels, (a, b) = noisy_scores(200, [0.3, 0.6], seed=3)
    users = np.repeat(np.arange(200), 9)  # nine copies of each sample: no more is known than from one
    nine = [np.repeat(column, 9) for column in (labels, a, b)]
    rows, clusters, once = auc_difference(*nine), auc_difference(*nine, users=users), auc_difference(labels, a, b)
    width = lambda result: result["high"] - result["low"]  # noqa: E731
    assert width(clusters) == pytest.approx(width(once), rel=0.1)
    assert width(rows) == pytest.approx(width(once) / 3, rel=0.1)


def test_seeded_and_fast():
    labels, (a, b) = noisy_scores(2000, [0.3, 0.6], seed=4)
    start = time.perf_counter()
    first = auc_difference(labels, a, b, seed=5)
    assert time.perf_counter() - start < 3
    assert first == auc_difference(labels, a, b, seed=5)
    assert first["low"] != auc_difference(labels, a, b, seed=6)["low"]


def test_bad_input():
    with pytest.raises(ValueError, match="one user per label"):
        auc_interval([0, 1], [0.1, 0.2], users=["a"])
    with pytest.raises(ValueError, match="resamples is 0"):
        auc_interval([0, 1], [0.1, 0.2], resamples=0)
    with pytest.raises(ValueError, match="both classes"):
        auc_difference([1, 1], [0.1, 0.2], [0.1, 0.2])


def test_mean_and_sd_by_hand():
    assert mean_and_sd([0.5]) == (0.5, None)
    assert mean_and_sd([1, 2, 3, 4]) == pytest.approx((2.5, (5 / 3) ** 0.5))
    with pytest.raises(ValueError, match="non-empty"):
        mean_and_sd([])


def test_paired_tests_by_hand():
    result = paired_tests([0, 0, 0, 0], [1, 2, 3, 4])
    # mean 2.5, sd sqrt(5/3), standard error sd / 2: t = 3.873; all four signs positive: p = 2 / 2^4.
    assert result["mean_difference"] == 2.5
    assert result["t_statistic"] == pytest.approx(2.5 / ((5 / 3) ** 0.5 / 2))
    assert result["wilcoxon_p_value"] == pytest.approx(0.125)
    assert paired_tests([1, 2], [1, 2])["t_p_value"] == 1.0
    assert paired_tests([1, 2], [2, 3])["t_p_value"] == 0.0
    with pytest.raises(ValueError, match="same length"):
        paired_tests([1, 2], [1])


def test_rmse_difference_resamples_users():
    """User u: a errs by 1, b by 0. User v, of three samples: a by 0, b by 1. Resamples: uu, uv, vv."""
    users = ["u", "v", "v", "v"]
    found = rmse_difference([0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 1, 1], users=users)
    assert found["difference"] == pytest.approx(np.sqrt(3 / 4) - np.sqrt(1 / 4))
    assert (found["low"], found["high"]) == pytest.approx((-1, 1))
    assert found["p_value"] == pytest.approx(0.5, abs=0.1)  # a quarter of the resamples, uu, is below 0
    with pytest.raises(ValueError, match="Target 1 is not a finite number"):
        rmse_difference([0.0, np.nan], [0, 0], [0, 0])
    with pytest.raises(ValueError, match="There are 1 users for 2 samples"):
        rmse_difference([0.0, 1], [0, 0], [0, 0], users=["u"])


def test_resampled_sums_by_hand():
    columns = [[1.0, 10.0], [2.0, 20.0], [4.0, 40.0]]
    sums = resampled_sums(columns, users=["u", "u", "v"], resamples=200)
    assert sums.shape == (200, 2)
    assert set(sums[:, 0]) == {6.0, 7.0, 8.0}  # u twice, both, v twice
    np.testing.assert_allclose(sums[:, 1], 10 * sums[:, 0])
    assert set(resampled_sums([[1.0], [0.0]], resamples=50)[:, 0]) == {0.0, 1.0, 2.0}
    with pytest.raises(ValueError, match="No resample gave a number"):
        percentile_interval([np.nan])


def test_mean_difference_resamples_users():
    """User u: b is better by 1 in one case. User v, of three cases: a is better by 1. Resamples: uu, uv, vv."""
    users = ["u", "v", "v", "v"]
    found = mean_difference([0, 1, 1, 1], [1, 0, 0, 0], users=users)
    assert (found["mean_a"], found["mean_b"], found["difference"]) == (0.75, 0.25, -0.5)
    assert (found["low"], found["high"]) == (-1, 1)
    assert found["p_value"] == pytest.approx(0.5, abs=0.1)  # a quarter of the resamples, uu, is above 0
    with pytest.raises(ValueError, match="Case 1 has no finite number"):
        mean_difference([0.0, np.nan], [0, 0])
    with pytest.raises(ValueError, match="two lists of the same length"):
        mean_difference([0.0], [0, 0])
    with pytest.raises(ValueError, match="two lists of the same length"):
        mean_difference([], [])
