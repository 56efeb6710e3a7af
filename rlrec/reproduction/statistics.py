"""Statistics of a reproduced table: mean and deviation over seeds, and every row tested against the paper's system.

Tests compare rows on the same test samples, which the run folders hold: predictions.parquet (clicks and ratings) or
users.parquet (rankings and utility). Rows of one seed may lie in several folders; their samples must be the same.

- The difference of a metric is a mean over seeds, its interval and p-value a percentile bootstrap over test users
  (`user_resamples`). It covers the draw of users; what the draw of training seeds does is in the deviation.
- Wilcoxon's signed-rank test is over users, on each user's mean over samples and seeds of what the metric is a mean
  of: log loss, squared or absolute error, the user's own HR@10. AUC is no mean over samples; in its place stands the
  log loss of clicks, the squared error of ratings.
- The effect size is Cohen's d_z of the values that Wilcoxon's test ranks, turned so that above 0 the row is better.
- p-values are adjusted by Holm's method over the rows of a table, within one metric.

A recommender that is fitted several times stores the predictions of its first fit, while its value in the table is
the mean of the fits: the two differences need not be equal.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from rlrec.evaluation.ctr import LOG_LOSS_CLIP
from rlrec.evaluation.significance import (
    holm,
    mean_and_sd,
    paired_tests,
    percentile_interval,
    standardised_difference,
    user_resamples,
    weighted_auc,
)
from rlrec.reproduction.tables import Cell, PaperTable, result_row
from rlrec.results import read_predictions, read_users
from rlrec.tables import LOWER_IS_BETTER

PREDICTED = {"auc", "log_loss", "mae", "rmse"}  # computed from predictions.parquet
KEYS = ("window", "user_id", "item_id")
TRUTH = ("label", "target")
SCHEMA = {
    **{"row": pl.String, "metric": pl.String, "mean": pl.Float64, "sd": pl.Float64, "seeds": pl.Int64},
    **{"asked": pl.Int64, "tested_seeds": pl.Int64, "difference": pl.Float64, "low": pl.Float64, "high": pl.Float64},
    **{"p_value": pl.Float64, "p_holm": pl.Float64, "wilcoxon_p_value": pl.Float64, "wilcoxon_p_holm": pl.Float64},
    "effect_size": pl.Float64,
}


def statistics(
    table: PaperTable, cells: Sequence[Cell], dataset: str, seeds: int | None = None, resamples: int = 2000
) -> pl.DataFrame:
    """Means over seeds and tests against `table.reference`, one line per row and metric that has a value.

    Args:
        table, cells: what was asked for and what there is; cells of other datasets are left aside.
        seeds: how many were asked for; None: as many as the cells name.
        resamples: of the bootstrap.

    Returns:
        A frame with row, metric, mean, sd (null for one seed), seeds (how many have a value), asked, and of rows that
        could be tested tested_seeds, difference (row - reference), low, high (95 %), p_value, p_holm,
        wilcoxon_p_value, wilcoxon_p_holm and effect_size; null for the reference itself, and where samples or metric
        cannot be paired.

    Raises:
        ValueError: two folders of one seed hold different test samples or labels.
    """
    cells = [cell for cell in cells if cell.dataset == dataset]
    done = [cell for cell in cells if cell.status == "done"]
    asked = seeds or len({cell.seed for cell in cells if cell.status != "not implemented"})
    tests = paired_comparisons(table, done, resamples)
    lines = []
    for row in table.rows:
        for metric in table.metrics:
            values = [cell.values.get(metric) for cell in done if cell.row == row.name]
            values = [value for value in values if value is not None]
            if values:
                mean, sd = mean_and_sd(values)
                line = {"row": row.name, "metric": metric, "mean": mean, "sd": sd, "seeds": len(values)}
                lines.append({**line, "asked": asked, **tests.get((row.name, metric), {})})
    for metric in table.metrics:
        tested = [line for line in lines if line["metric"] == metric and "p_value" in line]
        for name, adjusted in (("p_value", "p_holm"), ("wilcoxon_p_value", "wilcoxon_p_holm")):
            known = [line for line in tested if line[name] is not None]
            for line, value in zip(known, holm([line[name] for line in known])):
                line[adjusted] = float(value)
    return pl.DataFrame(lines, schema=SCHEMA)


@dataclass(frozen=True)
class SeedSamples:
    """The test samples of one seed, and what each row got on them.

    Attributes:
        users: (N,) user of each sample.
        labels: (N,) of clicks and ratings.
        scores: {row: (N,)} of clicks and ratings.
        values: {(row, metric): (N,)} what the metric is a mean of; for "auc" what stands in its place.
    """

    users: np.ndarray
    labels: np.ndarray | None
    scores: Mapping[str, np.ndarray]
    values: Mapping[tuple[str, str], np.ndarray]

    def resampled(self, row: str, metric: str, weights: np.ndarray) -> np.ndarray:
        """The metric on resamples: weights (R, N) -> (R,); NaN where a resample drew nothing it can be computed of."""
        if metric == "auc":
            return weighted_auc(self.labels, self.scores[row], weights)
        with np.errstate(invalid="ignore"):
            means = weights @ self.values[row, metric] / weights.sum(axis=1)
        return np.sqrt(means) if metric == "rmse" else means


def paired_comparisons(
    table: PaperTable, done: Sequence[Cell], resamples: int = 2000
) -> dict[tuple[str, str], dict[str, float | None]]:
    """{(row, metric): tests against the reference} for all cells that share test samples with it."""
    seeds = dict.fromkeys(cell.seed for cell in done)
    by_seed = {seed: read_samples(table, [cell for cell in done if cell.seed == seed]) for seed in seeds}
    by_seed = {seed: samples for seed, samples in by_seed.items() if samples is not None}
    if not by_seed:
        return {}
    drawn: dict[tuple[int, str, str], list[np.ndarray]] = {}
    for counts in user_resamples([samples.users for samples in by_seed.values()], resamples):
        for (seed, samples), weights in zip(by_seed.items(), counts):
            for row, metric in samples.values:
                drawn.setdefault((seed, row, metric), []).append(samples.resampled(row, metric, weights))
    resampled = {key: np.concatenate(parts) for key, parts in drawn.items()}
    reference, found = table.reference, {}
    for row in (row.name for row in table.rows if row.name != reference):
        for metric in table.metrics:
            shared = [s for s in by_seed if (s, row, metric) in resampled and (s, reference, metric) in resampled]
            differences = [resampled[seed, row, metric] - resampled[seed, reference, metric] for seed in shared]
            if shared and np.isfinite(np.mean(differences, axis=0)).any():
                found[row, metric] = {
                    "tested_seeds": len(shared),
                    "difference": _difference([by_seed[seed] for seed in shared], row, reference, metric),
                    **percentile_interval(np.mean(differences, axis=0)),
                    **_over_users([by_seed[seed] for seed in shared], row, reference, metric),
                }
    return found


def _difference(seeds: Sequence[SeedSamples], row: str, reference: str, metric: str) -> float:
    """Row minus reference on the samples themselves, mean over seeds."""
    found = []
    for samples in seeds:
        once = np.ones((1, len(samples.users)))
        found.append(samples.resampled(row, metric, once)[0] - samples.resampled(reference, metric, once)[0])
    return float(np.mean(found))


def _over_users(seeds: Sequence[SeedSamples], row: str, reference: str, metric: str) -> dict[str, float | None]:
    """Wilcoxon's test and the effect size of the users' means."""
    users = np.unique(np.concatenate([samples.users for samples in seeds]), return_inverse=True)[1]
    counts = np.bincount(users)
    means = [
        np.bincount(users, weights=np.concatenate([samples.values[name, metric] for samples in seeds])) / counts
        for name in (reference, row)
    ]
    if len(counts) < 2:
        return {"wilcoxon_p_value": None, "effect_size": None}
    losses = seeds[0].labels is not None or metric in LOWER_IS_BETTER
    effect = standardised_difference(means[0] - means[1] if losses else means[1] - means[0])
    return {"wilcoxon_p_value": paired_tests(*means)["wilcoxon_p_value"], "effect_size": effect}


def read_samples(table: PaperTable, cells: Iterable[Cell]) -> SeedSamples | None:
    """The test samples of one seed, joined over the folders of its cells; None where no folder has any.

    A row with a missing or infinite value in any sample is left out: it is not tested.

    Raises:
        ValueError: two folders hold different samples, or another truth of one sample.
    """
    predicted = bool(PREDICTED & set(table.metrics))
    rows: dict[Path, list[str]] = {}
    for cell in cells:
        if cell.folder is not None:
            rows.setdefault(cell.folder, []).append(cell.row)
    parts = {}
    for folder, names in rows.items():
        frame = read_predictions(folder) if predicted else read_users(folder)
        prefixes = ("score",) if predicted else table.metrics
        columns = {f"{prefix}_{name}": f"{prefix}_{result_row(name)}" for prefix in prefixes for name in names}
        columns = {} if frame is None else {new: own for new, own in columns.items() if own in frame.columns}
        if columns:
            keys = [key for key in KEYS if key in frame.columns]
            truth = [column for column in TRUTH if predicted and column in frame.columns]
            occurrence = pl.int_range(pl.len()).over(keys).alias("occurrence")
            renamed = [pl.col(own).alias(new) for new, own in columns.items()]
            parts[folder] = frame.select(*keys, occurrence, *truth, *renamed)
    if not parts:
        return None
    frame = _joined(parts)
    values = {
        column: frame[column].cast(pl.Float64).to_numpy()
        for column in frame.columns
        if column not in (*KEYS, "occurrence")
    }
    values = {column: numbers for column, numbers in values.items() if np.isfinite(numbers).all()}
    users = frame["user_id"].cast(pl.String).to_numpy().astype(str)
    if predicted:
        return _predicted_samples(users, values, table.metrics)
    pairs = [(row, metric) for names in rows.values() for row in names for metric in table.metrics]
    known = {(row, metric): values[f"{metric}_{row}"] for row, metric in pairs if f"{metric}_{row}" in values}
    return SeedSamples(users, None, {}, known)


def _joined(parts: Mapping[Path, pl.DataFrame]) -> pl.DataFrame:
    (first, frame), *others = parts.items()
    for folder, part in others:
        keys = [key for key in (*KEYS, "occurrence") if key in frame.columns and key in part.columns]
        both = frame.join(part, on=keys, how="inner", maintain_order="left", suffix=" of the other")
        if not len(both) == len(frame) == len(part):
            raise ValueError(
                f"{first} and {folder} hold different test samples ({len(frame)} and {len(part)}, {len(both)} of them "
                "the same), so their rows cannot be compared; run both with the same data, configuration and seed."
            )
        for column in TRUTH:
            other = f"{column} of the other"
            if other in both.columns:
                wrong = both.filter((pl.col(column) - pl.col(other)).abs() > 1e-6)
                if len(wrong):
                    case = wrong.row(0, named=True)
                    raise ValueError(
                        f"{first} and {folder} disagree on the {column} of user {case['user_id']} and item "
                        f"{case['item_id']} ({case[column]:g} and {case[other]:g}); run both with the same data, "
                        "configuration and seed."
                    )
                both = both.drop(other)
        frame = both
    return frame


def _predicted_samples(users: np.ndarray, values: Mapping[str, np.ndarray], metrics: Sequence[str]) -> SeedSamples:
    labels, target = values["label"], values.get("target", values["label"])
    scores = {name.removeprefix("score_"): column for name, column in values.items() if name.startswith("score_")}
    known = {}
    for row, score in scores.items():
        errors = np.abs(score - target)
        clipped = np.clip(score, LOG_LOSS_CLIP, 1 - LOG_LOSS_CLIP)
        loss = -np.where(labels == 1, np.log(clipped), np.log1p(-clipped))
        in_place_of_auc = errors**2 if "target" in values else loss
        of_metrics = {"auc": in_place_of_auc, "log_loss": loss, "rmse": errors**2, "mae": errors}
        known |= {(row, metric): column for metric, column in of_metrics.items() if metric in metrics}
    return SeedSamples(users, labels, scores, known)
