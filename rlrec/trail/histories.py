"""What is true of a popularity history: its direction, its peaks, its trend class ("Following the TRAIL", Figure 3b).

The paper names the classes increasing, decreasing, fluctuating and unknown and defines none of them; the definitions
are ours. Histories are counts per window, oldest first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import numpy as np

CLASS_WINDOWS = 6
CLASS_BOUND = 1 / 3


def trend_class(history: Sequence[int]) -> str:
    """Figure 3b's class of a history, oldest first.

    unknown: fewer than two windows or fewer than two interactions ("0-1 record"). Else Kendall's tau-a of the newest
    six windows (pairs that rise minus pairs that fall, of all pairs): increasing above 1/3, decreasing below -1/3,
    fluctuating between, a constant one too, for which the paper has no class.

    >>> [trend_class(history) for history in ([], [1, 0], [3, 13, 161], [7, 11, 14, 3, 2], [4, 9, 4, 9])]
    ['unknown', 'unknown', 'increasing', 'decreasing', 'fluctuating']
    """
    if len(history) < 2 or sum(history) < 2:
        return "unknown"
    newest = np.asarray(history[-CLASS_WINDOWS:])
    older, newer = np.triu_indices(len(newest), k=1)
    tau = float(np.sign(newest[newer] - newest[older]).mean())
    if abs(tau) <= CLASS_BOUND + 1e-9:
        return "fluctuating"
    return "increasing" if tau > 0 else "decreasing"


def step(before: float, after: float) -> str:
    """Rule 1: "rising", "falling" or "stable".

    >>> step(4, 7), step(10, 9), step(0.5, 0)
    ('rising', 'stable', 'stable')
    """
    if abs(after - before) < max(1.0, before / 5):
        return "stable"
    return "rising" if after > before else "falling"


def recent_direction(history: Sequence[int]) -> str | None:
    """Step from the mean of the up to three windows before the last to the last; None of fewer than two windows.

    >>> recent_direction([7, 11, 14, 3, 2]), recent_direction([5])
    ('falling', None)
    """
    return step(float(np.mean(history[-4:-1])), history[-1]) if len(history) > 1 else None


@dataclass(frozen=True)
class History:
    """Counts of the windows before the one to predict, and what holds of them (rules: `rlrec.trail.trends`)."""

    counts: list[int]
    months: list[tuple[int, int]]  # year and month in which each window starts

    @classmethod
    def of(cls, counts: Sequence[int], window_start: int, days: int) -> "History":
        end = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=int(window_start))
        starts = [end - timedelta(days=days * back) for back in range(len(counts), 0, -1)]
        return cls([int(count) for count in counts], [(start.year, start.month) for start in starts])

    def peaks(self) -> list[int]:
        """Windows with the largest count; none where nobody came."""
        largest = max(self.counts, default=0)
        return [i for i, count in enumerate(self.counts) if count == largest > 0]

    def local_peaks(self) -> list[int]:
        """Windows that no neighbour exceeds and that exceed one."""
        padded = [0, *self.counts, 0]
        around = [(padded[i], padded[i + 2]) for i in range(len(self.counts))]
        return [i for i, count in enumerate(self.counts) if count >= max(around[i]) and count > min(around[i])]

    def overall(self) -> str | None:
        """The step from the mean of the older half to that of the newer."""
        half = len(self.counts) // 2
        return step(float(np.mean(self.counts[:half])), float(np.mean(self.counts[half:]))) if half else None

    def after(self, peak: int) -> str | None:
        """The step from window `peak` to the mean of all that follow."""
        rest = self.counts[peak + 1 :]
        return step(self.counts[peak], float(np.mean(rest))) if rest else None

    def fluctuates(self) -> bool:
        """Whether the counts turn round at least twice."""
        signs = np.sign(np.diff(self.counts))
        signs = signs[signs != 0]
        return int((signs[1:] != signs[:-1]).sum()) >= 2
