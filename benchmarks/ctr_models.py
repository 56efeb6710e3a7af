"""Models of feature interactions here and in torch-rechub: training samples per second and AUC, in one run.

    RLREC_DATA_DIR=/path/to/data OMP_NUM_THREADS=1 python benchmarks/ctr_models.py
    RLREC_DATA_DIR=/path/to/data OMP_NUM_THREADS=1 python benchmarks/ctr_models.py --seeds 3 --epochs 2  # speed alone

Data: MovieLens-100K under $RLREC_DATA_DIR/ml-100k; label = rating >= 4; ratings split 8:1:1 at random (not by user:
both sides then have every id trained). The two sides share fields (user, item, and with `--categories` the mean of the
genres), embedding size 16, MLP 64-32, the sizes in MODELS, `--dropout`, Adam (learning rate 1e-3, L2 1e-5), batch
size, early stopping on validation AUC with patience 3 and best weights. What differs is each project's own:
torch-rechub has batch normalisation, a DataLoader, first-order terms that are linear maps of the embeddings (in
AutoInt too), ReLU in the CIN, and a plain cosine in DSSM. FM and xDeepFM, which it does not have, are put together
from its layers.

The sides alternate, model by model and seed by seed. Throughput is that of the training passes alone: validation and
the making of tensors are left out on both sides.
"""

import argparse
import contextlib
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch_rechub.basic import layers
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models import matching, ranking
from torch_rechub.trainers import CTRTrainer
from torch_rechub.utils.data import DataGenerator

from rlrec.data.movielens import read_movielens
from rlrec.recommenders import DCN, DSSM, FM, PNN, AutoInt, DCNv2, DeepFM, FiGNN, Vocabulary, XDeepFM, fit

EMBEDDING_DIM, HIDDEN_DIMS, CIN_DIMS, PATIENCE = 16, (64, 32), (32, 32), 3
MODELS = {
    "fm": (FM, {}),
    "dssm": (DSSM, {"hidden_dims": HIDDEN_DIMS}),
    "deepfm": (DeepFM, {"hidden_dims": HIDDEN_DIMS}),
    "autoint": (AutoInt, {"hidden_dims": HIDDEN_DIMS, "num_layers": 3, "num_heads": 2}),
    "pnn": (PNN, {"hidden_dims": HIDDEN_DIMS}),
    "xdeepfm": (XDeepFM, {"hidden_dims": HIDDEN_DIMS, "cin_dims": CIN_DIMS}),
    "fignn": (FiGNN, {}),
    "dcn": (DCN, {"hidden_dims": HIDDEN_DIMS, "num_crosses": 3}),
    "dcnv2": (DCNv2, {"hidden_dims": HIDDEN_DIMS, "num_crosses": 3}),
}
SPLITS = ("train", "validation", "test")


class OfLayers(nn.Module):
    """FM or, with an MLP, xDeepFM of torch-rechub's layers."""

    def __init__(self, features: list, mlp: dict | None = None):
        super().__init__()
        self.features = features
        width = EMBEDDING_DIM * len(features)
        self.embedding = layers.EmbeddingLayer(features)
        self.linear = layers.LR(width)
        self.interactions = layers.FM() if mlp is None else layers.CIN(len(features), CIN_DIMS, split_half=False)
        self.mlp = None if mlp is None else layers.MLP(width, **mlp)

    def forward(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        vectors = self.embedding(x, self.features)
        logits = self.linear(vectors.flatten(1)) + self.interactions(vectors)
        if self.mlp is not None:
            logits = logits + self.mlp(vectors.flatten(1))
        return torch.sigmoid(logits.squeeze(1))


def rechub_dssm(features: list, mlp: dict) -> nn.Module:
    towers = {**mlp, "activation": nn.Tanh}
    return matching.DSSM(features[:1], features[1:], towers, towers)


# From features, the user's first, and the MLP's settings.
RECHUB: dict[str, Callable[[list, dict], nn.Module]] = {
    "fm": lambda features, mlp: OfLayers(features),
    "dssm": rechub_dssm,
    "deepfm": lambda features, mlp: ranking.DeepFM(features, features, mlp),
    "autoint": lambda features, mlp: ranking.AutoInt(features, [], num_layers=3, num_heads=2, mlp_params=mlp),
    "xdeepfm": OfLayers,
    "dcn": lambda features, mlp: ranking.DCN(features, 3, mlp),
    "dcnv2": lambda features, mlp: ranking.DCNv2(features, 3, mlp, use_low_rank_mixture=False),
}


def read_samples(seed: int, categories: bool) -> dict[str, pl.DataFrame]:
    """ML-100K's ratings, shuffled by the seed and cut 8:1:1."""
    raw = read_movielens(Path(os.environ["RLREC_DATA_DIR"]) / "ml-100k")
    samples = raw.interactions.with_columns((pl.col("rating") >= 4).cast(pl.Int64).alias("label"))
    if categories:
        samples = samples.join(raw.items.select("item_id", "categories"), on="item_id", how="left")
    samples = samples.sample(fraction=1.0, shuffle=True, seed=seed)
    train, validation = int(0.8 * len(samples)), int(0.1 * len(samples))
    return dict(zip(SPLITS, (samples[:train], samples[train : train + validation], samples[train + validation :])))


def encode(samples: dict[str, pl.DataFrame]):
    vocabulary = Vocabulary.from_samples(samples["train"])
    batches = {name: vocabulary.encode(rows) for name, rows in samples.items()}
    labels = {name: rows["label"].to_torch() for name, rows in samples.items()}
    return vocabulary, batches, labels


def run_ours(name: str, data, seed: int, arguments: argparse.Namespace) -> tuple[float, float]:
    """Test AUC and training samples per second."""
    vocabulary, batches, labels = data
    model_class, sizes = MODELS[name]
    if "hidden_dims" in sizes:
        sizes = {**sizes, "dropout": arguments.dropout}
    torch.manual_seed(seed)
    model = model_class(**vocabulary.sizes(), embedding_dim=EMBEDDING_DIM, **sizes)
    result = fit(
        model,
        batches["train"],
        labels["train"],
        validation=(batches["validation"], labels["validation"], None),
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
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


def run_rechub(name: str, data, seed: int, arguments: argparse.Namespace) -> tuple[float, float]:
    """Test AUC and training samples per second."""
    vocabulary, batches, labels = data
    torch.manual_seed(seed)
    sizes = vocabulary.sizes()
    features = [SparseFeature(field, sizes[f"num_{field}s"], EMBEDDING_DIM) for field in ("user", "item")]
    if vocabulary.categories:
        genres = SequenceFeature("categories", sizes["num_categories"], EMBEDDING_DIM, pooling="mean", padding_idx=0)
        features.append(genres)
    inputs = {split: {f.name: batch[f.name] for f in features} for split, batch in batches.items()}
    loaders = DataGenerator(inputs["train"], labels["train"]).generate_dataloader(
        x_val=inputs["validation"],
        y_val=labels["validation"],
        x_test=inputs["test"],
        y_test=labels["test"],
        batch_size=arguments.batch_size,
    )
    mlp = {"dims": list(HIDDEN_DIMS), "dropout": arguments.dropout, "activation": "relu"}
    model = RECHUB[name](features, mlp)
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
        )
        trainer.fit(loaders[0], loaders[1])
        auc = trainer.evaluate(model, loaders[2])
    return float(auc), len(labels["train"]) * trainer.passes / trainer.seconds


def auc_and_speed(runs: list[tuple[float, float]]) -> tuple[str, str]:
    """Mean and deviation of the AUCs and the median of the speeds, as the table's cells."""
    if not runs:
        return "", ""
    aucs, speeds = zip(*runs)
    spread = statistics.stdev(aucs) if len(aucs) > 1 else 0.0
    return f"{statistics.mean(aucs):.4f} ± {spread:.4f}", f"{statistics.median(speeds):,.0f}"


def table_row(name: str, ours: list[tuple[float, float]], rechub: list[tuple[float, float]]) -> str:
    ratios = [mine / other for (_, mine), (_, other) in zip(ours, rechub)]
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})" if ratios else ""
    (our_auc, our_speed), (rechub_auc, rechub_speed) = auc_and_speed(ours), auc_and_speed(rechub)
    return f"| {name} | {our_speed} | {rechub_speed} | {ratio} | {our_auc} | {rechub_auc} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=50, help="at most; early stopping ends most fits")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--categories", action="store_true", help="the item's genres are a third field")
    arguments = parser.parse_args()
    ours, rechub = ({name: [] for name in arguments.models} for _ in range(2))
    for seed in range(arguments.seeds):
        data = encode(read_samples(seed, arguments.categories))
        for name in arguments.models:
            if name in RECHUB:
                rechub[name].append(run_rechub(name, data, seed, arguments))
            ours[name].append(run_ours(name, data, seed, arguments))
            print(f"seed {seed}, {name}: torch-rechub {rechub[name][-1:]}, rlrec {ours[name][-1:]}", flush=True)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {vars(arguments)}")
    print("| | rlrec, samples/s | torch-rechub, samples/s | ratio | rlrec, test AUC | torch-rechub, test AUC |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in arguments.models:
        print(table_row(name, ours[name], rechub[name]))


if __name__ == "__main__":
    main()
