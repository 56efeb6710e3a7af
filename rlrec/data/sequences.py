"""SELLER's samples: every interaction with the sequence before it, split at two points of time.

SELLER (Zhang et al.), section 4.1 and appendix A.1 (SPEC section 3): interactions are cut 8:1:1 at two points of time
that hold for all users, sequences have at most 50 items, and the category sequence has up to three categories of each
item, downsampled as word2vec does.

Rulings and departures:

1. The printed formula of A.1.2 is word2vec's probability to discard. A category's occurrence is kept with probability
   min(1, sqrt(t / f)), f being its share of all categories (three per item) of the training interactions: those after
   the cut are not known yet.
2. With the paper's t of 1e-5, a category that is one in ten is kept one time in a hundred. Yelp has 1,253 categories;
   where there are few, a sequence of categories that says something needs a larger `category_threshold`. If nothing of
   a sequence would be kept, the one occurrence that comes nearest to it is.
3. Only a user's first interaction with an item counts, so that no target stands in its own history.
4. Interactions of one second at a cut all belong to the later part. Within a user they are ordered by item id.
5. Validation and test targets that no training interaction has are left out: no model that knows items by their ids
   can rank them. `unseen_targets` counts them.
6. A validation or test sample's history goes up to its target, beyond the cut: it is what is known at that moment.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from rlrec.data.splits import SPLITS, first_interactions, with_history

__all__ = ["item_text", "keep_probability", "sequence_samples", "split_by_time", "unseen_targets"]


def sequence_samples(
    interactions: pl.DataFrame,
    items: pl.DataFrame,
    *,
    max_length: int = 50,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    num_samples: int | None = None,
    category_threshold: float = 1e-5,
    categories_per_item: int = 3,
    seed: int = 0,
) -> pl.DataFrame:
    """One row per target interaction with at least one item before it, by user and time.

    Args:
        interactions: user_id, item_id, rating, timestamp (all known), and optionally reasons and others, which are
            kept.
        items: item_id, title, categories (may be empty), description (may be empty).
        max_length: of the history, newest items kept (paper: 50).
        fractions: shares of the interactions in training, validation and test (paper: 8:1:1).
        num_samples: of the training samples draw so many, all times alike; None takes all.
        category_threshold: t of `keep_probability` (paper: 1e-5; ruling 2).
        categories_per_item: the first so many of an item's categories (paper: 3).
        seed: draws the training samples and the categories.

    Returns:
        split ("train", "validation", "test"), user_id, item_id, rating, timestamp, title, categories, description,
        history (item ids, oldest first), history_titles, history_categories, category_sequence (of history and target,
        oldest first; empty only where no category is known), and what else `interactions` has.

    Raises:
        ValueError: a timestamp is missing, a fraction or a length is out of bounds, or a split has no sample.
    """
    if min(max_length, categories_per_item) < 1 or category_threshold <= 0:
        raise ValueError(
            f"max_length is {max_length}, categories_per_item {categories_per_item} and category_threshold "
            f"{category_threshold}, but all must be above 0."
        )
    frame = split_by_time(interactions, fractions)
    training = frame.filter(pl.col("split") == "train")
    rng = np.random.default_rng(seed)
    draws = pl.Series(rng.random(len(frame)))
    samples = frame.with_columns(draw=draws).filter((pl.col("position") > 0) & ~_unseen(training))
    if num_samples is not None:
        in_order = pl.col("draw").rank("ordinal").over("split")
        samples = samples.filter((pl.col("split") != "train") | (in_order <= num_samples))
    if missing := [name for name in SPLITS if name not in samples["split"]]:
        raise ValueError(
            f"No sample is left for {' and '.join(missing)}: of {len(frame):,} interactions the users' first have "
            "no history, and targets that no training interaction has are left out; use more data or other fractions."
        )
    samples = with_history(samples, frame, items, max_length, ("item_id", "title", "categories"))
    descriptions = items.select("item_id", pl.col("description").fill_null(""))
    samples = samples.join(descriptions, on="item_id", how="left", maintain_order="left")
    chosen = items.select("item_id", category=pl.col("categories").list.head(categories_per_item))
    keep = keep_probability(training.join(chosen, on="item_id")["category"], category_threshold)
    return samples.with_columns(_category_sequences(samples, chosen, keep, rng)).drop("row", "position", "draw")


def split_by_time(interactions: pl.DataFrame, fractions: Sequence[float] = (0.8, 0.1, 0.1)) -> pl.DataFrame:
    """Each user's first interaction with each item, by user and time, with `split`, `position` in the user and `row`.

    What is "train" here is what a next-item model may be trained on. The cuts are the times of the interactions at
    80 % and 90 % of all, oldest first; an interaction at a cut belongs to the later part.

    Raises:
        ValueError: a timestamp is missing, or the fractions are not three positive numbers that sum to 1.

    >>> interactions = pl.DataFrame({"user_id": ["a", "a", "b", "b"], "item_id": ["x", "y", "x", "z"],
    ...                              "timestamp": [3, 1, 2, 4]})
    >>> split_by_time(interactions, (0.5, 0.25, 0.25))["user_id", "item_id", "split"].rows()
    [('a', 'y', 'train'), ('a', 'x', 'validation'), ('b', 'x', 'train'), ('b', 'z', 'test')]
    """
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(f"fractions is {tuple(fractions)}, but must be three positive numbers that sum to 1.")
    if unknown := interactions["timestamp"].null_count():
        raise ValueError(
            f"timestamp is missing in {unknown:,} of {len(interactions):,} interactions, so they have no order; "
            "use a dataset with timestamps."
        )
    frame = first_interactions(interactions.sort("user_id", "timestamp", "item_id"))
    times = frame["timestamp"].sort()
    # 1e-9: 0.8 + 0.1 must be rounded as 0.9, not as 0.8999.
    cuts = [times[min(int(share * len(times) + 1e-9), len(times) - 1)] for share in np.cumsum(fractions)[:2]]
    time = pl.col("timestamp")
    train, validation, test = map(pl.lit, SPLITS)
    return frame.with_columns(
        split=pl.when(time < cuts[0]).then(train).when(time < cuts[1]).then(validation).otherwise(test)
    )


def unseen_targets(interactions: pl.DataFrame, fractions: Sequence[float] = (0.8, 0.1, 0.1)) -> dict[str, int]:
    """How many validation and test targets `sequence_samples` leaves out because no training interaction has them."""
    frame = split_by_time(interactions, fractions)
    left_out = frame.filter((pl.col("position") > 0) & _unseen(frame.filter(pl.col("split") == "train")))
    return {split: (left_out["split"] == split).sum() for split in SPLITS[1:]}


def _unseen(training: pl.DataFrame) -> pl.Expr:
    return ~pl.col("item_id").is_in(training["item_id"].unique().implode())


def keep_probability(categories: pl.Series, threshold: float = 1e-5) -> pl.DataFrame:
    """Each category and its `keep`: min(1, sqrt(threshold / f)), f being its share of all (A.1.2, ruling 1).

    Args:
        categories: lists, one per training interaction.

    >>> keep_probability(pl.Series([["bar", "food"], ["food"], ["food"], []]), threshold=0.03).sort("category").rows()
    [('bar', 0.34641016151377546), ('food', 0.2)]
    """
    counts = categories.list.explode().drop_nulls().alias("category").value_counts()
    share = pl.col("count") / pl.col("count").sum()
    return counts.select("category", keep=(threshold / share).sqrt().clip(upper_bound=1.0))


def _category_sequences(
    samples: pl.DataFrame, chosen: pl.DataFrame, keep: pl.DataFrame, rng: np.random.Generator
) -> pl.Series:
    """`category_sequence` of each sample: each occurrence by its own draw, and at least one."""
    occurrences = (
        samples.select(item_id=pl.concat_list("history", "item_id"))
        .with_row_index("sample")
        .explode("item_id")
        .join(chosen, on="item_id", how="left", maintain_order="left")
        .drop("item_id")
        .explode("category")
        .drop_nulls()
        .join(keep, on="category", how="left", maintain_order="left")
    )
    # Kept below 1; a category that the training interactions do not have is kept always.
    odds = pl.Series(rng.random(len(occurrences))) / occurrences["keep"].fill_null(1.0)
    kept = occurrences.with_columns(odds=odds).filter(
        (pl.col("odds") < 1) | (pl.col("odds") == pl.col("odds").min().over("sample"))
    )
    sequences = kept.group_by("sample", maintain_order=True).agg(category_sequence="category")
    rows = pl.DataFrame({"sample": np.arange(len(samples), dtype=np.uint32)})
    joined = rows.join(sequences, on="sample", how="left", maintain_order="left")["category_sequence"]
    return joined.fill_null(pl.Series([[]], dtype=pl.List(pl.String)))


def item_text(row: Mapping) -> str:
    """The text of an item for the semantic path (A.1.1): title, categories and description, as far as they are there.

    Yelp prepared with `item_details` has the remaining fields of Figure 3 in its description.

    >>> item_text({"title": "Alien (1979)", "categories": ["Horror", "Sci-Fi"], "description": "In space."})
    'Alien (1979). Categories: Horror, Sci-Fi. In space.'
    >>> item_text({"title": "Alien (1979)", "categories": [], "description": None})
    'Alien (1979).'
    """
    categories = ", ".join(row.get("categories") or ())
    parts = (row["title"], categories and f"Categories: {categories}", row.get("description"))
    return " ".join(part if part[-1] in ".!?" else f"{part}." for part in parts if part)
