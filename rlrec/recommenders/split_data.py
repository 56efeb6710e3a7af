"""Training, validation and test samples as tensors of one vocabulary, and the mean of several fits on them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from rlrec.recommenders.base import Batch, Recommender, Vocabulary
from rlrec.recommenders.fitting import FitResult, fit, start_fits

SPLITS = ("train", "validation", "test")
Embeddings = Mapping[str, torch.Tensor]  # split -> (N, S, d)
MeanOfFits = tuple[dict[str, float], np.ndarray, list[Recommender]]


@dataclass
class SplitData:
    """Samples, batches and targets by split; `vocabulary` knows the training samples alone.

    >>> rows = {"split": ["train", "train", "test"], "user_id": ["u", "v", "u"], "item_id": ["a", "b", "c"]}
    >>> data = SplitData.build(pl.DataFrame({**rows, "label": [0, 1, 1]}))
    >>> data.batches["test"]["user"].tolist(), data.batches["test"]["item"].tolist(), data.targets["test"].tolist()
    ([1], [0], [1.0])
    """

    samples: dict[str, pl.DataFrame]
    vocabulary: Vocabulary
    batches: dict[str, Batch]
    targets: dict[str, torch.Tensor]

    @classmethod
    def build(
        cls,
        samples: pl.DataFrame,
        dense_features: Sequence[str] = (),
        target: str = "label",
        use_categories: bool = False,
        use_history: bool = False,
        use_history_labels: bool = False,
        history_labels_column: str = "history_labels",
    ) -> "SplitData":
        """Split `samples` by their column `split`; `target` names the column to be predicted, the others are as in
        `Vocabulary.from_samples`."""
        parts = {split: samples.filter(pl.col("split") == split) for split in SPLITS}
        vocabulary = Vocabulary.from_samples(
            parts["train"],
            tuple(dense_features),
            use_categories,
            use_history,
            use_history_labels,
            history_labels_column,
        )
        batches = {split: vocabulary.encode(part) for split, part in parts.items()}
        targets = {split: part[target].to_torch().float() for split, part in parts.items()}
        return cls(parts, vocabulary, batches, targets)

    def rows(self, split: str, z: Embeddings | None = None) -> tuple[Batch, torch.Tensor, torch.Tensor | None]:
        """Batch, targets and explanations (or None) of a split, as `fit` takes them."""
        return self.batches[split], self.targets[split], None if z is None else z[split]

    def fit(self, model: Recommender, z: Embeddings | None = None, **options) -> FitResult:
        """`fit` on the training split, stopping early by the validation split."""
        return fit(model, *self.rows("train", z), self.rows("validation", z), **options)


def start_mean_of_fits(
    data: SplitData,
    make_model: Callable[[], Recommender],
    metrics: Callable[[np.ndarray, np.ndarray], Mapping[str, float]],
    z: Embeddings | None = None,
    fits: int = 3,
    seed: int = 0,
    workers: int = 1,
    **options,
) -> Callable[[], MeanOfFits]:
    """Fit a recommender `fits` times, with several `workers` in the background.

    Args:
        metrics: (targets, predictions), both (N,), -> {name: value}.
        z: explanation embeddings by split; None: without explanations.
        workers: see `start_fits`.
        options: of `fit`.

    Returns:
        A function that waits for the fits: their mean test metrics, the first fit's predictions, and the models.
    """
    jobs = []
    for attempt in range(fits):
        torch.manual_seed(1000 * seed + attempt)
        given = (*data.rows("train", z), data.rows("validation", z))
        jobs.append((make_model(), given, {"seed": 1000 * seed + attempt, **options}))
    wait = start_fits(jobs, workers)

    def mean() -> MeanOfFits:
        models = [model for model, _ in wait()]
        batch, targets, test_z = data.rows("test", z)
        predictions = [model.predict(batch, test_z).numpy() for model in models]
        rows = [metrics(targets.numpy(), predicted) for predicted in predictions]
        return {metric: float(np.mean([row[metric] for row in rows])) for metric in rows[0]}, predictions[0], models

    return mean


def mean_of_fits(*arguments, **options) -> MeanOfFits:
    """`start_mean_of_fits`, and wait for it."""
    return start_mean_of_fits(*arguments, **options)()
