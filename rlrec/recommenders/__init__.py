"""Recommenders: one nn.Module per file, one contract (`base`), one fit loop (`fitting`).

Next-item models (SASRec, BERT4Rec, Caser, HGN, and EER, which reads an explanation too) know neither users nor ratings
and have a contract and a loop of their own (`sequential`).
"""

from rlrec.recommenders.base import Batch, Recommender, Vocabulary
from rlrec.recommenders.bert4rec import BERT4Rec
from rlrec.recommenders.caser import Caser
from rlrec.recommenders.deepfm import DeepFM
from rlrec.recommenders.explanation_enhanced import EER, fit_explained
from rlrec.recommenders.fitting import CrossFit, FitResult, cross_fit, fit
from rlrec.recommenders.hgn import HGN
from rlrec.recommenders.ncf import NCF
from rlrec.recommenders.sasrec import SASRec
from rlrec.recommenders.self_attentive_gru import SelfAttentiveGRU
from rlrec.recommenders.sequential import fit_sequences, item_sequences
from rlrec.recommenders.split_data import SplitData, mean_of_fits, start_mean_of_fits

__all__ = [
    "EER",
    "HGN",
    "NCF",
    "BERT4Rec",
    "Batch",
    "Caser",
    "CrossFit",
    "DeepFM",
    "FitResult",
    "Recommender",
    "SASRec",
    "SelfAttentiveGRU",
    "SplitData",
    "Vocabulary",
    "cross_fit",
    "fit",
    "fit_explained",
    "fit_sequences",
    "item_sequences",
    "mean_of_fits",
    "start_mean_of_fits",
]
