"""Explanations of test samples before and after training, side by side with what happened, as Markdown."""

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from rlrec.evaluation.ranking import COLD_USERS, rank_items
from rlrec.row_names import row_label
from rlrec.tables import defused
from rlrec.trail.histories import trend_class

LONGEST_CELL = 700  # characters; some reviews are pages long
WINDOWS_SHOWN = 12
TITLES_SHOWN = 5

Lines = list[tuple[str, str]]  # name and text


def case_study(
    predictions: pl.DataFrame, before: str = "icl", after: str = "expctr_llm", count: int = 6, seed: int = 0
) -> str:
    """Explanations of the same samples before and after training (ExpCTR's Table 2, TRAIL's Table 4).

    Cases of clicks and ratings are drawn at random by `seed`, liked and disliked in turn, and not picked for their
    looks; so are those of SELLER, which have no label. Those of rankings (predictions with a column `popularity`) are
    chosen by what happened: the most popular cold item, the most popular warm ones with increasing and decreasing
    popularity, and the largest error.

    Args:
        predictions: a run's predictions.parquet, with columns explanation_<before> and explanation_<after>; of
            rankings score_<before> and score_<after> too.
        before, after: row names.
        count: cases; `count` and `seed` do not matter for rankings.
    """
    intro, cases = chosen_cases(predictions, before, after, count, seed)
    parts = [
        f"### {number}. {shortened(title)}\n\n{_case_table(lines)}"
        for number, (title, lines) in enumerate(cases, start=1)
    ]
    return "\n\n".join(["## Case study", intro, *parts]) + "\n"


def chosen_cases(
    predictions: pl.DataFrame, before: str, after: str, count: int = 6, seed: int = 0
) -> tuple[str, list[tuple[str, Lines]]]:
    """How the cases of `case_study` were chosen, and of each its title and lines (name, text); nothing is escaped."""
    kinds = ("explanation", "score") if "popularity" in predictions.columns else ("explanation",)
    missing = [
        f"{kind}_{row}" for row in (before, after) for kind in kinds if f"{kind}_{row}" not in predictions.columns
    ]
    if missing:
        raise ValueError(f"predictions.parquet has no column {missing[0]}; write it with write_predictions.")
    if "popularity" in predictions.columns:
        return _ranked_cases(predictions, before, after)
    if "label" not in predictions.columns:
        return _sequence_cases(predictions, (before, after), count, seed)
    return _drawn_cases(predictions, before, after, count, seed)


def shortened(text: str) -> str:
    """Any text as one line that breaks no Markdown table, cut to LONGEST_CELL characters.

    >>> shortened("a | <b>\\n c")
    'a \\\\| &lt;b> c'
    """
    return defused(cut(text))


def cut(text: str) -> str:
    """Any text as one line of at most LONGEST_CELL characters and an ellipsis."""
    text = " ".join(str(text).split())
    return text if len(text) <= LONGEST_CELL else text[:LONGEST_CELL].rstrip() + " …"


def _case_table(lines: Lines) -> str:
    """Two columns without padding: these cells are sentences."""
    rows = ["| | |", "| --- | --- |"]
    return "\n".join([*rows, *(f"| **{name}** | {shortened(text)} |" for name, text in lines)])


# -- clicks and ratings -----------------------------------------------------------------------------------------------
def _drawn_cases(
    predictions: pl.DataFrame, before: str, after: str, count: int, seed: int
) -> tuple[str, list[tuple[str, Lines]]]:
    rng = np.random.default_rng(seed)
    by_label = [rng.permutation(np.flatnonzero(predictions["label"].to_numpy() == label)) for label in (1, 0)]
    in_turn = [rows[place] for place in range(count) for rows in by_label if place < len(rows)]
    cases = []
    for row in in_turn[:count]:
        case = predictions.row(int(row), named=True)
        lines = [("history", _titles(case))] if case.get("history_titles") is not None else []
        lines += [("review", case["review"])] if case.get("review") else []
        lines += [("true reasons", ", ".join(case["reasons"]))] if case.get("reasons") else []
        lines += [("truth", _liked(case))]
        for name in (before, after):
            score = case.get(f"score_{name}")
            predicted = "" if score is None else f" (score {score:.2f})"
            lines.append((f"{row_label(name)}{predicted}", case[f"explanation_{name}"]))
        cases.append((str(case.get("title") or case["item_id"]), lines))
    return (
        f"{len(cases)} test samples drawn at random (seed {seed}), liked and disliked in turn, none picked by hand.",
        cases,
    )


# -- what came next in a sequence -------------------------------------------------------------------------------------
def _sequence_cases(
    predictions: pl.DataFrame, rows: Sequence[str], count: int, seed: int
) -> tuple[str, list[tuple[str, Lines]]]:
    chosen = predictions.sample(min(count, len(predictions)), seed=seed, shuffle=True)
    rows = [*rows, *(("ground_truth",) if "explanation_ground_truth" in predictions.columns else ())]
    cases = []
    for case in chosen.iter_rows(named=True):
        titles = [f"“{title}”" for title in case.get("history_titles") or []]
        lines = [("newest of the history", ", ".join(titles[-TITLES_SHOWN:]) or "none")]
        lines += [("true reasons", ", ".join(case["reasons"]))] if case.get("reasons") else []
        lines += [(row_label(row), case[f"explanation_{row}"]) for row in rows]
        cases.append((str(case.get("title") or case["item_id"]), lines))
    return f"{len(cases)} test samples drawn at random (seed {seed}), none picked by hand.", cases


def _titles(case: Mapping) -> str:
    groups = {1: [], 0: []}
    for title, label in zip(case["history_titles"], case.get("history_labels") or [], strict=True):
        groups[label].append(f"“{title}”")
    told = [f"{word} {', '.join(groups[label])}" for word, label in (("liked", 1), ("disliked", 0)) if groups[label]]
    return "; ".join(told) or "none"


def _liked(case: Mapping) -> str:
    rating = case.get("rating")
    return ("liked" if case["label"] else "disliked") + ("" if rating is None else f" (rating {rating:g})")


# -- rankings ---------------------------------------------------------------------------------------------------------
def _ranked_cases(predictions: pl.DataFrame, before: str, after: str) -> tuple[str, list[tuple[str, Lines]]]:
    places = {row: _places(predictions, predictions[f"score_{row}"]) for row in (before, after)}
    trends = [trend_class(history or []) for history in predictions["history"].to_list()]
    cold = pl.col("history").list.sum().fill_null(0) < COLD_USERS
    samples = predictions.with_columns(
        pl.when(cold).then(pl.lit("cold")).otherwise(pl.Series(trends, dtype=pl.String)).alias("kind"),
        (pl.col(f"score_{after}") - pl.col("popularity")).abs().fill_nan(None).alias("error"),
        pl.col("popularity").rank("min", descending=True).over("window").alias("place"),
        pl.len().over("window").alias("candidates"),
    ).sort("popularity", "window", "item_id", descending=[True, False, False])
    wanted = {
        "Cold": pl.col("kind") == "cold",
        "Increasing": pl.col("kind") == "increasing",
        "Decreasing": pl.col("kind") == "decreasing",
        "Failure": pl.col("error") == pl.col("error").max(),
    }
    cases = []
    for kind, condition in wanted.items():
        for case in samples.filter(condition).head(1).iter_rows(named=True):
            # of every kind the most popular one, and no item of a window twice
            samples = samples.filter((pl.col("window") != case["window"]) | (pl.col("item_id") != case["item_id"]))
            lines = [
                ("history", _counts(case["history"] or [])),
                ("truth", f"{case['popularity']:g} users, place {case['place']} of {case['candidates']}"),
            ]
            for name in (before, after):
                score, place = case[f"score_{name}"], places[name][case["window"], case["item_id"]]
                told = "no score" if score is None or np.isnan(score) else f"score {score:g}, place {place}"
                text = case[f"explanation_{name}"] or "no explanation that could be read"
                lines.append((f"{row_label(name)} ({told})", text))
            title = f"{kind}: {case.get('title') or case['item_id']} (window {case['window']})"
            cases.append((title, lines))
    intro = (
        f"None picked by hand: of the test windows the most popular cold item (fewer than {COLD_USERS} users before), "
        "the most popular warm ones with increasing and with decreasing popularity, and of the others the one where "
        f"{row_label(after)} errs most. Places are those in the ranked list of the window."
    )
    return intro, cases


def _places(predictions: pl.DataFrame, scores: pl.Series) -> dict[tuple[int, str], int]:
    """{(window, item): place in the ranked list}."""
    ranking = rank_items(predictions, scores.to_numpy())
    return {(window, item): place for window, items in ranking.items() for place, item in enumerate(items, start=1)}


def _counts(history: Sequence[int]) -> str:
    if not history:
        return "none"
    shown = ", ".join(f"{count:g}" for count in history[-WINDOWS_SHOWN:])
    return f"{'… ' if len(history) > WINDOWS_SHOWN else ''}{shown} (users per window, newest last)"
