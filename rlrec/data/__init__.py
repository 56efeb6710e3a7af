"""Raw files to interactions and items, to samples, to prompts."""

from rlrec.data.schema import DataError, PreparedDataset
from rlrec.data.simulated import simulate

__all__ = ["DataError", "PreparedDataset", "simulate"]
