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
import os
from collections.abc import Callable
from pathlib import Path

import polars as pl
import torch
from rechub import Measured, compare, fit_ours, fit_theirs, parser
from torch import nn
from torch_rechub.basic import layers
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models import matching, ranking

from rlrec.data.movielens import read_movielens
from rlrec.recommenders import DCN, DSSM, FM, PNN, AutoInt, DCNv2, DeepFM, FiGNN, SplitData, XDeepFM

EMBEDDING_DIM, HIDDEN_DIMS, CIN_DIMS = 16, (64, 32), (32, 32)
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


def build(seed: int, categories: bool) -> SplitData:
    """ML-100K's ratings, shuffled by the seed and cut 8:1:1."""
    raw = read_movielens(Path(os.environ["RLREC_DATA_DIR"]) / "ml-100k")
    samples = raw.interactions.with_columns((pl.col("rating") >= 4).cast(pl.Int64).alias("label"))
    if categories:
        samples = samples.join(raw.items.select("item_id", "categories"), on="item_id", how="left")
    samples = samples.sample(fraction=1.0, shuffle=True, seed=seed)
    train, validation = int(0.8 * len(samples)), int(0.1 * len(samples))
    counts = {"train": train, "validation": validation, "test": len(samples) - train - validation}
    split = pl.Series("split", [name for name, count in counts.items() for _ in range(count)])
    return SplitData.build(samples.with_columns(split), use_categories=categories)


def run_ours(name: str, data: SplitData, seed: int, arguments: argparse.Namespace) -> Measured:
    model_class, sizes = MODELS[name]
    if "hidden_dims" in sizes:
        sizes = {**sizes, "dropout": arguments.dropout}
    torch.manual_seed(seed)
    model = model_class(**data.vocabulary.sizes(), embedding_dim=EMBEDDING_DIM, **sizes)
    return fit_ours(model, data, seed, arguments)


def run_rechub(name: str, data: SplitData, seed: int, arguments: argparse.Namespace) -> Measured:
    torch.manual_seed(seed)
    sizes = data.vocabulary.sizes()
    features = [SparseFeature(field, sizes[f"num_{field}s"], EMBEDDING_DIM) for field in ("user", "item")]
    if arguments.categories:
        genres = SequenceFeature("categories", sizes["num_categories"], EMBEDDING_DIM, pooling="mean", padding_idx=0)
        features.append(genres)
    inputs = {split: {f.name: batch[f.name] for f in features} for split, batch in data.batches.items()}
    mlp = {"dims": list(HIDDEN_DIMS), "dropout": arguments.dropout, "activation": "relu"}
    return fit_theirs(lambda: RECHUB[name](features, mlp), inputs, data.targets, arguments)


def main() -> None:
    options = parser(__doc__.splitlines()[0], MODELS, seeds=5, epochs=50)
    options.add_argument("--dropout", type=float, default=0.0)
    options.add_argument("--categories", action="store_true", help="the item's genres are a third field")
    arguments = options.parse_args()
    compare(arguments, lambda seed: build(seed, arguments.categories), run_ours, run_rechub, RECHUB)


if __name__ == "__main__":
    main()
