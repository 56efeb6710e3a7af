"""What recommenders that read the history share: its items with the user's reactions, and the MLP over fields and it.

Papers: the sequence models of ExpCTR's Table 1 (clicks: DIN, DIEN, Caser, GRU4Rec, SASRec, BERT4Rec) and of RecPIE's
Table 2 (ratings: DIN, SASRec, BERT4Rec, UniSRec). Each has a file with its own encoder of the history; what they share
is here:

    h = MLP(concat(fields, s, s * v)),    y_hat = head(concat(h, z))

with s the encoder's representation of the history, v the target item's vector, z the explanations (ExpCTR eq. 12), and
the fields, the head and its departures those of `fields`.

Rulings, since neither paper says how a sequence model predicts a click or a rating:

1. The models are trained for the click or the rating of the target given the history, which is what both tables
   measure (AUC, RMSE), and not for the next item. Next-item models keep their plain names (`SASRec`, `BERT4Rec`);
   here, a model whose original predicts the next item is named `Pointwise...`.
2. A history item's vector is its row of the item table, which the target shares, plus a learned vector for the user's
   reaction to it: "disliked" at 0, "liked" at 1, and for ratings scaled to [0, 1] in between. The prompts of the
   tables' language-model rows show the reactions too.
3. s * v gives the MLP the inner product by which next-item models compare the two.
4. Unknown items of a history are skipped like padding. What the encoder makes of an empty history does not depend on
   the row, unless it reads the target (DIN and DIEN, which make zeros of it).
"""

import torch
from torch import nn

from rlrec.recommenders.base import Batch
from rlrec.recommenders.fields import FieldRecommender, hidden_layers
from rlrec.recommenders.sequential import newest_to_left


class SequenceRecommender(FieldRecommender):
    """Base of the models that read `history` and `history_labels`; a subclass has `represent(x, given, target)`.

    Encode the samples with `Vocabulary.from_samples(..., use_history=True, use_history_labels=True)`, for ratings with
    `history_labels_column="history_targets"` too.

    Args:
        num_users, num_items, num_categories, num_features: table sizes, as `Vocabulary.sizes()` gives them (index 0
            included).
        objective: "binary" (logits) or "rating" (ratings scaled to [0, 1]).
        embedding_dim: size d of the vectors of items and other fields, and of the representation s.
        hidden_dims: widths of the MLP; the last is the size of h.
        dropout: on the MLP's hidden layers and inside of the encoder.
        max_length: newest items of the history that are read (default: ExpCTR's history of ten).
        explanation_slots, explanation_dim, explanation_projection, explanation_dropout: as in `DeepFM`.
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
        max_length: int = 10,
        explanation_slots: int = 0,
        explanation_dim: int = 0,
        explanation_projection: int = 16,
        explanation_dropout: float = 0.3,
    ):
        super().__init__({k: v for k, v in locals().items() if k not in ("self", "__class__")})
        if max_length < 1:
            raise ValueError(f"max_length is {max_length}, expected at least 1")
        self.max_length = max_length
        width = (self.num_fields + 2) * embedding_dim
        self.reactions = nn.Parameter(0.1 * torch.randn(2, embedding_dim))  # disliked, liked
        self.mlp = hidden_layers(width, hidden_dims, dropout)
        self.build_head(hidden_dims[-1] if hidden_dims else width)

    def represent(self, x: torch.Tensor, given: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The encoder: history vectors (B, L, d), `given` (B, L) and the target's vector (B, d) -> s (B, d).

        Histories stand at the left, oldest item first; the vectors behind their ends, where not `given`, are zero.
        """
        raise NotImplementedError(f"{type(self).__name__} must define represent(x, given, target)")

    def check(self, batch: Batch, explanations: torch.Tensor | None = None) -> None:
        """As in `Recommender`, and the history and the reactions to it must be there."""
        missing = [key for key in ("history", "history_labels") if key not in batch]
        if missing:
            raise ValueError(
                f"the batch has no {missing}, which {type(self).__name__} reads; encode the samples with a vocabulary "
                "made by Vocabulary.from_samples(..., use_history=True, use_history_labels=True)"
            )
        super().check(batch, explanations)

    def forward(self, batch: Batch, explanations: torch.Tensor | None = None) -> torch.Tensor:
        """Logits or ratings (B,) from a batch (see `rlrec.recommenders.base`) and explanations (B, S, d) or None."""
        history, x, fields = self.embed(batch)
        return self.outputs(fields, self.represent(x, history != 0, fields[:, 1]), explanations)

    def embed(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The history's items (B, L), oldest at the left, their vectors with reactions (B, L, d), and the fields
        (B, num_fields, d), of which the second is the target."""
        history, labels = newest_to_left(self.max_length, batch["history"], batch["history_labels"])
        x = self.item_vectors(history) + torch.lerp(self.reactions[0], self.reactions[1], labels.unsqueeze(-1))
        return history, x * (history != 0).unsqueeze(-1), self.fields(batch)

    def item_vectors(self, items: torch.Tensor) -> torch.Tensor:
        """Rows of the item table: (...) -> (..., d)."""
        return self.table(items + self.config["num_users"])

    def outputs(
        self, fields: torch.Tensor, representation: torch.Tensor, explanations: torch.Tensor | None
    ) -> torch.Tensor:
        """The equations above: fields (B, num_fields, d), s (B, d), explanations (B, S, d) or None -> (B,)."""
        inputs = (fields.flatten(1), representation, representation * fields[:, 1])
        return self.score(self.mlp(torch.cat(inputs, dim=1)), explanations)
