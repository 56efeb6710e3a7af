"""RecPIE's recommendation component: a self-attentive GRU over the history, and self-attention over its inputs.

Paper: RecPIE, section 3.5 and appendix A: eq. 9 (tables), 23-30 (sequence embedding), 10 and 31-33 (self-attention
over the inputs), 11 (prediction), 12 and 13 (losses; `rlrec.recommenders.fitting` has them), and the weights that
eq. 22 averages. The paper trains it with `fit(..., learning_rate=0.01, batch_size=256, epochs=10)`.

The GRU is not `torch.nn.GRU`: that one resets after the product with U_h, r * (U_h h + b), where eq. 29 has
U_h (r * h), and it starts from zeros where the paper has h_1 = z_1. So equations 27-30 are written out.

Departures, and rulings where the paper is silent:
1. Explanations are standardised and clipped before their linear map to 8 dimensions (`ExplanationInput` says why). The
   map has no bias and is shared by both explanations, so that a zero embedding is a zero token.
2. Row 0 of both tables, the unknown consumer or product, is trained: each id of a training row is replaced by 0 with
   probability `id_dropout`. The paper names no treatment of the unknown. It is not free: on ML-100K (user-temporal
   split, ratings in [0, 1], three seeds) test RMSE was .2487 with 0 and .2515 with .05, and with all users or all
   items made unknown, .2685 and .2781 with 0, .2688 and .2810 with .05: there the small random row did as well.
3. Unknown products of a history are skipped like padding; the embedding of an empty history is zero.
4. The context token, which appendix A.2 names and does not define, is a linear map of the dense features plus the mean
   vector of the item's categories.
5. Tables start with deviation 0.1; the paper says "initialized". The MLP has ReLU between its layers.
6. Eq. 12 is printed with a minus sign before a sum of squares that is to be minimised; it is dropped.
7. Ablation 1 ("free learnable parameters of the same dimension") has one free token per explanation slot, the same for
   all rows: the input layer keeps its size and the tokens carry nothing about the row.
"""

import math

import torch
from torch import nn

from rlrec.recommenders.base import Batch, ExplanationInput, Recommender

SLOT_NAMES = ("pos", "neg")


class SelfAttention(nn.Module):
    """Single-head scaled dot-product attention with d_k = dim and no biases (RecPIE eqs. 23-26).

    Args:
        dim: size of the vectors, of the queries, keys and values, and of the outputs.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)

    def forward(self, x: torch.Tensor, valid: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors (B, T, d), and `valid` (B, T), False where nobody may look, -> outputs (B, T, d), weights (B, T, T).

        `weights[b, u, i]` is the attention of u to i, alpha_{u,i}. Rows without a valid vector get equal weights.
        """
        scores = self.query(x) @ self.key(x).transpose(1, 2) / math.sqrt(x.shape[-1])
        if valid is not None:
            scores = scores.masked_fill(~valid.unsqueeze(1), torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1)
        return weights @ self.value(x), weights


class SelfAttentiveGRULayer(nn.Module):
    """The sequence embedding: self-attention over the history, then a GRU, whose last state it is (eqs. 23-30).

    Args:
        dim: size of the item vectors and of the hidden state; equal, because h_1 = z_1.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.attention = SelfAttention(dim)
        self.input = nn.Linear(dim, 3 * dim)  # W_r, W_u, W_h and b_r, b_u, b_h
        self.gates = nn.Linear(dim, 2 * dim, bias=False)  # U_r, U_u
        self.candidate = nn.Linear(dim, dim, bias=False)  # U_h

    def step(self, inputs: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """Eqs. 27-30: W z_t + b (B, 3 d), in the order r, u, h, and h_{t-1} (B, d) -> h_t (B, d)."""
        dim = hidden.shape[-1]
        gates, candidate = inputs.split((2 * dim, dim), dim=-1)
        reset, update = torch.sigmoid(gates + self.gates(hidden)).chunk(2, dim=-1)
        candidate = torch.tanh(candidate + self.candidate(reset * hidden))
        return torch.lerp(candidate, hidden, update)  # u h + (1 - u) candidate

    def forward(self, vectors: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Item vectors (B, L, d), oldest first, and `valid` (B, L), False for padding anywhere -> (B, d)."""
        if vectors.shape[1] == 0:
            return vectors.new_zeros(len(vectors), vectors.shape[2])
        attended, _ = self.attention(vectors, valid)
        inputs = self.input(attended).unbind(1)
        attended = attended.unbind(1)
        count = valid.cumsum(1)
        moves = (valid & (count > 1)).unsqueeze(-1).unbind(1)
        starts = (valid & (count == 1)).unsqueeze(-1).unbind(1)
        hidden = attended[0]
        for position in range(1, len(inputs)):
            hidden = torch.where(moves[position], self.step(inputs[position], hidden), hidden)
            hidden = torch.where(starts[position], attended[position], hidden)  # h_1 = z_1
        return hidden * valid.any(1, keepdim=True)


class InputTokens(nn.Module):
    """The input layer: explanations, consumer, product, sequence and context as 8-d vectors (eq. 9 and section 3.5.3).

    Args:
        the same as in `SelfAttentiveGRU`.
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        num_categories: int,
        num_features: int,
        embedding_dim: int,
        id_dropout: float,
        explanation_slots: int,
        explanation_dim: int,
        explanation_dropout: float,
        free_explanations: bool,
    ):
        super().__init__()
        if not 0 <= explanation_slots <= len(SLOT_NAMES):
            raise ValueError(f"explanation_slots is {explanation_slots}, expected 0, 1 or 2")
        if not 0 <= id_dropout < 1:
            raise ValueError(f"id_dropout is {id_dropout}, expected at least 0 and less than 1")
        self.id_dropout = id_dropout
        self.consumer_table = nn.Embedding(num_users, embedding_dim)  # E_c
        self.product_table = nn.Embedding(num_items, embedding_dim)  # E_p
        self.category_table = nn.Embedding(num_categories, embedding_dim) if num_categories else None
        self.features = nn.Linear(num_features, embedding_dim) if num_features else None
        self.free_explanations = self.explanation_input = None
        if explanation_slots and free_explanations:
            self.free_explanations = nn.Parameter(0.1 * torch.randn(explanation_slots, embedding_dim))
        elif explanation_slots:
            self.explanation_input = ExplanationInput(
                explanation_slots, explanation_dim, embedding_dim, explanation_dropout
            )
        for table in (self.consumer_table, self.product_table, self.category_table):
            if table is not None:
                nn.init.normal_(table.weight, std=0.1)
        self.names = (*SLOT_NAMES[:explanation_slots], "c", "p")
        self.has_context = self.category_table is not None or self.features is not None

    def forward(
        self, batch: Batch, explanations: torch.Tensor | None, sequence: torch.Tensor | None = None
    ) -> torch.Tensor:
        """A batch, explanations (B, S, d) or None and a sequence embedding (B, 8) or None -> (B, tokens, 8)."""
        rows = len(batch["user"])
        tokens = []
        if self.free_explanations is not None:
            tokens += self.free_explanations.expand(rows, -1, -1).unbind(1)
        elif self.explanation_input is not None:
            z = self.explanation_input(explanations, rows)
            tokens += z.unflatten(1, (-1, self.consumer_table.embedding_dim)).unbind(1)
        tokens.append(self.consumer_table(self.drop(batch["user"])))
        tokens.append(self.product_table(self.drop(batch["item"])))
        if sequence is not None:
            tokens.append(sequence)
        if self.has_context:
            tokens.append(self.context(batch))
        return torch.stack(tokens, dim=1)

    def drop(self, ids: torch.Tensor) -> torch.Tensor:
        """Replace a random share of the ids by 0, in training only."""
        if not self.training or self.id_dropout == 0:
            return ids
        return ids * (torch.rand(ids.shape, device=ids.device) >= self.id_dropout)

    def context(self, batch: Batch) -> torch.Tensor:
        """The context token (B, 8)."""
        token = 0.0
        if self.features is not None:
            token = self.features(batch["features"])
        if self.category_table is not None:
            given = (batch["categories"] != 0).unsqueeze(-1)  # (B, C, 1)
            vectors = self.category_table(batch["categories"]) * given
            token = token + vectors.sum(1) / given.sum(1).clamp(min=1)
        return token

    def check_explanations(self, explanations: torch.Tensor | None) -> None:
        if explanations is not None and self.explanation_input is None:
            raise ValueError(
                "this recommender was built without explanations (explanation_slots is 0 or free_explanations is set) "
                "and must not be given any"
            )


class SelfAttentiveGRU(Recommender):
    """y_hat = MLP(flatten(self-attention([z_pos, z_neg, e_c, e_p, e_seq, context]))); eqs. 10 and 11.

    It reads `batch["history"]`: make its vocabulary with `use_history=True`. The consumer table, which RecPIE's soft
    prompt shares, is `model.consumer_table`.

    Args:
        num_users, num_items, num_categories, num_features: table sizes, as `Vocabulary.sizes()` gives them (index 0
            included); categories and features make the sixth token, the context.
        objective: "binary" (logits, eq. 13) or "rating" (ratings scaled to [0, 1], eq. 12).
        embedding_dim: size of the tokens, of d_k and of the GRU's hidden state (paper: 8).
        hidden_dims: hidden widths of the MLP (paper: 64 and 8, then 1).
        id_dropout: share of training rows whose user becomes the unknown one, and likewise the item.
        explanation_slots: 2 (positive and negative), 1 or 0, the recommender without explanations.
        explanation_dim: size d of an explanation embedding.
        explanation_dropout: share of training rows whose explanations are zeroed (the paper has none).
        free_explanations: ablation 1: free parameters as explanation tokens; explanations must then be None.

    >>> model = SelfAttentiveGRU(num_users=3, num_items=4, explanation_slots=2, explanation_dim=16).eval()
    >>> ids = torch.tensor([1, 2])
    >>> batch = {"user": ids, "item": ids, "categories": ids.new_zeros(2, 0), "features": torch.zeros(2, 0)}
    >>> batch["history"] = torch.tensor([[3, 1], [0, 0]])  # the second user has none
    >>> torch.equal(model(batch), model(batch, torch.zeros(2, 2, 16)))
    True
    >>> model.token_names, model.attention(batch).shape
    (('pos', 'neg', 'c', 'p', 'seq'), torch.Size([2, 5, 5]))
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        num_categories: int = 0,
        num_features: int = 0,
        objective: str = "binary",
        embedding_dim: int = 8,
        hidden_dims: tuple[int, ...] = (64, 8),
        id_dropout: float = 0.05,
        explanation_slots: int = 0,
        explanation_dim: int = 0,
        explanation_dropout: float = 0.0,
        free_explanations: bool = False,
    ):
        super().__init__({k: v for k, v in locals().items() if k not in ("self", "__class__")})
        own = ("objective", "hidden_dims")
        self.inputs = InputTokens(**{key: value for key, value in self.config.items() if key not in own})
        self.sequence = SelfAttentiveGRULayer(embedding_dim)
        self.self_attention = SelfAttention(embedding_dim)
        self.mlp = multi_layer_perceptron(len(self.token_names) * embedding_dim, hidden_dims)

    @property
    def consumer_table(self) -> nn.Embedding:
        """E_c, (num_users, 8)."""
        return self.inputs.consumer_table

    @property
    def token_names(self) -> tuple[str, ...]:
        """Names of the tokens in order: of pos, neg, c, p, seq and context those that the model has."""
        return (*self.inputs.names, "seq", *(["context"] if self.inputs.has_context else []))

    def check(self, batch: Batch, explanations: torch.Tensor | None = None) -> None:
        """As in `Recommender`, and the history must be there."""
        if "history" not in batch:
            raise ValueError(
                "the batch has no 'history', which SelfAttentiveGRU reads; encode the samples with a vocabulary made "
                "by Vocabulary.from_samples(..., use_history=True)"
            )
        self.inputs.check_explanations(explanations)
        super().check(batch, explanations)

    def forward(self, batch: Batch, explanations: torch.Tensor | None = None) -> torch.Tensor:
        """Logits or ratings (B,) from a batch (see `rlrec.recommenders.base`) and explanations (B, S, d) or None."""
        attended, _ = self.attend(batch, explanations)
        return self.mlp(attended.flatten(1)).squeeze(1)

    def attend(self, batch: Batch, explanations: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """X_self-attn (B, tokens, 8) of eq. 33 and its weights (B, tokens, tokens)."""
        self.inputs.check_explanations(explanations)
        history = batch["history"]  # (B, L)
        sequence = self.sequence(self.inputs.product_table(history), history != 0)
        return self.self_attention(self.inputs(batch, explanations, sequence))

    def attention(self, batch: Batch, explanations: torch.Tensor | None = None) -> torch.Tensor:
        """alpha (B, tokens, tokens) in eval mode: `[b, u, i]` is the attention of token u to token i (`token_names`).

        `model.attention(batch, z).mean(1)` is eq. 22, the average attention that each token gets.
        """
        return self.evaluate(lambda part, z: self.attend(part, z)[1], batch, explanations)


def multi_layer_perceptron(width: int, hidden_dims: tuple[int, ...]) -> nn.Sequential:
    """Linear layers of widths `hidden_dims`, ReLU after each, and a last one of width 1."""
    layers = []
    for hidden in hidden_dims:
        layers += [nn.Linear(width, hidden), nn.ReLU()]
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, 1))
