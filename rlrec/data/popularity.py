"""TRAIL's popularity samples: how many users each item had per 30-day window, and how many it has in the next one.

Paper: Zhang et al., "Following the TRAIL: Predicting and Explaining Tomorrow's Hits with a Fine-Tuned LLM" (2026),
section 3 (h_i^T = [p_i^1 .. p_i^(T-1)], p_i^t the users of item i in window t), section 5.1.1 (one global timeline in
30-day windows), and the change rate r_i^T of eq. 4. SPEC section 4.

Departures:

1. r = (p_T - p_(T-1)) / max(p_(T-1), 1): the printed denominator p_(T-1) is 0 in most windows of most items.
2. Windows start at midnight UTC of the first day. A last window that the data do not fill is left out and counted:
   its popularity is not that of 30 days.
3. Window 1 is history only: nothing comes before it, so as a target it would hold cold items alone.
4. The paper does not say which cold items stand in the list to be ranked. Taking those whose first users come in the
   target window tells the model that p_T >= 1. By default every item of the catalogue is ranked in every window
   (`cold="catalogue"`), so that being a candidate tells nothing.
5. The paper names no number of test windows: the last one is test, the one before it validation.

Two things come from outside the windows, and this module cannot undo them: the catalogue is that of the prepared
dataset (items with at least one interaction at any time), and a k-core taken over all windows knows the future too
(`metadata["k_core"]`; prepare TRAIL's data without it).
"""

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import numpy as np
import polars as pl

from rlrec.data.schema import ITEM_ID, TIMESTAMP, USER_ID, DataError, PreparedDataset

__all__ = ["COLD_RULES", "INPUTS", "LABELS", "PopularityData", "change_rate", "popularity_data"]

# What may be shown to a model when window T begins, and what only T's end reveals. `change_rate` holds the label p_T:
# it chooses contrastive pairs among training samples and is nothing to prompt with.
INPUTS = ("item_id", "window", "window_start", "history", "history_cut", "users_before")
LABELS = ("popularity", "change_rate")
COLD_RULES = ("catalogue", "first_window", "none")

DAY = 86_400  # seconds
LARGEST_SECONDS = 100_000_000_000  # the year 5138; in milliseconds, March 1973


@dataclass(frozen=True)
class PopularityData:
    """Samples, the interactions by window to evaluate against, and counts.

    Attributes:
        samples: one row per candidate item and target window T, by window and item: split (train, validation, test),
            item_id, window (T, from 1), window_start (seconds), history (List[Int32]: users per window, from the
            window of the item's first interaction to T - 1, or the newest of them; empty for a cold item),
            history_cut (windows left out at the old end), users_before (sum of the whole history, for "fewer than 5
            interactions"), popularity (p_T), change_rate (r_T).
        interactions: the prepared interactions inside the windows, with their window.
        metadata: windows, samples and cold samples per split, histories cut, interactions left out, empty windows.
    """

    samples: pl.DataFrame
    interactions: pl.DataFrame
    metadata: dict


def popularity_data(
    prepared: PreparedDataset,
    *,
    window_days: int = 30,
    max_history: int | None = None,
    cold: str = "catalogue",
    validation_windows: int = 1,
    test_windows: int = 1,
) -> PopularityData:
    """Cut a dataset's timeline into windows and make one sample per candidate item and target window.

    Args:
        prepared: interactions with timestamps in seconds.
        window_days: length of a window (paper: 30).
        max_history: at most so many windows of history, the newest; None keeps all.
        cold: which items without any interaction before T are candidates: "catalogue": all; "first_window": those
            whose first interaction falls into T (knows the future, see departure 4); "none".
        validation_windows, test_windows: target windows at the end of the timeline.

    Raises:
        DataError: timestamps missing or not in seconds, or too few windows.
        ValueError: an argument outside its range.

    >>> from rlrec.data.simulated import simulate
    >>> data = popularity_data(simulate(num_users=50, num_items=20, interactions_per_user=10))
    >>> data.samples.columns[:5]
    ['split', 'item_id', 'window', 'window_start', 'history']
    """
    for name, value, least in (
        ("window_days", window_days, 1),
        ("max_history", 1 if max_history is None else max_history, 1),
        ("validation_windows", validation_windows, 0),
        ("test_windows", test_windows, 0),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}.")
    if cold not in COLD_RULES:
        raise ValueError(f"cold is {cold!r}; use one of {', '.join(COLD_RULES)}.")
    interactions, first_day, windows = _with_windows(prepared.interactions, window_days)
    held_out = validation_windows + test_windows
    if windows < 2 + held_out:
        last = first_day + timedelta(days=windows * window_days)
        raise DataError(
            f"The interactions fill {windows} window{'s' * (windows != 1)} of {window_days} days "
            f"({first_day:%Y-%m-%d} to {last:%Y-%m-%d}), but {2 + held_out} are needed: one of history, one to "
            f"train on, {validation_windows} for validation, {test_windows} for test; use a smaller window_days or "
            "more data."
        )
    inside = interactions.filter(pl.col("window") <= windows)
    items = prepared.items[ITEM_ID].unique().sort()
    counts = _user_counts(inside, items, windows)
    frames = []
    for window in range(2, windows + 1):
        past, now = past_counts(counts, window), counts[:, window - 1]
        start = int((first_day + timedelta(days=(window - 1) * window_days)).timestamp())
        frame = window_inputs(items, past, max_history).select(
            pl.lit(_split(window, windows, validation_windows, test_windows)).alias("split"),
            ITEM_ID,
            pl.lit(window, pl.Int32).alias("window"),
            pl.lit(start, pl.Int64).alias("window_start"),
            pl.exclude(ITEM_ID),
            pl.Series("popularity", now),
            pl.Series("change_rate", change_rate(past[:, -1], now)),
        )
        if cold != "catalogue":
            candidate = pl.col("users_before") > 0
            frame = frame.filter(candidate | (pl.col("popularity") > 0) if cold == "first_window" else candidate)
        frames.append(frame)
    samples = pl.concat(frames)
    by_split = samples.group_by("split", maintain_order=True)
    metadata = {
        "window_days": window_days,
        "windows": windows,
        "first_day": f"{first_day:%Y-%m-%d}",
        "target_windows": {name: sorted(set(rows["window"])) for (name,), rows in by_split},
        "samples": {name: rows.height for (name,), rows in by_split},
        "cold_samples": {name: rows.filter(pl.col("users_before") == 0).height for (name,), rows in by_split},
        "histories_cut": int((samples["history_cut"] > 0).sum()),
        "empty_windows": int((counts.sum(axis=0) == 0).sum()),
        "interactions_after_last_window": interactions.height - inside.height,
        "cold": cold,
        "k_core": prepared.metadata.get("k_core", 0),
    }
    return PopularityData(samples, inside, metadata)


def change_rate(before: np.ndarray, now: np.ndarray) -> np.ndarray:
    """r_T of eq. 4 from p_(T-1) and p_T, both (N,) counts: (p_T - p_(T-1)) / max(p_(T-1), 1).

    >>> change_rate(np.array([4, 0, 0]), np.array([6, 3, 0])).tolist()
    [0.5, 3.0, 0.0]
    """
    before, now = np.asarray(before, float), np.asarray(now, float)
    return (now - before) / np.maximum(before, 1.0)


def past_counts(counts: np.ndarray, window: int) -> np.ndarray:
    """Of counts (items, windows), those before `window` (from 1): the only door from the timeline to the inputs.

    >>> past_counts(np.array([[5, 6, 7]]), 3).tolist()
    [[5, 6]]
    """
    return counts[:, : window - 1]


def window_inputs(items: pl.Series, past: np.ndarray, max_history: int | None) -> pl.DataFrame:
    """item_id, history, history_cut and users_before of N items from their counts (N, T - 1) before window T."""
    seen = past > 0
    lengths = np.where(seen.any(axis=1), past.shape[1] - seen.argmax(axis=1), 0)
    kept = lengths if max_history is None else np.minimum(lengths, max_history)
    rows = pl.DataFrame({ITEM_ID: items, "past": pl.Series(past).arr.to_list(), "kept": kept})
    return rows.select(
        ITEM_ID,
        pl.col("past").list.tail(pl.col("kept")).alias("history"),
        pl.Series("history_cut", lengths - kept, pl.Int32),
        pl.Series("users_before", past.sum(axis=1), pl.Int64),
    )


def _with_windows(interactions: pl.DataFrame, days: int) -> tuple[pl.DataFrame, datetime, int]:
    """Interactions with their window (from 1), midnight of the first day, and the number of windows filled."""
    times = interactions[TIMESTAMP]
    if missing := times.null_count():
        which = f"{missing} of {len(times)} interactions have" if missing < len(times) else "The interactions have"
        raise DataError(f"{which} no timestamp, and popularity over time needs one for each; use another dataset.")
    if len(times) == 0:
        raise DataError("There is no interaction to make popularity samples of.")
    largest = times.abs().arg_max()
    if abs(times[largest]) >= LARGEST_SECONDS:
        row = interactions.row(largest, named=True)
        wrong = int((times.abs() >= LARGEST_SECONDS).sum())
        raise DataError(
            f"{wrong} of {len(times)} timestamps are no seconds since 1970, such as {row[TIMESTAMP]} (user "
            f"{row[USER_ID]!r}, item {row[ITEM_ID]!r}): they look like milliseconds; divide them by 1000."
        )
    day = pl.col(TIMESTAMP).floordiv(DAY)
    first, last = times.min() // DAY, times.max() // DAY
    interactions = interactions.with_columns(((day - first) // days + 1).cast(pl.Int32).alias("window"))
    return interactions, datetime.fromtimestamp(first * DAY, timezone.utc), (last - first + 1) // days


def _user_counts(interactions: pl.DataFrame, items: pl.Series, windows: int) -> np.ndarray:
    """Distinct users of each item in each window: (items, windows), int32."""
    users = interactions.group_by(ITEM_ID, "window").agg(pl.col(USER_ID).n_unique())
    counts = np.zeros((len(items), windows), dtype=np.int32)
    row = items.search_sorted(users[ITEM_ID]).to_numpy()
    counts[row, users["window"].to_numpy() - 1] = users[USER_ID].to_numpy()
    return counts


def _split(window: int, windows: int, validation_windows: int, test_windows: int) -> str:
    if window > windows - test_windows:
        return "test"
    return "validation" if window > windows - test_windows - validation_windows else "train"
