"""DSSM with explanation slots: two towers and the cosine between what they say.

Paper: Learning Deep Structured Semantic Models for Web Search using Clickthrough Data (Huang et al., CIKM 2013),
sections 3.1 (layers with tanh, R(Q, D) = cosine) and 3.3 (a softmax over gamma R).

Departures: those of `rlrec.recommenders.fields`, and
1. The query is the user and the dense features, the document the item and its categories; no word hashing.
2. The labels are clicks, and not which of several documents was clicked, so a sigmoid stands for the softmax:
   logit = gamma cosine + b. gamma, which the paper sets on held-out data, and b are learned.
3. h is the product of the two unit vectors, element by element, of which the cosine is the sum; what the head makes of
   concat(h, z) is added.
"""

import torch
import torch.nn.functional as F
from torch import nn

from rlrec.recommenders.base import Batch
from rlrec.recommenders.fields import FieldRecommender, hidden_layers


class DSSM(FieldRecommender):
    """logit = gamma cosine(tower(user, features), tower(item, categories)) + b, with slots + head(concat(h, z)).

    Args:
        hidden_dims: widths of either tower; at least one.
        dropout: on the towers' layers.
        the others: as in `DeepFM`.

    >>> ids = torch.tensor([1, 2])
    >>> DSSM(num_users=3, num_items=4)({"user": ids, "item": ids}).shape
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
        hidden_dims: tuple[int, ...] = (64, 32),
        dropout: float = 0.0,
        explanation_slots: int = 0,
        explanation_dim: int = 0,
        explanation_projection: int = 16,
        explanation_dropout: float = 0.3,
    ):
        super().__init__({k: v for k, v in locals().items() if k not in ("self", "__class__")})
        if not hidden_dims:
            raise ValueError("hidden_dims is empty; the towers of DSSM need at least one layer")
        self.item_fields = 1 + bool(num_categories)
        self.user_tower = hidden_layers((1 + num_features) * embedding_dim, hidden_dims, dropout, nn.Tanh)
        self.item_tower = hidden_layers(self.item_fields * embedding_dim, hidden_dims, dropout, nn.Tanh)
        self.gamma = nn.Parameter(torch.tensor(5.0))  # logits of 0 to 5 apart, as sigmoids need them
        self.bias = nn.Parameter(torch.zeros(()))
        self.build_head(hidden_dims[-1], linear=False)

    def forward(self, batch: Batch, explanations: torch.Tensor | None = None) -> torch.Tensor:
        """Logits or ratings (B,) from a batch (see `rlrec.recommenders.base`) and explanations (B, S, d) or None."""
        fields = self.fields(batch)
        user, item, features = fields.split((1, self.item_fields, fields.shape[1] - 1 - self.item_fields), dim=1)
        query = torch.cat((user, features), dim=1) if features.shape[1] else user
        query = F.normalize(self.user_tower(query.flatten(1)), dim=1)
        document = F.normalize(self.item_tower(item.flatten(1)), dim=1)
        hidden = query * document
        return self.gamma * hidden.sum(1) + self.bias + self.score(hidden, explanations)
