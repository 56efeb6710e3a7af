"""What the embedded policy writes before any training for TRAIL: label-blind explanations of a compact prompt.

    [Trend]: peaked at 12, 3 windows ago, lately (rising|falling) from 4 to 7.
    [Feature]: CATEGORY DOMAIN in month 10.
    [Integration]: the score follows from the last count 7 and from (CATEGORY|month 10).

"1 window ago" is the newest window of the prompt. Every word can be read off the prompt (`TrendPrompts.shown`), so the
text is true of what the prompt shows, and the label is nowhere in it. Which category and which feature is named is
chance. It does not repeat the score: trained on with the true score before it, such a text would contradict it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rlrec.trail.prompts import TrendPrompts


@dataclass(frozen=True)
class TrendGrammar:
    """Explanations of rows as `TrendPrompts` in the compact style shows them.

    Args:
        prompts: the prompts that the policy reads.

    Raises:
        ValueError: prompts in another style.

    >>> row = {"categories": ["Horror"], "window_start": 1_412_121_600, "history": [0, 12, 4, 7]}
    >>> grammar = TrendGrammar(TrendPrompts("compact", "film"))
    >>> print(grammar.draw(row, np.random.default_rng(0)))
    [Trend]: peaked at 12, 3 windows ago, lately rising from 4 to 7. [Feature]: Horror film in month 10.
    [Integration]: the score follows from the last count 7 and from month 10.
    >>> grammar.score(row)
    7
    """

    prompts: TrendPrompts

    def __post_init__(self):
        if self.prompts.style != "compact":
            raise ValueError(f"TrendGrammar explains compact prompts, and these are in style {self.prompts.style!r}.")

    @property
    def domain(self) -> str:
        return self.prompts.domain

    @property
    def words(self) -> tuple[str, ...]:
        """Every word of prompts and explanations but the categories."""
        months_or_windows = range(max(self.prompts.max_history or 12, 12) + 1)
        return (
            *("[Trend]:", "[Feature]:", "[Integration]:", ",", "."),
            *("no", "history", "none", "peak", "peaked", "at", "window", "windows", "ago", "lately"),
            *("rising", "falling", "stable", "from", "to", "in", "month", "age"),
            *("the", "score", "follows", "last", "count", "and", "alone"),
            *self.domain.split(),
            *map(str, sorted({*self.prompts.scale, *months_or_windows})),
        )

    def draw(self, row: Mapping, rng: np.random.Generator) -> str:
        """One label-blind explanation of `row` (categories, window_start, history)."""
        history, month = self.prompts.shown(row), f"month {self.prompts.month(row)}"
        categories = self.prompts.category_words(row)
        category = categories[rng.integers(len(categories))] if categories else ""
        feature = category if category and rng.random() < 0.5 else month
        evidence = f"from the last count {history[-1]} and from {feature}" if history else f"from {feature} alone"
        return (
            f"[Trend]: {_trend(history)}. [Feature]: {f'{category} {self.domain}'.strip()} in {month}. "
            f"[Integration]: the score follows {evidence}."
        )

    def score(self, row: Mapping) -> int:
        """A label-blind guess at the popularity: the last count, 0 without history."""
        history = self.prompts.shown(row)
        return history[-1] if history else 0


def _trend(history: list[int]) -> str:
    """
    >>> _trend([3]), _trend([0, 0]), _trend([2, 5, 5])
    ('peaked at 3, 1 window ago', 'lately stable at 0', 'peaked at 5, 1 window ago, lately stable at 5')
    """
    if not history:
        return "no history"
    parts, peak = [], max(history)
    if peak > 0:
        ago = history[::-1].index(peak) + 1
        parts.append(f"peaked at {peak}, {ago} window{'s' * (ago > 1)} ago")
    if len(history) > 1:
        before, last = history[-2:]
        steps = f"{'rising' if last > before else 'falling'} from {before} to {last}"
        parts.append(f"lately {steps if last != before else f'stable at {last}'}")
    return ", ".join(parts) or "no history"
