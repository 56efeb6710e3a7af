"""Models that read the history here and in torch-rechub: training samples per second and AUC, in one run.

    RLREC_DATA_DIR=/path/to/data OMP_NUM_THREADS=1 python benchmarks/sequence_models.py
    RLREC_DATA_DIR=/path/to/data OMP_NUM_THREADS=1 python benchmarks/sequence_models.py --seeds 3 --epochs 2  # speed

Data: MovieLens-100K under $RLREC_DATA_DIR/ml-100k; label = rating >= 4; every rating is a sample, its history the ten
before it, and the last fifth of each user's is tested (`recpie_samples`). The two sides share embedding size 16, MLP
64-32 over user, item and representation, DIN's and DIEN's sizes, two layers in SASRec, one head, one layer in GRU4Rec
(its paper's best) or two (torch-rechub's default), Adam (learning rate 1e-3, L2 1e-5), batch size 256, early stopping
on validation AUC with patience 3 and best weights. DIEN has its auxiliary loss on both sides; torch-rechub's negatives
are drawn once, before training.

What differs is each project's own: torch-rechub has batch normalisation, a DataLoader, Dice in DIN's and DIEN's MLP,
and does not know whether the user liked an item of the history, so its AUCs are not those of the same inputs. Its
GRU4Rec and SASRec are next-item models: their encoders stand before its MLP here. Caser, BERT4Rec and UniSRec it has
not; UniSRec's texts are random vectors of 384 dimensions, which is enough for its speed.
"""

import argparse
import os
from pathlib import Path

import torch
from rechub import Measured, compare, fit_ours, fit_theirs, parser
from torch import nn
from torch_rechub.basic import layers
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models import ranking
from torch_rechub.models.matching.gru4rec import GRU4Rec
from torch_rechub.models.matching.sasrec import SASRec
from torch_rechub.models.ranking.dien import DIEN as RechubDIEN

from rlrec.data.movielens import read_movielens
from rlrec.data.splits import recpie_samples
from rlrec.recommenders import (
    DIEN,
    DIN,
    PointwiseBERT4Rec,
    PointwiseCaser,
    PointwiseGRU4Rec,
    PointwiseSASRec,
    SplitData,
    UniSRec,
)

DIM, HIDDEN_DIMS, LENGTH = 16, [64, 32], 10
MODELS = {
    "din": (DIN, {"attention_dim": 36}),
    "dien": (DIEN, {"auxiliary_weight": 0.2}),
    "caser": (PointwiseCaser, {}),
    "gru4rec": (PointwiseGRU4Rec, {}),
    "gru4rec_2_layers": (PointwiseGRU4Rec, {"gru_layers": 2}),
    "sasrec": (PointwiseSASRec, {"layers": 2, "heads": 1}),
    "bert4rec": (PointwiseBERT4Rec, {"layers": 2, "heads": 2}),
    "unisrec": (UniSRec, {"text_dim": 384}),
}
RECHUB = ("din", "dien", "gru4rec", "gru4rec_2_layers", "sasrec")


class OfEncoder(nn.Module):
    """torch-rechub's GRU4Rec or SASRec, whose last state its MLP reads beside user and item."""

    def __init__(self, name: str, user: SparseFeature, item: SparseFeature, history: SequenceFeature):
        super().__init__()
        self.history = history
        self.embedding = layers.EmbeddingLayer([user, item, history])
        self.fields = [user, item]
        self.is_gru = name.startswith("gru4rec")
        if self.is_gru:
            self.encoder = GRU4Rec([user], [history], [item], [item], {"dims": [1]}).gru
            if not name.endswith("2_layers"):  # theirs has two: its option num_layers fails in its MLP (0.9.0)
                self.encoder = nn.GRU(DIM, DIM, num_layers=1, batch_first=True, bias=False)
        else:
            own = [SequenceFeature("seq", 2, DIM, pooling="concat")] * 3  # its item table is not used
            self.encoder = SASRec(own, max_len=LENGTH, dropout_rate=0.0, num_blocks=2, num_heads=1)
        self.mlp = layers.MLP(3 * DIM, dims=HIDDEN_DIMS)

    def forward(self, x: dict[str, torch.Tensor]) -> torch.Tensor:
        vectors, history = self.embedding(x, [self.history])[:, 0], x["history"]
        newest = ((history != 0).sum(1) - 1).clamp(min=0)
        states = self.encoder(vectors)[0] if self.is_gru else self.of_sasrec(history, vectors)
        state = states[torch.arange(len(history)), newest]
        fields = self.embedding(x, self.fields, squeeze_dim=True)
        return torch.sigmoid(self.mlp(torch.cat((fields, state), dim=1)).squeeze(1))

    def of_sasrec(self, history: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        return self.encoder.seq_forward({"seq": history}, vectors.clone())  # it writes into what it is given


def rechub_model(name: str, sizes: dict[str, int]) -> nn.Module:
    user = SparseFeature("user", sizes["num_users"], DIM)
    item = SparseFeature("item", sizes["num_items"], DIM, padding_idx=0)
    history, negative = (
        SequenceFeature(field, sizes["num_items"], DIM, pooling="concat", shared_with="item", padding_idx=0)
        for field in ("history", "negative")
    )
    mlp = {"dims": HIDDEN_DIMS}
    if name == "din":
        return ranking.DIN([user], [history], [item], mlp, {"dims": [36], "activation": "prelu"})
    if name == "dien":
        return RechubDIEN([user], [history], [negative], [item], mlp, alpha=0.2)
    return OfEncoder(name, user, item, history)


def run_rechub(name: str, data: SplitData, seed: int, arguments: argparse.Namespace) -> Measured:
    torch.manual_seed(seed)
    sizes = data.vocabulary.sizes()
    inputs = {}
    for split, batch in data.batches.items():
        inputs[split] = {key: batch[key] for key in ("user", "item", "history")}
        if name == "dien":
            history = batch["history"]
            inputs[split]["negative"] = torch.randint(1, sizes["num_items"], history.shape) * (history != 0)
    options = {"loss_mode": name != "dien"}
    return fit_theirs(lambda: rechub_model(name, sizes), inputs, data.targets, arguments, **options)


def run_ours(name: str, data: SplitData, seed: int, arguments: argparse.Namespace) -> Measured:
    torch.manual_seed(seed)
    model_class, options = MODELS[name]
    model = model_class(**data.vocabulary.sizes(), embedding_dim=DIM, hidden_dims=HIDDEN_DIMS, **options)
    if name == "unisrec":
        model.set_text_vectors(torch.randn_like(model.text_vectors))
    return fit_ours(model, data, seed, arguments)


def main() -> None:
    arguments = parser(__doc__.splitlines()[0], MODELS, seeds=3, epochs=30).parse_args()
    raw = read_movielens(Path(os.environ["RLREC_DATA_DIR"]) / "ml-100k")
    options = {"rating_scale": (1, 5), "threshold": 4, "label_rule": "ge", "history_length": LENGTH}
    interactions = raw.interactions.select("user_id", "item_id", "rating", "timestamp")
    samples = recpie_samples(interactions, raw.items, **options)
    data = SplitData.build(samples, use_history=True, use_history_labels=True)
    compare(arguments, lambda seed: data, run_ours, run_rechub, RECHUB)


if __name__ == "__main__":
    main()
