"""EER: SASRec whose Transformer weights an explanation changes, the measure of what an explanation is worth (SELLER).

Paper: Zhang et al., "Sequence-aware Large Language Models for Explainable Recommendation" (2026), section 3.2: the
explanation's embedding (eq. 13, made by the caller's encoder), W'_l = W_l + f_l(e) with one MLP per layer (eq. 14),
and BPR with the ground-truth explanation's embedding (eq. 15).

Rulings and departures:

1. "The corresponding target parameters" are the weight matrices of a layer: of queries, keys and values together, of
   the attention's output, and of both feed-forward maps. Biases and layer norms are the same for every explanation.
2. (W + D) x is computed as W x + D x: the weights of all rows of a batch are never added to W one by one.
3. `rank=r` gives D = B A, with r rows in A and r columns in B, both made by the MLP: full matrices are what the paper
   describes, but their memory grows with dim squared (`per_sample_bytes`).
4. D starts at zero (the MLP's last layer does; with a rank, its part for B), so that training starts at SASRec.
5. The MLPs have one hidden layer; the paper gives no size. Embeddings are standardised with the training
   explanations' statistics and clipped, as in all recommenders here (`ExplanationInput`). A zero embedding, an empty
   text of some encoders, counts as the mean explanation; so does None.
6. One sample is one target: an explanation belongs to it, so earlier positions of the sequence, which SASRec's loss
   has too, teach nothing here.
7. Adam has SASRec's betas (0.9 and 0.98), gradients are clipped to norm 5, and with validation samples training stops
   early by NDCG@10. The paper names none of these.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from rlrec.recommenders.base import ExplanationInput
from rlrec.recommenders.fitting import FitResult
from rlrec.recommenders.sasrec import SASRec
from rlrec.recommenders.sequential import fit_rows, to_left

Change = torch.Tensor | tuple[torch.Tensor, torch.Tensor]  # D (B, out, in), or A (B, r, in) and B (B, out, r)


def layer_shapes(dim: int) -> dict[str, tuple[int, int]]:
    """(out, in) of each weight of a Transformer layer that explanations change (ruling 1)."""
    square = (dim, dim)
    return {"in_projection": (3 * dim, dim), "out_projection": square, "linear1": square, "linear2": square}


def per_sample_bytes(dim: int, layers: int, batch_size: int, rank: int | None = None, value_bytes: int = 4) -> int:
    """Bytes of the weight changes of one batch: 6 dim^2 numbers per row and layer, or 10 dim rank with a low rank.

    Training needs about twice as much, for their gradients.

    >>> per_sample_bytes(64, 2, 256), per_sample_bytes(64, 2, 256, rank=4)
    (50331648, 5242880)
    """
    shapes = layer_shapes(dim).values()
    values = sum(out * into if rank is None else rank * (out + into) for out, into in shapes)
    return value_bytes * values * layers * batch_size


def memory_line(dim: int, layers: int, batch_size: int, rank: int = 4) -> str:
    """What the weight changes of a batch take, full and with a low rank, in one printable line.

    >>> memory_line(64, 2, 256)
    'weights of 256 samples (dim 64, 2 layers): 48.0 MiB full, 5.0 MiB with rank 4'
    """
    full, low = (per_sample_bytes(dim, layers, batch_size, r) / 2**20 for r in (None, rank))
    return (
        f"weights of {batch_size} samples (dim {dim}, {layers} layers): {full:.1f} MiB full, "
        f"{low:.1f} MiB with rank {rank}"
    )


class Hypernetwork(nn.Module):
    """f_l of eq. 14: explanation embeddings (B, d) -> the change of each of one layer's weights, per row."""

    def __init__(self, explanation_dim: int, hidden: int, dim: int, rank: int | None):
        super().__init__()
        self.shapes, self.rank = layer_shapes(dim), rank
        self.input = ExplanationInput(1, explanation_dim, hidden, dropout=0.0)
        self.bias = nn.Parameter(torch.zeros(hidden))
        if rank is None:
            sizes = [out * into for out, into in self.shapes.values()]
        else:
            sizes = [rank * size for out, into in self.shapes.values() for size in (into, out)]
        self.sizes = sizes
        self.output = nn.Linear(hidden, sum(sizes))
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        if rank is not None:  # A starts random, as in LoRA: with B at zero too, neither would ever get a gradient
            for weight, bias in zip(self.output.weight.split(sizes)[::2], self.output.bias.split(sizes)[::2]):
                nn.init.normal_(weight, std=(dim * hidden) ** -0.5)
                nn.init.normal_(bias, std=dim**-0.5)

    def forward(self, explanations: torch.Tensor | None, rows: int) -> dict[str, Change]:
        """(B, d) or None -> {name of the weight: its change for each of the B = `rows` rows}."""
        explanations = None if explanations is None else explanations.unsqueeze(1)
        values = self.output(F.relu(self.input(explanations, rows) + self.bias)).split(self.sizes, dim=1)
        if self.rank is None:
            return {name: part.unflatten(1, shape) for part, (name, shape) in zip(values, self.shapes.items())}
        return {
            name: (a.unflatten(1, (self.rank, into)), b.unflatten(1, (out, self.rank)))
            for a, b, (name, (out, into)) in zip(values[::2], values[1::2], self.shapes.items())
        }


def changed_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, change: Change) -> torch.Tensor:
    """Each row of a batch by its own weights: x (B, L, in) -> (B, L, out), (W + D) x + b."""
    unchanged = F.linear(x, weight, bias)
    if isinstance(change, tuple):
        a, b = change
        return unchanged + torch.bmm(torch.bmm(x, a.mT), b.mT)
    return unchanged + torch.bmm(x, change.mT)


class EER(SASRec):
    """SASRec with a change of its weights per sample; train it with `fit_explained`.

    Args:
        num_items: size of the item table, index 0 (padding and unknown) included.
        explanation_dim: size of one explanation embedding (Sentence-T5: 768).
        dim, layers: item vectors and Transformer layers (SELLER: 64 and 2).
        heads, max_length, dropout: as in SASRec (SELLER: sequences of 50; it names neither heads nor dropout).
        hidden: of each layer's MLP.
        rank: of the change of each weight; None = full matrices, as in the paper.

    >>> model = EER(num_items=10, explanation_dim=3, dim=8)
    >>> model.scores(torch.tensor([[3, 4, 5], [7, 0, 0]]), torch.randn(2, 3)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        num_items: int,
        explanation_dim: int,
        dim: int = 64,
        layers: int = 2,
        heads: int = 1,
        max_length: int = 50,
        dropout: float = 0.2,
        hidden: int = 64,
        rank: int | None = None,
    ):
        config = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__(num_items, dim, layers, heads, max_length, dropout, objective="bpr")
        if rank is not None and not 1 <= rank <= dim:
            raise ValueError(f"rank is {rank}, expected None (full matrices) or 1 to dim = {dim}")
        self.config = config
        self.hypernetworks = nn.ModuleList(Hypernetwork(explanation_dim, hidden, dim, rank) for _ in range(layers))

    @classmethod
    def from_sasrec(cls, sasrec: SASRec, explanation_dim: int, hidden: int = 64, rank: int | None = None) -> "EER":
        """An EER that starts with the weights, and the scores, of a trained SASRec (a copy of them)."""
        shared = {k: v for k, v in sasrec.config.items() if k not in ("negatives", "objective")}
        model = cls(explanation_dim=explanation_dim, hidden=hidden, rank=rank, **shared)
        model.load_state_dict(model.state_dict() | sasrec.state_dict())
        return model.to(sasrec.item_table.weight.device)

    def states(self, history: torch.Tensor, explanations: torch.Tensor | None = None) -> torch.Tensor:
        """History (B, L), padded at the end, and embeddings (B, d) or None -> states (B, L, dim)."""
        x = self.dropout(self.item_table(history) + self.position_table.weight[: history.shape[1]])
        for layer, hypernetwork in zip(self.encoder.layers, self.hypernetworks):
            x = self._changed_layer(layer, x, hypernetwork(explanations, len(x)))
        return self.encoder.norm(x)

    @staticmethod
    def _changed_layer(layer: nn.TransformerEncoderLayer, x: torch.Tensor, change: dict[str, Change]) -> torch.Tensor:
        """SASRec's Transformer layer (layer norm first), with eq. 14's weights: (B, L, dim) -> (B, L, dim)."""
        attention = layer.self_attn
        normed = layer.norm1(x)
        mixed = changed_linear(normed, attention.in_proj_weight, attention.in_proj_bias, change["in_projection"])
        q, k, v = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in mixed.chunk(3, dim=-1))
        dropout = attention.dropout if layer.training else 0.0
        attended = F.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True
        )  # (B, heads, L, dim / heads)
        output = attention.out_proj
        attended = attended.transpose(1, 2).flatten(2)
        x = x + layer.dropout1(changed_linear(attended, output.weight, output.bias, change["out_projection"]))
        inner = changed_linear(layer.norm2(x), layer.linear1.weight, layer.linear1.bias, change["linear1"])
        inner = layer.dropout(F.relu(inner))
        return x + layer.dropout2(changed_linear(inner, layer.linear2.weight, layer.linear2.bias, change["linear2"]))

    def next_states(self, history: torch.Tensor, explanations: torch.Tensor | None = None) -> torch.Tensor:
        """The state of the newest item: (B, L) and (B, d) or None -> (B, dim)."""
        history = to_left(history, self.max_length)
        newest = ((history != 0).sum(1) - 1).clamp(min=0)
        return self.states(history, explanations)[torch.arange(len(history), device=history.device), newest]

    def loss(self, history: torch.Tensor, items: torch.Tensor, explanations: torch.Tensor) -> torch.Tensor:
        """Eq. 15 on samples: histories (B, L), the items (B,) that came next, their explanations (B, d)."""
        return self.bpr(self.next_states(history, explanations), items)


def fit_explained(
    model: EER,
    history: torch.Tensor,
    items: torch.Tensor,
    explanations: torch.Tensor,
    validation: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
    *,
    epochs: int = 50,
    batch_size: int = 256,
    learning_rate: float = 5e-4,
    weight_decay: float = 1e-5,
    patience: int = 5,
    metric: str = "ndcg@10",
    seed: int = 0,
    cpu_threads: int | None = 1,
    on_epoch: Callable[[int, EER], None] | None = None,
) -> FitResult:
    """Train an EER in place on samples and the embeddings of their ground-truth explanations (SELLER section 4.1).

    Args:
        history, items, explanations: (N, L), (N,) and (N, d); rows whose item is unknown (0) are left out.
        validation: the same of other samples; training stops when `metric` has not improved for `patience` epochs (the
            paper has no early stopping; leave it out to follow it).
        others: as in `fit_sequences`.

    Raises:
        ValueError: shapes that do not fit, NaN or infinite embeddings, no row with a known item.
    """
    history, items, explanations = known_rows(model, "training", history, items, explanations)
    validation = None if validation is None else known_rows(model, "validation", *validation)
    device = model.item_table.weight.device
    history, items = history.to(device), items.to(device)
    for hypernetwork in model.hypernetworks:
        hypernetwork.input.standardise(explanations.unsqueeze(1).to(device))
    return fit_rows(
        model,
        len(items),
        # The embeddings stay where they are: those of a large dataset would fill a GPU.
        lambda rows: model.loss(history[rows], items[rows], explanations[rows.to(explanations.device)].to(device)),
        validation,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        patience=patience,
        metric=metric,
        seed=seed,
        cpu_threads=cpu_threads,
        on_epoch=on_epoch,
    )


def known_rows(
    model: EER, name: str, history: torch.Tensor, items: torch.Tensor, explanations: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The samples whose item is known; raises the ValueErrors of `fit_explained`."""
    model.check(history)
    expected = (len(history), model.config["explanation_dim"])
    if len(items) != len(history) or tuple(explanations.shape) != expected:
        raise ValueError(
            f"the {name} samples have {len(history)} histories, {len(items)} items and explanations of shape "
            f"{tuple(explanations.shape)}, expected {expected}"
        )
    if not torch.isfinite(explanations).all():
        row = int((~torch.isfinite(explanations)).any(1).nonzero()[0])
        raise ValueError(f"{name} explanation {row} holds NaN or infinite values; check the encoder's output")
    known = items != 0
    if not known.any():
        raise ValueError(f"none of {len(items)} {name} samples has a known item: there is nothing to learn from")
    return history[known], items[known], explanations[known]
