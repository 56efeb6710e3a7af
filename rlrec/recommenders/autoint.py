"""AutoInt with explanation slots: self-attention over the fields.

Paper: AutoInt (Song et al., CIKM 2019), eqs. 5-8 (interacting layer) and 9 (prediction); AutoInt+, its joint form with
an MLP, is the default, and `hidden_dims=()` is AutoInt alone. h is the last layer's fields side by side, and beside
them the last hidden layer of the MLP.

Departures: those of `rlrec.recommenders.fields`, and
1. The inner products of eq. 5 are divided by the square root of the heads' size.
2. All layers have the size of the fields' vectors.
"""

import torch
import torch.nn.functional as F
from torch import nn

from rlrec.recommenders.base import Batch
from rlrec.recommenders.fields import FieldRecommender, hidden_layers


class InteractingLayer(nn.Module):
    """Multi-head self-attention over fields without biases, ReLU(attended + W_res e).

    Args:
        dim: size of the fields' vectors, in and out.
        heads: how many heads share it.
        residual: whether there is a W_res.
    """

    def __init__(self, dim: int, heads: int, residual: bool = True):
        super().__init__()
        if dim % heads:
            raise ValueError(f"vectors of size {dim} cannot be shared by {heads} heads; choose a divisor of {dim}")
        self.heads, self.residual = heads, residual
        self.projections = nn.Linear(dim, (3 + residual) * dim, bias=False)  # W_query, W_key, W_value, W_res

    def forward(self, fields: torch.Tensor) -> torch.Tensor:
        """(B, fields, dim) -> (B, fields, dim)."""
        rows, count, dim = fields.shape
        head = dim // self.heads
        # Heads before rows: one copy, after which all products are batches of small matrices.
        parts = self.projections(fields).view(rows, count, 3 + self.residual, self.heads, head)
        parts = parts.permute(2, 3, 0, 1, 4).flatten(1, 2)
        query, key, value, *residual = parts.unbind()  # (heads * B, fields, head) each
        weights = (query @ key.transpose(1, 2) * head**-0.5).softmax(-1)
        attended = torch.baddbmm(residual[0], weights, value) if residual else weights @ value
        return F.relu(attended).view(self.heads, rows, count, head).permute(1, 2, 0, 3).flatten(2)


class AutoInt(FieldRecommender):
    """logit = head(concat(interacting layers(v), MLP(v), z)).

    Args:
        num_layers, num_heads: of the interacting layers (paper: 3 and 2).
        hidden_dims: widths of the MLP; () = none, the paper's AutoInt.
        the others: as in `DeepFM`.

    >>> ids = torch.tensor([1, 2])
    >>> AutoInt(num_users=3, num_items=4)({"user": ids, "item": ids}).shape
    torch.Size([2])
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        num_categories: int = 0,
        num_features: int = 0,
        objective: str = "binary",
        embedding_dim: int = 16,
        num_layers: int = 3,
        num_heads: int = 2,
        hidden_dims: tuple[int, ...] = (64, 32),
        dropout: float = 0.0,
        explanation_slots: int = 0,
        explanation_dim: int = 0,
        explanation_projection: int = 16,
        explanation_dropout: float = 0.3,
    ):
        super().__init__({k: v for k, v in locals().items() if k not in ("self", "__class__")})
        width = self.num_fields * embedding_dim
        self.interacting = nn.Sequential(*(InteractingLayer(embedding_dim, num_heads) for _ in range(num_layers)))
        self.mlp = hidden_layers(width, hidden_dims, dropout) if hidden_dims else None
        self.build_head(width + (hidden_dims[-1] if hidden_dims else 0))

    def forward(self, batch: Batch, explanations: torch.Tensor | None = None) -> torch.Tensor:
        """Logits or ratings (B,) from a batch (see `rlrec.recommenders.base`) and explanations (B, S, d) or None."""
        vectors = self.fields(batch)
        hidden = self.interacting(vectors).flatten(1)
        if self.mlp is not None:
            hidden = torch.cat((hidden, self.mlp(vectors.flatten(1))), dim=1)
        return self.score(hidden, explanations)
