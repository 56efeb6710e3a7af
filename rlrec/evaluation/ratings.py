"""Metrics of predicted ratings: RecPIE's RMSE, MAE and AUC (section 5.1), and the rows that need no recommender.

SPEC's ruling: ratings are scaled to [0, 1] for RMSE and MAE, which stand beside the same in stars; AUC ranks by the
predicted rating and asks for rating >= 4 (the sample's label).
"""

import numpy as np
import polars as pl
from sklearn.metrics import mean_absolute_error, roc_auc_score, root_mean_squared_error

from rlrec.evaluation.ctr import checked_labels, checked_scores


def rating_metrics(targets, predictions, labels, stars: float = 4.0) -> dict[str, float]:
    """RMSE and MAE of ratings scaled to [0, 1], the same in stars, and AUC.

    Args:
        targets, predictions: (N,) scaled ratings.
        labels: (N,) 0 or 1, both present.
        stars: width of the rating scale, highest minus lowest.

    Raises:
        ValueError: labels of one class, or predictions that are not finite or of another length.

    >>> rating_metrics([0.0, 1.0], [0.5, 1.0], [0, 1])["mae"], rating_metrics([0.0, 1.0], [0.5, 1.0], [0, 1])["auc"]
    (0.25, 1.0)
    """
    labels = checked_labels(labels)
    targets, predictions = np.asarray(targets, dtype=float), checked_scores(predictions, len(labels))
    rmse, mae = root_mean_squared_error(targets, predictions), mean_absolute_error(targets, predictions)
    return {
        "rmse": float(rmse),
        "mae": float(mae),
        "rmse_stars": float(rmse * stars),
        "mae_stars": float(mae * stars),
        "auc": float(roc_auc_score(labels, predictions)),
    }


def rating_heuristics(samples: pl.DataFrame) -> dict[str, np.ndarray]:
    """Test predictions of the means: of all training ratings, of the user's earlier ones, and of the item's."""
    mean = samples.filter(pl.col("split") == "train")["target"].mean()
    test = samples.filter(pl.col("split") == "test")
    return {
        "global_mean": np.full(len(test), mean),
        "user_mean": test["user_mean"].to_numpy(),
        "item_mean": test["item_rating_mean"].to_numpy(),
    }
