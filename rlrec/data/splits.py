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

RecPIE, section 5.1 (SPEC section 2): an 80/20 split "at the user-temporal level", read as: the last fifth of each
user's interactions is tested, and everything before it is trained. Every interaction is a sample, with what the same
user rated before as its history.

Rulings and departures, beside 3 and 4 above:

5. The paper names no validation data: the last tenth of each user's training part is held out for it.
6. The paper's errors are only possible on scaled ratings: `target` is the rating scaled to [0, 1].
7. Datasets without timestamps (TripAdvisor) take the order of the rows as time; so do ties.
8. Table 6 keeps 12, 25 or 50 % of the training data, sampled at random, and "the same test set". What is sampled here
   are the samples, over all users and so not evenly for each, of the training split and of the validation split (which
   is the paper's training data too). A smaller share is part of a larger one. Test samples stay as they are, with
   their histories; so a rating that is dropped as a target may still stand in a later history. It does not enter
   `item_mean`, `item_rating_mean`, `user_mean` or any prior.

A caution on item means without the own row: within one item, each liked training row has a lower mean than each
disliked one. Across items they are honest, but a model that has the item's id beside them can learn the difference in
training, and it is not there in testing.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa

SPLITS = ("train", "validation", "test")
# Crowd words, from the lowest quarter of `item_mean` over the training samples to the highest.
CROWD_WORDS = ("lukewarm", "mixed", "popular", "beloved")
HISTORY_COLUMNS = {
    "item_id": "history",
    "label": "history_labels",
    "rating": "history_ratings",
    "target": "history_targets",
    "title": "history_titles",
    "categories": "history_categories",
}


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
    frame = first_interactions(frame)
    candidates = frame.filter(pl.col("position") >= min_history)
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
    _check_labels(samples, _rule(threshold, label_rule), fractions)
    samples = with_history(samples, frame, items, history_length, ("item_id", "label", "title", "categories"))
    training = frame.join(split_of_user.filter(pl.col("split") == "train"), on="user_id", how="semi")
    samples = samples.with_columns(item_mean=_item_mean(samples, training, "label", prior_strength))
    return _with_rates(samples, training).drop("row", "position", "draw")


def recpie_samples(
    interactions: pl.DataFrame,
    items: pl.DataFrame,
    *,
    rating_scale: tuple[float, float],
    threshold: float = 4.0,
    label_rule: str = "ge",
    test_fraction: float = 0.2,
    validation_fraction: float = 0.1,
    history_length: int = 10,
    min_history: int = 0,
    num_samples: int | None = None,
    training_fraction: float = 1.0,
    prior_strength: float = 5.0,
    seed: int = 0,
) -> pl.DataFrame:
    """RecPIE's samples: every interaction, split within each user by time (section 5.1).

    Of a user's n interactions the last round(0.2 n) are tested, and of the m before these the last round(0.1 m) are
    validation, halves rounded up; one is trained in any case. So a user is tested from 3 interactions on, and has
    validation from 6 on.

    Args:
        interactions: user_id, item_id, rating, timestamp (null allowed), and optionally review and reasons.
        items: item_id, title, categories.
        rating_scale: smallest and largest possible rating (`metadata["rating_scale"]`); `target` is 0 and 1 there.
        threshold, label_rule: the binary label, for AUC (SPEC: rating >= 4; the paper names no rule).
        test_fraction: share of each user's interactions (paper: 0.2).
        validation_fraction: share of each user's training part (departure 5).
        history_length: at most this many interactions before the target (ExpCTR's 10; RecPIE names no number).
        min_history: only interactions with at least so many before them are samples; all count as training ratings.
        num_samples: draw so many samples at random from all splits together; `None`: all.
        training_fraction: share of the training and validation samples to keep (Table 6, departure 8).
        prior_strength: pseudo-ratings that pull item and user means to the mean of the training ratings.
        seed: draws `num_samples` and `training_fraction`; without these two nothing is random.

    Returns:
        One row per sample, by user and time, with the columns of `expctr_samples` and: target (rating scaled to
        [0, 1]), history_ratings (in stars), history_targets (scaled), user_mean (mean target of the user's earlier
        training interactions) and item_rating_mean (item_mean of the target). Item means leave the sample's own row
        out. The mean of all training ratings, to which all are drawn, does not: taken without the own row, it would
        differ between liked and disliked rows, and so give the label away wherever nothing else is known.

    Raises:
        ValueError: a fraction, rating or the scale is out of bounds, a split is empty, or all its labels are equal.
    """
    low, high = rating_scale
    if not (0 < test_fraction < 1 and 0 <= validation_fraction < 1 and 0 < training_fraction <= 1):
        raise ValueError(
            f"test_fraction is {test_fraction}, validation_fraction {validation_fraction} and training_fraction "
            f"{training_fraction}, but must be in (0, 1), [0, 1) and (0, 1]."
        )
    outside = interactions["rating"].filter(~interactions["rating"].is_between(low, high))
    if len(outside) or low >= high:
        such = f", and {len(outside)} ratings, such as {outside[0]:g}, are outside" if len(outside) else ""
        raise ValueError(f"rating_scale is {low:g} to {high:g}{such}; give the smallest and the largest rating.")
    target = ((pl.col("rating") - low) / (high - low)).alias("target")
    frame = interactions.with_columns(label_expression(threshold, label_rule), target)
    frame = first_interactions(frame.sort("user_id", "timestamp", maintain_order=True))
    frame = frame.with_columns(split=_user_temporal_split(test_fraction, validation_fraction))

    # Both draws are made for every row, so that neither option changes what the other one draws.
    rng = np.random.default_rng(seed)
    drawn, thinned = rng.random(len(frame)), rng.random(len(frame))
    is_sample = frame["position"].to_numpy() >= min_history
    if num_samples is not None:
        is_sample &= _lowest(drawn, is_sample, num_samples)
    is_kept = np.ones(len(frame), dtype=bool)
    for name in ("train", "validation"):
        in_split = (frame["split"] == name).to_numpy()
        is_kept &= ~in_split | _lowest(thinned, in_split, round(training_fraction * in_split.sum()))
    frame = frame.with_columns(is_training=pl.Series(is_kept) & (frame["split"] == "train"))
    training = frame.filter("is_training")
    frame = frame.with_columns(user_mean=_earlier_mean("target", training["target"].mean(), prior_strength))

    samples = frame.filter(pl.Series(is_sample & is_kept))
    _check_labels(samples, _rule(threshold, label_rule), (1.0, 0.0, test_fraction))
    if validation_fraction > 0 and "validation" not in samples["split"]:
        raise ValueError(
            f"The validation split has none of {len(samples)} samples: no user has enough interactions; use a larger "
            "validation_fraction, more samples, or a dataset's k-core."
        )
    columns = ("item_id", "label", "rating", "target", "title", "categories")
    samples = with_history(samples, frame, items, history_length, columns)
    samples = samples.with_columns(
        item_mean=_item_mean(samples, training, "label", prior_strength),
        item_rating_mean=_item_mean(samples, training, "target", prior_strength),
    )
    return _with_rates(samples, training).drop("row", "position", "is_training")


def _rule(threshold: float, label_rule: str) -> str:
    return f"rating {'>' if label_rule == 'gt' else '>='} {threshold:g}"


def first_interactions(frame: pl.DataFrame) -> pl.DataFrame:
    """Each user's first interaction with each item of an ordered frame, with its row and its position in the user."""
    frame = frame.unique(["user_id", "item_id"], keep="first", maintain_order=True)
    return frame.with_columns(position=pl.int_range(pl.len()).over("user_id")).with_row_index("row")


def _user_temporal_split(test_fraction: float, validation_fraction: float) -> pl.Expr:
    """The split of rows that are ordered by user and `position`; halves are rounded up, and one row is trained."""

    def last(fraction: float, count: pl.Expr) -> pl.Expr:
        # 1e-9: 0.3 * 5 must be rounded as 1.5, not as 1.4999.
        return pl.min_horizontal((count * fraction + 0.5 + 1e-9).floor().cast(pl.Int64), count - 1)

    count = pl.len().cast(pl.Int64).over("user_id")
    before_test = count - last(test_fraction, count)
    train = before_test - last(validation_fraction, before_test)
    position = pl.col("position")
    return (
        pl.when(position < train)
        .then(pl.lit("train"))
        .when(position < before_test)
        .then(pl.lit("validation"))
        .otherwise(pl.lit("test"))
    )


def _lowest(draws: np.ndarray, among: np.ndarray, count: int) -> np.ndarray:
    """(N,) bool: the `count` rows with the lowest draws among those marked; all of these if they are fewer."""
    chosen = np.flatnonzero(among)
    if count < len(chosen):
        chosen = chosen[np.argsort(draws[chosen], kind="stable")[:count]]
    result = np.zeros(len(draws), dtype=bool)
    result[chosen] = True
    return result


def _check_size(num_users: int, fractions: Sequence[float]) -> None:
    needed = int(np.ceil(1 / min(f for f in fractions if f > 0)))
    if num_users < needed:
        raise ValueError(
            f"The dataset has {num_users} users with enough history, but a user-disjoint split of {tuple(fractions)} "
            f"needs at least {needed}; use more data or a smaller --min_history."
        )


def _check_labels(samples: pl.DataFrame, rule: str, fractions: Sequence[float]) -> None:
    if samples.is_empty():
        raise ValueError("No interaction has enough others before it to be a sample; use a smaller --min_history.")
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


def with_history(
    samples: pl.DataFrame, frame: pl.DataFrame, items: pl.DataFrame, length: int, columns: Sequence[str]
) -> pl.DataFrame:
    """Add title and categories, and of each of `columns` its values in the (at most) `length` rows of `frame` before.

    `frame` is ordered by user and `position`, and `row` is the number of a row in it, so that a history is a slice.
    """
    about = items.select("item_id", "title", "categories")
    lengths = np.minimum(samples["position"].to_numpy(), length)
    ends = np.cumsum(lengths)
    # Row numbers of all histories, one after the other: each counts up to the row before its sample.
    rows = np.arange(lengths.sum()) + np.repeat(samples["row"].to_numpy() - ends, lengths)
    item = frame.select("item_id").join(about.with_row_index("item"), on="item_id", how="left", maintain_order="left")
    items_in_rows = item["item"].gather(rows)
    offsets = pa.array(np.concatenate([[0], ends]))
    histories = {}
    for column in columns:
        values = frame[column].gather(rows) if column in frame.columns else about[column].gather(items_in_rows)
        values = values.rechunk().to_arrow(compat_level=pl.CompatLevel.newest())  # strings are not copied
        histories[HISTORY_COLUMNS[column]] = pl.Series(pa.LargeListArray.from_arrays(offsets, values))
    samples = samples.join(about, on="item_id", how="left", maintain_order="left")
    return samples.with_columns(**histories)


def _item_mean(samples: pl.DataFrame, training: pl.DataFrame, column: str, prior_strength: float) -> pl.Series:
    """Mean of a column over the item's training rows, without the sample's own row, smoothed to the mean of all."""
    prior = training[column].mean()
    sums = training.group_by("item_id").agg(pl.col(column).sum().alias("sum"), pl.len().alias("count"))
    of_item = samples.select("item_id").join(sums, on="item_id", how="left", maintain_order="left")
    own = samples["split"] == "train"
    total = of_item["sum"].fill_null(0) - own.cast(pl.Int64) * samples[column]
    count = of_item["count"].cast(pl.Int64).fill_null(0) - own.cast(pl.Int64)
    return (total + prior * prior_strength) / (count + prior_strength)


def _earlier_mean(column: str, prior: float, prior_strength: float) -> pl.Expr:
    """Mean of a column over the same user's training rows further up, smoothed to the prior."""
    training = pl.col("is_training")
    total = (pl.col(column) * training).cum_sum().shift(1, fill_value=0).over("user_id")
    count = training.cum_sum().shift(1, fill_value=0).over("user_id")
    return (total + prior * prior_strength) / (count + prior_strength)


def _with_rates(samples: pl.DataFrame, training: pl.DataFrame) -> pl.DataFrame:
    """Add like_rate and crowd."""
    train_means = samples.filter(pl.col("split") == "train")["item_mean"]
    edges = np.quantile(train_means.to_numpy(), [0.25, 0.5, 0.75])
    crowd = np.array(CROWD_WORDS)[np.searchsorted(edges, samples["item_mean"].to_numpy(), side="right")]
    return samples.with_columns(
        like_rate=pl.col("history_labels").list.mean().fill_null(training["label"].mean()),
        crowd=pl.Series(crowd),
        label=pl.col("label").cast(pl.Int64),
    )
