"""RecPIE over training fractions (section 5.7.1, Tables 6 and 12), and rewards over steps of several runs."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from rlrec.evaluation.significance import mean_and_sd, rmse_difference
from rlrec.results import read_log_histories, read_predictions, read_results
from rlrec.row_names import row_label, sorted_rows
from rlrec.tables import Table, cell, metric_label, summarise, training_fraction

LEARNING_METRICS = ("rmse", "mae", "auc")


def learning_curve(results: Sequence[Mapping], rows: Sequence[str] | None = None) -> pl.DataFrame:
    """RMSE, MAE and AUC of rows over training fractions, from results.json of several runs.

    Args:
        results: of one system and dataset; `details.training_fraction` in (0, 1] (1 where it is not given), each seed
            once per fraction.
        rows: those to keep; None: every row.

    Returns:
        The columns of `rlrec.tables.summarise` with `fraction` in front, the largest fraction first.
    """
    groups: dict[float, list[Mapping]] = {}
    for record in results:
        groups.setdefault(training_fraction(record), []).append(record)
    frames = [
        summarise(groups[fraction]).select(pl.lit(fraction).alias("fraction"), pl.all())
        for fraction in sorted(groups, reverse=True)
    ]
    frame = pl.concat(frames).filter(pl.col("metric").is_in(LEARNING_METRICS))
    kept = frame if rows is None else frame.filter(pl.col("row").is_in(rows))
    if kept.is_empty():
        found = ", ".join(frame["row"].unique(maintain_order=True))
        raise ValueError(f"No run has a row {' or '.join(rows or ())}; there are {found or 'none'}.")
    return kept


def learning_table(curve: pl.DataFrame, differences: Mapping[tuple[str, float], str] | None = None) -> Table:
    """Rows x fractions, mean +- deviation over seeds, and the distance to the baseline from `learning_differences`."""
    values = {(line["row"], line["fraction"], line["metric"]): line for line in curve.iter_rows(named=True)}
    metrics = [metric for metric in LEARNING_METRICS if metric in curve["metric"].to_list()]
    header = ["row", "training data", "seeds", *(metric_label(metric, arrow=True) for metric in metrics)]
    header += ["RMSE against the baseline at 100 %"] if differences else []
    body = []
    for row in sorted_rows(curve["row"].unique(maintain_order=True).to_list()):
        for fraction in curve["fraction"].unique(maintain_order=True):
            lines = [values.get((row, fraction, metric)) for metric in metrics]
            if any(lines):
                seeds = max(line["seeds"] for line in lines if line)
                cells = [cell(line["mean"], line["sd"], 4) if line else "–" for line in lines]
                distance = [differences.get((row, fraction), "–")] if differences else []
                body.append([row_label(row), f"{fraction:.0%}", str(seeds), *cells, *distance])
    return header, body


def learning_differences(runs: Sequence[Path], rows: Sequence[str], baseline: str) -> dict[tuple[str, float], str]:
    """{(row, fraction): RMSE minus that of `baseline` trained on everything}, with 95 % intervals (users resampled).

    Runs of one seed are compared where their predictions.parquet have the same samples; seeds are pooled.
    """
    predictions = {}
    for run in runs:
        record, frame = read_results(run), read_predictions(run)
        if frame is not None and "target" in frame.columns:
            predictions[record["seed"], training_fraction(record)] = frame
    differences = {}
    for row in rows:
        for fraction in {fraction for _, fraction in predictions}:
            pairs = []
            for (seed, other), frame in predictions.items():
                whole = predictions.get((seed, 1.0))
                if other != fraction or whole is None or (row, fraction) == (baseline, 1.0):
                    continue
                columns = f"score_{row}" in frame.columns and f"score_{baseline}" in whole.columns
                ids = ["user_id", "item_id", "target"]
                if columns and frame.select(ids).equals(whole.select(ids)):
                    pairs.append(frame.select("user_id", "target", a=whole[f"score_{baseline}"], b=f"score_{row}"))
            if pairs:
                pooled = pl.concat(pairs)
                found = rmse_difference(pooled["target"], pooled["a"], pooled["b"], users=pooled["user_id"])
                interval = f"({found['low']:+.4f} to {found['high']:+.4f})"
                differences[row, fraction] = f"{found['difference']:+.4f} {interval}"
    return differences


def reward_runs(runs: Sequence[Path]) -> list[np.ndarray]:
    """Per run with rewards (steps, rewards) as (2, n), rounds behind one another; other variants' rounds are left out.

    Rewards are recpie/reward, equation 4 itself, where it is logged: `reward` is less the baseline, if there is one.
    """
    series = []
    for run in runs:
        steps, rewards = [], []
        histories = read_log_histories(run)
        rounds = {stage: history for stage, history in histories.items() if re.fullmatch(r"recpie_round_\d+", stage)}
        for history in (rounds or histories).values():
            begin = steps[-1] if steps else 0
            logged = [(entry["step"], entry.get("recpie/reward", entry.get("reward"))) for entry in history]
            points = [(step, reward) for step, reward in logged if reward is not None]
            # Rounds count their steps from 1 again, unless the trainer went on counting.
            begin = begin if points and points[0][0] <= begin else 0
            steps += [begin + step for step, _ in points]
            rewards += [reward for _, reward in points]
        if steps:
            series.append(np.array([steps, rewards], dtype=float))
    return series


def reward_table(series: Mapping[str, Sequence[np.ndarray]]) -> Table:
    """Mean reward of the first and of the last tenth of the steps per label, mean +- deviation over seeds."""
    body = []
    for label, runs in series.items():
        first, last = [], []
        for _, rewards in runs:
            tenth = max(1, len(rewards) // 10)
            first.append(rewards[:tenth].mean())
            last.append(rewards[-tenth:].mean())
        steps = max(int(run[0, -1]) for run in runs)
        gained = np.subtract(last, first)
        cells = [cell(*mean_and_sd(values), 4) for values in (first, last, gained)]
        body.append([label, str(len(runs)), str(steps), *cells])
    return ["run", "seeds", "steps", "first tenth", "last tenth", "gained"], body
