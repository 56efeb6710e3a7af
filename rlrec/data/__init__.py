"""Raw files to interactions and items, to samples, to prompts."""

from rlrec.data.prepare import DATASETS, prepare
from rlrec.data.schema import DataError, PreparedDataset
from rlrec.data.simulated import simulate

__all__ = ["DATASETS", "DataError", "PreparedDataset", "prepare", "simulate"]
