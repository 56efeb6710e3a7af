"""What SELLER's adapter reads of a sample: the states of eqs. 4 and 5 over its sequence."""

from dataclasses import dataclass

import polars as pl
import torch
from torch import Tensor

from rlrec.data.sequences import item_text
from rlrec.recommenders import SASRec
from rlrec.recommenders.base import padded_indices
from rlrec.recommenders.sequential import to_left


@dataclass
class SequenceFeatures:
    """Row numbers (B,) -> behaviour (B, L, d_rec), semantic (B, L, d_sem) and sequence_mask (B, L).

    The states are computed for each batch anew: those of all samples would not fit into memory.

    Args:
        sequences: (N, L) item indices, oldest first, padded with 0 at the end.
        sasrec: frozen.
        semantic: (items + 1, d_sem) states of the items' texts; row 0 is for padding.
    """

    sequences: Tensor
    sasrec: SASRec
    semantic: Tensor

    @torch.no_grad()
    def __call__(self, rows: Tensor) -> dict[str, Tensor]:
        sequences = self.sequences[rows]
        sequences = sequences[:, : int((sequences != 0).sum(1).max())]
        behaviour = self.sasrec.states(sequences.to(self.sasrec.item_table.weight.device)).cpu()
        return {"behaviour": behaviour, "semantic": self.semantic[sequences], "sequence_mask": sequences != 0}


def item_states(items: pl.DataFrame, known: list[str], encoder) -> Tensor:
    """(len(known) + 1, d) of the items' texts, in the order of `known`; zeros for padding and items without a text."""
    texts = {row["item_id"]: item_text(row) for row in items.iter_rows(named=True)}
    vectors = encoder.encode([texts[item] for item in known])
    return torch.cat([torch.zeros(1, vectors.shape[1]), vectors])


def whole_sequences(samples: pl.DataFrame, known: list[str], length: int) -> Tensor:
    """(N, up to `length`) indices of each sample's history and its target; items not in `known` are left out."""
    whole = samples.select(pl.col("history").list.concat(pl.col("item_id")))["history"]
    return to_left(padded_indices(whole, known), length)
