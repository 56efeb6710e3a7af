"""SELLER's adapter: a user's sequence as two vectors of an LLM's width, one of behaviour and one of meaning.

Paper: SELLER (Zhang et al., "Sequence-aware Large Language Models for Explainable Recommendation"), section 3.1.2,
eqs. 6 to 8, sizes of section 4.1. For each path p, with S^p the states of eq. 4 (SASRec) or eq. 5 (the items' texts):

    H^p = TransformerEncoder(LayerNorm(S^p))      (eq. 6)
    h^p = MeanPool(H^p)                           (eq. 7)
    e^p = sum_i g_i(h^p) Expert_i(h^p)            (eq. 8)

Rulings where the paper is silent, numbered:
1. A linear takes states to the encoder's 64 dimensions, where they have another width (Sentence-T5's have 768).
2. The encoder's layers are PyTorch's (ReLU, norm after each part), four times as wide inside. An expert is
   64 -> 256 -> H, with ReLU. The printed dropout of 0.2, of the experts, is the encoder's too.
3. The last matrix of an expert starts with deviation 0.02 and no bias, about as small as a token embedding, so that e
   does not shake a frozen LLM at the start.
4. Eq. 6 has no positions. SASRec's states know their place, but those of texts do not: the semantic path sees a set of
   items. `positions` gives each path learned ones, counted from the newest item; 0, the default, is eq. 6 as printed.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EXPERT_STD = 0.02


class SequencePath(nn.Module):
    """Eqs. 6 to 8 of one path: states (B, L, size) and mask (B, L) -> (B, H)."""

    def __init__(
        self,
        size: int,
        hidden_size: int,
        width: int,
        num_layers: int,
        num_heads: int,
        num_experts: int,
        dropout: float,
        positions: int,
    ):
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.narrow = nn.Identity() if size == width else nn.Linear(size, width)
        self.positions = nn.Embedding(positions, width) if positions else None
        layer = nn.TransformerEncoderLayer(width, num_heads, 4 * width, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.gate = nn.Linear(width, num_experts)
        self.experts = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, 4 * width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(4 * width, hidden_size)
            )
            for _ in range(num_experts)
        )
        for expert in self.experts:
            nn.init.normal_(expert[-1].weight, std=EXPERT_STD)
            nn.init.zeros_(expert[-1].bias)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        hidden = self.narrow(self.norm(states))
        if self.positions is not None:
            newer = mask.flip(1).cumsum(1).flip(1) - mask.long()  # items after this one
            hidden = hidden + self.positions(newer.clamp(max=self.positions.num_embeddings - 1))
        hidden = self.encoder(hidden, src_key_padding_mask=~mask)
        weights = mask[..., None].to(hidden)
        pooled = (hidden * weights).sum(1) / weights.sum(1)
        gates = F.softmax(self.gate(pooled), dim=-1)  # (B, experts)
        return sum(gates[:, i, None] * expert(pooled) for i, expert in enumerate(self.experts))


class SequenceAdapter(nn.Module):
    """The adapter of `rlrec.policies.injection.InjectedLLM`: (B, T, H), T the number of paths, behaviour first.

    Defaults are section 4.1's. A path whose size is None is left out (Figure 2: without BE, without SE; without both,
    "without DE", T is 0 and there is nothing to train); features of such a path may be given and are not read.

    Args:
        hidden_size: H, the LLM's width.
        behaviour_size: width of SASRec's states, d of eq. 4.
        semantic_size: width of the text encoder's states, d of eq. 5.
        width: of the Transformer encoder.
        num_layers: of the Transformer encoder.
        num_heads: of the Transformer encoder.
        num_experts: g of eq. 8.
        dropout: in experts and encoder.
        positions: how many learned positions, 0 for none; older items share the last one.

    >>> adapter = SequenceAdapter(32, semantic_size=24)
    >>> states = {"behaviour": torch.ones(2, 5, 64), "semantic": torch.ones(2, 5, 24)}
    >>> adapter(**states, sequence_mask=torch.ones(2, 5, dtype=torch.bool)).shape
    torch.Size([2, 2, 32])
    """

    def __init__(
        self,
        hidden_size: int,
        behaviour_size: int | None = 64,
        semantic_size: int | None = 768,
        *,
        width: int = 64,
        num_layers: int = 2,
        num_heads: int = 4,
        num_experts: int = 8,
        dropout: float = 0.2,
        positions: int = 0,
    ):
        super().__init__()
        self.hidden_size = hidden_size
        shape = {"width": width, "num_layers": num_layers, "num_heads": num_heads, "num_experts": num_experts}
        options = {**shape, "dropout": dropout, "positions": positions}
        sizes = {"behaviour": behaviour_size, "semantic": semantic_size}
        self.settings = {"sizes": sizes, **options}  # saved with the weights: shapes do not tell the number of heads
        self.paths = nn.ModuleDict(
            {name: SequencePath(size, hidden_size, **options) for name, size in sizes.items() if size is not None}
        )

    def forward(
        self, sequence_mask: Tensor, behaviour: Tensor | None = None, semantic: Tensor | None = None
    ) -> Tensor:
        """The vectors (B, T, H) of eq. 8.

        Args:
            sequence_mask: (B, L) bool, True where there is an item.
            behaviour: (B, L, d_rec) of eq. 4.
            semantic: (B, L, d_sem) of eq. 5.

        Raises:
            ValueError: a path's states are missing, or a sequence has no item.
        """
        states = {"behaviour": behaviour, "semantic": semantic}
        if missing := [name for name in self.paths if states[name] is None]:
            raise ValueError(f"The adapter reads {' and '.join(missing)}, but the features have no such states.")
        mask = sequence_mask.bool()
        if not mask.any(1).all():
            row = int((~mask.any(1)).nonzero()[0])
            raise ValueError(f"Sequence {row} of the batch has no item: leave out samples without a history.")
        if not self.paths:
            return torch.zeros(len(mask), 0, self.hidden_size, device=mask.device)
        return torch.stack([path(states[name], mask) for name, path in self.paths.items()], dim=1)
