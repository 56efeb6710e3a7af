"""Neural collaborative filtering with explanations: RecPIE's check of another recommender architecture.

Papers: NCF (He et al., WWW 2017), eq. 10: an MLP over the concatenated embeddings of user and item. RecPIE appendix E,
robustness check 1: it stands in for the recommendation component, with layers [32, 16, 8] and no attention.

Departures, and rulings where RecPIE is silent:
1. The explanations and the context are concatenated to the embeddings of user and item; they and the tables are
   `SelfAttentiveGRU`'s input layer, with its departures 1, 2, 4, 5 and 7.
2. The history is not read: the sequence embedding is attention and a GRU, which this variant is without.
3. RecPIE asks for about as many parameters as in the original. Almost all of them are in the tables of users and
   items, which have the same size here.
"""

import torch
from torch import nn

from rlrec.recommenders.base import Batch, Recommender
from rlrec.recommenders.self_attentive_gru import InputTokens, multi_layer_perceptron


class NCF(Recommender):
    """y_hat = MLP(concat(z_pos, z_neg, e_c, e_p, context)).

    Args:
        hidden_dims: widths of the MLP (RecPIE: 32, 16 and 8).
        the others: as in `SelfAttentiveGRU`.

    >>> model = NCF(num_users=3, num_items=4).eval()
    >>> ids = torch.tensor([1, 2])
    >>> model({"user": ids, "item": ids}).shape
    torch.Size([2])
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        num_categories: int = 0,
        num_features: int = 0,
        objective: str = "binary",
        embedding_dim: int = 8,
        hidden_dims: tuple[int, ...] = (32, 16, 8),
        id_dropout: float = 0.05,
        explanation_slots: int = 0,
        explanation_dim: int = 0,
        explanation_dropout: float = 0.0,
        free_explanations: bool = False,
    ):
        super().__init__({k: v for k, v in locals().items() if k not in ("self", "__class__")})
        own = ("objective", "hidden_dims")
        self.inputs = InputTokens(**{key: value for key, value in self.config.items() if key not in own})
        tokens = len(self.inputs.names) + self.inputs.has_context
        self.mlp = multi_layer_perceptron(tokens * embedding_dim, hidden_dims)

    @property
    def consumer_table(self) -> nn.Embedding:
        """E_c, (num_users, 8)."""
        return self.inputs.consumer_table

    def check(self, batch: Batch, explanations: torch.Tensor | None = None) -> None:
        """As in `Recommender`; explanations are refused where the model has no place for them."""
        self.inputs.check_explanations(explanations)
        super().check(batch, explanations)

    def forward(self, batch: Batch, explanations: torch.Tensor | None = None) -> torch.Tensor:
        """Logits or ratings (B,) from a batch (see `rlrec.recommenders.base`) and explanations (B, S, d) or None."""
        self.inputs.check_explanations(explanations)
        return self.mlp(self.inputs(batch, explanations).flatten(1)).squeeze(1)
