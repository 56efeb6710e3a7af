"""How good one ranked list per window is that every user gets: HR, NDCG and Jaccard at 5 and 10 (TRAIL).

Paper: Zhang et al., "Following the TRAIL" (2026), section 5.1.3 (metrics), 5.2.2 (upper bound), 5.2.3 (cold and warm
items, trend classes).

Rulings, where the paper leaves a choice:

1. HR@K is the share of users with an interaction in the window who have at least one of their items in the top K.
   The paper's words ("whether the ground-truth popular items appear") fit no number below 1 for its own upper bound.
2. NDCG@K is a mean over users. A user's relevant items are the distinct items of the window, each with gain 1; the
   ideal DCG holds min(K, number of them). Items that are not in the list, such as cold items that were no candidates,
   stay relevant, so a smaller list is no easier.
3. Everyone gets the same list: items a user already had are not taken out of it.
4. Several windows: each has its list and its users; all (window, user) pairs weigh the same.
5. Jaccard@K is the overlap |A n B| / |A u B| (higher is better; the paper calls it a distance) of the list's top K and
   the K most popular items with at least one user. Where items tie for the last places of B, those in A are taken
   first: no system gains by sharing a rule for ties with the truth. With several windows it is their mean.
6. On a group of items, HR and NDCG compare the list restricted to the group, in its order, with the users who have an
   item of the group, and with those items alone. Groups belong to (window, item) pairs. An item of no group counts
   nowhere. Numbers of different groups rest on different users and lists of different length, so a system is to be
   compared with another one on the same group, not one group with another.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from scipy.special import gammaln

CUTOFFS = (5, 10)
COLD_USERS = 5  # "cold-start (fewer than 5 interactions)", section 5.2.3
PER_USER = ("hr@10", "ndcg@10")  # of users.parquet, and of groups of items
Ranking = Sequence[str] | Mapping[int, Sequence[str]]


def rank_items(samples: pl.DataFrame, scores) -> dict[int, list[str]]:
    """One list per window: its items by descending score.

    Equal scores are ordered by the popularity of the last window before, then by item id (as text, ascending).
    Missing scores (None or NaN, such as malformed answers) come last, in the same order among themselves.

    Args:
        samples: window, item_id and history (List, oldest first; empty = 0 users in the last window), N rows.
        scores: (N,) predicted popularity.

    Returns:
        {window: item ids, best first}.

    Raises:
        ValueError: another number of scores than samples, or infinite scores.

    >>> samples = pl.DataFrame({"window": [3, 3, 3], "item_id": ["a", "b", "c"], "history": [[1], [], [4, 2]]})
    >>> rank_items(samples, [0.5, 0.9, 0.5])
    {3: ['b', 'c', 'a']}
    """
    scores = np.asarray(scores, dtype=float)
    if scores.shape != (samples.height,):
        raise ValueError(f"Scores have shape {scores.shape} for {samples.height} samples; give one per sample.")
    if np.isinf(scores).any():
        row = int(np.isinf(scores).argmax())
        raise ValueError(f"The score of item {samples['item_id'][row]!r} is infinite; look at the model that made it.")
    ranked = samples.select(
        "window",
        "item_id",
        pl.Series("score", scores).fill_nan(None),
        pl.col("history").list.last().fill_null(0).alias("last"),
    ).sort("window", "score", "last", "item_id", descending=[False, True, True, False], nulls_last=True)
    return {window: rows["item_id"].to_list() for (window,), rows in ranked.group_by("window", maintain_order=True)}


def ranking_metrics(
    ranking: Ranking, interactions: pl.DataFrame, cutoffs: Sequence[int] = CUTOFFS
) -> tuple[dict[str, float], pl.DataFrame]:
    """HR@K and NDCG@K of one list served to all users.

    Args:
        ranking: item ids, best first, for the one window of `interactions`; or {window: item ids}.
        interactions: user_id, item_id, and window (not needed for a single list). With {window: ...}, interactions of
            other windows are left out.

    Returns:
        The means {"hr@5", "ndcg@5", "hr@10", "ndcg@10"}, and one row per user with these columns, window, user_id and
        `items` (number of relevant items), sorted: two rankings of the same windows give rows in the same order, for
        paired tests.

    Raises:
        ValueError: no interactions, several windows for one list, an empty list, or an item twice in one.

    >>> interactions = pl.DataFrame({"user_id": ["u", "u", "v"], "item_id": ["a", "b", "c"]})
    >>> ranking_metrics(["b", "x", "c"], interactions, cutoffs=(1,))[0]
    {'hr@1': 0.5, 'ndcg@1': 0.5}
    """
    lists, interactions = _by_window(ranking, interactions)
    return position_metrics(_with_positions(_positions(lists), interactions), cutoffs)


def position_metrics(had: pl.DataFrame, cutoffs: Sequence[int] = CUTOFFS) -> tuple[dict[str, float], pl.DataFrame]:
    """HR@K and NDCG@K where everyone has a list of their own: see `ranking_metrics`, which is the case of one for all.

    Args:
        had: window, user_id, item_id and position, the item's place (from 1) in this user's list, null where it is not
            in it: one row per window, user and relevant item.

    >>> had = pl.DataFrame({"window": 1, "user_id": ["u", "u", "v"], "item_id": ["a", "b", "a"],
    ...                     "position": [None, 1, 2]})
    >>> position_metrics(had, cutoffs=(1,))[0]
    {'hr@1': 0.5, 'ndcg@1': 0.5}
    """
    users = _user_values(had, cutoffs)
    return _means(users, cutoffs), users


def group_metrics(
    ranking: Ranking, interactions: pl.DataFrame, groups: pl.DataFrame, cutoffs: Sequence[int] = CUTOFFS
) -> dict[str, tuple[dict[str, float], pl.DataFrame]]:
    """`ranking_metrics` within each group of items (ruling 6), by the group's name.

    Args:
        groups: item_id, group (a name; null = in no group) and, with {window: item ids}, window: one row per item, or
            per item and window.

    Returns:
        {group: (means, per-user values)}; a group whose items nobody has in these windows is left out.
    """
    lists, interactions = _by_window(ranking, interactions)
    if "window" not in groups.columns:
        groups = groups.join(pl.DataFrame({"window": list(lists)}), how="cross")
    groups = groups.drop_nulls("group").select(pl.col("window").cast(pl.Int64), "item_id", "group")
    if groups.select("window", "item_id").is_duplicated().any():
        raise ValueError("An item stands twice in the groups of one window; give each (window, item) one group.")
    listed, had = (rows.join(groups, on=["window", "item_id"]) for rows in (_positions(lists), interactions))
    results = {}
    for name in sorted(groups["group"].unique()):
        inside = listed.filter(pl.col("group") == name).with_columns(
            pl.col("position").rank("ordinal").over("window").cast(pl.Int64)
        )
        of_group = had.filter(pl.col("group") == name)
        if of_group.height:
            results[name] = position_metrics(_with_positions(inside.drop("group"), of_group), cutoffs)
    return results


def cold_or_warm(samples: pl.DataFrame) -> pl.DataFrame:
    """window, item_id and group of each sample: "cold" with fewer than 5 users before the window, else "warm"."""
    cold = pl.when(pl.col("users_before") < COLD_USERS).then(pl.lit("cold")).otherwise(pl.lit("warm"))
    return samples.select("window", "item_id", cold.alias("group"))


def jaccard(
    ranking: Ranking, popularity: pl.DataFrame, cutoffs: Sequence[int] = CUTOFFS
) -> tuple[dict[str, float], pl.DataFrame]:
    """Overlap of the list's top K with the K items that really became most popular (ruling 5).

    Args:
        ranking: item ids, best first, for the one window of `popularity`; or {window: item ids}.
        popularity: item_id, popularity (true counts), and window (not needed for a single list).

    Returns:
        The means {"jaccard@5", "jaccard@10"} over windows, and one row per window. A window in which no item has any
        user is left out.

    >>> truth = pl.DataFrame({"item_id": ["a", "b", "c", "d"], "popularity": [9, 4, 4, 0]})
    >>> jaccard(["c", "d", "a"], truth, cutoffs=(2,))[0]  # {c, d} and {a, c}
    {'jaccard@2': 0.3333333333333333}
    """
    lists, popularity = _by_window(ranking, popularity)
    rows = []
    for window, truth in popularity.filter(pl.col("popularity") > 0).partition_by("window", as_dict=True).items():
        counts = dict(zip(truth["item_id"], truth["popularity"]))
        ordered = np.sort(truth["popularity"].to_numpy())[::-1]
        row = {"window": window[0]}
        for k in cutoffs:
            places = min(k, len(ordered))
            border = ordered[places - 1]
            found = [counts.get(item, 0) for item in lists[window[0]][:k]]
            above, free = sum(count > border for count in found), places - int((ordered > border).sum())
            overlap = above + min(free, sum(count == border for count in found))
            row[f"jaccard@{k}"] = overlap / (len(found) + places - overlap)
        rows.append(row)
    if not rows:
        raise ValueError("No item has any user in these windows; there is no true top K to compare with.")
    frame = pl.DataFrame(rows).sort("window")
    return {f"jaccard@{k}": float(frame[f"jaccard@{k}"].mean()) for k in cutoffs}, frame


def random_expectation(
    candidates: Ranking, interactions: pl.DataFrame, cutoffs: Sequence[int] = CUTOFFS
) -> dict[str, float]:
    """What HR@K and NDCG@K a list in random order has on average: the floor below any table of results.

    With M candidates of which a user has n, HR@K is 1 - C(M - n, K) / C(M, K), and each place of the top K holds one
    of the user's items with probability n / M.

    Args:
        candidates: the items to be ranked, in any order: a list, or {window: list}.
    """
    lists, interactions = _by_window(candidates, interactions)
    users = _user_values(_with_positions(_positions(lists), interactions), ())
    sizes = pl.DataFrame({"window": list(lists), "size": [len(items) for items in lists.values()]})
    users = users.join(sizes, on="window", maintain_order="left")
    size, listed, relevant = (users[name].to_numpy().astype(float) for name in ("size", "listed", "items"))
    means = {}
    for k in cutoffs:
        depth = np.minimum(k, size)
        missing = np.maximum(size - listed, 0)
        possible = missing >= depth  # whether a top K without any of the user's items exists
        missing = np.where(possible, missing, depth)
        log_miss = _log_choose(missing, depth) - _log_choose(size, depth)
        means[f"hr@{k}"] = float(np.where(possible, 1 - np.exp(log_miss), 1.0).mean())
        gains = np.concatenate(([0.0], np.cumsum(1 / np.log2(np.arange(k) + 2))))
        dcg = gains[depth.astype(int)] * listed / size
        means[f"ndcg@{k}"] = float((dcg / gains[np.minimum(relevant, k).astype(int)]).mean())
    return means


def _log_choose(n: np.ndarray, k: np.ndarray) -> np.ndarray:
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)


def _by_window(ranking: Ranking, rows: pl.DataFrame) -> tuple[dict[int, list[str]], pl.DataFrame]:
    """The lists by window, and the rows of these windows; a single list is that of the rows' only window."""
    if isinstance(ranking, Mapping):
        lists = {int(window): list(items) for window, items in ranking.items()}
        if "window" not in rows.columns:
            raise ValueError("There is one list per window, but the rows have no column window.")
    else:
        windows = rows["window"].unique().to_list() if "window" in rows.columns else [0]
        if len(windows) > 1:
            raise ValueError(f"There is one list for {len(windows)} windows; give {{window: item ids}}.")
        rows = rows.with_columns(pl.lit(windows[0] if windows else 0).alias("window"))
        lists = {int(window): list(ranking) for window in windows}
    for window, items in lists.items():
        if not items:
            raise ValueError(f"The list of window {window} is empty.")
        if len(set(items)) < len(items):
            double = next(item for position, item in enumerate(items) if item in items[:position])
            raise ValueError(f"Item {double!r} stands twice in the list of window {window}.")
    rows = rows.with_columns(pl.col("window").cast(pl.Int64)).filter(pl.col("window").is_in(list(lists)))
    if not rows.height:
        raise ValueError(f"There is nothing to compare the lists of windows {sorted(lists)} with.")
    return lists, rows


def _positions(lists: Mapping[int, list[str]]) -> pl.DataFrame:
    """window, item_id and position (from 1) of every listed item."""
    frames = [
        pl.DataFrame({"item_id": pl.Series(items, dtype=pl.String)}).select(
            pl.lit(window, pl.Int64).alias("window"), "item_id", pl.int_range(1, pl.len() + 1).alias("position")
        )
        for window, items in lists.items()
    ]
    return pl.concat(frames)


def _with_positions(positions: pl.DataFrame, interactions: pl.DataFrame) -> pl.DataFrame:
    """window, user_id and the distinct items of each user, with their positions in the window's list."""
    relevant = interactions.select("window", "user_id", "item_id").unique()
    return relevant.join(positions, on=["window", "item_id"], how="left")


def _user_values(had: pl.DataFrame, cutoffs: Sequence[int]) -> pl.DataFrame:
    """window, user_id, items, listed (how many of them are in the list) and the metrics, one row per user."""
    gain = 1 / (pl.col("position") + 1).log(2)
    aggregates = [pl.len().cast(pl.Int64).alias("items"), pl.col("position").count().cast(pl.Int64).alias("listed")]
    for k in cutoffs:
        within = pl.col("position") <= k
        aggregates += [within.any().cast(pl.Float64).alias(f"hr@{k}"), gain.filter(within).sum().alias(f"ndcg@{k}")]
    users = had.group_by("window", "user_id").agg(aggregates).sort("window", "user_id")
    depth = max(cutoffs, default=0)
    ideal = np.concatenate(([np.nan], np.cumsum(1 / np.log2(np.arange(depth) + 2))))  # by number of relevant items
    reachable = {k: ideal[np.minimum(users["items"].to_numpy(), k)] for k in cutoffs}
    return users.with_columns(pl.col(f"ndcg@{k}") / pl.Series(values) for k, values in reachable.items())


def _means(users: pl.DataFrame, cutoffs: Sequence[int]) -> dict[str, float]:
    return {name: float(users[name].mean()) for k in cutoffs for name in (f"hr@{k}", f"ndcg@{k}")}
