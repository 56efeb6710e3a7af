"""SELLER: sequence-aware explanations, and their utility; `recipes/seller.py` shows the steps."""

from rlrec.seller.arguments import ABLATIONS, SELLERArguments
from rlrec.seller.trainer import SELLERConfig

__all__ = ["ABLATIONS", "SELLERArguments", "SELLERConfig"]
