"""Popularity rows beside TRAIL that need no training: each gives one score per sample, for `rank_items`.

The paper (section 5.1.2) compares with PARE (`rlrec.trail.pare`) and prompted models alone. Last-window popularity,
moving average and total popularity are ours: without them nobody sees what a model adds to counting. The upper bound
ranks "items by their true test-set interaction counts" (section 5.2.2).
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from rlrec.evaluation.ranking import rank_items, ranking_metrics

SPANS = (1, 2, 3, 4, 6, 12)  # windows of 30 days: from the last one to about a year


def last_window_popularity(samples: pl.DataFrame) -> np.ndarray:
    """(N,) users in the window before, 0 for cold items.

    >>> last_window_popularity(pl.DataFrame({"history": [[3, 1], []]})).tolist()
    [1.0, 0.0]
    """
    return moving_average(samples, 1)


def moving_average(samples: pl.DataFrame, windows: int) -> np.ndarray:
    """(N,) mean users of the last `windows` windows.

    The mean is over the windows since the item's release where these are fewer, so that a young item is not taken for
    an unpopular one; 0 for cold items.

    >>> moving_average(pl.DataFrame({"history": [[9, 3, 1], [4]]}), 2).tolist()
    [2.0, 4.0]
    """
    if windows < 1:
        raise ValueError(f"windows is {windows}; a moving average needs at least 1.")
    return samples["history"].list.tail(windows).list.mean().fill_null(0.0).cast(pl.Float64).to_numpy()


def choose_windows(
    samples: pl.DataFrame, interactions: pl.DataFrame, spans: Sequence[int] = SPANS, metric: str = "ndcg@10"
) -> int:
    """The span of the moving average that ranks the validation windows best; of equal ones the shortest.

    Args:
        samples: the validation samples alone.
        interactions: user_id, item_id, window; those of other windows are left out.

    Raises:
        ValueError: test samples among the samples.
    """
    if "split" in samples.columns and set(samples["split"]) - {"train", "validation"}:
        raise ValueError("The span of the moving average is chosen on validation windows; give no test samples.")

    def score(span: int) -> float:
        return ranking_metrics(rank_items(samples, moving_average(samples, span)), interactions)[0][metric]

    return max(sorted(spans), key=score)


def total_popularity(samples: pl.DataFrame) -> np.ndarray:
    """(N,) users before the window, summed over all windows (`users_before`)."""
    return samples["users_before"].cast(pl.Float64).to_numpy()


def true_popularity(samples: pl.DataFrame) -> np.ndarray:
    """(N,) p_T itself: the upper bound of what one list for all can reach in HR@1 and nearly in every other metric.

    It is exact for HR@1 only: the K items that together reach most users need not be the K most popular ones.
    """
    return samples["popularity"].cast(pl.Float64).to_numpy()
