"""The personalised rows of TRAIL's Table 2: BPR, UserKNN, SASRec, Caser and HGN on the windows of TRAIL's run.

Paper: "Following the TRAIL" (2026), section 5.1.2 and Table 2. TRAIL ranks the items of a window in one list for all;
these rows rank them for each user. The paper does not say how it compares the two. Rulings:

1. Windows, candidates, users and their items are those of TRAIL's rows, and so are HR, NDCG and the groups of items
   (`rlrec.evaluation.ranking`): each user's own list takes the place of the one list.
2. Known is what lies before the window. TRAIL reads it in histories of any length; models that know items by their
   ids know what they were fitted on. So every model is fitted anew for each test window, on all interactions before
   it: without that, none of them could list what came out after the training windows.
3. Settings (`GRID`: four for each row), epochs of the next-item models, and whether a user's earlier items are left
   out of the list (datasets differ in whether anybody comes back to an item) are chosen by NDCG@10 in the last
   validation window.
4. Users without history get the items by users before the window in every row: no loss has seen what a next-item
   model makes of an empty history.
5. Equal scores are ordered as in `rank_items`; candidates of which a model knows nothing come last in that order.
6. Jaccard asks for one list: items by the number of users, among all who were there before the window, in whose top
   10 they stand. These numbers are the row's predictions too.

BPR is cornac's. UserKNN has scikit-learn's neighbours by the cosine of sets of items; an item's score is the sum of
the similarities of those who had it. cornac's UserKNN predicts ratings: means weighted by the similarity on what both
have rated, which with interactions alone give every item that any neighbour had the same score.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from scipy.sparse import csr_array
from sklearn.neighbors import NearestNeighbors

from rlrec.baselines.tuning import TableRow
from rlrec.data.popularity import PopularityData
from rlrec.evaluation.ranking import PER_USER, cold_or_warm, jaccard, position_metrics, rank_items
from rlrec.recommenders import HGN, Caser, SASRec, fit_sequences, item_sequences
from rlrec.trail.trends import trend_classes

NEXT_ITEM = {"sasrec": SASRec, "caser": Caser, "hgn": HGN}
ROWS = ("bpr", "userknn", *NEXT_ITEM)
_SIZES = [{"dim": dim, "dropout": dropout} for dim in (32, 64) for dropout in (0.2, 0.5)]
GRID = {
    "bpr": [{"k": k, "lambda_reg": reg} for k in (16, 64) for reg in (0.001, 0.01)],
    "userknn": [{"k": k} for k in (20, 80, 200, 500)],
    **dict.fromkeys(NEXT_ITEM, _SIZES),
}
BPR_FIXED = {"max_iter": 100, "learning_rate": 0.05}
# Of next-item models. The likelihood would stop them after an epoch: it falls with every item that nobody had before.
FIT = {"epochs": 40, "patience": 3, "learning_rate": 2e-3, "metric": "ndcg@10"}
TOP = 10  # of a personal list, where lists are counted
USERS_AT_ONCE = 1024
UNKNOWN = np.finfo(np.float32).min  # below every score, above the items that are left out

Scores = Callable[[slice], np.ndarray]  # users of a window -> (users, candidates)


@dataclass(frozen=True)
class Window:
    """What there is to rank, and what is known when the window begins.

    Attributes:
        samples: its candidates, in the order in which equal scores stay.
        items, users: ids of the candidates, and of all who were there before or are there now (sorted).
        past: user_id, item_id, timestamp before the window.
        had, has: (users, candidates) 1 where a user had the candidate before, and has it in the window.
        missing: user_id, item_id in the window that is no candidate.
    """

    samples: pl.DataFrame
    items: list[str]
    users: list[str]
    past: pl.DataFrame
    had: csr_array
    has: csr_array
    missing: pl.DataFrame

    @classmethod
    def of(cls, popularity: PopularityData, number: int) -> "Window":
        samples = popularity.samples.filter(pl.col("window") == number)
        items = rank_items(samples, np.zeros(samples.height))[number]
        order = pl.DataFrame({"item_id": items}).with_row_index("column")
        samples = samples.with_columns(pl.col("item_id").cast(pl.String)).join(order, on="item_id").sort("column")
        rows = popularity.interactions.with_columns(pl.col("user_id", "item_id").cast(pl.String))
        past, now = rows.filter(pl.col("window") < number), rows.filter(pl.col("window") == number)
        users = sorted({*past["user_id"], *now["user_id"]})
        listed = now["item_id"].is_in(items)
        return cls(
            samples,
            items,
            users,
            past.select("user_id", "item_id", "timestamp"),
            _matrix(past, users, items),
            _matrix(now.filter(listed), users, items),
            now.filter(~listed).select("user_id", "item_id").unique(),
        )


@dataclass(frozen=True)
class Lists:
    """Everybody's list, as far as it is asked for.

    Attributes:
        had: window, user_id, item_id, position, and for each of `GROUPINGS` its group and the position within it: the
            users' items (see `position_metrics`).
        counts: (candidates,) users known before the window with the candidate in their top 10.
    """

    had: pl.DataFrame
    counts: np.ndarray


GROUPINGS = {"cold_or_warm": cold_or_warm, "trend": trend_classes}


def ranking_row(
    row: str, popularity: PopularityData, *, seed: int = 0, grid: Mapping[str, Sequence[Mapping]] = GRID
) -> TableRow:
    """Choose a row's settings on the validation window, and rank the test windows with them.

    Args:
        row: one of `ROWS`.
        popularity: of TRAIL's run (`rlrec.trail.windows.load_windows`).
        seed: of the models.
        grid: {row: settings to try}.

    Returns:
        metrics as of TRAIL's rows (hr@5 .. jaccard@10, hr@10/cold ...), predictions (N test samples,) by ruling 6, the
        chosen settings, and users with window, user_id, items, hr@10_<row> and ndcg@10_<row>.

    Raises:
        ValueError: an unknown row, or no validation window.
        ImportError: "bpr" without cornac.
    """
    if row not in ROWS:
        raise ValueError(f"There is no ranking row {row!r}; use one of {', '.join(ROWS)}.")
    validation = popularity.samples.filter(pl.col("split") == "validation")["window"].max()
    if validation is None:
        raise ValueError("Settings are chosen in a validation window, and there is none; use validation_windows of 1.")
    window, tried = Window.of(popularity, validation), []
    for setting in grid[row]:
        scores, fitted = fit_scores(row, window, setting, seed, stop_early=True)
        for repeats in (False, True):
            means, _ = position_metrics(make_lists(window, validation, scores, repeats).had)
            tried.append({**setting, **fitted, "repeats": repeats, "ndcg@10": means["ndcg@10"]})
    chosen = max(tried, key=lambda setting: setting["ndcg@10"])
    setting = {name: value for name, value in chosen.items() if name not in ("repeats", "ndcg@10")}
    test, frames, counts = popularity.samples.filter(pl.col("split") == "test"), [], []
    for number in sorted(test["window"].unique()):
        window = Window.of(popularity, number)
        scores, _ = fit_scores(row, window, setting, seed)
        lists = make_lists(window, number, scores, chosen["repeats"])
        frames.append(lists.had)
        counts.append(window.samples.select("window", "item_id", pl.Series("count", lists.counts)))
    return _table_row(row, test, pl.concat(frames), pl.concat(counts), {"grid": tried, "chosen": chosen})


def make_lists(window: Window, number: int, scores: Scores, repeats: bool) -> Lists:
    """Rank the candidates for every user.

    Args:
        scores: of a slice of the users: (n, candidates), finite.
        repeats: whether items that the user had before stay in the list.
    """
    known, counts = np.diff(window.had.indptr) > 0, np.zeros(len(window.items), dtype=np.int64)
    groups = {name: make(window.samples)["group"] for name, make in GROUPINGS.items()}
    parts = {name: [] for name in ("user", "column", "position", *groups)}
    for start in range(0, len(window.users), USERS_AT_ONCE):
        users = slice(start, start + USERS_AT_ONCE)
        ranked = np.asarray(scores(users), dtype=np.float32)
        left_out = np.zeros(ranked.shape, dtype=bool) if repeats else window.had[users].toarray() > 0
        order = np.where(left_out, np.inf, -ranked).argsort(axis=1, kind="stable")
        places = _places(order, np.ones_like(order))
        counts += ((places <= TOP) & ~left_out)[known[users]].sum(0)
        row, column = window.has[users].nonzero()
        given = ~left_out[row, column]  # a place of 0: not in the list

        parts["user"].append(row + start)
        parts["column"].append(column)
        parts["position"].append(places[row, column] * given)
        for name, group in groups.items():
            inside = np.zeros_like(places)
            for one in group.unique():
                member = (group == one).to_numpy()
                inside[:, member] = _places(order, member[order].astype(np.int64))[:, member]
            parts[name].append(inside[row, column] * given)
    joined = {name: np.concatenate(values) for name, values in parts.items()}
    users, items = pl.Series(window.users, dtype=pl.String), pl.Series(window.items, dtype=pl.String)
    positions = {f"position_{name}" if name in groups else name: joined[name] for name in ("position", *groups)}
    had = pl.DataFrame(
        {
            "user_id": users.gather(joined["user"]),
            "item_id": items.gather(joined["column"]),
            **{name: pl.Series(values, dtype=pl.Int64).replace(0, None) for name, values in positions.items()},
            **{name: group.gather(joined["column"]) for name, group in groups.items()},
        }
    )
    had = pl.concat([had, window.missing], how="diagonal")
    return Lists(had.select(pl.lit(number, pl.Int64).alias("window"), pl.all()), counts)


def _places(order: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Of each candidate (n, C) its place from 1 among those of the order that count (0 or 1, in the order)."""
    places = np.empty_like(order)
    np.put_along_axis(places, order, counted.cumsum(axis=1), axis=1)
    return places


def _table_row(row: str, test: pl.DataFrame, had: pl.DataFrame, counts: pl.DataFrame, details: dict) -> TableRow:
    metrics, users = position_metrics(had)
    samples = test.with_columns(pl.col("item_id").cast(pl.String))
    predictions = samples.join(counts, on=["window", "item_id"], how="left", maintain_order="left")["count"].to_numpy()
    overlap, _ = jaccard(rank_items(samples, predictions), samples.select("window", "item_id", "popularity"))
    metrics |= overlap
    for name in GROUPINGS:
        for (group,), rows in had.drop_nulls(name).group_by(name):
            means, _ = position_metrics(rows.with_columns(position=f"position_{name}"))
            metrics |= {f"{metric}/{group}": means[metric] for metric in PER_USER}
    values = [pl.col(metric).alias(f"{metric}_{row}") for metric in PER_USER]
    return TableRow(metrics, predictions, details, users.select("window", "user_id", "items", *values))


# -- models: users of a window -> scores of its candidates --------------------------------------------------------
def fit_scores(
    row: str, window: Window, setting: Mapping, seed: int, stop_early: bool = False
) -> tuple[Scores, dict[str, int]]:
    """Fit a row's model on what lies before the window; what the fit itself has chosen (epochs) comes with it.

    Args:
        setting: of `GRID`, and of next-item models the epochs, unless `stop_early`.
        stop_early: look at the window itself to find the number of epochs: of the validation window alone.
    """
    if row == "bpr":
        return _bpr(window, setting, seed), {}
    if row == "userknn":
        return _user_neighbours(window, **setting), {}
    return _next_item(NEXT_ITEM[row], window, dict(setting), seed, stop_early)


def _bpr(window: Window, setting: Mapping, seed: int) -> Scores:
    from cornac.data import Dataset
    from cornac.models import BPR

    row, column = window.had.nonzero()
    train = Dataset.from_uir([(int(user), int(item), 1.0) for user, item in zip(row, column)], seed=seed)
    model = BPR(**BPR_FIXED, **setting, num_threads=1, seed=seed, verbose=False).fit(train)
    columns = np.array(list(train.iid_map))

    def scores(users: slice) -> np.ndarray:
        found = _popular(window, users)
        for place, user in enumerate(range(*users.indices(len(window.users)))):
            if user in train.uid_map:
                found[place] = UNKNOWN
                found[place, columns] = model.score(train.uid_map[user])
        return found

    return scores


def _user_neighbours(window: Window, k: int) -> Scores:
    known = np.flatnonzero(np.diff(window.had.indptr))
    had = window.had[known]
    neighbours = NearestNeighbors(n_neighbors=min(k + 1, len(known)), metric="cosine").fit(had)

    def scores(users: slice) -> np.ndarray:
        found = _popular(window, users)
        asked = window.had[users]
        rows = np.flatnonzero(np.diff(asked.indptr))
        if len(rows):
            graph = neighbours.kneighbors_graph(asked[rows], mode="distance")
            graph.data = 1.0 - graph.data
            # the nearest is the user, whose own items say nothing of others
            own = np.searchsorted(known, rows + users.start)
            graph.data[graph.indices == np.repeat(own, np.diff(graph.indptr))] = 0.0
            found[rows] = (graph @ had).toarray()
        return found

    return scores


def _next_item(kind, window: Window, setting: dict, seed: int, stop_early: bool) -> tuple[Scores, dict[str, int]]:
    sequences = item_sequences(window.past, window.items)
    known = torch.from_numpy(np.diff(window.had.indptr) > 0)
    histories = torch.zeros(len(window.users), sequences.shape[1], dtype=torch.int64)
    histories[known] = sequences  # both by user id
    fit, validation = dict(FIT), None
    if stop_early:
        row, column = (torch.from_numpy(values.astype(np.int64)) for values in window.has.nonzero())
        validation = histories[row[known[row]]], column[known[row]] + 1
    else:
        fit["epochs"] = setting.pop("epochs")
    torch.manual_seed(seed)
    model = kind(len(window.items) + 1, **setting)
    result = fit_sequences(model, sequences, validation, seed=seed, **fit)

    def scores(users: slice) -> np.ndarray:
        found = model.scores(histories[users])[:, 1:].numpy()
        return np.where(known[users, None].numpy(), found, _popular(window, users))

    return scores, {"epochs": result.best_epoch}


def _popular(window: Window, users: slice) -> np.ndarray:
    """(n, candidates) the same for all: users before the window."""
    count = len(range(*users.indices(len(window.users))))
    return np.tile(np.asarray(window.had.sum(axis=0), dtype=np.float32), (count, 1))


def _matrix(rows: pl.DataFrame, users: list[str], items: list[str]) -> csr_array:
    """(users, items) 1.0 where there is an interaction."""
    places = [
        rows[column].replace_strict(dict(zip(ids, range(len(ids)))), return_dtype=pl.Int64).to_numpy()
        for column, ids in (("user_id", users), ("item_id", items))
    ]
    matrix = csr_array((np.ones(rows.height), tuple(places)), shape=(len(users), len(items)))
    matrix.data[:] = 1.0  # a pair that came twice has been summed
    return matrix
