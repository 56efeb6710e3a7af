"""Recommenders: one nn.Module per file, one contract (`base`), one fit loop (`fitting`)."""

from rlrec.recommenders.base import Batch, Recommender, Vocabulary
from rlrec.recommenders.deepfm import DeepFM
from rlrec.recommenders.fitting import CrossFit, FitResult, cross_fit, fit
from rlrec.recommenders.ncf import NCF
from rlrec.recommenders.self_attentive_gru import SelfAttentiveGRU
from rlrec.recommenders.split_data import SplitData, mean_of_fits

__all__ = [
    "NCF",
    "Batch",
    "CrossFit",
    "DeepFM",
    "FitResult",
    "Recommender",
    "SelfAttentiveGRU",
    "SplitData",
    "Vocabulary",
    "cross_fit",
    "fit",
    "mean_of_fits",
]
