"""SASRec: the next item from causal self-attention over the items before it.

Paper: Kang and McAuley, "Self-Attentive Sequential Recommendation" (ICDM 2018), section III: items and positions;
causal self-attention and point-wise feed-forward layers, with layer norm before and dropout and residual after each;
scores from the item table that embeds the history.

Departures:

1. The loss is the softmax over all items (or over `negatives` sampled ones) at every position, or BPR (Rendle et al.,
   UAI 2009) against one random other item, as SELLER has it; the paper has binary cross-entropy against one sampled
   negative, which is known to make the scores overconfident. A negative may be an item that the user had.
2. Positions are counted from the oldest of the newest `max_length` items, because histories are padded at the end and
   not at the beginning: so no state ever attends to padding.
3. The paper multiplies neither embedding; nor do we (its published code multiplies the items' by sqrt(d)).
"""

import torch
from torch import nn

from rlrec.recommenders.sequential import NextItemModel, to_left


class SASRec(NextItemModel):
    """Kang and McAuley's model; train it with `fit_sequences(model, sequences)`.

    Args:
        num_items: size of the item table, index 0 (padding and unknown) included.
        dim: size of item vectors and states (paper: 50).
        layers, heads: Transformer blocks and heads (paper: 2 and 1).
        max_length: newest items that are read (paper: 50 on sparse data, 200 on ML-1M).
        dropout: paper: 0.5 on sparse data, 0.2 on ML-1M.
        negatives: sampled items in the softmax; None = all items.
        objective: "softmax" or "bpr".

    Raises:
        ValueError: another objective, or "bpr" with `negatives` or with fewer than two known items.

    >>> model = SASRec(num_items=10, dim=8).eval()
    >>> model.scores(torch.tensor([[3, 4, 5], [7, 0, 0]])).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        num_items: int,
        dim: int = 50,
        layers: int = 2,
        heads: int = 1,
        max_length: int = 50,
        dropout: float = 0.5,
        negatives: int | None = None,
        objective: str = "softmax",
    ):
        super().__init__({k: v for k, v in locals().items() if k not in ("self", "__class__")})
        self.check_objective()
        self.build(num_items, dim, max_length, dropout, encoder_layer(dim, heads, dropout), layers)

    def states(self, history: torch.Tensor) -> torch.Tensor:
        """History (B, L), padded at the end, L <= max_length -> states (B, L, d); the t-th knows items 1 to t."""
        x = self.dropout(self.item_table(history) + self.position_table.weight[: history.shape[1]])
        return causal_states(self.encoder, x)

    def next_states(self, history: torch.Tensor) -> torch.Tensor:
        """The state of the newest item: (B, L) -> (B, d)."""
        history = to_left(history, self.max_length)
        return newest_states(self.states(history), history != 0)

    def loss(self, history: torch.Tensor) -> torch.Tensor:
        """Every item from those before it, of the newest max_length + 1 items of each sequence (B, L)."""
        history = to_left(history, self.max_length + 1)
        known = history[:, 1:] != 0
        states, targets = self.states(history[:, :-1])[known], history[:, 1:][known]
        if self.config["objective"] == "bpr":
            return self.bpr(states, targets)
        return self.cross_entropy(states, targets, self.config["negatives"])


def encoder_layer(dim: int, heads: int, dropout: float) -> nn.TransformerEncoderLayer:
    """One block of the paper's: layer norm before, dropout and residual after attention and feed-forward layers."""
    return nn.TransformerEncoderLayer(dim, heads, dim, dropout, activation="relu", batch_first=True, norm_first=True)


def causal_states(encoder: nn.TransformerEncoder, x: torch.Tensor) -> torch.Tensor:
    """(B, L, d) -> (B, L, d), each state from its own vector and those before it."""
    mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device)
    return encoder(x, mask=mask, is_causal=True)


def newest_states(states: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """The state at each history's newest item, of an empty one the first: (B, L, d), `given` (B, L) -> (B, d)."""
    newest = (given.sum(1) - 1).clamp(min=0)
    return states[torch.arange(len(states), device=states.device), newest]
