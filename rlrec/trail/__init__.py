"""TRAIL: popularity forecasting with contrastive explanations; `recipes/trail.py` shows the steps."""

from rlrec.trail.arguments import ABLATIONS, TRAILArguments
from rlrec.trail.config import TRAILConfig

__all__ = ["ABLATIONS", "TRAILArguments", "TRAILConfig"]
