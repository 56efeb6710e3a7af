"""DeepFM here and in torch-rechub: AUC and training samples per second on the same data, in one run.

    RLREC_DATA_DIR=/path/to/data OMP_NUM_THREADS=2 python benchmarks/deepfm_vs_torch_rechub.py

Data: MovieLens-100K's u.data under $RLREC_DATA_DIR/ml-100k; label = rating >= 4; ratings split 8:1:1 at random (not
by user: both sides then have every id trained). The two sides share fields (user, item), embedding size 16, MLP 64-32,
`--dropout`, Adam (learning rate 1e-3, L2 1e-5), batch size, early stopping on validation AUC with patience 3 and best
weights. What differs is each project's own: torch-rechub has batch normalisation, a first-order term that is a linear
map of the embeddings, and a DataLoader.

The sides alternate, seed by seed (ABAB). Throughput is that of the training passes alone: validation and the making
of tensors are left out on both sides. A last column shows ours with larger batches, which is not the same work.
"""

import argparse
import contextlib
import io
import os
import statistics
import tempfile
import time
from pathlib import Path

import polars as pl
import torch
from sklearn.metrics import roc_auc_score
from torch_rechub.basic.features import SparseFeature
from torch_rechub.models.ranking import DeepFM as RechubDeepFM
from torch_rechub.trainers import CTRTrainer
from torch_rechub.utils.data import DataGenerator

from rlrec.recommenders import DeepFM, Vocabulary, fit

EMBEDDING_DIM, HIDDEN_DIMS, PATIENCE, EPOCHS = 16, (64, 32), 3, 50
SPLITS = ("train", "validation", "test")


def read_samples(seed: int) -> dict[str, pl.DataFrame]:
    """ML-100K's ratings, shuffled by the seed and cut 8:1:1."""
    path = Path(os.environ["RLREC_DATA_DIR"]) / "ml-100k" / "u.data"
    columns = ["user_id", "item_id", "rating", "timestamp"]
    ratings = pl.read_csv(path, separator="\t", has_header=False, new_columns=columns)
    ratings = ratings.with_columns((pl.col("rating") >= 4).cast(pl.Int64).alias("label"))
    ratings = ratings.sample(fraction=1.0, shuffle=True, seed=seed)
    train, validation = int(0.8 * len(ratings)), int(0.1 * len(ratings))
    return dict(zip(SPLITS, (ratings[:train], ratings[train : train + validation], ratings[train + validation :])))


def encode(samples: dict[str, pl.DataFrame]):
    vocabulary = Vocabulary.from_samples(samples["train"], use_categories=False)
    batches = {name: vocabulary.encode(rows) for name, rows in samples.items()}
    labels = {name: rows["label"].to_torch() for name, rows in samples.items()}
    return vocabulary, batches, labels


def run_ours(vocabulary, batches, labels, seed: int, batch_size: int, dropout: float) -> tuple[float, float]:
    """Test AUC and training samples per second."""
    torch.manual_seed(seed)
    model = DeepFM(**vocabulary.sizes(), embedding_dim=EMBEDDING_DIM, hidden_dims=HIDDEN_DIMS, dropout=dropout)
    result = fit(
        model,
        batches["train"],
        labels["train"],
        validation=(batches["validation"], labels["validation"], None),
        epochs=EPOCHS,
        batch_size=batch_size,
        learning_rate=1e-3,
        weight_decay=1e-5,
        patience=PATIENCE,
        metric="auc",
        seed=seed,
    )
    return float(roc_auc_score(labels["test"], model.predict(batches["test"]))), result.samples_per_second


class TimedTrainer(CTRTrainer):
    """torch-rechub's trainer, with the seconds of its training passes."""

    seconds, passes = 0.0, 0

    def train_one_epoch(self, *arguments, **keywords):
        start = time.perf_counter()
        loss = super().train_one_epoch(*arguments, **keywords)
        self.seconds += time.perf_counter() - start
        self.passes += 1
        return loss


def run_rechub(vocabulary, batches, labels, seed: int, batch_size: int, dropout: float) -> tuple[float, float]:
    """Test AUC and training samples per second."""
    torch.manual_seed(seed)
    inputs = {name: {"user": batch["user"], "item": batch["item"]} for name, batch in batches.items()}
    loaders = DataGenerator(inputs["train"], labels["train"]).generate_dataloader(
        x_val=inputs["validation"],
        y_val=labels["validation"],
        x_test=inputs["test"],
        y_test=labels["test"],
        batch_size=batch_size,
    )
    sizes = vocabulary.sizes()
    features = [
        SparseFeature("user", sizes["num_users"], EMBEDDING_DIM),
        SparseFeature("item", sizes["num_items"], EMBEDDING_DIM),
    ]
    model = RechubDeepFM(features, features, {"dims": list(HIDDEN_DIMS), "dropout": dropout, "activation": "relu"})
    silent = io.StringIO()  # torch-rechub prints each epoch and draws progress bars
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(silent),
        contextlib.redirect_stderr(silent),
    ):
        trainer = TimedTrainer(
            model,
            optimizer_params={"lr": 1e-3, "weight_decay": 1e-5},
            n_epoch=EPOCHS,
            earlystop_patience=PATIENCE,
            model_path=folder,
        )
        trainer.fit(loaders[0], loaders[1])
        auc = trainer.evaluate(model, loaders[2])
    return float(auc), len(labels["train"]) * trainer.passes / trainer.seconds


def show(name: str, runs: list[tuple[float, float]]) -> None:
    aucs, speeds = zip(*runs)
    spread = statistics.stdev(aucs) if len(aucs) > 1 else 0.0
    speed = f"{statistics.median(speeds):>9,.0f} samples/s (median of {len(speeds)})"
    print(f"{name:28s} AUC {statistics.mean(aucs):.4f} +- {spread:.4f}   {speed}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--large_batch_size", type=int, default=2048)
    parser.add_argument("--dropout", type=float, default=0.2)
    arguments = parser.parse_args()
    rechub, ours, large = [], [], []
    for seed in range(arguments.seeds):
        data = encode(read_samples(seed))
        rechub.append(run_rechub(*data, seed, arguments.batch_size, arguments.dropout))
        ours.append(run_ours(*data, seed, arguments.batch_size, arguments.dropout))
        large.append(run_ours(*data, seed, arguments.large_batch_size, arguments.dropout))
        print(f"seed {seed}: torch-rechub {rechub[-1]}, rlrec {ours[-1]}", flush=True)
    settings = f"batch size {arguments.batch_size}, dropout {arguments.dropout}"
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {settings}")
    show("torch-rechub DeepFM", rechub)
    show("rlrec DeepFM", ours)
    show(f"rlrec, batch {arguments.large_batch_size}", large)
    difference = statistics.mean(a for a, _ in ours) - statistics.mean(a for a, _ in rechub)
    ratios = [ours_speed / rechub_speed for (_, ours_speed), (_, rechub_speed) in zip(ours, rechub)]
    ratio = f"{statistics.median(ratios):.2f} (median of the seeds; {min(ratios):.2f} to {max(ratios):.2f})"
    print(f"AUC difference {difference:+.4f}; samples/s ratio {ratio}")


if __name__ == "__main__":
    main()
