"""Factorization machine with explanation slots.

Paper: Factorization Machines (Rendle, ICDM 2010), eq. 1, y = w_0 + sum_i w_i x_i + sum_{i<j} <v_i, v_j> x_i x_j, by
lemma 3.1 in linear time.

Departures: those of `rlrec.recommenders.fields`, and
1. FM has no hidden representation. h is the vector sum_{i<j} v_i * v_j (element by element), of which its second-order
   term is the sum; what the head makes of concat(h, z) is added.
2. The categories of an item share one mean vector instead of interacting with each other.
"""

import torch
from torch import nn

from rlrec.recommenders.base import Batch
from rlrec.recommenders.fields import FieldRecommender


class FM(FieldRecommender):
    """logit = w_0 + sum_i w_i + sum_{i<j} <v_i, v_j>, with slots + head(concat(h, z)).

    Args:
        all as in `DeepFM`, which has an MLP too.

    >>> ids = torch.tensor([1, 2])
    >>> FM(num_users=3, num_items=4)({"user": ids, "item": ids}).shape
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
        explanation_slots: int = 0,
        explanation_dim: int = 0,
        explanation_projection: int = 16,
        explanation_dropout: float = 0.3,
    ):
        super().__init__({k: v for k, v in locals().items() if k not in ("self", "__class__")}, first_order=True)
        self.bias = nn.Parameter(torch.zeros(()))
        self.build_head(embedding_dim, linear=False)

    def forward(self, batch: Batch, explanations: torch.Tensor | None = None) -> torch.Tensor:
        """Logits or ratings (B,) from a batch (see `rlrec.recommenders.base`) and explanations (B, S, d) or None."""
        vectors, weights = self.fields_and_weights(batch)
        hidden = interactions(vectors)
        return self.bias + weights.sum((1, 2)) + hidden.sum(1) + self.score(hidden, explanations)


def interactions(vectors: torch.Tensor) -> torch.Tensor:
    """sum_{i<j} v_i * v_j of the fields' vectors (B, fields, k) -> (B, k), element by element.

    >>> interactions(torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]]))  # 3 + 5 + 15 and 8 + 12 + 24
    tensor([[23., 44.]])
    """
    total = vectors.sum(1)  # (B, k)
    # Products, not powers: their gradient takes fewer steps.
    return 0.5 * (total * total - (vectors * vectors).sum(1))
