"""xDeepFM with explanation slots: a compressed interaction network (CIN) beside an MLP.

Paper: xDeepFM (Lian et al., KDD 2018), eqs. 6 (CIN), 7 (sum pooling) and 9 (output: linear + MLP + CIN). h is
concat(p^1, ..., p^T, last hidden layer of the MLP).

Departures: those of `rlrec.recommenders.fields`, and
1. The CIN's activation is the identity, which the paper found best (section 4.4), so the pooled maps of its last
   layer are linear in the pooled products, and the maps themselves are not computed.
"""

import torch
from torch import nn

from rlrec.recommenders.base import Batch
from rlrec.recommenders.fields import FieldRecommender, hidden_layers


class CIN(nn.Module):
    """X^k_h = sum_ij W^k_hij X^{k-1}_i * X^0_j (element by element), and p^k_h = the sum of X^k_h's elements.

    Args:
        num_fields: m, the number of vectors.
        dims: numbers of maps H_1, ..., H_T; at least one.
    """

    def __init__(self, num_fields: int, dims: tuple[int, ...]):
        super().__init__()
        widths = zip((num_fields, *dims), dims)
        self.layers = nn.ModuleList(nn.Linear(before * num_fields, dim, bias=False) for before, dim in widths)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """(B, m, k) -> concat(p^1, ..., p^T), (B, sum of dims)."""
        first = vectors.transpose(1, 2).contiguous()  # X^0, (B, k, m): elements before maps, so that W is one matmul
        maps, pooled = first, []
        for layer in self.layers[:-1]:
            maps = layer((maps.unsqueeze(-1) * first.unsqueeze(-2)).flatten(2))  # (B, k, H)
            pooled.append(maps.sum(1))
        products = maps.transpose(1, 2) @ first  # (B, H, m), summed over the elements
        return torch.cat((*pooled, self.layers[-1](products.flatten(1))), dim=1)


class XDeepFM(FieldRecommender):
    """logit = sum_i w_i + head(concat(CIN(v), MLP(v), z)).

    Args:
        cin_dims: maps of the CIN's layers.
        hidden_dims: widths of the MLP.
        the others: as in `DeepFM`.

    >>> ids = torch.tensor([1, 2])
    >>> XDeepFM(num_users=3, num_items=4)({"user": ids, "item": ids}).shape
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
        cin_dims: tuple[int, ...] = (32, 32),
        hidden_dims: tuple[int, ...] = (64, 32),
        dropout: float = 0.0,
        explanation_slots: int = 0,
        explanation_dim: int = 0,
        explanation_projection: int = 16,
        explanation_dropout: float = 0.3,
    ):
        super().__init__({k: v for k, v in locals().items() if k not in ("self", "__class__")}, first_order=True)
        self.cin = CIN(self.num_fields, cin_dims)
        width = self.num_fields * embedding_dim
        self.mlp = hidden_layers(width, hidden_dims, dropout)
        self.build_head(sum(cin_dims) + (width, *hidden_dims)[-1])

    def forward(self, batch: Batch, explanations: torch.Tensor | None = None) -> torch.Tensor:
        """Logits or ratings (B,) from a batch (see `rlrec.recommenders.base`) and explanations (B, S, d) or None."""
        vectors, weights = self.fields_and_weights(batch)
        hidden = torch.cat((self.cin(vectors), self.mlp(vectors.flatten(1))), dim=1)
        return weights.sum((1, 2)) + self.score(hidden, explanations)
