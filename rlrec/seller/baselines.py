"""The rows beside SELLER: Random, Empty, PEPLER and XRec (PETER: rlrec/seller/peter.py).

PEPLER and XRec are a frozen LLM with another adapter, trained, and made to write, by what trains SELLER: their models
here go with `SellerPrompts.pepler` and `SellerPrompts.xrec`, and with the features of the samples.

Papers: Li, Zhang and Chen, "Personalized Prompt Learning for Explainable Recommendation" (PEPLER, TOIS 2023); Ma, Ren
and Huang, "XRec: Large Language Models for Explainable Recommendation" (EMNLP Findings 2024). Written from what the
SELLER paper and general knowledge say of them. Departures:

1. PEPLER first learns the vectors of users and items as a continuous prompt before a fixed GPT-2, then tunes both. The
   first stage is the default here, before the run's LLM; with `tune_llm` both are trained from the start. Its rating
   regularisation is left out, as PETER's rating loss is.
2. XRec's vectors are LightGCN's (rlrec/recommenders/lightgcn.py) over the training interactions. Each goes through its
   own mixture of experts, one linear each; the gate has no noise.
3. XRec puts the vectors into the layers at their own positions. Here it is eq. 10 of SELLER, which says the same of
   itself: both rows differ in what they know, not in how it is told.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlrec.policies.injection import InjectedLLM
from rlrec.recommenders.base import Vocabulary
from rlrec.recommenders.lightgcn import fit_lightgcn

Features = dict[str, Tensor]  # rows like the samples'


def random_explanations(explanations: Sequence[str], count: int, seed: int = 0) -> list[str]:
    """`count` of the training explanations, each drawn from all of them (Table 2's "Random").

    >>> random_explanations(["a"], 2)
    ['a', 'a']
    """
    drawn = np.random.default_rng(seed).integers(len(explanations), size=count)
    return [explanations[number] for number in drawn]


def empty_explanations(count: int) -> list[str]:
    """Nothing, so that only the EER's adapter is left (Table 2's "Empty")."""
    return [""] * count


class PEPLERAdapter(nn.Module):
    """A vector of the LLM's width for each user and each item: indices (B,) twice -> (B, 2, H).

    >>> ids = torch.tensor([1, 0, 2])
    >>> PEPLERAdapter(hidden_size=8, num_users=3, num_items=4)(user=ids, item=ids).shape
    torch.Size([3, 2, 8])
    """

    def __init__(self, hidden_size: int, num_users: int, num_items: int, std: float = 0.02):
        super().__init__()
        self.settings = {"num_users": num_users, "num_items": num_items}
        self.users, self.items = nn.Embedding(num_users, hidden_size), nn.Embedding(num_items, hidden_size)
        for table in (self.users, self.items):
            nn.init.normal_(table.weight, std=std)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return torch.stack([self.users(user), self.items(item)], dim=1)


class XRecAdapter(nn.Module):
    """Collaborative vectors (B, d) of user and item -> (B, 2, H), each by its own mixture of linear experts.

    Args:
        hidden_size: H, the LLM's width.
        dim: d.
        num_experts, dropout: paper: 8 and 0.2.

    >>> XRecAdapter(hidden_size=8, dim=4)(user=torch.ones(3, 4), item=torch.ones(3, 4)).shape
    torch.Size([3, 2, 8])
    """

    def __init__(self, hidden_size: int, dim: int = 64, num_experts: int = 8, dropout: float = 0.2):
        super().__init__()
        self.settings = {"dim": dim, "num_experts": num_experts, "dropout": dropout}
        self.dropout = nn.Dropout(dropout)
        self.gates = nn.ModuleDict({side: nn.Linear(dim, num_experts) for side in ("user", "item")})
        self.experts = nn.ModuleDict({side: nn.Linear(dim, num_experts * hidden_size) for side in ("user", "item")})
        for experts in self.experts.values():
            nn.init.normal_(experts.weight, std=0.02)
            nn.init.zeros_(experts.bias)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return torch.stack([self._mix("user", user), self._mix("item", item)], dim=1)

    def _mix(self, side: str, vectors: Tensor) -> Tensor:
        gates = self.gates[side](vectors).softmax(-1)  # (B, experts)
        experts = self.experts[side](self.dropout(vectors)).unflatten(1, (gates.shape[1], -1))  # (B, experts, H)
        return (gates[..., None] * experts).sum(1)


def pepler(
    llm: PreTrainedModel, training: pl.DataFrame, tables: Sequence[pl.DataFrame], tune_llm: bool = False
) -> tuple[InjectedLLM, list[Features]]:
    """PEPLER's untrained model, and the features of each of `tables`.

    Args:
        llm: loaded for this row alone, if it is tuned.
        training: user_id and item_id of the samples to train on; whoever is not among them has the vector of row 0.
        tables: samples to train on or to write for.
        tune_llm: train the LLM too. It is then no adapter that `save_pretrained` writes.
    """
    vocabulary = Vocabulary.from_samples(training, use_categories=False)
    sizes = vocabulary.sizes()
    adapter = PEPLERAdapter(llm.config.hidden_size, sizes["num_users"], sizes["num_items"])
    model = InjectedLLM(llm, adapter, inject=False)
    llm.requires_grad_(tune_llm)
    return model, [_indices(vocabulary, samples) for samples in tables]


def xrec(
    llm: PreTrainedModel,
    interactions: pl.DataFrame,
    tables: Sequence[pl.DataFrame],
    *,
    dim: int = 64,
    dropout: float = 0.2,
    **options,
) -> tuple[InjectedLLM, list[Features]]:
    """XRec's untrained model, with LightGCN trained, and the features of each of `tables`.

    Args:
        interactions: user_id and item_id of the interactions before the first cut in time.
        tables: samples to train on or to write for.
        dim: of LightGCN's vectors; they are scaled to a mean square of 1.
        dropout: of the adapter.
        options: of `fit_lightgcn`.
    """
    vocabulary = Vocabulary.from_samples(interactions, use_categories=False)
    sizes, known = vocabulary.sizes(), _indices(vocabulary, interactions)
    fitted = fit_lightgcn(known["user"], known["item"], sizes["num_users"], sizes["num_items"], dim=dim, **options)
    users, items = (vectors / vectors[1:].square().mean().sqrt().clamp(min=1e-8) for vectors in fitted)
    model = InjectedLLM(llm, XRecAdapter(llm.config.hidden_size, dim, dropout=dropout))
    rows = [_indices(vocabulary, samples) for samples in tables]
    return model, [{"user": users[row["user"]], "item": items[row["item"]]} for row in rows]


def _indices(vocabulary: Vocabulary, samples: pl.DataFrame) -> Features:
    batch = vocabulary.encode(samples.select("user_id", "item_id"))
    return {"user": batch["user"], "item": batch["item"]}
