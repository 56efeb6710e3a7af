"""UniSRec: items are their texts, and a Transformer over them represents the history.

Paper: Hou et al., "Towards Universal Sequence Representation Learning for Recommender Systems" (KDD 2022): parametric
whitening (eq. 2), mixture-of-experts adaptor (eqs. 3 and 4), Transformer (eqs. 5 and 6), and the transductive setting
of section 2.4: an item's vector is that of its text plus a row of the item table. RecPIE's Table 2 has it.

Departures, beside the rulings of `sequence_recommender`:

1. There is no contrastive pre-training on other domains (section 2.3), only what the paper calls fine-tuning: RecPIE
   has one dataset at a time. Without it, this is a text-based SASRec, and no more is claimed of its row.
2. The gate of the mixture has no noise, which is there to balance the experts over the domains of pre-training.
3. (x - b) W of eq. 2 is x W + c. Each dimension of the text vectors is standardised over the items before (encoders
   differ in scale by orders of magnitude); an item without text has zeros.
4. The Transformer is SASRec's, layer norm first, as in `sasrec`.
"""

import torch
from torch import nn

from rlrec.recommenders.base import Batch
from rlrec.recommenders.pointwise_sasrec import PointwiseSASRec


class UniSRec(PointwiseSASRec):
    """Hou et al.'s model; give it the items' text vectors with `set_text_vectors`, they are saved with the weights.

    Args:
        text_dim: size of a text vector.
        experts: whitening maps that the gate mixes (paper: 8).
        the others: as in `PointwiseSASRec` (paper: 2 layers and 2 heads).

    Raises:
        ValueError: the model is used before it has text vectors.

    >>> model = UniSRec(num_users=3, num_items=5, text_dim=8)
    >>> model.set_text_vectors(torch.randn(5, 8))
    >>> batch = {"user": torch.tensor([1]), "item": torch.tensor([4])}
    >>> model({**batch, "history": torch.tensor([[2, 3]]), "history_labels": torch.tensor([[1.0, 0.0]])}).shape
    torch.Size([1])
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        *sizes: int,
        text_dim: int,
        experts: int = 8,
        heads: int = 2,
        **common,
    ):
        super().__init__(num_users, num_items, *sizes, heads=heads, **common)
        self.config |= {"text_dim": text_dim, "experts": experts}
        self.whitening = nn.Linear(text_dim, experts * self.embedding_dim)
        self.gate = nn.Linear(text_dim, experts, bias=False)
        self.register_buffer("text_vectors", torch.zeros(num_items, text_dim))

    @torch.no_grad()
    def set_text_vectors(self, vectors: torch.Tensor) -> None:
        """Take the items' text vectors (num_items, text_dim), row 0 unread; an item without text has zeros.

        Raises:
            ValueError: another shape, NaN or infinite values, or no item has a text.
        """
        shape = tuple(self.text_vectors.shape)
        if tuple(vectors.shape) != shape:
            raise ValueError(
                f"text vectors have shape {tuple(vectors.shape)}, expected (num_items, text_dim) = {shape}"
            )
        if not torch.isfinite(vectors).all():
            raise ValueError("text vectors hold NaN or infinite values; check the encoder's output")
        vectors = vectors.to(self.text_vectors)
        given = (vectors != 0).any(1)
        given[0] = False
        if not given.any():
            raise ValueError(f"none of the {shape[0] - 1} items has a text vector other than zeros")
        deviation, mean = torch.std_mean(vectors[given], dim=0, correction=0)
        self.text_vectors.zero_()
        self.text_vectors[given] = (vectors[given] - mean) / deviation.clamp(min=1e-6 + 0.01 * float(deviation.mean()))

    def check(self, batch: Batch, explanations: torch.Tensor | None = None) -> None:
        """As in `SequenceRecommender`, and the text vectors must be there."""
        if not self.text_vectors.any():
            raise ValueError("this UniSRec has no text vectors yet; call set_text_vectors(vectors) first")
        super().check(batch, explanations)

    def embed(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As in `SequenceRecommender`, with the vectors of the texts added to those of the items."""
        history, x, fields = super().embed(batch)
        texts = self.adapt(torch.cat((history, batch["item"].unsqueeze(1)), dim=1))  # (B, L + 1, d)
        x = x + texts[:, :-1] * (history != 0).unsqueeze(-1)
        return history, x, torch.cat((fields[:, :1], fields[:, 1:2] + texts[:, -1:], fields[:, 2:]), dim=1)

    def adapt(self, items: torch.Tensor) -> torch.Tensor:
        """Eqs. 2 to 4, for each of the items once: indices (B, L) -> vectors (B, L, d)."""
        distinct, places = items.unique(return_inverse=True)
        texts = self.text_vectors[distinct]  # (U, text_dim)
        weights = self.gate(texts).softmax(-1).unsqueeze(1)  # (U, 1, experts)
        experts = self.whitening(texts).unflatten(-1, (weights.shape[-1], -1))  # (U, experts, d)
        return torch.bmm(weights, experts).squeeze(1)[places]
