"""BERT4Rec: masked items from bidirectional self-attention; the next item is a mask behind the newest one.

Paper: Sun et al., "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from Transformer"
(CIKM 2019): Transformer layers (section 3.3), embeddings (3.4), output layer (eq. 7), cloze task (eq. 8).

Departures:

1. Sequences are not copied ten times with other masks beforehand: every epoch draws its own masks.
2. In a tenth of the sequences of a batch the newest item alone is masked, as the paper's extra samples do ("we also
   produce samples that only mask the last item"); the paper gives no share.
3. Every masked place gets the mask vector; nor does the paper have BERT's random and kept words.
4. Longer sequences keep their newest `max_length` items. The learning rate is constant (paper: linear decay), and
   linear maps start as torch has them (paper: within 0.02 of zero, with which small models start slowly).
"""

import torch
import torch.nn.functional as F
from torch import nn

from rlrec.recommenders.sequential import NextItemModel, to_left

ONLY_NEWEST = 0.1


class BERT4Rec(NextItemModel):
    """Sun et al.'s model; train it with `fit_sequences(model, sequences, learning_rate=1e-4, batch_size=256)`.

    Args:
        num_items: size of the item table, index 0 (padding and unknown) included.
        dim: size of item vectors and states (paper: 64).
        layers, heads: Transformer blocks and heads (paper: 2 and 2).
        max_length: items that are read, the mask behind them included (paper: 50 on sparse data, 200 on ML-1M).
        dropout: 0.1, as in BERT (the paper names none).
        mask_share: rho, the share of items masked in training (paper: 0.2 on ML-1M, 0.6 on Beauty).
        negatives: sampled items in the loss; None = all items, as in the paper.

    >>> model = BERT4Rec(num_items=10, dim=8).eval()
    >>> model.scores(torch.tensor([[3, 4, 5], [7, 0, 0]])).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        num_items: int,
        dim: int = 64,
        layers: int = 2,
        heads: int = 2,
        max_length: int = 50,
        dropout: float = 0.1,
        mask_share: float = 0.2,
        negatives: int | None = None,
    ):
        super().__init__({k: v for k, v in locals().items() if k not in ("self", "__class__")})
        if max_length < 2 or not 0 < mask_share < 1:
            raise ValueError(
                f"max_length is {max_length} and mask_share {mask_share}, expected at least 2 and between 0 and 1"
            )
        layer = encoder_layer(dim, heads, dropout)
        self.mask_vector = nn.Parameter(0.02 * torch.randn(dim))
        self.output = nn.Linear(dim, dim)  # W^P, b^P of eq. 7
        self.item_bias = nn.Parameter(torch.zeros(num_items))  # b^O
        self.build(num_items, dim, max_length, dropout, layer, layers)

    def states(self, history: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        """History (B, L) and which of its places are masked (B, L) -> states (B, L, d), GELU(W^P h + b^P) of eq. 7."""
        given = (history != 0) | masked
        x = torch.where(masked.unsqueeze(-1), self.mask_vector, self.item_table(history))
        x = self.dropout(x + self.position_table(places_from_newest(given)))
        x = self.encoder(x, src_key_padding_mask=~given)
        return F.gelu(self.output(x))

    def next_states(self, history: torch.Tensor) -> torch.Tensor:
        """The state of a mask behind the newest item: (B, L) -> (B, d)."""
        history = F.pad(to_left(history, self.max_length - 1), (0, 1))
        behind = (history != 0).sum(1, keepdim=True)
        masked = torch.arange(history.shape[1], device=history.device) == behind
        return self.states(history, masked)[masked]

    def loss(self, history: torch.Tensor) -> torch.Tensor:
        """Eq. 8 on random masks of the newest max_length items of each sequence (B, L)."""
        history = to_left(history, self.max_length)
        given = history != 0
        newest = torch.arange(history.shape[1], device=history.device) == given.sum(1, keepdim=True) - 1
        masked = given & (torch.rand(history.shape, device=history.device) < self.config["mask_share"])
        only_newest = torch.rand(len(history), 1, device=history.device) < ONLY_NEWEST
        # A sequence whose masks all failed to fall teaches nothing: it gets the newest one.
        masked = torch.where(only_newest | ~masked.any(1, keepdim=True), newest, masked)
        return self.cross_entropy(self.states(history, masked)[masked], history[masked], self.config["negatives"])

    def item_scores(self, states: torch.Tensor, items: torch.Tensor | None = None) -> torch.Tensor:
        """As in `NextItemModel`, plus each item's bias."""
        return super().item_scores(states, items) + (self.item_bias if items is None else self.item_bias[items])

    def own_scores(self, states: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """As in `NextItemModel`, plus each item's bias."""
        return super().own_scores(states, items) + self.item_bias[items]


def encoder_layer(dim: int, heads: int, dropout: float) -> nn.TransformerEncoderLayer:
    """One block of the paper's (section 3.3): layer norm after each residual, GELU between widths 4 d and d."""
    return nn.TransformerEncoderLayer(dim, heads, 4 * dim, dropout, activation="gelu", batch_first=True)


def places_from_newest(given: torch.Tensor) -> torch.Tensor:
    """`given` (B, L) -> how many later items each place has; the newest has 0.

    >>> places_from_newest(torch.tensor([[True, True, True], [True, False, False]])).tolist()
    [[2, 1, 0], [0, 0, 0]]
    """
    return given.sum(1, keepdim=True) - given.cumsum(1)
