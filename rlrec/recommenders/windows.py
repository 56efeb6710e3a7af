"""What Caser and HGN share: they read the newest L items alone, and score items by a table and biases of their own.

Departures from both papers:

1. Both have a vector of the user. Here all users share one, so that the models are next-item models like SASRec (a
   user who came yesterday has a list), and the terms with it become what is left of them: biases.
2. Both have several next items per window as targets (T = 3), here the next one alone. A user's first items, before
   which there are fewer than L, are targets too; their windows are padded in front with zero vectors.
3. The loss is the softmax over all items (or over `negatives` sampled ones), as for SASRec, or BPR. Caser's paper has
   binary cross-entropy against three sampled negatives, HGN's has BPR.
"""

import torch
import torch.nn.functional as F
from torch import nn

from rlrec.recommenders.sequential import NextItemModel, to_left


def to_right(history: torch.Tensor, length: int) -> torch.Tensor:
    """The newest `length` items of each history (B, L) in order, moved to the right: (B, length), 0 in front.

    >>> to_right(torch.tensor([[0, 5, 0, 6, 7], [3, 0, 0, 0, 0]]), length=2)
    tensor([[6, 7],
            [0, 3]])
    """
    order = (history != 0).int().argsort(dim=1, stable=True)
    return F.pad(history.gather(1, order), (length, 0))[:, -length:]


def training_windows(history: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Every item but the first of each sequence (B, L), and the items before it: windows (M, length), targets (M,).

    >>> windows, targets = training_windows(torch.tensor([[4, 5, 6], [7, 0, 0]]), length=2)
    >>> windows.tolist(), targets.tolist()
    ([[0, 4], [4, 5]], [5, 6])
    """
    history = to_left(history, history.shape[1])
    windows = F.pad(history, (length, 0)).unfold(1, length, 1)[:, :-1]  # (B, L, length); the t-th ends before item t
    known = (history != 0) & (windows[..., -1] != 0)
    return windows[known], history[known]


class WindowModel(NextItemModel):
    """A subclass calls `build_tables` and has `states(windows)`, (B, L) padded in front -> (B, d)."""

    def build_tables(self, num_items: int, dim: int, max_length: int) -> None:
        """Tables of the items that are read and of those that are scored, normal with deviation 1 / d, and biases."""
        self.check_objective()
        if max_length < 1:
            raise ValueError(f"max_length is {max_length}; a window has at least 1 item")
        self.max_length = max_length
        self.item_table, self.output_table = nn.Embedding(num_items, dim), nn.Embedding(num_items, dim)
        self.output_bias = nn.Parameter(torch.zeros(num_items))
        for table in (self.item_table, self.output_table):
            nn.init.normal_(table.weight, std=1 / dim)

    def states(self, windows: torch.Tensor) -> torch.Tensor:
        """Windows (B, max_length) of items, 0 in front where there are fewer -> (B, d)."""
        raise NotImplementedError(f"{type(self).__name__} must define states(windows)")

    def window_vectors(self, windows: torch.Tensor) -> torch.Tensor:
        """(B, L) -> (B, L, d), zeros for padding."""
        return self.item_table(windows) * (windows != 0).unsqueeze(-1)

    def next_states(self, history: torch.Tensor) -> torch.Tensor:
        return self.states(to_right(history, self.max_length))

    def loss(self, history: torch.Tensor) -> torch.Tensor:
        windows, targets = training_windows(history, self.max_length)
        states = self.states(windows)
        if self.config["objective"] == "bpr":
            return self.bpr(states, targets)
        return self.cross_entropy(states, targets, self.config["negatives"])

    def item_scores(self, states: torch.Tensor, items: torch.Tensor | None = None) -> torch.Tensor:
        if items is None:
            return states @ self.output_table.weight.T + self.output_bias
        return states @ self.output_table(items).T + self.output_bias[items]

    def own_scores(self, states: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        return (states * self.output_table(items)).sum(-1) + self.output_bias[items]
