"""Column names, the prepared dataset on disk, and the quarantine every reader shares."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

import rlrec
from rlrec.data.cleaning import MAX_TITLE_LENGTH, clean_text, clean_title
from rlrec.data.splits import label_expression
from rlrec.files import read_frame, read_json, replacing

__all__ = [
    "CATEGORIES",
    "DESCRIPTION",
    "ITEM_ID",
    "MAX_TITLE_LENGTH",
    "RATING",
    "REASONS",
    "REVIEW",
    "TIMESTAMP",
    "TITLE",
    "USER_ID",
    "DataError",
    "PreparedDataset",
    "RawData",
    "assemble",
    "clean_text",
    "clean_title",
    "k_core",
    "rejected_rows",
]

USER_ID = "user_id"
ITEM_ID = "item_id"
RATING = "rating"
TIMESTAMP = "timestamp"  # integer seconds; null throughout when the dataset has none
REVIEW = "review"  # optional
REASONS = "reasons"  # optional: signed aspect names, the true reasons of a simulated rating
# Optional: what TripAdvisor's sentence is about, the word that judges it, and 1 or -1.
FEATURE, ADJECTIVE, SENTIMENT = "feature", "adjective", "sentiment"
OPTIONAL = (REVIEW, REASONS, FEATURE, ADJECTIVE, SENTIMENT)
TITLE = "title"
CATEGORIES = "categories"
DESCRIPTION = "description"

ROW = "row"  # 1-based line (or record) number in the raw file, while reading

REJECTED_SCHEMA = {"file": pl.String, "row": pl.Int64, "field": pl.String, "value": pl.String, "reason": pl.String}
MAX_REJECTED_VALUE = 200  # characters of a bad value kept for the report

# Reasons, counted by name in metadata.json.
WRONG_COLUMNS = "wrong number of columns"
NOT_A_NUMBER = "not a number"
OUT_OF_RANGE = "rating outside the scale"
IMPLICIT = "implicit feedback (rating 0)"
DUPLICATE = "duplicate of an earlier row (same user, item and time)"
DUPLICATE_ITEM = "duplicate of an earlier item"
UNKNOWN_ITEM = "item not among the usable items of the metadata"
EMPTY_TITLE = "title is empty"
MISSING_ID = "user or item id is empty"
MALFORMED = "malformed record"
NOT_A_DATE = "not a date"


class DataError(ValueError):
    """A raw or prepared file as a whole cannot be used; the message says which, why and what to do."""


def rejected_rows(frame: pl.DataFrame, file: str, column: str, reason: str, value: pl.Expr | None = None):
    """Rows of `frame` (with an optional `row` column) as quarantined rows.

    Args:
        frame: the bad rows.
        file: name of the raw file.
        column: the field at fault; its content is kept unless `value` gives another expression.
        reason: one of this module's reasons.
    """
    value = pl.col(column) if value is None else value
    row = pl.col(ROW).cast(pl.Int64) if ROW in frame.columns else pl.lit(None, pl.Int64)
    return frame.select(
        file=pl.lit(file),
        row=row,
        field=pl.lit(column),
        value=value.cast(pl.String).str.slice(0, MAX_REJECTED_VALUE),
        reason=pl.lit(reason),
    )


def no_rejected_rows() -> pl.DataFrame:
    return pl.DataFrame(schema=REJECTED_SCHEMA)


@dataclass
class RawData:
    """What a reader hands over: parsed, not yet checked against each other.

    Attributes:
        interactions: user_id, item_id (strings or integers), rating, timestamp (null when there is none), and
            optionally row and columns of `OPTIONAL`. No nulls in the ids and ratings.
        items: item_id (same type as above), title, categories, description; titles and texts already cleaned.
        rejected: rows refused so far (`REJECTED_SCHEMA`).
        interactions_file: name for the quarantine of rows found bad later.
        rating_scale: smallest and largest valid rating.
        default_threshold: the threshold ExpCTR uses for this dataset, or one near its median rating.
        domain: the word prompts use for an item, such as "film".
        licence: one sentence on what the licence asks.
        raw_files: paths that were read (hashed into the metadata).
        notes: further counts for the metadata.
    """

    interactions: pl.DataFrame
    items: pl.DataFrame
    rejected: pl.DataFrame
    interactions_file: str
    rating_scale: tuple[float, float]
    default_threshold: float
    domain: str
    licence: str
    raw_files: list[Path] = field(default_factory=list)
    notes: dict = field(default_factory=dict)


def assemble(
    name: str,
    raw: RawData,
    *,
    threshold: float | None = None,
    label_rule: str = "gt",
    k_core_size: int = 0,
    progress=lambda message: None,
) -> PreparedDataset:
    """Check a reader's tables against each other, quarantine what fails, and describe the rest.

    Interactions come out ordered by user and time (ties: by item), or in file order per user without timestamps.
    Items without a remaining interaction are left out and counted.

    Args:
        threshold: default: the dataset's own (`raw.default_threshold`).
        label_rule: "gt" (SPEC section 1, the paper's letter) or "ge".
        k_core_size: keep users and items with at least so many interactions, repeatedly; 0 keeps all.

    Raises:
        DataError: nothing is left.
        ValueError: `label_rule` is neither of the two.
    """
    threshold = raw.default_threshold if threshold is None else float(threshold)
    label = label_expression(threshold, label_rule)
    interactions, file = raw.interactions, raw.interactions_file
    refused = [raw.rejected]

    def refuse(bad: pl.Expr, column: str, reason: str) -> None:
        nonlocal interactions
        if (found := interactions.filter(bad)).height:
            refused.append(rejected_rows(found, file, column, reason))
            interactions = interactions.filter(~bad)

    low, high = raw.rating_scale
    # is_between is false for NaN as well, and inf lies outside any scale.
    refuse(~pl.col(RATING).is_between(low, high), RATING, OUT_OF_RANGE)
    refuse(~pl.col(ITEM_ID).is_in(raw.items[ITEM_ID].implode()), ITEM_ID, UNKNOWN_ITEM)

    progress(f"sorting {interactions.height:,} interactions and looking for duplicates")
    has_timestamps = interactions[TIMESTAMP].null_count() < interactions.height
    interactions = _by_user_and_time(interactions)
    keys = (USER_ID, ITEM_ID, TIMESTAMP)
    refuse(
        pl.all_horizontal(pl.col(key).eq_missing(pl.col(key).shift()) for key in keys) & (pl.int_range(pl.len()) > 0),
        ITEM_ID,
        DUPLICATE,
    )
    if not has_timestamps and ROW in interactions.columns:
        interactions = interactions.sort(USER_ID, ROW)
    interactions = interactions.drop(ROW, strict=False)
    if k_core_size > 1:
        progress(f"taking the {k_core_size}-core")
        interactions = k_core(interactions, k_core_size)
    if not interactions.height:
        core = f" after taking the {k_core_size}-core" if k_core_size > 1 else ""
        counts = ", ".join(f"{n} x {reason}" for reason, n in _count(pl.concat(refused)).items()) or "none"
        raise DataError(
            f"{file}: no usable interaction is left{core} (rejected rows: {counts}); check the file, or lower k_core."
        )

    remaining = interactions[ITEM_ID].unique().cast(raw.items[ITEM_ID].dtype)
    items = raw.items.filter(pl.col(ITEM_ID).is_in(remaining.implode()))
    optional = [column for column in OPTIONAL if column in interactions.columns]
    interactions = interactions.select(
        pl.col(USER_ID, ITEM_ID).cast(pl.String),
        pl.col(RATING).cast(pl.Float64),
        pl.col(TIMESTAMP).cast(pl.Int64),
        *optional,
    )
    items = items.select(pl.col(ITEM_ID).cast(pl.String), TITLE, CATEGORIES, DESCRIPTION)
    rejected = pl.concat(refused)
    metadata = {
        "name": name,
        "domain": raw.domain,
        "users": interactions[USER_ID].n_unique(),
        "items": items.height,
        "interactions": interactions.height,
        "rejected": _count(rejected),
        "items_without_interactions": raw.items.height - items.height,
        "rating_scale": [float(low), float(high)],
        "default_threshold": float(raw.default_threshold),
        "threshold": threshold,
        "label_rule": label_rule,
        "positive_rate": round(interactions.select(label.mean()).item(), 6),
        "has_timestamps": has_timestamps,
        "k_core": k_core_size,
        **raw.notes,
        "raw_files": [],
        "licence": raw.licence,
        "rlrec_version": rlrec.__version__,
    }
    return PreparedDataset(interactions, items, metadata, rejected)


def _by_user_and_time(interactions: pl.DataFrame) -> pl.DataFrame:
    """Sorted by user, time (null first) and item; ids that are strings become enumerations, in their order."""
    if interactions[USER_ID].dtype.is_integer() and interactions[ITEM_ID].dtype.is_integer():
        return interactions.sort(USER_ID, TIMESTAMP, ITEM_ID, maintain_order=True)
    ids = [name for name in (USER_ID, ITEM_ID) if interactions[name].dtype == pl.String]
    interactions = interactions.with_columns(pl.col(c).cast(pl.Enum(interactions[c].unique().sort())) for c in ids)
    interactions = interactions.rechunk()  # a reader's many blocks would make it slow to take rows out of order
    user, item = (pl.col(name).to_physical().cast(pl.Int128) for name in (USER_ID, ITEM_ID))
    time = pl.col(TIMESTAMP).fill_null(-(2**62)).cast(pl.Int128)
    # One key of 32, 64 and 32 bits: five times as fast as sorting by three columns.
    order = interactions.select(pl.arg_sort_by(user * 2**96 + time * 2**32 + item, maintain_order=True))
    return interactions[order.to_series()]


def k_core(interactions: pl.DataFrame, size: int) -> pl.DataFrame:
    """The largest subset in which each user and each item has at least `size` interactions, order kept.

    >>> frame = pl.DataFrame({"user_id": ["a", "a", "b", "b", "c"], "item_id": ["x", "y", "x", "y", "y"]})
    >>> k_core(frame, 2).rows()
    [('a', 'x'), ('a', 'y'), ('b', 'x'), ('b', 'y')]
    """
    while True:
        before = interactions.height
        for column in (USER_ID, ITEM_ID):
            frequent = interactions[column].value_counts().filter(pl.col("count") >= size)[column]
            if frequent.len() < interactions[column].n_unique():
                interactions = interactions.filter(pl.col(column).is_in(frequent.implode()))
        if interactions.height == before:
            return interactions


def _count(rejected: pl.DataFrame) -> dict[str, int]:
    counts = rejected.group_by("reason").len().sort("reason")
    return dict(counts.iter_rows())


@dataclass
class PreparedDataset:
    """Interactions, items, the rows refused and a description: what every experiment starts from.

    Attributes:
        interactions: user_id, item_id (String), rating (Float64), timestamp (Int64 seconds or null), and, where the
            dataset has them, review (String), reasons (List[String]), and feature, adjective and sentiment.
        items: item_id, title, categories (List[String]), description; titles need not be unique.
        metadata: counts, rating scale, threshold, label rule, positive rate, raw files with checksums, licence.
        rejected: file, row, field, value, reason of each row refused.

    >>> from rlrec.data.simulated import simulate
    >>> simulate(num_users=20, num_items=30, interactions_per_user=5).interactions.columns
    ['user_id', 'item_id', 'rating', 'timestamp', 'review', 'reasons']
    """

    interactions: pl.DataFrame
    items: pl.DataFrame
    metadata: dict
    rejected: pl.DataFrame = field(default_factory=no_rejected_rows)

    def write(self, directory: str | os.PathLike) -> None:
        """Write the four files. A reader never sees half of them: metadata.json goes first and comes back last."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "metadata.json").unlink(missing_ok=True)
        for name in ("interactions", "items", "rejected"):
            with replacing(directory / f"{name}.parquet") as temporary:
                getattr(self, name).write_parquet(temporary)
        with replacing(directory / "metadata.json") as temporary:
            temporary.write_text(json.dumps(self.metadata, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: str | os.PathLike) -> PreparedDataset:
        """Read what `write` wrote.

        Raises:
            DataError: a file is missing or is not what `write` writes.
        """
        directory = Path(directory)
        if not (directory / "metadata.json").is_file():
            raise DataError(
                f"{directory}: no metadata.json, so this is not a (fully written) prepared dataset; "
                "write one with recipes/prepare_data.py."
            )
        try:
            metadata = read_json(directory / "metadata.json")
            frames = [read_frame(directory / f"{name}.parquet") for name in ("interactions", "items", "rejected")]
        except (OSError, ValueError) as error:
            raise DataError(f"{directory}: cannot be read ({error}); run recipes/prepare_data.py again.") from error
        interactions, items, rejected = frames
        return cls(interactions, items, metadata, rejected)
