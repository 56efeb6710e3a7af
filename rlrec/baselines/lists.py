"""The rows beside TRAIL in its Table 2 that are no part of its own run: personalised lists (`rankings.py`)."""

import polars as pl

from rlrec.baselines.rankings import ROWS, ranking_row
from rlrec.baselines.run import Baselines
from rlrec.baselines.tuning import TableRow
from rlrec.trail.windows import load_windows


class RankingBaselines(Baselines):
    """Rows of TRAIL's Table 2 on the windows of TRAIL's run; see `Baselines`. The grid is `rankings.GRID`."""

    system = "trail"
    names = ROWS
    system_settings = ("window_days", "cold", "validation_windows", "test_windows")

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.prepared, self.popularity = load_windows(self.arguments, self.data_arguments, self.seed, self.state.print)
        titles = self.prepared.items.select("item_id", "title")
        joined = self.popularity.samples.join(titles, on="item_id", how="left", maintain_order="left")
        self.samples = {split: joined.filter(pl.col("split") == split) for split in ("train", "validation", "test")}
        self.begin()

    def make_row(self, row: str) -> TableRow:
        return ranking_row(row, self.popularity, seed=self.seed)
