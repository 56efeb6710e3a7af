"""Attention on positive and negative explanations (RecPIE, section 5.8.1, eq. 22, Figures 9 and 13).

Departure: the paper says "significantly more" attention and names no test. Intervals and p-values here resample whole
users: a user's samples are not independent.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from rlrec.evaluation.significance import percentile_interval, resampled_sums
from rlrec.results import write_parquet_atomic
from rlrec.tables import Table, p_text

ATTENTION = "analyses/attention.parquet"
DIFFERENCE = "pos - neg"


def write_attention(run_dir: str | Path, samples: pl.DataFrame, weights, token_names: Sequence[str]) -> Path:
    """Write `run_dir`/analyses/attention.parquet: the average attention that each input token gets.

    Args:
        samples: N test samples with user_id, item_id, rating and label (1: liked, 4 or 5 stars in the paper).
        weights: (N, T) eq. 22, `model.attention(batch, z).mean(1)`; each row sums to 1.
        token_names: T names, `model.token_names`.
    """
    weights = np.asarray(weights, dtype=float)
    if weights.shape != (len(samples), len(token_names)):
        raise ValueError(
            f"Attention weights have shape {weights.shape}, expected (samples, tokens) = "
            f"{(len(samples), len(token_names))}; give model.attention(batch, z).mean(1)."
        )
    wrong = np.flatnonzero(~(np.abs(weights.sum(axis=1) - 1) < 1e-3))  # NaN too
    if wrong.size:
        raise ValueError(
            f"Attention of sample {wrong[0]} sums to {weights[wrong[0]].sum():g}, not 1; average over the tokens that "
            "look, model.attention(batch, z).mean(1)."
        )
    columns = [pl.Series(f"attention_{name}", weights[:, place]) for place, name in enumerate(token_names)]
    kept = samples.select("user_id", "item_id", "rating", "label")
    return write_parquet_atomic(Path(run_dir) / ATTENTION, kept.with_columns(columns))


def attention_summary(frames: Sequence[pl.DataFrame], resamples: int = 2000, seed: int = 0) -> pl.DataFrame:
    """Mean attention per token for all, liked and disliked items, with 95 % intervals over resampled users.

    Args:
        frames: attention.parquet of one or several runs.

    Returns:
        Columns items ("all", "liked", "disliked", "liked - disliked"), token (names, and "pos - neg" where the model
        has both explanations), mean, low, high, p_value (null unless it is a difference), samples.
    """
    if len({tuple(frame.columns) for frame in frames}) > 1:
        raise ValueError("The runs' attention is over different inputs; give runs of one model.")
    frame = pl.concat(frames)
    tokens = [column.removeprefix("attention_") for column in frame.columns if column.startswith("attention_")]
    values = frame.select(f"attention_{token}" for token in tokens).to_numpy()
    if {"pos", "neg"} <= set(tokens):
        values = np.column_stack([values, values[:, tokens.index("pos")] - values[:, tokens.index("neg")]])
        tokens.append(DIFFERENCE)
    liked = frame["label"].to_numpy() == 1
    if liked.all() or not liked.any():
        raise ValueError(f"All {len(frame)} samples are {'liked' if liked.all() else 'disliked'}; give both kinds.")
    one = np.ones((len(frame), 1))
    columns = np.concatenate([np.hstack([values, one]) * group[:, None] for group in (liked, ~liked)], axis=1)

    def means(sums: np.ndarray) -> dict[str, np.ndarray]:
        """(R, 2 (tokens + 1)) sums -> {items: (R, tokens)}."""
        first, second = np.split(sums, 2, axis=1)
        with np.errstate(invalid="ignore"):  # a resample may lose one kind; percentile_interval leaves it out
            by_items = {
                "all": (first + second)[:, :-1] / (first + second)[:, -1:],
                "liked": first[:, :-1] / first[:, -1:],
                "disliked": second[:, :-1] / second[:, -1:],
            }
        return by_items | {"liked - disliked": by_items["liked"] - by_items["disliked"]}

    found, drawn = (
        means(columns.sum(axis=0, keepdims=True)),
        means(resampled_sums(columns, frame["user_id"], resamples, seed)),
    )
    counts = {"all": len(frame), "liked": int(liked.sum()), "disliked": int((~liked).sum())}
    lines = []
    for items in found:
        for place, token in enumerate(tokens):
            interval = percentile_interval(drawn[items][:, place])
            p_value = interval["p_value"] if "-" in items or token == DIFFERENCE else None
            mean = float(found[items][0, place])
            lines.append((items, token, mean, interval["low"], interval["high"], p_value, counts.get(items)))
    schema = ["items", "token", "mean", "low", "high", "p_value", "samples"]
    return pl.DataFrame(lines, schema=schema, orient="row", schema_overrides={"p_value": pl.Float64})


def attention_tables(summary: pl.DataFrame) -> dict[str, Table]:
    """{title: table}: shares of the tokens with 95 % intervals, and positive against negative explanations."""
    cells = {(line["items"], line["token"]): line for line in summary.iter_rows(named=True)}
    tokens = [token for token in summary["token"].unique(maintain_order=True) if token != DIFFERENCE]
    shares = [
        [token, *(_with_interval(cells[items, token]) for items in ("all", "liked", "disliked"))] for token in tokens
    ]
    tables = {
        "Attention per input (eq. 22; 95 % intervals, users resampled)": (
            ["input", "all", "liked", "disliked"],
            shares,
        )
    }
    if ("all", DIFFERENCE) in cells:
        header = ["items", "samples", "on positive", "on negative", "positive - negative", "95 % interval", "p"]
        body = []
        for items in ("liked", "disliked", "liked - disliked"):
            sign = "+" if "-" in items else ""
            both = [f"{cells[items, token]['mean']:{sign}.3f}" for token in ("pos", "neg")]
            line = cells[items, DIFFERENCE]
            interval = f"{line['low']:+.3f} to {line['high']:+.3f}"
            samples = "–" if line["samples"] is None else f"{line['samples']:,}"
            body.append([items, samples, *both, f"{line['mean']:+.3f}", interval, p_text(line["p_value"])])
        tables["Attention on positive and negative explanations (Figure 9)"] = header, body
    return tables


def _with_interval(line: Mapping) -> str:
    return f"{line['mean']:.3f} ({line['low']:.3f} to {line['high']:.3f})"
