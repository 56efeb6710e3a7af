"""PNN with explanation slots: an MLP over the fields and their inner products.

Paper: Product-based Neural Networks for User Response Prediction (Qu et al., ICDM 2016), sections III-A and III-B, in
its inner-product form (IPNN): l_1 = ReLU(l_z + l_p + b_1), l_z linear in the fields' vectors, l_p linear in the matrix
p_ij = <f_i, f_j>. h is the last hidden layer of the MLP.

Departures: those of `rlrec.recommenders.fields`, and
1. l_p has a full matrix of weights, where the paper factorises it to rank 1 for the sake of many fields.
"""

import torch

from rlrec.recommenders.base import Batch
from rlrec.recommenders.fields import FieldRecommender, hidden_layers


class PNN(FieldRecommender):
    """logit = head(concat(MLP(concat(v, <v_i, v_j>)), z)).

    Args:
        all as in `DeepFM`.

    >>> ids = torch.tensor([1, 2])
    >>> PNN(num_users=3, num_items=4)({"user": ids, "item": ids}).shape
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
        # l_z and l_p are one linear map of what `product_layer` gives.
        width = self.num_fields * (embedding_dim + self.num_fields)
        self.mlp = hidden_layers(width, hidden_dims, dropout)
        self.build_head((width, *hidden_dims)[-1])

    def forward(self, batch: Batch, explanations: torch.Tensor | None = None) -> torch.Tensor:
        """Logits or ratings (B,) from a batch (see `rlrec.recommenders.base`) and explanations (B, S, d) or None."""
        return self.score(self.mlp(product_layer(self.fields(batch))), explanations)


def product_layer(vectors: torch.Tensor) -> torch.Tensor:
    """The fields' vectors and all inner products of two, side by side: (B, fields, k) -> (B, fields * (k + fields)).

    >>> product_layer(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
    tensor([[ 1.,  2.,  3.,  4.,  5., 11., 11., 25.]])
    """
    products = vectors @ vectors.transpose(1, 2)  # (B, fields, fields)
    return torch.cat((vectors.flatten(1), products.flatten(1)), dim=1)
