"""The papers' samplers and splits, as pure functions of prepared tables.

ExpCTR, section 5.1.1 (SPEC section 1): one target interaction per user, its history the (at most) ten interactions
before it in time, split into liked and disliked; samples are cut 8:1:1 into training, validation and test.

Departures:

1. Where a dataset has too few users for the requested number of samples, several targets are drawn per user. All
   samples of one user then stay in one split, so that a test user's id is never trained and no test target appears
   in a training history.
2. Datasets without timestamps (Book-Crossing) have no "before": each user's interactions are put in a seeded random
   order first, and that order plays the part of time.
3. Where a user rated an item several times (Amazon's reviews), the first time alone counts: otherwise a target, and
   its label, could stand in its own history.
4. `like_rate` and `item_mean` are added to every sample: the two trivial heuristics that every table prints.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

SPLITS = ("train", "validation", "test")
# Crowd words, from the lowest quarter of `item_mean` over the training samples to the highest.
CROWD_WORDS = ("lukewarm", "mixed", "popular", "beloved")


def label_expression(threshold: float, label_rule: str = "gt") -> pl.Expr:
    """The binary label of a rating: `rating > threshold` ("gt", the papers' letter) or `>= threshold` ("ge")."""
    if label_rule not in ("gt", "ge"):
        raise ValueError(
            f"label_rule must be 'gt' (rating > threshold) or 'ge' (rating >= threshold), not {label_rule!r}."
        )
    rating = pl.col("rating")
    return (rating > threshold if label_rule == "gt" else rating >= threshold).cast(pl.Int8).alias("label")


def expctr_samples(
    interactions: pl.DataFrame,
    items: pl.DataFrame,
    *,
    threshold: float,
    label_rule: str = "gt",
    num_samples: int | None = 20_000,
    history_length: int = 10,
    min_history: int = 1,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    prior_strength: float = 5.0,
    seed: int = 0,
) -> pl.DataFrame:
    """Draw ExpCTR's samples (section 5.1.1) and split them user-disjointly.

    Args:
        interactions: user_id, item_id, rating, timestamp (null allowed), and optionally review and reasons.
        items: item_id, title, categories.
        threshold: rating threshold of the label (paper: 4 for ML-20M and Amazon Books, 5 for Book-Crossing).
        label_rule: "gt" (paper) or "ge".
        num_samples: total number of samples; spread evenly over users (paper: 20,000 with one per user). `None`: one
            sample per user.
        history_length: at most this many interactions before the target (paper: 10).
        min_history: a target needs at least this many earlier interactions.
        fractions: shares of training, validation and test (paper: 8:1:1).
        prior_strength: pseudo-ratings that pull `item_mean` to the training positive rate.
        seed: one seed gives one table, whatever the order of the input rows.

    Returns:
        One row per sample: split, user_id, item_id, label, rating, timestamp, title, categories, history (item ids,
        oldest first), history_labels, history_titles, history_categories, like_rate (share of liked items in the
        history), item_mean (share of likes over the training users' ratings of the item, own user left out), crowd
        (`item_mean` as one of four words), and review and reasons where the dataset has them.

    Raises:
        ValueError: if the dataset is too small for the requested split, or all labels are equal.
    """
    rng = np.random.default_rng(seed)
    frame = interactions.with_columns(label_expression(threshold, label_rule))
    # A total order independent of the input's row order; without time, a seeded shuffle within each user.
    if frame["timestamp"].null_count() == len(frame):
        frame = frame.sort("user_id", "item_id").with_columns(order=pl.Series(rng.permutation(len(frame))))
        frame = frame.sort("user_id", "order").drop("order")
    else:
        frame = frame.sort("user_id", "timestamp", "item_id")
    frame = frame.unique(["user_id", "item_id"], keep="first", maintain_order=True)
    position = pl.int_range(pl.len()).over("user_id")
    frame = frame.with_columns(position=position)

    candidates = frame.with_row_index("row").filter(pl.col("position") >= min_history)
    users = candidates["user_id"].unique().sort()
    _check_size(len(users), fractions)
    users = users.gather(rng.permutation(len(users)))
    if num_samples is not None and len(users) > num_samples:
        users = users.head(num_samples)
    per_user = 1 if num_samples is None else -(-num_samples // len(users))
    candidates = candidates.filter(pl.col("user_id").is_in(users.implode()))
    candidates = candidates.with_columns(draw=pl.Series(rng.random(len(candidates))))
    targets = candidates.filter(pl.col("draw").rank("ordinal").over("user_id") <= per_user)
    if num_samples is not None and len(targets) > num_samples:
        targets = targets.filter(pl.col("draw").rank("ordinal") <= num_samples)

    split_of_user = _split_users(targets, users, fractions)
    samples = targets.join(split_of_user, on="user_id").sort("row")
    _check_labels(samples, f"rating {'>' if label_rule == 'gt' else '>='} {threshold:g}", fractions)
    samples = _with_history(samples, frame, items, history_length)
    training_users = split_of_user.filter(pl.col("split") == "train").select("user_id")
    return _with_heuristics(samples, frame.join(training_users, on="user_id", how="semi"), prior_strength)


def _check_size(num_users: int, fractions: Sequence[float]) -> None:
    needed = int(np.ceil(1 / min(f for f in fractions if f > 0)))
    if num_users < needed:
        raise ValueError(
            f"The dataset has {num_users} users with enough history, but a user-disjoint split of {tuple(fractions)} "
            f"needs at least {needed}; use more data or a smaller --min_history."
        )


def _check_labels(samples: pl.DataFrame, rule: str, fractions: Sequence[float]) -> None:
    if samples["label"].n_unique() < 2:
        raise ValueError(
            f"All {len(samples)} samples have the label {samples['label'][0]} (rule: {rule}); "
            "choose another --threshold or --label_rule."
        )
    for split, fraction in zip(SPLITS, fractions):
        labels = samples.filter(pl.col("split") == split)["label"]
        if fraction > 0 and labels.n_unique() < 2:
            labelled = f", all with label {labels[0]} (rule: {rule})" if len(labels) else ""
            raise ValueError(
                f"The {split} split has {len(labels)} of {len(samples)} samples{labelled}: the dataset is too small "
                "to split; use more users or samples, or another --threshold."
            )


def _split_users(targets: pl.DataFrame, users: pl.Series, fractions: Sequence[float]) -> pl.DataFrame:
    """Give each user one split so that the samples (not the users) are cut as `fractions` say."""
    counts = pl.DataFrame({"user_id": users}).join(
        targets.group_by("user_id").len(), on="user_id", maintain_order="left"
    )
    middle = counts["len"].cum_sum() - counts["len"] / 2
    edges = np.cumsum(fractions)[:-1] * counts["len"].sum()
    names = [SPLITS[int(i)] for i in np.searchsorted(edges, middle.to_numpy(), side="right")]
    return counts.select("user_id", split=pl.Series(names))


def _with_history(samples: pl.DataFrame, frame: pl.DataFrame, items: pl.DataFrame, length: int) -> pl.DataFrame:
    described = frame.select("user_id", "item_id", "label", "position").join(
        items.select("item_id", "title", "categories"), on="item_id", how="left"
    )
    per_user = (
        described.join(samples.select("user_id").unique(), on="user_id", how="semi")
        .sort("user_id", "position")
        .group_by("user_id", maintain_order=True)
        .agg(
            pl.col("item_id").alias("history"),
            pl.col("label").alias("history_labels"),
            pl.col("title").alias("history_titles"),
            pl.col("categories").alias("history_categories"),
        )
    )
    columns = ["history", "history_labels", "history_titles", "history_categories"]
    start = (pl.col("position").cast(pl.Int64) - length).clip(lower_bound=0)
    samples = samples.join(per_user, on="user_id", maintain_order="left")
    samples = samples.with_columns(pl.col(c).list.slice(start, pl.col("position") - start) for c in columns)
    samples = samples.join(
        items.select("item_id", "title", "categories"), on="item_id", how="left", maintain_order="left"
    )
    return samples.drop("row", "draw", "position")


def _with_heuristics(samples: pl.DataFrame, training: pl.DataFrame, prior_strength: float) -> pl.DataFrame:
    prior = training["label"].mean()
    likes = training.group_by("item_id").agg(pl.col("label").sum().alias("likes"), pl.len().alias("ratings"))
    own = training.group_by("user_id", "item_id").agg(
        pl.col("label").sum().alias("own_likes"), pl.len().alias("own_ratings")
    )
    samples = samples.join(likes, on="item_id", how="left", maintain_order="left")
    samples = samples.join(own, on=["user_id", "item_id"], how="left", maintain_order="left")
    counts = ["likes", "ratings", "own_likes", "own_ratings"]
    samples = samples.with_columns(pl.col(counts).fill_null(0).cast(pl.Float64))
    likes_without_own = pl.col("likes") - pl.col("own_likes") + prior * prior_strength
    samples = samples.with_columns(
        like_rate=pl.col("history_labels").list.mean().fill_null(prior),
        item_mean=likes_without_own / (pl.col("ratings") - pl.col("own_ratings") + prior_strength),
    ).drop(counts)
    train_means = samples.filter(pl.col("split") == "train")["item_mean"]
    edges = np.quantile(train_means.to_numpy(), [0.25, 0.5, 0.75])
    words = [CROWD_WORDS[i] for i in np.searchsorted(edges, samples["item_mean"].to_numpy(), side="right")]
    return samples.with_columns(crowd=pl.Series(words), label=pl.col("label").cast(pl.Int64))
