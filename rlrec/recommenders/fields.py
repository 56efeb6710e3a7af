"""What recommenders over fields share: one table for the vectors of all fields, and the head that reads explanations.

The fields are the user, the item, the item's categories (one field, the mean of their vectors) and each dense feature
(its value times a learned vector). Explanations enter by ExpCTR's eq. 12, s_r = f(concat(h, z)), with h the model's
hidden representation, which each model names, and z the explanation.

Departures from eq. 12 and from the models' papers, in all models:
1. z is standardised, clipped and projected before it is concatenated (`ExplanationInput` says why), and a hidden
   layer lies between concat(h, z) and the output, so that h and z can interact. With no explanation slot the head is
   the paper's own. Models whose own head is no linear map of h (FM, DSSM, FiGNN) keep it, and the head is added to it.
2. In training, the explanations of a random share of the rows are zeroed (`explanation_dropout`), so that the
   prediction without explanation of eq. 13 comes from inputs that the model knows.
3. Index 0, the unknown user or item, is an ordinary row of the table that training does not touch, so a user-disjoint
   test user's vector is its small random start, as in the paper; training it by dropping ids changed no AUC.
"""

import torch
from torch import nn

from rlrec.recommenders.base import Batch, ExplanationInput, Recommender


class FieldRecommender(Recommender):
    """Base of DeepFM and its like: `fields` looks vectors up, `score` is the head; a subclass has what lies between.

    Its constructor builds its layers after this one's, and ends with `build_head`.

    Args:
        config: as in `Recommender`; also with the sizes that `Vocabulary.sizes()` gives, `embedding_dim`, and
            `explanation_slots`, `explanation_dim`, `explanation_projection` and `explanation_dropout` (`DeepFM` says
            what they are).
        first_order: whether each field has a scalar weight too, in the last column of its vector.
    """

    def __init__(self, config: dict, first_order: bool = False):
        super().__init__(config)
        self.embedding_dim = config["embedding_dim"]
        columns = self.embedding_dim + first_order
        ids, num_features = config["num_users"] + config["num_items"], config["num_features"]
        # One table for all ids and features, first-order weight in the last column: one lookup, one gradient.
        self.table = nn.Embedding(ids + config["num_categories"], columns)
        self.register_buffer("offsets", torch.tensor([0, config["num_users"]]), persistent=False)
        self.category_offset = ids if config["num_categories"] else None
        self.feature_vectors = nn.Parameter(torch.empty(num_features, columns)) if num_features else None
        self.num_fields = 2 + bool(config["num_categories"]) + num_features

    def build_head(self, width: int, linear: bool = True) -> None:
        """The head that reads h of size `width`, and the small start of the table.

        Args:
            linear: whether the model's own head is a linear map of h; otherwise it has no head without explanations.
        """
        slots, dropout = self.config["explanation_slots"], self.config.get("dropout", 0.0)
        self.explanation_input = None
        self.head = nn.Linear(width, 1) if linear else None
        if slots:
            sizes = (self.config[f"explanation_{name}"] for name in ("dim", "projection", "dropout"))
            self.explanation_input = ExplanationInput(slots, *sizes)
            joint = width + self.explanation_input.output_dim
            self.head = nn.Sequential(nn.Linear(joint, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 1))
        nn.init.normal_(self.table.weight, std=0.01)
        if self.feature_vectors is not None:
            nn.init.normal_(self.feature_vectors, std=0.01)

    def fields(self, batch: Batch) -> torch.Tensor:
        """The vectors of user, item, categories and features, in this order: (B, num_fields, columns)."""
        ids = torch.stack((batch["user"], batch["item"]), dim=1)  # (B, 2)
        fields = [self.table(ids + self.offsets)]
        if self.category_offset is not None:
            categories = batch["categories"]  # (B, C)
            given = (categories != 0).unsqueeze(-1)
            vectors = self.table(categories + self.category_offset) * given
            fields.append(vectors.sum(1, keepdim=True) / given.sum(1, keepdim=True).clamp(min=1))
        if self.feature_vectors is not None:
            fields.append(batch["features"].unsqueeze(-1) * self.feature_vectors)
        return torch.cat(fields, dim=1) if len(fields) > 1 else fields[0]

    def fields_and_weights(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors (B, num_fields, k) and, of a model with `first_order`, weights (B, num_fields, 1)."""
        # One split, not two slices: its backward pass is one concatenation.
        return self.fields(batch).split((self.embedding_dim, 1), dim=-1)

    def score(self, hidden: torch.Tensor, explanations: torch.Tensor | None) -> torch.Tensor:
        """h (B, width) and explanations (B, S, d) or None -> what the head makes of both (B,)."""
        if self.explanation_input is not None:
            hidden = torch.cat((hidden, self.explanation_input(explanations, len(hidden))), dim=1)
        elif explanations is not None:
            raise ValueError(
                f"this {type(self).__name__} was built without explanation slots; build it with explanation_slots > 0"
            )
        return self.head(hidden).squeeze(1) if self.head is not None else hidden.new_zeros(len(hidden))


def hidden_layers(width: int, hidden_dims: tuple[int, ...], dropout: float, activation=nn.ReLU) -> nn.Sequential:
    """Linear layers of widths `hidden_dims`, each followed by its activation and dropout."""
    layers = []
    for hidden in hidden_dims:
        layers += [nn.Linear(width, hidden), activation(), nn.Dropout(dropout)]
        width = hidden
    return nn.Sequential(*layers)
