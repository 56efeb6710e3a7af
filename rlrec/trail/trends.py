"""Does an explanation tell the truth about its item's popularity history? And of which trend class is a history?

Paper: "Following the TRAIL" (2026) asks a language model for "trend accuracy" (section 5.2.4) and divides items into
increasing, decreasing, fluctuating and unknown (Figure 3b); it defines neither by rule. Both rules are ours. This one
reads free text and the embedded policy's template alike, offline, claim by claim. h is the history as the prompt
showed it (`TrendPrompts.shown`), oldest first, h[-1] the window before the one to predict.

What is read: section [Trend], or all of a text without sections. Of [Integration] only "upward trend", "declining
popularity" and the like, which hold if the history as a whole or its latest step bears them out. [Feature] is not
read, nor a clause of the future ("will rise", "potential decline").

What holds:

1. A step from a to b is rising if b - a >= max(1, a / 5), falling if a - b is, else stable. Nothing about direction
   holds of fewer than two windows.
2. Peak: "peaked at 16 in December 2013" holds if the largest count of h is 16 and stands in that month; "peak in
   March" and "peak of 14" each for itself. "peaks in early 2013 and 2014", "recent peak" and "another peak" need a
   local peak there, not the largest count. "3 windows ago" counts from the window to predict; a month is that of a
   window's first day. In a history of zeros and in an empty one no peak holds.
3. Direction, from the closest reference that the text names:
   "from 13 in September to 161 in October": both counts stand there in this order (after "lately": in the last two
   windows), and rise or fall as said; "stable at 7": the last two counts are 7;
   "drop in April and May": the step from the window before to the last one named (after "from": from the first named);
   after a peak in the same sentence: the step from the peak to the mean of all that follows;
   "overall", "over time" ...: the step from the mean of the older half to that of the newer half;
   else the step from the mean of the (up to) three windows before the last one to the last one.
   "fluctuating" holds where the counts turn round at least twice. "not rising" holds where "rising" does not.
4. Numbers: the most recent value is h[-1], the lowest min(h), the average the mean (to within 5 % or half a user), a
   number said of a month a count of that month. "No history" holds if nobody ever interacted.

A text that says something the rules do not see is not punished, and has no accuracy if it claims nothing else.
"""

from collections.abc import Sequence

import polars as pl

from rlrec.trail.claims import find_claims
from rlrec.trail.histories import History, trend_class

__all__ = ["KINDS", "check_trends", "summarise_trends", "trend_class", "trend_classes"]

KINDS = ("peak", "direction", "number")
CHECK_SCHEMA = {
    "claims": pl.Int64,
    "true_claims": pl.Int64,
    "trend_accuracy": pl.Float64,
    **{f"{kind}_{what}": pl.Int64 for kind in KINDS for what in ("claims", "true")},
    "false_claims": pl.List(pl.String),
}


def trend_classes(samples: pl.DataFrame) -> pl.DataFrame:
    """window, item_id and group of each sample: the trend class of its history, for `group_metrics`."""
    classes = [trend_class(history) for history in samples["history"].to_list()]
    return samples.select("window", "item_id", pl.Series("group", classes))


def check_trends(
    texts: Sequence[str | None],
    histories: Sequence[Sequence[int]],
    window_starts: Sequence[int],
    window_days: int = 30,
) -> pl.DataFrame:
    """Read each explanation against its item's history by the rules at the top of this file.

    Args:
        texts: N explanations; None and "" claim nothing.
        histories: the N histories as their prompts showed them.
        window_starts: the N windows to predict begin then (seconds); the history's windows lie before.
        window_days: length of a window.

    Returns:
        A frame of N rows: claims, true_claims, trend_accuracy (their quotient, null without claims), claims and true
        claims of each kind (peak, direction, number), and false_claims, the words of those that do not hold.

    >>> text = "[Trend]: peaked at 12, 3 windows ago, lately rising from 4 to 7."
    >>> checks = check_trends([text], [[0, 12, 4, 7]], [0])
    >>> checks.select("claims", "true_claims", "trend_accuracy").row(0)
    (2, 2, 1.0)
    """
    if len({len(texts), len(histories), len(window_starts)}) > 1:
        raise ValueError(
            f"Got {len(texts)} texts, {len(histories)} histories and {len(window_starts)} window_starts; give as many "
            "of each."
        )
    rows = []
    for text, history, start in zip(texts, histories, window_starts):
        claims = find_claims(text or "", History.of(history, start, window_days))
        right = sum(claim.true for claim in claims)
        of_kind = [[claim.true for claim in claims if claim.kind == kind] for kind in KINDS]
        counts = [number for flags in of_kind for number in (len(flags), sum(flags))]
        wrong = [claim.text for claim in claims if not claim.true]
        rows.append((len(claims), right, right / len(claims) if claims else None, *counts, wrong))
    return pl.DataFrame(rows, schema=CHECK_SCHEMA, orient="row")


def summarise_trends(checks: pl.DataFrame) -> dict[str, float | None]:
    """Shares over the texts of `check_trends`; a share of nothing is None.

    Returns:
        trend_accuracy (true claims of all claims), peak_accuracy, direction_accuracy and number_accuracy (the same of
        one kind), trend_claims (per text), and with_trend_claims (share of the texts that claim anything).
    """

    def share(part: int, of: int) -> float | None:
        return part / of if of else None

    total = {name: int(checks[name].sum()) for name in CHECK_SCHEMA if CHECK_SCHEMA[name] == pl.Int64}
    return {
        "trend_accuracy": share(total["true_claims"], total["claims"]),
        **{f"{kind}_accuracy": share(total[f"{kind}_true"], total[f"{kind}_claims"]) for kind in KINDS},
        "trend_claims": share(total["claims"], len(checks)),
        "with_trend_claims": share(int((checks["claims"] > 0).sum()), len(checks)),
    }
