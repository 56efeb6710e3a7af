"""LightGCN: vectors of users and items that are averaged over the graph of their interactions.

Paper: He et al., "LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation" (SIGIR 2020), eqs.
3 to 8 and 15: each layer is the symmetrically normalised sum of the neighbours' vectors, the final vector the mean of
all layers, trained by BPR. Departures:

1. The L2 term is on the vectors of the batch's users and items alone, as in the published code.
2. Row 0 of both tables stands for whom training never saw: it has no neighbour and stays zero.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlrec.recommenders.fitting import torch_threads


class LightGCN(nn.Module):
    """Tables of users and items, and the graph between them.

    Args:
        users, items: indices (N,) of the training interactions, 0 left out.
        num_users, num_items: sizes of the tables, row 0 included.
        dim: of the vectors (paper: 64).
        layers: of propagation (paper: 3).

    >>> model = LightGCN(torch.tensor([1, 2]), torch.tensor([1, 1]), num_users=3, num_items=2, dim=4)
    >>> users, items = model()
    >>> users.shape, items.shape, users[0].tolist()
    (torch.Size([3, 4]), torch.Size([2, 4]), [0.0, 0.0, 0.0, 0.0])
    """

    def __init__(self, users: Tensor, items: Tensor, num_users: int, num_items: int, dim: int = 64, layers: int = 3):
        super().__init__()
        self.sizes, self.layers = (num_users, num_items), layers
        self.table = nn.Parameter(torch.randn(num_users + num_items, dim) * 0.1)
        size = num_users + num_items
        known = (users > 0) & (items > 0)
        edges = torch.stack([users[known], items[known] + num_users]).unique(dim=1)
        edges = torch.cat([edges, edges.flip(0)], dim=1)
        degree = edges[0].bincount(minlength=size).float()
        weights = (degree[edges[0]] * degree[edges[1]]).rsqrt()
        graph = torch.sparse_coo_tensor(edges, weights, (size, size), check_invariants=True)
        self.register_buffer("graph", graph.coalesce())
        known_rows = torch.ones(size, 1)
        known_rows[[0, num_users]] = 0
        self.register_buffer("known_rows", known_rows)

    def forward(self) -> tuple[Tensor, Tensor]:
        """The final vectors of users (num_users, dim) and items (num_items, dim)."""
        layer = self.table * self.known_rows
        total = layer
        for _ in range(self.layers):
            layer = torch.sparse.mm(self.graph, layer)
            total = total + layer
        return (total / (self.layers + 1)).split(self.sizes)


def fit_lightgcn(
    users: Tensor,
    items: Tensor,
    num_users: int,
    num_items: int,
    *,
    dim: int = 64,
    layers: int = 3,
    epochs: int = 20,
    batch_size: int = 4096,
    learning_rate: float = 5e-3,
    weight_decay: float = 1e-4,
    seed: int = 0,
    device: str | torch.device = "cpu",
    cpu_threads: int | None = 1,
) -> tuple[Tensor, Tensor]:
    """The final vectors of users (num_users, dim) and items (num_items, dim), on the CPU.

    Args:
        users, items: indices (N,) of the training interactions (`Vocabulary.encode`); negatives are uniform items.
        weight_decay: lambda of the L2 term (paper: 1e-4).
        learning_rate: the paper has 1e-3 for up to 1,000 epochs; a few epochs need more.
        others: as in `rlrec.recommenders.fit`.
    """
    forked = torch.random.fork_rng(devices=[device] if torch.device(device).type == "cuda" else [])
    with forked, torch_threads(cpu_threads):
        torch.manual_seed(seed)
        model = LightGCN(users, items, num_users, num_items, dim, layers).to(device)
        pairs = torch.stack([users, items], dim=1)[(users > 0) & (items > 0)].to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
        for _ in range(epochs):
            for batch in pairs[torch.randperm(len(pairs), device=device)].split(batch_size):
                user, item = batch.T
                other = torch.randint(1, num_items, item.shape, device=device)
                user_vectors, item_vectors = model()
                margin = (user_vectors[user] * (item_vectors[item] - item_vectors[other])).sum(1)
                first = model.table[torch.cat([user, item + num_users, other + num_users])]
                loss = -F.logsigmoid(margin).mean() + weight_decay / 2 * first.square().sum() / len(batch)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            return tuple(vectors.cpu().clone() for vectors in model())
