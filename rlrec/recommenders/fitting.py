"""One fit loop for every recommender, and cross-fitting for rewards that must not come from a model's own rows.

The data lie in memory as tensors; an epoch is one permutation and a pass over slices of it, with no loader and no
work per row.
"""

import contextlib
import functools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import nn

from rlrec.files import read_json
from rlrec.recommenders.base import Batch, Recommender, write_json

MINIMUM_VALIDATION_ROWS = 10
METRICS = {"binary": ("log_loss", "auc"), "rating": ("rmse",)}  # the first is the default of early stopping


@dataclass
class FitResult:
    """What a fit did.

    Attributes:
        history: per epoch: epoch, train_loss, and with validation validation_log_loss and validation_auc, or
            validation_rmse for ratings.
        best_epoch: the epoch (from 1) whose weights the model now has; the last one without validation.
        samples_per_second: training rows per second of wall time, validation left out.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    samples_per_second: float = 0.0


Fitted = tuple[Recommender, FitResult]


def fit(
    model: Recommender,
    batch: Batch,
    labels: torch.Tensor,
    explanations: torch.Tensor | None = None,
    validation: tuple[Batch, torch.Tensor, torch.Tensor | None] | None = None,
    *,
    epochs: int = 50,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-5,
    patience: int = 5,
    metric: str | None = None,
    seed: int = 0,
    cpu_threads: int | None = 1,
    on_epoch: Callable[[int, Recommender], None] | None = None,
) -> FitResult:
    """Train `model` in place, on its own device, with Adam and the loss of its objective.

    With `validation` (batch, labels, explanations or None), training stops when `metric` has not improved for
    `patience` epochs, and the weights of the best epoch are restored. A second call goes on from the weights that
    the first one left.

    Args:
        batch, labels, explanations: N training rows; labels (N,) are 0 or 1, or ratings scaled to [0, 1] where
            `model.objective` is "rating"; explanations (N, S, d) or None.
        weight_decay: L2 penalty on all weights, as part of Adam's gradient.
        metric: "log_loss" (lower is better) or "auc" for labels, "rmse" for ratings; None = the first of them.
        seed: of shuffling and dropout; the global random state is left as it was.
        cpu_threads: torch's threads while fitting. Batches are so small that a second thread costs more than it
            gives, and ten times more on a busy machine. None keeps torch's setting.
        on_epoch: called with (epoch, model) after each epoch, for records such as `rlrec.recpie.cosines` keeps.

    Raises:
        ValueError: labels of one class only or not 0/1, ratings that are all equal or outside of [0, 1], shapes
            that do not fit, fewer than 10 validation rows.
    """
    check_rows(model, batch, labels, explanations, validation)
    metrics = METRICS[model.objective]
    metric = metric or metrics[0]
    if metric not in metrics:
        raise ValueError(f"metric is {metric!r}, expected one of {metrics} for the objective {model.objective!r}")
    device = next(model.parameters()).device
    data = {key: values.to(device) for key, values in batch.items() if values.numel()}
    empty = {key: values.to(device) for key, values in batch.items() if not values.numel()}
    data["label"] = labels.to(device, torch.float32)
    if explanations is not None:
        data["explanations"] = explanations.to(device)
        for module in model.modules():
            if hasattr(module, "standardise"):
                module.standardise(data["explanations"])
    fused = device.type in ("cpu", "cuda")
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=fused)
    result, stopping, train_seconds = FitResult(), EarlyStopping(patience), 0.0
    forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with forked, torch_threads(cpu_threads):
        torch.manual_seed(seed)
        for epoch in range(1, epochs + 1):
            start = time.perf_counter()
            loss = train_epoch(model, optimizer, data, empty, batch_size)
            train_seconds += time.perf_counter() - start
            record = {"epoch": epoch, "train_loss": loss}
            result.history.append(record)
            result.best_epoch = epoch
            if on_epoch is not None:
                on_epoch(epoch, model)
            if validation is None:
                continue
            predictions = model.predict(validation[0], validation[2])
            if model.objective == "binary":
                record["validation_log_loss"] = log_loss(predictions, validation[1])
                record["validation_auc"] = float(roc_auc_score(validation[1].cpu(), predictions.cpu()))
            else:
                record["validation_rmse"] = float(F.mse_loss(predictions.double(), validation[1].double()).sqrt())
            score = record[f"validation_{metric}"] * (1 if metric == "auc" else -1)
            if stopping.after(epoch, score, model):
                break
    stopping.restore(model, result)
    model.eval()
    result.samples_per_second = len(labels) * len(result.history) / train_seconds
    return result


def start_fits(jobs: Sequence[tuple[Recommender, tuple, dict]], workers: int = 1) -> Callable[[], list[Fitted]]:
    """`fit` several models; with `workers`, in processes of their own, beside what the caller does next.

    Batches are so small that a second thread slows a fit down; a second process halves the time of many. The weights
    are bit for bit those of one process.

    Args:
        jobs: (model, arguments, options) of `fit`. With more than one worker models and data must be on the CPU, and
            `on_epoch` cannot be given.
        workers: processes; 1 fits in this one, now.

    Returns:
        A function that waits for the fits, and gives the trained models (with several workers, copies of those given)
        and their results, in order.

    Raises:
        ValueError: what `fit` raises for rows that cannot be used.
    """
    if workers == 1:
        done = [_fit_job(job) for job in jobs]
        return lambda: done
    for model, arguments, _ in jobs:
        check_rows(model, *arguments)
    waiting = [in_background(_fit_job, job, workers=workers) for job in jobs]
    return lambda: [wait() for wait in waiting]


def in_background(function: Callable, *arguments, workers: int = 1, **options) -> Callable:
    """Start `function`, which must be importable, in one of `workers` processes; what is returned waits for it."""
    return _worker_pool(workers).submit(function, *arguments, **options).result


def _fit_job(job: tuple[Recommender, tuple, dict]) -> Fitted:
    model, arguments, options = job
    return model, fit(model, *arguments, **options)


@functools.cache
def _worker_pool(workers: int) -> ProcessPoolExecutor:
    """Kept until the program ends. Spawned, not forked: autograd's threads do not survive a fork."""
    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_step_back)


def _step_back() -> None:
    """The caller goes on beside the fits, and must not wait for a core that they use."""
    if hasattr(os, "nice"):  # not on Windows
        os.nice(10)


class EarlyStopping:
    """Keeps the weights of the best epoch, and says when `patience` epochs have not been better."""

    def __init__(self, patience: int):
        self.patience, self.best_score, self.best_epoch, self.weights = patience, float("-inf"), 0, None

    def after(self, epoch: int, score: float, model: nn.Module) -> bool:
        """Whether to stop after this epoch; a higher score is better."""
        if score > self.best_score:
            self.best_score, self.best_epoch = score, epoch
            self.weights = {name: values.clone() for name, values in model.state_dict().items()}
            return False
        return epoch - self.best_epoch >= self.patience

    def restore(self, model: nn.Module, result: FitResult) -> None:
        """Give the model the best epoch's weights, if any epoch was scored."""
        if self.weights is not None:
            model.load_state_dict(self.weights)
            result.best_epoch = self.best_epoch


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Run the block with `count` intra-op threads, or with torch's setting when None."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if count is None else count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train_epoch(model, optimizer, data: Batch, empty: Batch, batch_size: int) -> float:
    """One pass over shuffled rows; returns the mean training loss."""
    model.train()
    rows = len(data["label"])
    order = torch.randperm(rows, device=data["label"].device)
    parts = {key: values[order].split(batch_size) for key, values in data.items()}
    losses = []
    for index in range(len(parts["label"])):
        part = {key: values[index] for key, values in parts.items()}
        label, z = part.pop("label"), part.pop("explanations", None)
        part |= {key: values[: len(label)] for key, values in empty.items()}
        loss = model.loss(part, z, label)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    sizes = torch.tensor([len(label) for label in parts["label"]], dtype=torch.float32)
    return float(torch.stack(losses).cpu() @ sizes) / rows


def check_rows(model, batch, labels, explanations=None, validation=None) -> None:
    """Raise the ValueErrors of `fit` for rows that cannot be used."""
    check_targets = check_labels if model.objective == "binary" else check_ratings
    check_targets(labels, len(batch["user"]), "training")
    model.check(batch, explanations)
    if validation is None:
        return
    rows = len(validation[1])
    if rows < MINIMUM_VALIDATION_ROWS:
        raise ValueError(
            f"validation has {rows} rows, fewer than {MINIMUM_VALIDATION_ROWS}: too few for early stopping; "
            "give more rows or validation=None"
        )
    check_targets(validation[1], len(validation[0]["user"]), "validation")


def check_labels(labels: torch.Tensor, rows: int, name: str) -> None:
    if len(labels) != rows:
        raise ValueError(f"{name} labels have {len(labels)} rows, the batch has {rows}")
    values = set(labels.unique().tolist())
    if not values <= {0, 1}:
        raise ValueError(f"{name} labels must be 0 or 1, found {sorted(values - {0, 1})[:5]}")
    if len(values) < 2:
        raise ValueError(
            f"all {rows} {name} labels are {sorted(values)}: with one class only, AUC is undefined and there is "
            "nothing to learn; check the label threshold and the split"
        )


def check_ratings(ratings: torch.Tensor, rows: int, name: str) -> None:
    if len(ratings) != rows:
        raise ValueError(f"{name} ratings have {len(ratings)} rows, the batch has {rows}")
    wrong = ~((ratings >= 0) & (ratings <= 1))  # NaN too
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"{name} ratings must lie in [0, 1], but row {row} is {float(ratings[row]):g}; scale them, "
            "(rating - lowest) / (highest - lowest)"
        )
    if name == "training" and len(ratings.unique()) < 2:
        raise ValueError(f"all {rows} training ratings are equal: there is nothing to learn; check the rating column")


def log_loss(probabilities: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean binary cross-entropy of probabilities (N,)."""
    return float(F.binary_cross_entropy(probabilities.double().clamp(1e-7, 1 - 1e-7), labels.double()))


def assign_folds(groups: Sequence[str], folds: int, seed: int = 0) -> dict[str, int]:
    """A fold for every distinct group (user id), balanced by rows: the largest groups first, to the smallest fold."""
    counts: dict[str, int] = {}
    for group in groups:
        counts[group] = counts.get(group, 0) + 1
    if len(counts) < folds:
        raise ValueError(f"{folds} folds need at least as many groups, but there are only {len(counts)}")
    names = sorted(counts)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed)).tolist()
    sizes, assigned = [0] * folds, {}
    for name in sorted((names[i] for i in order), key=lambda name: -counts[name]):
        fold = sizes.index(min(sizes))
        assigned[name] = fold
        sizes[fold] += counts[name]
    return assigned


@dataclass
class CrossFit:
    """Models of which each was trained without one fold of the groups (user ids).

    Attributes:
        models: one per fold; `models[f]` never saw a row of fold f.
        fold_of_group: group -> fold. A group that is not here was in no training fold.
        predictions: (N,) out-of-fold probabilities or ratings of the training rows.
        results: the fits.
    """

    models: list[Recommender]
    fold_of_group: dict[str, int]
    predictions: torch.Tensor
    results: list[FitResult] = field(default_factory=list)

    def folds(self, groups: Sequence[str]) -> torch.Tensor:
        """(B,) fold of each row's group, -1 for a group outside of the training rows."""
        return torch.tensor([self.fold_of_group.get(group, -1) for group in groups], dtype=torch.long)

    def predict(self, batch: Batch, groups: Sequence[str], explanations: torch.Tensor | None = None) -> torch.Tensor:
        """(B,) probabilities or ratings, each from a model that was not trained on the row's group.

        A row of a group outside of the training rows gets the mean of all models' predictions.
        """
        folds = self.folds(groups)
        if len(folds) != len(batch["user"]):
            raise ValueError(f"{len(folds)} groups were given for {len(batch['user'])} rows")
        sums = torch.zeros(len(folds), device=batch["user"].device)
        for fold, model in enumerate(self.models):
            rows = ((folds == fold) | (folds == -1)).nonzero().squeeze(1).to(sums.device)
            if len(rows):
                part = {key: values[rows] for key, values in batch.items()}
                z = None if explanations is None else explanations[rows.to(explanations.device)]
                sums[rows] += model.predict(part, z)
        return torch.where(folds.to(sums.device) == -1, sums / len(self.models), sums)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write every fold's model and folds.json, which comes last: a folder that has it is complete."""
        directory = Path(directory)
        for fold, model in enumerate(self.models):
            model.save_pretrained(directory / f"fold_{fold}")
        content = {"fold_of_group": self.fold_of_group, "predictions": self.predictions.tolist()}
        write_json(directory / "folds.json", {"folds": len(self.models), **content})

    @classmethod
    def from_pretrained(cls, directory: str | Path, model_class: type[Recommender]) -> "CrossFit":
        """Read what `save_pretrained` wrote, the fits' histories excepted."""
        content = read_json(Path(directory) / "folds.json")
        models = [model_class.from_pretrained(Path(directory) / f"fold_{f}") for f in range(content["folds"])]
        return cls(models, content["fold_of_group"], torch.tensor(content["predictions"]))


def cross_fit(
    make_model: Callable[[], Recommender],
    batch: Batch,
    labels: torch.Tensor,
    explanations: torch.Tensor | None = None,
    *,
    groups: Sequence[str],
    folds: int = 5,
    validation: tuple[Batch, torch.Tensor, torch.Tensor | None] | None = None,
    seed: int = 0,
    workers: int = 1,
    **fit_arguments,
) -> CrossFit:
    """Fit one model per fold on the other folds' rows (ExpCTR's IC reward out of fold).

    Args:
        make_model: builds an untrained recommender; called once per fold under a seed of its own.
        groups: (N,) names, such as user ids; all rows of one group are in one fold.
        validation: rows for early stopping of every fold's fit, of groups outside of the training rows.
        workers: see `start_fits`.
        fit_arguments: passed on to `fit`.

    Raises:
        ValueError: fewer groups than folds, fewer than two folds, or what `fit` raises.
    """
    if folds < 2:
        raise ValueError(f"folds is {folds}, out-of-fold predictions need at least 2")
    if len(groups) != len(labels):
        raise ValueError(f"{len(groups)} groups were given for {len(labels)} rows")
    fold_of_group = assign_folds(groups, folds, seed)
    fold_of_row = torch.tensor([fold_of_group[group] for group in groups], device=labels.device)
    jobs = []
    for fold in range(folds):
        rows = (fold_of_row != fold).nonzero().squeeze(1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * folds + fold)
            model = make_model()
        part = {key: values[rows] for key, values in batch.items()}
        z = None if explanations is None else explanations[rows]
        options = {"seed": seed * folds + fold, **fit_arguments}
        jobs.append((model, (part, labels[rows], z, validation), options))
    models, results = map(list, zip(*start_fits(jobs, workers)()))
    crossed = CrossFit(models, fold_of_group, torch.zeros(0), results)
    crossed.predictions = crossed.predict(batch, groups, explanations)
    return crossed
