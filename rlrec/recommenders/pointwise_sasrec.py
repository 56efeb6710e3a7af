"""SASRec for clicks and ratings: the newest item's state of causal self-attention over the history.

Paper: Kang and McAuley, "Self-Attentive Sequential Recommendation" (ICDM 2018), section III. The encoder is that of
the next-item model (`sasrec`, with its departures 2 and 3), fed with the vectors of items and reactions.

Departure, beside the rulings of `sequence_recommender`: only the newest state is trained, by the target's click or
rating; the paper trains every state to predict the item after it.
"""

import torch
from torch import nn

from rlrec.recommenders.sasrec import encoder_layer
from rlrec.recommenders.sequence_recommender import SequenceRecommender
from rlrec.recommenders.sequential import state_at, transformer


class PointwiseSASRec(SequenceRecommender):
    """Kang and McAuley's encoder under the recommender contract.

    Args:
        layers, heads: Transformer blocks and heads (paper: 2 and 1).
        the others: as in `SequenceRecommender`.

    >>> model = PointwiseSASRec(num_users=3, num_items=5)
    >>> batch = {"user": torch.tensor([1]), "item": torch.tensor([4])}
    >>> model({**batch, "history": torch.tensor([[2, 3]]), "history_labels": torch.tensor([[1.0, 0.0]])}).shape
    torch.Size([1])
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        *sizes: int,
        layers: int = 2,
        heads: int = 1,
        dropout: float = 0.0,
        **common,
    ):
        super().__init__(num_users, num_items, *sizes, dropout=dropout, **common)
        self.config |= {"layers": layers, "heads": heads}
        dim = self.embedding_dim
        self.position_table = nn.Embedding(self.max_length, dim)
        self.dropout = nn.Dropout(dropout)
        self.encoder = transformer(encoder_layer(dim, heads, dropout), layers)
        nn.init.normal_(self.position_table.weight, std=0.02)

    def represent(self, x: torch.Tensor, given: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The state at the newest item, which attends to all before it and to no padding."""
        x = self.dropout(x + self.position_table.weight[: x.shape[1]])
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device)
        newest = (given.sum(1) - 1).clamp(min=0)
        hidden = ~given
        hidden[:, 0] = False  # of an empty history, the first place is read
        return state_at(self.encoder, x, newest, hidden, mask)
