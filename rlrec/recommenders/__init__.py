"""Recommenders: one nn.Module per file, one contract (`base`), one fit loop (`fitting`).

Models that read the history and predict the click or the rating of a target share `sequence_recommender`: DIN, DIEN,
UniSRec, and, where the original predicts the next item, PointwiseCaser, -GRU4Rec, -SASRec and -BERT4Rec.
Next-item models (SASRec, BERT4Rec, Caser, HGN, and EER, which reads an explanation too) know neither users nor ratings
and have a contract and a loop of their own (`sequential`).
"""

from rlrec.recommenders.autoint import AutoInt
from rlrec.recommenders.base import Batch, Recommender, Vocabulary
from rlrec.recommenders.bert4rec import BERT4Rec
from rlrec.recommenders.caser import Caser
from rlrec.recommenders.dcn import DCN, DCNv2
from rlrec.recommenders.deepfm import DeepFM
from rlrec.recommenders.dien import DIEN
from rlrec.recommenders.din import DIN
from rlrec.recommenders.dssm import DSSM
from rlrec.recommenders.explanation_enhanced import EER, fit_explained
from rlrec.recommenders.fignn import FiGNN
from rlrec.recommenders.fitting import CrossFit, FitResult, cross_fit, fit
from rlrec.recommenders.fm import FM
from rlrec.recommenders.hgn import HGN
from rlrec.recommenders.ncf import NCF
from rlrec.recommenders.pnn import PNN
from rlrec.recommenders.pointwise_bert4rec import PointwiseBERT4Rec
from rlrec.recommenders.pointwise_caser import PointwiseCaser
from rlrec.recommenders.pointwise_gru4rec import PointwiseGRU4Rec
from rlrec.recommenders.pointwise_sasrec import PointwiseSASRec
from rlrec.recommenders.sasrec import SASRec
from rlrec.recommenders.self_attentive_gru import SelfAttentiveGRU
from rlrec.recommenders.sequential import fit_sequences, item_sequences
from rlrec.recommenders.split_data import SplitData, mean_of_fits, start_mean_of_fits
from rlrec.recommenders.unisrec import UniSRec
from rlrec.recommenders.xdeepfm import XDeepFM

__all__ = [
    "DCN",
    "DIEN",
    "DIN",
    "DSSM",
    "EER",
    "FM",
    "HGN",
    "NCF",
    "PNN",
    "AutoInt",
    "BERT4Rec",
    "Batch",
    "Caser",
    "CrossFit",
    "DCNv2",
    "DeepFM",
    "FiGNN",
    "FitResult",
    "PointwiseBERT4Rec",
    "PointwiseCaser",
    "PointwiseGRU4Rec",
    "PointwiseSASRec",
    "Recommender",
    "SASRec",
    "SelfAttentiveGRU",
    "SplitData",
    "UniSRec",
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
