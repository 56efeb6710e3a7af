"""DeepFM with explanation slots.

Papers: DeepFM (Guo et al., IJCAI 2017), eqs. 1-4: factorization machine and MLP over shared embeddings.
ExpCTR section 4.2.3, eq. 12: s_r = f(concat(h, z)) with h the hidden representation and z the explanation.

Here the fields are the user, the item, the item's categories (one field, the mean of their vectors) and each dense
feature (its value times a learned vector). h is the last hidden layer of the MLP.

Departures:
1. z is standardised, clipped and projected before it is concatenated (`ExplanationInput` says why), and a hidden
   layer lies between concat(h, z) and the output, so that h and z can interact; with no explanation slot the head
   is DeepFM's single linear layer.
2. In training, the explanations of a random share of the rows are zeroed (`explanation_dropout`), so that the
   prediction without explanation of eq. 13 comes from inputs that the model knows.
3. Index 0, the unknown user or item, is an ordinary row of the table that training does not touch, so a user-disjoint
   test user's vector is its small random start, as in the paper; training it by dropping ids changed no AUC.
"""

import torch
from torch import nn

from rlrec.recommenders.base import Batch, ExplanationInput, Recommender


class DeepFM(Recommender):
    """logit = sum_i w_i + sum_{i<j} <v_i, v_j> + head(concat(MLP(v), z)).

    Args:
        num_users, num_items, num_categories, num_features: table sizes, as `Vocabulary.sizes()` gives them (index 0
            included); no categories or features = plain DeepFM on ids.
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
        embedding_dim: int = 16,
        hidden_dims: tuple[int, ...] = (64, 32),
        dropout: float = 0.0,
        explanation_slots: int = 0,
        explanation_dim: int = 0,
        explanation_projection: int = 16,
        explanation_dropout: float = 0.3,
    ):
        super().__init__({k: v for k, v in locals().items() if k not in ("self", "__class__")})
        self.embedding_dim = embedding_dim
        # One table for all ids and features, first-order weight in the last column: one lookup, one gradient.
        self.table = nn.Embedding(num_users + num_items + num_categories, embedding_dim + 1)
        self.register_buffer("offsets", torch.tensor([0, num_users]), persistent=False)
        self.category_offset = num_users + num_items if num_categories else None
        self.feature_vectors = nn.Parameter(torch.empty(num_features, embedding_dim + 1)) if num_features else None
        fields = 2 + bool(num_categories) + num_features
        layers, width = [], fields * embedding_dim
        for hidden in hidden_dims:
            layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout)]
            width = hidden
        self.mlp = nn.Sequential(*layers)
        self.explanation_input = None
        self.head = nn.Linear(width, 1)
        if explanation_slots:
            self.explanation_input = ExplanationInput(
                explanation_slots, explanation_dim, explanation_projection, explanation_dropout
            )
            joint = width + self.explanation_input.output_dim
            self.head = nn.Sequential(nn.Linear(joint, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 1))
        nn.init.normal_(self.table.weight, std=0.01)
        if num_features:
            nn.init.normal_(self.feature_vectors, std=0.01)

    def forward(self, batch: Batch, explanations: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (B,) from a batch (see `rlrec.recommenders.base`) and explanations (B, S, d) or None."""
        ids = torch.stack((batch["user"], batch["item"]), dim=1)  # (B, 2)
        fields = [self.table(ids + self.offsets)]  # (B, 2, k + 1)
        if self.category_offset is not None:
            categories = batch["categories"]  # (B, C)
            given = (categories != 0).unsqueeze(-1)
            vectors = self.table(categories + self.category_offset) * given
            fields.append(vectors.sum(1, keepdim=True) / given.sum(1, keepdim=True).clamp(min=1))
        if self.feature_vectors is not None:
            fields.append(batch["features"].unsqueeze(-1) * self.feature_vectors)
        fields = torch.cat(fields, dim=1) if len(fields) > 1 else fields[0]  # (B, fields, k + 1)
        # One split, not two slices: its backward pass is one concatenation.
        vectors, weights = fields.split((self.embedding_dim, 1), dim=-1)
        hidden = self.mlp(vectors.flatten(1))
        if self.explanation_input is not None:
            hidden = torch.cat((hidden, self.explanation_input(explanations, len(ids))), dim=1)
        elif explanations is not None:
            raise ValueError("this DeepFM was built without explanation slots; build it with explanation_slots > 0")
        return weights.sum((1, 2)) + second_order(vectors) + self.head(hidden).squeeze(1)


def second_order(vectors: torch.Tensor) -> torch.Tensor:
    """sum_{i<j} <v_i, v_j> of the fields' vectors (B, fields, k) -> (B,); DeepFM eq. 2.

    >>> second_order(torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]]))  # 11 + 17 + 39
    tensor([67.])
    """
    total = vectors.sum(1)  # (B, k)
    # Products, not powers: their gradient takes fewer steps.
    return 0.5 * (total * total - (vectors * vectors).sum(1)).sum(1)
