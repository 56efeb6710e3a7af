"""How sure a difference is: bootstrap intervals of AUC, spread over seeds, paired tests.

AUC is computed for all resamples at once from rank sums: a resample is a vector of how often each row was drawn, and
its AUC is a weighted count of (positive above negative) pairs along the sorted scores. 2,000 resamples of 2,000 rows
take well under a second.
"""

import numpy as np
from scipy import stats

from rlrec.evaluation.ctr import checked_labels, checked_scores

CHUNK_ELEMENTS = 4_000_000  # drawn counts held at once: 32 MB of float64


def weighted_auc(labels, scores, weights) -> np.ndarray:
    """AUC of each row of weights: labels (N,), scores (N,), weights (R, N) >= 0 -> (R,).

    A pair of equal scores counts one half. A resample that lost one class gives NaN.

    >>> weighted_auc([0, 1, 1], [0.2, 0.1, 0.9], [[1, 1, 1], [1, 0, 2]]).tolist()
    [0.5, 1.0]
    """
    labels, scores, weights = np.asarray(labels), np.asarray(scores, dtype=float), np.asarray(weights, dtype=float)
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # first position of each run of equal scores
    drawn = weights[:, order]
    positives = np.add.reduceat(drawn * (labels[order] == 1), starts, axis=1)
    negatives = np.add.reduceat(drawn * (labels[order] == 0), starts, axis=1)
    negatives_below = np.cumsum(negatives, axis=1) - negatives / 2
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return (positives * negatives_below).sum(axis=1) / pairs


def resample_counts(count: int, resamples: int, rng: np.random.Generator, clusters=None) -> np.ndarray:
    """How often each row is drawn in each resample: (R, N).

    Rows are drawn with replacement, or whole clusters are (`clusters` (N,): the cluster number of each row), because
    the samples of one user are not independent.
    """
    units = count if clusters is None else int(clusters.max()) + 1
    drawn = rng.integers(units, size=(resamples, units)) + units * np.arange(resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=resamples * units).reshape(resamples, units)
    return counts if clusters is None else counts[:, clusters]


def auc_difference(
    labels, scores_a, scores_b, users=None, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> dict[str, float]:
    """AUC(b) - AUC(a) on the same samples, with its percentile bootstrap interval.

    Both AUCs are computed on the same resample each time (paired).

    Args:
        labels: (N,) 0 or 1.
        scores_a, scores_b: (N,) any monotone scores of the two systems.
        users: (N,) user of each sample; when given, whole users are resampled (cluster bootstrap).
        resamples: bootstrap resamples.
        confidence: coverage of the interval.
        seed: of the resampling.

    Returns:
        auc_a, auc_b, difference, low, high, p_value (two-sided: twice the smaller share of resamples on one side of
        0, at least 1 / resamples) and resamples (those with both classes).
    """
    labels = checked_labels(labels)
    systems = [checked_scores(scores, len(labels)) for scores in (scores_a, scores_b)]
    once = np.ones((1, len(labels)))
    auc_a, auc_b = (float(weighted_auc(labels, scores, once)[0]) for scores in systems)
    first, second = _bootstrap(labels, systems, users, resamples, seed)
    differences = second - first
    low, high = np.quantile(differences, [(1 - confidence) / 2, (1 + confidence) / 2])
    tail = min((differences <= 0).mean(), (differences >= 0).mean())
    return {
        "auc_a": auc_a,
        "auc_b": auc_b,
        "difference": auc_b - auc_a,
        "low": float(low),
        "high": float(high),
        "p_value": float(np.clip(2 * tail, 1 / len(differences), 1.0)),
        "resamples": len(differences),
    }


def auc_interval(labels, scores, users=None, resamples: int = 2000, confidence: float = 0.95, seed: int = 0) -> dict:
    """AUC with its percentile bootstrap interval: auc, low, high, resamples. Arguments as in `auc_difference`."""
    labels = checked_labels(labels)
    scores = checked_scores(scores, len(labels))
    (aucs,) = _bootstrap(labels, [scores], users, resamples, seed)
    low, high = np.quantile(aucs, [(1 - confidence) / 2, (1 + confidence) / 2])
    auc = float(weighted_auc(labels, scores, np.ones((1, len(labels))))[0])
    return {"auc": auc, "low": float(low), "high": float(high), "resamples": len(aucs)}


def _bootstrap(labels: np.ndarray, systems: list[np.ndarray], users, resamples: int, seed: int) -> np.ndarray:
    """AUCs (systems, R) on shared resamples; resamples that lost one class are left out."""
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; give at least 1 (2000 is usual).")
    clusters = None
    if users is not None:
        clusters = np.unique(np.asarray(users), return_inverse=True)[1]
        if len(clusters) != len(labels):
            raise ValueError(f"There are {len(clusters)} users for {len(labels)} labels; give one user per label.")
    rng = np.random.default_rng(seed)
    chunk = max(1, CHUNK_ELEMENTS // len(labels))
    parts = []
    for start in range(0, resamples, chunk):
        counts = resample_counts(len(labels), min(chunk, resamples - start), rng, clusters)
        parts.append([weighted_auc(labels, scores, counts) for scores in systems])
    aucs = np.concatenate(parts, axis=1)
    aucs = aucs[:, np.isfinite(aucs[0])]
    if aucs.shape[1] == 0:
        raise ValueError(f"None of {resamples} resamples held both classes; there are too few samples or users.")
    return aucs


def mean_and_sd(values) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n - 1) over seeds; the deviation of one value is None.

    >>> mean_and_sd([1.0, 3.0])
    (2.0, 1.4142135623730951)
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"mean_and_sd needs a non-empty list of numbers, got shape {values.shape}.")
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else None


def paired_tests(values_a, values_b) -> dict[str, float]:
    """Paired t-test and Wilcoxon signed-rank test of b against a: (N,) and (N,), per seed, user or sample.

    Returns:
        mean_difference (b - a), t_statistic, t_p_value, wilcoxon_p_value. Two equal lists give p = 1.
    """
    a, b = np.asarray(values_a, dtype=float), np.asarray(values_b, dtype=float)
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2:
        raise ValueError(f"Paired tests need two lists of the same length >= 2, got shapes {a.shape} and {b.shape}.")
    differences = b - a
    if not differences.any():
        return {"mean_difference": 0.0, "t_statistic": 0.0, "t_p_value": 1.0, "wilcoxon_p_value": 1.0}
    if differences.std() == 0:
        # The t statistic of a constant difference is infinite; scipy would warn and say the same.
        statistic, p_value = float(np.copysign(np.inf, differences[0])), 0.0
    else:
        statistic, p_value = (float(value) for value in stats.ttest_rel(b, a))
    return {
        "mean_difference": float(differences.mean()),
        "t_statistic": statistic,
        "t_p_value": p_value,
        "wilcoxon_p_value": float(stats.wilcoxon(b, a).pvalue),
    }
