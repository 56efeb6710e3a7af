"""Click-through-rate metrics of ExpCTR (section 5.1.3), the temperature of its eq. 8, and the rows that need no text.

Departures from the paper:

1. MAE and RMSE are computed on probabilities, as the paper's Table 1 prints them; its text says MSE.
2. The temperature T of eq. 8 is fitted on validation samples. Eq. 9 rewards scores of exactly 0 and 1, so scores at
   T = 1 are overconfident; AUC of a single score is the same for every T.
3. The heuristic rows (history like-rate, item mean, their sum) are ours: without them nobody sees what an explanation
   adds beyond base rates.
"""

import numpy as np
import polars as pl
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, mean_absolute_error, roc_auc_score, root_mean_squared_error

LOG_LOSS_CLIP = 1e-7  # a confident miss costs at most -ln(1e-7) = 16.1 nats
TEMPERATURE_BOUNDS = (1e-2, 1e3)
HEURISTICS = {
    "history_like_rate": ("like_rate",),
    "item_mean": ("item_mean",),
    "like_rate_plus_item_mean": ("like_rate", "item_mean"),
}


def checked_labels(labels) -> np.ndarray:
    """Labels as an int array (N,); ValueError unless they are 0 and 1, both of which occur."""
    labels = np.asarray(labels, dtype=float).ravel()
    wrong = np.flatnonzero(~np.isin(labels, (0.0, 1.0)))
    if wrong.size:
        raise ValueError(f"Label {labels[wrong[0]]} at row {wrong[0]} is neither 0 nor 1; binarise the ratings first.")
    if labels.size == 0 or labels.min() == labels.max():
        only = "no label" if labels.size == 0 else f"only label {int(labels[0])}"
        raise ValueError(
            f"The {labels.size} samples hold {only}, and AUC needs both classes; take more samples or another "
            "rating threshold."
        )
    return labels.astype(int)


def checked_scores(scores, count: int) -> np.ndarray:
    """Scores as a float array (N,); ValueError when their number differs from `count` or one is not finite."""
    scores = np.asarray(scores, dtype=float)
    if scores.shape != (count,):
        raise ValueError(f"Scores have shape {scores.shape} but there are {count} labels; give one score per label.")
    wrong = np.flatnonzero(~np.isfinite(scores))
    if wrong.size:
        raise ValueError(f"Score {scores[wrong[0]]} at row {wrong[0]} is not finite; look at the model that made it.")
    return scores


def ctr_metrics(labels, scores) -> dict[str, float]:
    """AUC, LogLoss (nats), MAE and RMSE of predicted probabilities.

    Args:
        labels: (N,) 0 or 1, both present.
        scores: (N,) probabilities in [0, 1]. For LogLoss alone they are clipped to [1e-7, 1 - 1e-7].

    Raises:
        ValueError: labels of one class, scores outside [0, 1], not finite, or of another length.

    >>> {name: round(value, 4) for name, value in ctr_metrics([0, 1, 1], [0.5, 0.5, 1.0]).items()}
    {'auc': 0.75, 'log_loss': 0.4621, 'mae': 0.3333, 'rmse': 0.4082}
    """
    labels = checked_labels(labels)
    scores = checked_scores(scores, len(labels))
    wrong = np.flatnonzero((scores < 0) | (scores > 1))
    if wrong.size:
        raise ValueError(
            f"Score {scores[wrong[0]]} at row {wrong[0]} is no probability; pass logits through a sigmoid."
        )
    return {
        "auc": float(roc_auc_score(labels, scores)),
        "log_loss": float(log_loss(labels, np.clip(scores, LOG_LOSS_CLIP, 1 - LOG_LOSS_CLIP))),
        "mae": float(mean_absolute_error(labels, scores)),
        "rmse": float(root_mean_squared_error(labels, scores)),
    }


def mean_score(scores) -> np.ndarray:
    """Mean over the explanations of each sample: (N, n) -> (N,)."""
    scores = np.asarray(scores, dtype=float)
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise ValueError(f"Scores have shape {scores.shape}; mean_score needs (samples, explanations per sample).")
    return scores.mean(axis=1)


def scores_at(margins, temperature: float) -> np.ndarray:
    """Eq. 8 as a probability: sigmoid(margin / T), averaged over the explanations when margins are (N, n).

    Args:
        margins: (N,) or (N, n), logit of the "Yes" set minus logit of the "No" set.
        temperature: T > 0.

    >>> scores_at([0.0, np.log(3)], temperature=1.0).round(4).tolist()
    [0.5, 0.75]
    """
    scores = expit(np.asarray(margins, dtype=float) / temperature)
    return mean_score(scores) if scores.ndim == 2 else scores


def fit_temperature(labels, margins) -> float:
    """T of eq. 8 that minimises the LogLoss of `scores_at(margins, T)`; call it with validation samples.

    With margins (N, n) it is the LogLoss of the mean score of n explanations. The search is bounded on log T, T from
    0.01 to 1000: margins that rank the labels worse than chance end at the upper bound, where every score is 0.5.
    """
    labels = checked_labels(labels)
    margins = np.asarray(margins, dtype=float)
    if margins.ndim not in (1, 2) or len(margins) != len(labels) or not np.isfinite(margins).all():
        raise ValueError(
            f"Margins of shape {margins.shape} must be finite and have one row for each of the {len(labels)} labels."
        )

    def validation_loss(log_temperature: float) -> float:
        scores = np.clip(scores_at(margins, np.exp(log_temperature)), LOG_LOSS_CLIP, 1 - LOG_LOSS_CLIP)
        return -np.where(labels == 1, np.log(scores), np.log1p(-scores)).mean()

    bounds = tuple(np.log(TEMPERATURE_BOUNDS))
    grid = np.linspace(*bounds, 24)  # the clip makes the loss flat at tiny T, so the bracket comes from a coarse grid
    best = int(np.argmin([validation_loss(point) for point in grid]))
    bracket = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = minimize_scalar(validation_loss, bounds=bracket, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def heuristic_scores(samples: pl.DataFrame, fit_split: str = "train", split: str = "test") -> dict[str, np.ndarray]:
    """Calibrated probabilities (N,) of each heuristic row, for the samples of `split` in their order.

    A logistic regression on the heuristic's one number (a sum, for `like_rate_plus_item_mean`) is fitted on the rows
    of `fit_split`. Missing numbers (an item nobody in training rated) become the positive rate of `fit_split`.

    Args:
        samples: a sample frame with columns split, label, like_rate, item_mean.
    """
    return {
        row: calibrator.predict_proba(evaluated)[:, 1]
        for row, calibrator, evaluated in _fitted_heuristics(samples, fit_split, split)
    }


def heuristic_rows(
    samples: pl.DataFrame, fit_split: str = "train", split: str = "test"
) -> dict[str, dict[str, float]]:
    """Metrics of the rows that need no text: history_like_rate, item_mean, like_rate_plus_item_mean.

    AUC is that of the plain number. LogLoss, MAE and RMSE, which need probabilities, are those of `heuristic_scores`.
    """
    labels = checked_labels(samples.filter(pl.col("split") == split)["label"])
    rows = {}
    for row, calibrator, evaluated in _fitted_heuristics(samples, fit_split, split):
        metrics = ctr_metrics(labels, calibrator.predict_proba(evaluated)[:, 1])
        rows[row] = {**metrics, "auc": float(roc_auc_score(labels, evaluated[:, 0]))}
    return rows


def _fitted_heuristics(samples: pl.DataFrame, fit_split: str, split: str):
    """(row name, calibrator, (N, 1) plain numbers of `split`) of every heuristic."""
    fitting, evaluated = (samples.filter(pl.col("split") == name) for name in (fit_split, split))
    labels = checked_labels(fitting["label"])
    for row, columns in HEURISTICS.items():
        number = pl.sum_horizontal(
            pl.col(column).fill_null(labels.mean()).fill_nan(labels.mean()) for column in columns
        )
        fit_on, apply_to = (part.select(number.alias("number")).to_numpy() for part in (fitting, evaluated))
        yield row, LogisticRegression(C=1e6).fit(fit_on, labels), apply_to
