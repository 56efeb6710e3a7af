"""Recommenders: one nn.Module per file, one contract (`base`), one fit loop (`fitting`)."""

from rlrec.recommenders.base import Batch, Recommender, Vocabulary
from rlrec.recommenders.deepfm import DeepFM
from rlrec.recommenders.fitting import CrossFit, FitResult, cross_fit, fit

__all__ = ["Batch", "CrossFit", "DeepFM", "FitResult", "Recommender", "Vocabulary", "cross_fit", "fit"]
