"""Caser: the next item from convolutions over the newest L items, an "image" of L x d.

Paper: Tang and Wang, "Personalized Top-N Sequential Recommendation via Convolutional Sequence Embedding" (WSDM 2018),
section 3: with E (L x d) the vectors of the L newest items,

    horizontal filters F of height h = 1 .. L     c_i = relu(E[i : i + h] * F),   o = max over i of c_i
    vertical filters F~ (L)                       o~ = sum over l of F~_l E_l,    in R^d each
    fully connected                               z = relu(W [o ; o~] + b),       in R^d
    score of item j                               y_j = W'_j . z + b'_j

Departures: those of `rlrec.recommenders.windows`; the paper's W'_j . [z ; P_u] has lost its second half.
"""

import torch
from torch import nn

from rlrec.recommenders.windows import WindowModel


class CaserEncoder(nn.Module):
    """Windows of vectors (B, length, dim) -> (B, output_dim): the two convolutions and the layer over them.

    Args:
        length: L, places of a window; those without an item hold zeros, in front.
        dim: d, of the vectors.
        horizontal: filters of each height (paper: 4 to 64).
        vertical: vertical filters (paper: 1 to 16).
        dropout: on the convolutions' outputs (paper: 0.5).
        output_dim: None = dim.

    >>> CaserEncoder(length=5, dim=8)(torch.zeros(2, 5, 8)).shape
    torch.Size([2, 8])
    """

    def __init__(
        self,
        length: int,
        dim: int,
        horizontal: int = 16,
        vertical: int = 4,
        dropout: float = 0.5,
        output_dim: int | None = None,
    ):
        super().__init__()
        self.horizontal = nn.ModuleList(nn.Conv1d(dim, horizontal, height) for height in range(1, length + 1))
        self.vertical = nn.Linear(length, vertical, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(length * horizontal + vertical * dim, output_dim or dim)
        for convolution in self.horizontal:  # with a bias below zero, ReLU would let nothing of small vectors through
            nn.init.zeros_(convolution.bias)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        columns = vectors.mT.contiguous()  # (B, d, L); the convolutions are faster so
        largest = [torch.relu(convolution(columns)).amax(2) for convolution in self.horizontal]  # L of (B, filters)
        sums = self.vertical(columns).transpose(1, 2).flatten(1)  # (B, filters * d)
        return torch.relu(self.output(self.dropout(torch.cat([*largest, sums], dim=1))))


class Caser(WindowModel):
    """Tang and Wang's model; train it with `fit_sequences(model, sequences)`.

    Args:
        num_items: size of the item table, index 0 (padding and unknown) included.
        dim: of item vectors and states (paper: 10 to 100; its code: 50).
        horizontal, vertical, dropout: see `CaserEncoder`; the defaults are those of the authors' code.
        max_length: L (the authors' code: 5).
        negatives: sampled items in the softmax; None = all items.
        objective: "softmax" or "bpr".

    Raises:
        ValueError: another objective, or "bpr" with `negatives` or with fewer than two known items.

    >>> model = Caser(num_items=10, dim=8).eval()
    >>> model.scores(torch.tensor([[3, 4, 5], [7, 0, 0]])).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        num_items: int,
        dim: int = 50,
        horizontal: int = 16,
        vertical: int = 4,
        max_length: int = 5,
        dropout: float = 0.5,
        negatives: int | None = None,
        objective: str = "softmax",
    ):
        super().__init__({k: v for k, v in locals().items() if k not in ("self", "__class__")})
        self.build_tables(num_items, dim, max_length)
        self.encoder = CaserEncoder(max_length, dim, horizontal, vertical, dropout)

    def states(self, windows: torch.Tensor) -> torch.Tensor:
        return self.encoder(self.window_vectors(windows))
