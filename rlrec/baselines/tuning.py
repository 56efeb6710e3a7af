"""The same tuning budget for every row: one fit for each point of a small grid, judged on the validation split.

The fit of the best point is the first of `fits` with different seeds, and the row is the mean of their test metrics.
The test split is looked at once the point is chosen.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import torch

from rlrec.recommenders import Recommender, SplitData
from rlrec.recommenders.fitting import METRICS, in_background

Point = Mapping[str, float]


@dataclass
class Fitted:
    """What one fit gives.

    Attributes:
        loss: on the validation split, at the best epoch; lower is better.
        epoch: the best one, from 1.
        predictions: (N,) of the test split.
    """

    loss: float
    epoch: float
    predictions: np.ndarray


@dataclass
class TableRow:
    """A finished row.

    Attributes:
        metrics: {metric: value}.
        predictions: (N,) of the test samples, by the first fit; None where rows are lists and not scores.
        details: how it was made, JSON values.
        users: of rankings: one row per window and user, with a column `<metric>_<row>` for each metric.
    """

    metrics: dict[str, float]
    predictions: np.ndarray | None = None
    details: dict = field(default_factory=dict)
    users: pl.DataFrame | None = None


def tune(
    fit_once: Callable[..., Fitted],
    grid: Sequence[Point],
    metrics: Callable[[np.ndarray], Mapping[str, float]],
    fits: int = 3,
    seed: int = 0,
    workers: int = 1,
) -> TableRow:
    """Fit once at each point of `grid`, then again at the best one.

    Args:
        fit_once: (seed=..., **point) -> what a fit gives; with several workers it must be picklable.
        metrics: (N,) test predictions -> {metric: value}.
        fits: at the best point, the grid's own among them.
        seed: attempt k has the seed 1000 seed + k; the grid's fits are attempts 0.
        workers: processes; 1 fits in this one.

    Raises:
        ValueError: the loss of every point is NaN or infinite.

    >>> fit_once = lambda seed, rate: Fitted(abs(rate - 0.3), 1, np.array([rate + seed]))
    >>> row = tune(fit_once, [{"rate": 0.1}, {"rate": 0.2}], lambda p: {"first": float(p[0])}, fits=3)
    >>> row.details["chosen"], row.metrics
    ({'rate': 0.2}, {'first': 1.2})
    """
    tried = _fit_all(fit_once, [(point, 1000 * seed) for point in grid], workers)
    losses = [fit.loss if math.isfinite(fit.loss) else math.inf for fit in tried]  # min() would keep a NaN in front
    if min(losses) == math.inf:
        raise ValueError(f"No fit at {len(grid)} points of the grid has a finite validation loss; give another grid.")
    best = losses.index(min(losses))
    again = [(grid[best], 1000 * seed + attempt) for attempt in range(1, fits)]
    fitted = [tried[best], *_fit_all(fit_once, again, workers)]
    values = [metrics(fit.predictions) for fit in fitted]
    return TableRow(
        metrics={metric: float(np.mean([each[metric] for each in values])) for metric in values[0]},
        predictions=fitted[0].predictions,
        details={
            "grid": [{**point, "validation_loss": fit.loss, "epoch": fit.epoch} for point, fit in zip(grid, tried)],
            "chosen": dict(grid[best]),
            "fits": fits,
        },
    )


def _fit_all(fit_once, wanted: Sequence[tuple[Point, int]], workers: int) -> list[Fitted]:
    if workers == 1:
        return [fit_once(seed=seed, **point) for point, seed in wanted]
    waiting = [in_background(fit_once, seed=seed, **point, workers=workers) for point, seed in wanted]
    return [wait() for wait in waiting]


def fit_recommender(
    data: SplitData,
    kind: type[Recommender],
    settings: Mapping,
    *,
    seed: int,
    item_texts: torch.Tensor | None = None,
    **options,
) -> Fitted:
    """Fit one recommender, stopped early by the validation split; its loss is that of its objective's first metric.

    Args:
        data: of a vocabulary that has what the model reads.
        kind: its class, built with the vocabulary's sizes and `settings`.
        item_texts: (num_items, d), for UniSRec.
        options: of `rlrec.recommenders.fit`.
    """
    torch.manual_seed(seed)
    model = kind(**data.vocabulary.sizes(), **settings)
    if item_texts is not None:
        model.set_text_vectors(item_texts)
    result = data.fit(model, seed=seed, **options)
    metric = METRICS[model.objective][0]
    loss = result.history[result.best_epoch - 1][f"validation_{metric}"]
    return Fitted(loss, result.best_epoch, model.predict(data.batches["test"]).numpy())
