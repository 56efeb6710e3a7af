"""How sure a difference is: bootstrap intervals of AUC, RMSE and means, spread over seeds, paired tests.

AUC is computed for all resamples at once: a resample is a vector of how often each row was drawn, and its AUC is a
weighted count of (positive above negative) pairs along the sorted scores. 2,000 resamples of 2,000 rows take well
under a second.
"""

from collections.abc import Iterator, Sequence

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
    positives, negatives = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    negatives = negatives[np.argsort(scores[negatives], kind="stable")]
    # How many of the sorted negatives lie below each positive, and below it or level with it.
    below, level = (np.searchsorted(scores[negatives], scores[positives], side) for side in ("left", "right"))
    sums = np.zeros((len(weights), len(negatives) + 1))
    np.cumsum(np.take(weights, negatives, axis=1), axis=1, out=sums[:, 1:])
    drawn = np.take(weights, positives, axis=1)
    won = np.einsum("rp,rp->r", drawn, np.take(sums, below, axis=1))
    if not np.array_equal(below, level):
        won = (won + np.einsum("rp,rp->r", drawn, np.take(sums, level, axis=1))) / 2
    with np.errstate(invalid="ignore"):
        return won / (drawn.sum(axis=1) * sums[:, -1])


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
    found = percentile_interval(differences, confidence)
    return {"auc_a": auc_a, "auc_b": auc_b, "difference": auc_b - auc_a, **found, "resamples": len(differences)}


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


def rmse_difference(
    targets, predictions_a, predictions_b, users=None, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> dict[str, float]:
    """RMSE(b) - RMSE(a) on the same samples (negative: b is better), with its percentile bootstrap interval.

    Args:
        targets: (N,) true ratings.
        predictions_a, predictions_b: (N,) on the scale of the targets.
        users, resamples, confidence, seed: as in `auc_difference`.

    Returns:
        rmse_a, rmse_b, difference, low, high, p_value.
    """
    targets = np.asarray(targets, dtype=float)
    predictions = [checked_scores(scores, len(targets)) for scores in (predictions_a, predictions_b)]
    squares = [(scores - targets) ** 2 for scores in predictions]
    columns = np.column_stack([*squares, np.ones(len(targets))])
    if not np.isfinite(columns).all():
        raise ValueError(f"Target {int(np.flatnonzero(~np.isfinite(columns).all(axis=1))[0])} is not a finite number.")
    rmse_a, rmse_b = np.sqrt(columns[:, :2].mean(axis=0))
    sums = resampled_sums(columns, users, resamples, seed)
    first, second = np.sqrt(sums[:, 0] / sums[:, 2]), np.sqrt(sums[:, 1] / sums[:, 2])
    found = percentile_interval(second - first, confidence)
    return {"rmse_a": float(rmse_a), "rmse_b": float(rmse_b), "difference": float(rmse_b - rmse_a), **found}


def mean_difference(
    values_a, values_b, users=None, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> dict[str, float]:
    """Mean(b) - mean(a) of two metrics on the same cases (paired), with its percentile bootstrap interval.

    Args:
        values_a, values_b: (N,) the metric of each case, such as NDCG@10 of each user and window.
        users, resamples, confidence, seed: as in `auc_difference`.

    Returns:
        mean_a, mean_b, difference, low, high, p_value.

    >>> found = mean_difference([0.0, 1.0, 0.0], [1.0, 1.0, 1.0], users=["u", "u", "v"])
    >>> round(found["difference"], 3), found["low"], found["high"]
    (0.667, 0.5, 1.0)
    """
    values = [np.asarray(column, dtype=float) for column in (values_a, values_b)]
    if values[0].ndim != 1 or values[0].shape != values[1].shape or len(values[0]) == 0:
        raise ValueError(
            f"A mean difference needs two lists of the same length >= 1, got {values[0].shape} and {values[1].shape}."
        )
    columns = np.column_stack([*values, np.ones(len(values[0]))])
    if not np.isfinite(columns).all():
        raise ValueError(f"Case {int(np.flatnonzero(~np.isfinite(columns).all(axis=1))[0])} has no finite number.")
    mean_a, mean_b = columns[:, :2].mean(axis=0)
    sums = resampled_sums(columns, users, resamples, seed)
    found = percentile_interval((sums[:, 1] - sums[:, 0]) / sums[:, 2], confidence)
    return {"mean_a": float(mean_a), "mean_b": float(mean_b), "difference": float(mean_b - mean_a), **found}


def resampled_sums(columns, users=None, resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """Sums of each column over bootstrap resamples: (N, K) -> (R, K).

    Means, RMSEs, slopes and their paired differences are functions of such sums.

    Args:
        columns: (N, K) numbers per sample; a column of ones gives the number of samples drawn.
        users: (N,) user of each sample; when given, whole users are resampled.
    """
    columns = np.asarray(columns, dtype=float)
    if users is not None:
        clusters = np.unique(np.asarray(users), return_inverse=True)[1]
        if len(clusters) != len(columns):
            raise ValueError(f"There are {len(clusters)} users for {len(columns)} samples; give one user per sample.")
        columns = np.column_stack([np.bincount(clusters, weights=column) for column in columns.T])
    rng = np.random.default_rng(seed)
    chunk = max(1, CHUNK_ELEMENTS // len(columns))
    parts = [
        resample_counts(len(columns), min(chunk, resamples - start), rng) @ columns
        for start in range(0, resamples, chunk)
    ]
    return np.concatenate(parts)


def user_resamples(users: Sequence[Sequence], resamples: int = 2000, seed: int = 0) -> Iterator[list[np.ndarray]]:
    """Bootstrap resamples of the users of several seeds: of each seed, how often each of its samples is drawn.

    A statistic of several seeds is the mean over seeds of what each seed's samples give, on the same resample. A user
    is drawn with all samples of all seeds, so that five seeds on one test set count as one test set; where seeds have
    no user in common, this is resampling within each seed.

    Args:
        users: of each seed, the user of each sample (N_s,).
        resamples: in all.
        seed: of the resampling.

    Yields:
        Some of the resamples at a time, of each seed (R', N_s) as floats.

    >>> [(weights,)] = user_resamples([["u", "u", "v"]], resamples=1)
    >>> weights.shape, bool(weights[0, 0] == weights[0, 1]), float(weights[0, 1:].sum())
    ((1, 3), True, 2.0)
    """
    names = np.concatenate([np.asarray(own, dtype=str) for own in users])
    clusters = np.unique(names, return_inverse=True)[1]
    cuts = np.cumsum([len(own) for own in users])[:-1]
    rng = np.random.default_rng(seed)
    chunk = max(1, CHUNK_ELEMENTS // len(names))
    for start in range(0, resamples, chunk):
        counts = resample_counts(len(names), min(chunk, resamples - start), rng, clusters)
        yield [part.astype(float) for part in np.split(counts, cuts, axis=1)]


def percentile_interval(values, confidence: float = 0.95) -> dict[str, float]:
    """low, high and p_value of a statistic from its resamples (R,); those that are not finite are left out.

    p_value is two-sided: twice the smaller share of resamples on one side of 0, at least 1 / R.

    >>> percentile_interval([1.0, 2.0, 3.0, 4.0], confidence=0.5)
    {'low': 1.75, 'high': 3.25, 'p_value': 0.25}
    """
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        raise ValueError("No resample gave a number; there are too few samples or users.")
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    tail = min((values <= 0).mean(), (values >= 0).mean())
    return {"low": float(low), "high": float(high), "p_value": float(np.clip(2 * tail, 1 / len(values), 1.0))}


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


def holm(p_values) -> np.ndarray:
    """Holm's step-down adjustment: p-values (T,) of T tests -> (T,), to be held against the same level as one test.

    The smallest is multiplied by T, the next by T - 1 and so on; none may fall below a smaller one's, or exceed 1.

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    p_values = np.asarray(p_values, dtype=float)
    order = np.argsort(p_values)
    adjusted = np.empty_like(p_values)
    stepped = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return adjusted


def standardised_difference(differences) -> float:
    """Cohen's d_z: mean of paired differences (N,) by their sample deviation (n - 1).

    It is the effect size of the paired design: unlike Cliff's delta it uses the pairing, and unlike a p-value it does
    not grow with N. Differences that are all equal give 0 or an infinity.

    >>> standardised_difference([1.0, 2.0, 3.0]), standardised_difference([0.0, 0.0])
    (2.0, 0.0)
    """
    differences = np.asarray(differences, dtype=float)
    mean, deviation = differences.mean(), differences.std(ddof=1)
    if deviation == 0:
        return float(np.copysign(np.inf, mean)) if mean else 0.0
    return float(mean / deviation)
