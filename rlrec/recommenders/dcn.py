"""DCN and DCNv2 with explanation slots: a network of crosses beside an MLP.

Papers: Deep & Cross Network (Wang et al., ADKDD 2017), eq. 3, x_{l+1} = x_0 x_l^T w_l + b_l + x_l, and eq. 5; DCN V2
(Wang et al., WWW 2021), eq. 1, x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, in its parallel structure with full matrices.
x_0 is the fields' vectors side by side, h = concat(last cross, last hidden layer of the MLP).

Departures: those of `rlrec.recommenders.fields`, and
1. Dense features have vectors too, where DCN puts their bare values into x_0.
2. No batch normalisation, which the first paper uses in the MLP.
"""

import torch
from torch import nn

from rlrec.recommenders.base import Batch
from rlrec.recommenders.fields import FieldRecommender, hidden_layers


class VectorCross(nn.Module):
    """A cross of DCN: x_0 (w x) + b + x, w a vector."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width).uniform_(-(width**-0.5), width**-0.5))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, first: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """x_0 and x_l (B, width) -> x_{l+1}."""
        return torch.addcmul(x + self.bias, first, (x @ self.weight).unsqueeze(1))


class MatrixCross(nn.Linear):
    """A cross of DCN V2: x_0 * (W x + b) + x, W a matrix."""

    def __init__(self, width: int):
        super().__init__(width, width)

    def forward(self, first: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """x_0 and x_l (B, width) -> x_{l+1}."""
        return torch.addcmul(x, first, super().forward(x))


class DCN(FieldRecommender):
    """logit = head(concat(crosses(v), MLP(v), z)).

    Args:
        num_crosses: number of crosses; the order of interactions is one more.
        hidden_dims: widths of the MLP.
        the others: as in `DeepFM`.

    >>> ids = torch.tensor([1, 2])
    >>> DCN(num_users=3, num_items=4)({"user": ids, "item": ids}).shape
    torch.Size([2])
    """

    Cross: type[nn.Module] = VectorCross

    def __init__(
        self,
        num_users: int,
        num_items: int,
        num_categories: int = 0,
        num_features: int = 0,
        objective: str = "binary",
        embedding_dim: int = 16,
        num_crosses: int = 3,
        hidden_dims: tuple[int, ...] = (64, 32),
        dropout: float = 0.0,
        explanation_slots: int = 0,
        explanation_dim: int = 0,
        explanation_projection: int = 16,
        explanation_dropout: float = 0.3,
    ):
        super().__init__({k: v for k, v in locals().items() if k not in ("self", "__class__")})
        width = self.num_fields * embedding_dim
        self.crosses = nn.ModuleList(self.Cross(width) for _ in range(num_crosses))
        self.mlp = hidden_layers(width, hidden_dims, dropout)
        self.build_head(width + (width, *hidden_dims)[-1])

    def forward(self, batch: Batch, explanations: torch.Tensor | None = None) -> torch.Tensor:
        """Logits or ratings (B,) from a batch (see `rlrec.recommenders.base`) and explanations (B, S, d) or None."""
        first = crossed = self.fields(batch).flatten(1)  # (B, width)
        for cross in self.crosses:
            crossed = cross(first, crossed)
        return self.score(torch.cat((crossed, self.mlp(first)), dim=1), explanations)


class DCNv2(DCN):
    """DCN whose crosses have a matrix where DCN's have a vector.

    Args:
        all as in `DCN`.

    >>> ids = torch.tensor([1, 2])
    >>> DCNv2(num_users=3, num_items=4)({"user": ids, "item": ids}).shape
    torch.Size([2])
    """

    Cross = MatrixCross
