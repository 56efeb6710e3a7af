"""HGN: the next item from the newest L items, after gates have chosen what of them counts.

Paper: Ma, Kang and Liu, "Hierarchical Gating Networks for Sequential Recommendation" (KDD 2019), section on
methodology: with s_l in R^d the vector of the l-th of the L newest items and q_j that of item j as a target,

    feature gating     s^F_l = s_l * sigmoid(W_1 s_l + W_2 u + b)
    instance gating    s^I_l = s^F_l sigmoid(w_3 . s^F_l + (u^T W_4)_l)
    aggregation        s = mean over l of s^I_l
    score of item j    u . q_j + s . q_j + sum over l of s_l . q_j          (long term, short term, item-item)

Departures, beside those of `rlrec.recommenders.windows`:

1. With one u for all users, W_2 u + b is one bias, u^T W_4 one number per place of the window, and u . q_j the bias
   of item j, as the authors' code has one.
2. The mean is over the places that hold an item. Dropout on the items' vectors is ours; it starts at 0.
"""

import torch
from torch import nn

from rlrec.recommenders.windows import WindowModel


class HGN(WindowModel):
    """Ma et al.'s model; train it with `fit_sequences(model, sequences)`.

    Args:
        num_items: size of the item table, index 0 (padding and unknown) included.
        dim: of item vectors and states (the authors' code: 50).
        max_length: L (paper: 5).
        dropout: on the items' vectors.
        negatives: sampled items in the softmax; None = all items.
        objective: "softmax" or "bpr".

    Raises:
        ValueError: another objective, or "bpr" with `negatives` or with fewer than two known items.

    >>> model = HGN(num_items=10, dim=8).eval()
    >>> model.scores(torch.tensor([[3, 4, 5], [7, 0, 0]])).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        num_items: int,
        dim: int = 50,
        max_length: int = 5,
        dropout: float = 0.0,
        negatives: int | None = None,
        objective: str = "softmax",
    ):
        super().__init__({k: v for k, v in locals().items() if k not in ("self", "__class__")})
        self.build_tables(num_items, dim, max_length)
        self.dropout = nn.Dropout(dropout)
        self.feature_gate = nn.Linear(dim, dim)
        self.instance_gate = nn.Linear(dim, 1, bias=False)
        self.place_gate = nn.Parameter(torch.zeros(max_length))

    def states(self, windows: torch.Tensor) -> torch.Tensor:
        items = self.dropout(self.window_vectors(windows))  # (B, L, d)
        features = items * torch.sigmoid(self.feature_gate(items))
        weights = torch.sigmoid(self.instance_gate(features).squeeze(-1) + self.place_gate)  # (B, L)
        count = (windows != 0).sum(1, keepdim=True).clamp(min=1)
        return (features * weights.unsqueeze(-1)).sum(1) / count + items.sum(1)
