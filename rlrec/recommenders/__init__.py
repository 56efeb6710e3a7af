"""Recommenders: one nn.Module per file, one contract (`base`), one fit loop (`fitting`).

Next-item models (SASRec, BERT4Rec, and EER, which reads an explanation too) know neither users nor ratings and have a
contract and a loop of their own (`sequential`).
"""

from rlrec.recommenders.autoint import AutoInt
from rlrec.recommenders.base import Batch, Recommender, Vocabulary
from rlrec.recommenders.bert4rec import BERT4Rec
from rlrec.recommenders.dcn import DCN, DCNv2
from rlrec.recommenders.deepfm import DeepFM
from rlrec.recommenders.dssm import DSSM
from rlrec.recommenders.explanation_enhanced import EER, fit_explained
from rlrec.recommenders.fignn import FiGNN
from rlrec.recommenders.fitting import CrossFit, FitResult, cross_fit, fit
from rlrec.recommenders.fm import FM
from rlrec.recommenders.ncf import NCF
from rlrec.recommenders.pnn import PNN
from rlrec.recommenders.sasrec import SASRec
from rlrec.recommenders.self_attentive_gru import SelfAttentiveGRU
from rlrec.recommenders.sequential import fit_sequences, item_sequences
from rlrec.recommenders.split_data import SplitData, mean_of_fits, start_mean_of_fits
from rlrec.recommenders.xdeepfm import XDeepFM

__all__ = [
    "DCN",
    "DSSM",
    "EER",
    "FM",
    "NCF",
    "PNN",
    "AutoInt",
    "BERT4Rec",
    "Batch",
    "CrossFit",
    "DCNv2",
    "DeepFM",
    "FiGNN",
    "FitResult",
    "Recommender",
    "SASRec",
    "SelfAttentiveGRU",
    "SplitData",
    "Vocabulary",
    "XDeepFM",
    "cross_fit",
    "fit",
    "fit_explained",
    "fit_sequences",
    "item_sequences",
    "mean_of_fits",
    "start_mean_of_fits",
]
