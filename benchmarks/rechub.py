"""torch-rechub's side of ctr_models.py and sequence_models.py, and the table in which both sides stand."""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from measured import ratios, spread, tell
from sklearn.metrics import roc_auc_score
from torch_rechub.trainers import CTRTrainer
from torch_rechub.utils.data import DataGenerator

from rlrec.recommenders import Recommender, SplitData

PATIENCE = 3
Measured = tuple[float, float]  # test AUC and training samples per second
Run = Callable[[str, SplitData, int, argparse.Namespace], Measured]


class TimedTrainer(CTRTrainer):
    """torch-rechub's trainer, with the seconds of its training passes."""

    seconds, passes = 0.0, 0

    def train_one_epoch(self, *arguments, **keywords):
        start = time.perf_counter()
        loss = super().train_one_epoch(*arguments, **keywords)
        self.seconds += time.perf_counter() - start
        self.passes += 1
        return loss


def fit_theirs(
    make_model: Callable[[], torch.nn.Module],
    inputs: Mapping[str, dict],
    targets: Mapping[str, torch.Tensor],
    arguments: argparse.Namespace,
    **options,
) -> Measured:
    """Fit a torch-rechub model on `inputs` by split; `options` are more of its trainer's."""
    loaders = DataGenerator(inputs["train"], targets["train"]).generate_dataloader(
        x_val=inputs["validation"],
        y_val=targets["validation"],
        x_test=inputs["test"],
        y_test=targets["test"],
        batch_size=arguments.batch_size,
    )
    model = make_model()
    silent = io.StringIO()  # torch-rechub prints each epoch and draws progress bars
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(silent),
        contextlib.redirect_stderr(silent),
    ):
        trainer = TimedTrainer(
            model,
            optimizer_params={"lr": 1e-3, "weight_decay": 1e-5},
            n_epoch=arguments.epochs,
            earlystop_patience=PATIENCE,
            model_path=folder,
            **options,
        )
        trainer.fit(loaders[0], loaders[1])
        auc = trainer.evaluate(model, loaders[2])
    return float(auc), len(targets["train"]) * trainer.passes / trainer.seconds


def fit_ours(model: Recommender, data: SplitData, seed: int, arguments: argparse.Namespace) -> Measured:
    result = data.fit(
        model,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        learning_rate=1e-3,
        weight_decay=1e-5,
        patience=PATIENCE,
        metric="auc",
        seed=seed,
    )
    auc = roc_auc_score(data.targets["test"], model.predict(data.batches["test"]))
    return float(auc), result.samples_per_second


def parser(description: str, models: Sequence[str], seeds: int, epochs: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--models", nargs="+", choices=list(models), default=list(models))
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--epochs", type=int, default=epochs, help="at most; early stopping ends most fits")
    parser.add_argument("--batch_size", type=int, default=256)
    return parser


def compare(
    arguments: argparse.Namespace, build: Callable[[int], SplitData], ours: Run, theirs: Run, theirs_has: Sequence[str]
) -> None:
    """Fit every model on both sides, seed by seed and side by side, and print the table.

    Args:
        build: seed -> the data of both sides.
        ours, theirs: (name, data, seed, arguments) -> what was measured.
        theirs_has: the models that torch-rechub has.
    """
    runs: dict[str, tuple[list[Measured], list[Measured]]] = {name: ([], []) for name in arguments.models}
    for seed in range(arguments.seeds):
        data = build(seed)
        for name, (mine, other) in runs.items():
            if name in theirs_has:
                other.append(theirs(name, data, seed, arguments))
            mine.append(ours(name, data, seed, arguments))
            print(f"seed {seed}, {name}: torch-rechub {other[-1:]}, rlrec {mine[-1:]}", flush=True)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {vars(arguments)}")
    print("| | rlrec, samples/s | torch-rechub, samples/s | ratio | rlrec, test AUC | torch-rechub, test AUC |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, sides in runs.items():
        speeds = [[speed for _, speed in side] for side in sides]
        ratio = ratios(*speeds) if speeds[1] else ""
        shown = [f"{statistics.median(values):,.0f}" if values else "" for values in speeds]
        print(f"| {name} | {' | '.join(shown)} | {ratio} | {' | '.join(map(mean_auc, sides))} |")
        if ratio:
            here, beside = (spread(values, 0) for values in speeds)
            tell(f"fitting {name}, samples/s", here, f"{beside} (torch-rechub)", ratio)


def mean_auc(runs: list[Measured]) -> str:
    aucs = [auc for auc, _ in runs]
    deviation = statistics.stdev(aucs) if len(aucs) > 1 else 0.0
    return f"{statistics.mean(aucs):.4f} ± {deviation:.4f}" if aucs else ""
