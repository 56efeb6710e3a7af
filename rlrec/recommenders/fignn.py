"""Fi-GNN with explanation slots: fields as the nodes of a graph that exchange messages.

Paper: Fi-GNN (Li et al., CIKM 2019): multi-head self-attention over the fields gives the nodes' first states; edges
are weighted by attention between them; in each step a node takes in its neighbours' states,
a_i = sum_j A_ij W_in^i W_out^j h_j + b, and h_i = GRU(h_i, a_i) + h_i^1; the score is
sum_i MLP_2(h_1, ..., h_m)_i MLP_1(h_i).
h, in ExpCTR's sense, is the last states of all nodes side by side; what the head makes of concat(h, z) is added.

Departures, and rulings where the paper leaves it open: those of `rlrec.recommenders.fields`, and
1. The weights of the edges that lead into one node sum to 1.
2. The GRU is `torch.nn.GRUCell`, whose reset gate acts on U h + b instead of on h. Its weights and those of the edges
   are the same in all steps.
3. MLP_1 and MLP_2 have one layer each.
"""

import torch
import torch.nn.functional as F
from torch import nn

from rlrec.recommenders.autoint import InteractingLayer
from rlrec.recommenders.base import Batch
from rlrec.recommenders.fields import FieldRecommender


class FieldGraph(nn.Module):
    """The graph of `num_fields` nodes with states of size `dim`, and its messages."""

    def __init__(self, num_fields: int, dim: int):
        super().__init__()
        self.edges = nn.Linear(dim, 2, bias=False)  # W_w of [h_i; h_j], its two halves as two rows
        bound = dim**-0.5
        self.outward = nn.Parameter(torch.empty(num_fields, dim, dim).uniform_(-bound, bound))  # W_out^T of each node
        self.inward = nn.Parameter(torch.empty(num_fields, dim, dim).uniform_(-bound, bound))  # W_in^T
        self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("itself", torch.eye(num_fields, dtype=torch.bool), persistent=False)

    def weights(self, states: torch.Tensor) -> torch.Tensor:
        """A (B, m, m), softmax over j != i of LeakyReLU(W_w [h_i; h_j]), from the first states (B, m, dim)."""
        own, other = self.edges(states).split(1, dim=-1)  # (B, m, 1) each
        return F.leaky_relu(own + other.transpose(1, 2)).masked_fill(self.itself, float("-inf")).softmax(-1)

    def messages(self, weights: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """a (B, m, dim) from A (B, m, m) and states (B, m, dim)."""
        sent = torch.bmm(states.transpose(0, 1), self.outward).transpose(0, 1)
        taken = weights @ sent
        return torch.bmm(taken.transpose(0, 1), self.inward).transpose(0, 1) + self.bias


class FiGNN(FieldRecommender):
    """logit = sum_i a_i y_i over the nodes after `num_steps` steps, with slots + head(concat(h, z)).

    Args:
        num_heads: of the self-attention before the graph.
        num_steps: steps of messages; the order of interactions grows with each.
        the others: as in `DeepFM`, which has an MLP too.

    >>> ids = torch.tensor([1, 2])
    >>> FiGNN(num_users=3, num_items=4)({"user": ids, "item": ids}).shape
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
        num_heads: int = 2,
        num_steps: int = 2,
        explanation_slots: int = 0,
        explanation_dim: int = 0,
        explanation_projection: int = 16,
        explanation_dropout: float = 0.3,
    ):
        super().__init__({k: v for k, v in locals().items() if k not in ("self", "__class__")})
        width = self.num_fields * embedding_dim
        self.num_steps = num_steps
        self.attention = InteractingLayer(embedding_dim, num_heads, residual=False)
        self.graph = FieldGraph(self.num_fields, embedding_dim)
        self.gru = nn.GRUCell(embedding_dim, embedding_dim)
        self.node_score = nn.Linear(embedding_dim, 1)  # MLP_1
        self.node_weight = nn.Linear(width, self.num_fields)  # MLP_2
        self.build_head(width, linear=False)

    def states(self, vectors: torch.Tensor) -> torch.Tensor:
        """The nodes' last states (B, m, k) from the fields' vectors (B, m, k)."""
        first = states = self.attention(vectors)
        weights = self.graph.weights(first)
        for _ in range(self.num_steps):
            messages = self.graph.messages(weights, states)
            states = self.gru(messages.flatten(0, 1), states.flatten(0, 1)).view_as(first) + first
        return states

    def forward(self, batch: Batch, explanations: torch.Tensor | None = None) -> torch.Tensor:
        """Logits or ratings (B,) from a batch (see `rlrec.recommenders.base`) and explanations (B, S, d) or None."""
        states = self.states(self.fields(batch))
        hidden = states.flatten(1)
        scores = (self.node_weight(hidden) * self.node_score(states).squeeze(-1)).sum(1)
        return scores + self.score(hidden, explanations)
