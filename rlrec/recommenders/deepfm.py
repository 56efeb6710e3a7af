"""DeepFM with explanation slots.

Papers: DeepFM (Guo et al., IJCAI 2017), eqs. 1-4: factorization machine and MLP over shared embeddings.
ExpCTR section 4.2.3, eq. 12: s_r = f(concat(h, z)) with h the hidden representation and z the explanation.

h is the last hidden layer of the MLP. Fields, and departures from both papers: `rlrec.recommenders.fields`.
"""

import torch

from rlrec.recommenders.base import Batch
from rlrec.recommenders.fields import FieldRecommender, hidden_layers
from rlrec.recommenders.fm import interactions


class DeepFM(FieldRecommender):
    """logit = sum_i w_i + sum_{i<j} <v_i, v_j> + head(concat(MLP(v), z)).

    Args:
        num_users, num_items, num_categories, num_features: table sizes, as `Vocabulary.sizes()` gives them (index 0
            included); no categories or features = plain DeepFM on ids.
        objective: "binary" (logits) or "rating" (ratings scaled to [0, 1]).
        embedding_dim: size k of a field's vector v.
        hidden_dims: widths of the MLP; the last is the size of h.
        dropout: on the MLP's hidden layers.
        explanation_slots: number S of explanations per row; 0 = a model without explanations.
        explanation_dim: size d of an explanation embedding.
        explanation_projection: size p of its projection.
        explanation_dropout: share of training rows whose explanations are zeroed.

    >>> model = DeepFM(num_users=3, num_items=4, explanation_slots=1, explanation_dim=8).eval()
    >>> ids = torch.tensor([1, 2])
    >>> batch = {"user": ids, "item": ids, "categories": ids.new_zeros(2, 0), "features": torch.zeros(2, 0)}
    >>> torch.equal(model(batch), model(batch, torch.zeros(2, 1, 8)))
    True
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
        super().__init__({k: v for k, v in locals().items() if k not in ("self", "__class__")}, first_order=True)
        width = self.num_fields * embedding_dim
        self.mlp = hidden_layers(width, hidden_dims, dropout)
        self.build_head((width, *hidden_dims)[-1])

    def forward(self, batch: Batch, explanations: torch.Tensor | None = None) -> torch.Tensor:
        """Logits or ratings (B,) from a batch (see `rlrec.recommenders.base`) and explanations (B, S, d) or None."""
        vectors, weights = self.fields_and_weights(batch)
        hidden = self.mlp(vectors.flatten(1))
        return weights.sum((1, 2)) + second_order(vectors) + self.score(hidden, explanations)


def second_order(vectors: torch.Tensor) -> torch.Tensor:
    """sum_{i<j} <v_i, v_j> of the fields' vectors (B, fields, k) -> (B,); DeepFM eq. 2.

    >>> second_order(torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]]))  # 11 + 17 + 39
    tensor([67.])
    """
    return interactions(vectors).sum(1)
