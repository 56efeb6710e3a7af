"""BERT4Rec for clicks and ratings: a mask behind the newest item, filled in by bidirectional self-attention.

Paper: Sun et al., "BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from Transformer"
(CIKM 2019), sections 3.3 and 3.4 and the map of eq. 7. The encoder is that of the next-item model (`bert4rec`, with
its departure 4), fed with the vectors of items and reactions.

Departure, beside the rulings of `sequence_recommender`: there is no cloze task (eq. 8). The state at the mask, by
which the paper predicts the next item, is the representation of the history, trained by the target's click or rating.
"""

import torch
import torch.nn.functional as F
from torch import nn

from rlrec.recommenders.bert4rec import encoder_layer, places_from_newest
from rlrec.recommenders.sequence_recommender import SequenceRecommender
from rlrec.recommenders.sequential import state_at, transformer


class PointwiseBERT4Rec(SequenceRecommender):
    """Sun et al.'s encoder under the recommender contract.

    Args:
        layers, heads: Transformer blocks and heads (paper: 2 and 2).
        the others: as in `SequenceRecommender`.

    >>> model = PointwiseBERT4Rec(num_users=3, num_items=5)
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
        heads: int = 2,
        dropout: float = 0.0,
        **common,
    ):
        super().__init__(num_users, num_items, *sizes, dropout=dropout, **common)
        self.config |= {"layers": layers, "heads": heads}
        dim = self.embedding_dim
        self.mask_vector = nn.Parameter(0.02 * torch.randn(dim))
        self.position_table = nn.Embedding(self.max_length + 1, dim)  # 0 is the mask's
        self.dropout = nn.Dropout(dropout)
        self.encoder = transformer(encoder_layer(dim, heads, dropout), layers)
        self.output = nn.Linear(dim, dim)  # W^P, b^P of eq. 7
        nn.init.normal_(self.position_table.weight, std=0.02)

    def represent(self, x: torch.Tensor, given: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The state at the mask. It stands first, which self-attention cannot tell: positions count from the mask."""
        x = torch.cat((self.mask_vector.expand(len(x), 1, -1), x), dim=1)  # (B, 1 + L, d)
        given = F.pad(given, (1, 0), value=True)
        places = places_from_newest(given[:, 1:]) + 1
        x = self.dropout(x + self.position_table(F.pad(places, (1, 0))))
        return F.gelu(self.output(state_at(self.encoder, x, torch.zeros_like(places[:, 0]), ~given)))
