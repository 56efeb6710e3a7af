"""SASRec once more, written apart from rlrec and plainly, as the reference of its tests.

`reference_scores` is the forward pass with loops, in double precision. `ReferenceSASRec` is a trainable model in the
layout of the paper: histories padded at the front, positions counted from the padded beginning, attention hidden from
padding; its maps are our own parameters, with none of torch's attention or Transformer modules.
"""

import math

import numpy as np
import torch


def normalised(x, weight, bias):
    return (x - x.mean()) / math.sqrt(x.var() + 1e-5) * weight + bias


def reference_scores(weights: dict, history: list[int], layers: int, heads: int) -> np.ndarray:
    """Scores of all items after one history without padding, position by position and head by head."""
    w = {name: value.double().numpy() for name, value in weights.items()}
    x = [w["item_table.weight"][item] + w["position_table.weight"][t] for t, item in enumerate(history)]
    dim = len(x[0])
    size = dim // heads
    for layer in range(layers):
        p = {k.removeprefix(f"encoder.layers.{layer}."): v for k, v in w.items() if f"layers.{layer}." in k}
        normed = [normalised(state, p["norm1.weight"], p["norm1.bias"]) for state in x]
        queries, keys, values = (
            [p["self_attn.in_proj_weight"][part] @ state + p["self_attn.in_proj_bias"][part] for state in normed]
            for part in (slice(0, dim), slice(dim, 2 * dim), slice(2 * dim, 3 * dim))
        )
        for t in range(len(x)):
            mixed = []
            for head in range(heads):
                h = slice(head * size, (head + 1) * size)
                weight = np.exp([queries[t][h] @ keys[s][h] / math.sqrt(size) for s in range(t + 1)])
                mixed.append(sum(a * values[s][h] for s, a in enumerate(weight / weight.sum())))
            out = p["self_attn.out_proj.weight"] @ np.concatenate(mixed) + p["self_attn.out_proj.bias"]
            state = x[t] + out
            inner = p["linear1.weight"] @ normalised(state, p["norm2.weight"], p["norm2.bias"]) + p["linear1.bias"]
            x[t] = state + p["linear2.weight"] @ np.maximum(inner, 0) + p["linear2.bias"]
    state = normalised(x[-1], w["encoder.norm.weight"], w["encoder.norm.bias"])
    return np.array([state @ vector for vector in w["item_table.weight"]])


class ReferenceSASRec(torch.nn.Module):
    def __init__(self, num_items: int, dim: int, layers: int, length: int, dropout: float):
        super().__init__()
        self.length, self.drop = length, torch.nn.Dropout(dropout)
        self.items = torch.nn.Parameter(0.02 * torch.randn(num_items, dim))
        self.places = torch.nn.Parameter(0.02 * torch.randn(length, dim))
        self.blocks = torch.nn.ModuleList()
        for _ in range(layers):
            maps = {name: torch.nn.Linear(dim, dim) for name in ("q", "k", "v", "o", "first", "second")}
            norms = {"before": torch.nn.LayerNorm(dim), "between": torch.nn.LayerNorm(dim)}
            self.blocks.append(torch.nn.ModuleDict(maps | norms))
        self.last = torch.nn.LayerNorm(dim)

    def forward(self, padded: torch.Tensor) -> torch.Tensor:
        """(B, length), padded with 0 at the front -> (B, length, dim)."""
        x = self.drop(self.items[padded] + self.places)
        seen = (padded != 0)[:, None, :] & torch.ones(self.length, self.length).tril().bool()
        seen = seen | torch.eye(self.length).bool()  # a padded place sees itself, so that no softmax is empty
        for block in self.blocks:
            y = block["before"](x)
            scores = block["q"](y) @ block["k"](y).transpose(1, 2) / math.sqrt(y.shape[-1])
            attention = self.drop(scores.masked_fill(~seen, -1e9).softmax(-1))
            x = x + self.drop(block["o"](attention @ block["v"](y)))
            x = x + self.drop(block["second"](self.drop(block["first"](block["between"](x)).relu())))
        return self.last(x)

    def fit(self, sequences: list[list[int]], objective: str, epochs: int, batch_size: int, rate: float) -> None:
        inputs = torch.tensor([self.padded(sequence[:-1]) for sequence in sequences])
        targets = torch.tensor([self.padded(sequence[1:]) for sequence in sequences])
        optimizer = torch.optim.Adam(self.parameters(), lr=rate, betas=(0.9, 0.98))
        self.train()
        for _ in range(epochs):
            for rows in torch.randperm(len(inputs)).split(batch_size):
                states, wanted = self(inputs[rows]), targets[rows]
                states, wanted = states[wanted != 0], wanted[wanted != 0]
                if objective == "bpr":
                    other = torch.randint(1, len(self.items), wanted.shape)
                    keep = other != wanted
                    gap = (states * (self.items[wanted] - self.items[other])).sum(1)[keep]
                    loss = torch.log1p(torch.exp(-gap)).mean()
                else:
                    loss = torch.nn.functional.cross_entropy(states @ self.items[1:].T, wanted - 1)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        self.eval()

    def padded(self, items: list[int]) -> list[int]:
        items = items[-self.length :]
        return [0] * (self.length - len(items)) + items

    @torch.no_grad()
    def found(self, history: list[list[int]], targets: list[int]) -> tuple[float, float]:
        """Recall@10 and NDCG@10 over all items, user by user."""
        recall, gain = 0.0, 0.0
        for items, target in zip(history, targets):
            scores = self(torch.tensor([self.padded(items)]))[0, -1] @ self.items[1:].T
            place = int((scores > scores[target - 1]).sum())
            if place < 10:
                recall += 1
                gain += 1 / math.log2(place + 2)
        return recall / len(targets), gain / len(targets)
