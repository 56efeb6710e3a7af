"""Rows of the papers' tables that are no part of the four systems' own runs: `recipes/baselines.py` makes them."""

from rlrec.baselines.arguments import BaselineArguments
from rlrec.baselines.clicks import ClickBaselines
from rlrec.baselines.lists import RankingBaselines
from rlrec.baselines.ratings import RatingBaselines
from rlrec.baselines.run import Baselines
from rlrec.baselines.tuning import Fitted, TableRow, tune

__all__ = [
    "BaselineArguments",
    "Baselines",
    "ClickBaselines",
    "Fitted",
    "RankingBaselines",
    "RatingBaselines",
    "TableRow",
    "tune",
]
