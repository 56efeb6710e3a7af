"""Gain against prediction uncertainty (RecPIE, section 5.7.3, Figures 8 and 12): do harder examples gain more?

Departures:

1. Figure 8's improvement is "measured by RMSE", which single samples do not have: the regression is over the reduction
   of the squared error, sample by sample. Its p-value (`scipy.stats.linregress`) takes samples as independent; the
   interval of the slope beside it resamples users.
2. The uncertainty counts RecPIE's own prediction, as in the paper. Where all models agree there is no gain to be had,
   so if RecPIE is better at all, some of the slope is there by construction; `include_own=False` leaves it out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from scipy import stats

from rlrec.evaluation.significance import percentile_interval, resampled_sums
from rlrec.results import write_parquet_atomic
from rlrec.row_names import row_label
from rlrec.tables import Table, p_text

UNCERTAINTY = "analyses/uncertainty.parquet"


def write_uncertainty(
    run_dir: str | Path,
    samples: pl.DataFrame,
    targets,
    predictions: Mapping[str, Sequence[float]],
    with_it: str = "recpie",
    without: str | None = None,
    include_own: bool = True,
) -> Path:
    """Write `run_dir`/analyses/uncertainty.parquet: how much the models disagree on each sample, and who errs less.

    Args:
        samples: N test samples with user_id, item_id and rating.
        targets: (N,) true ratings on the scale of the predictions.
        predictions: {row: (N,) predicted ratings} of the system and of its baselines, at least two rows.
        with_it: the row of the system.
        without: the baseline that the gain is over; None: the one of least RMSE on these samples, as in the paper.
        include_own: count the system's own prediction in the disagreement, as the paper does.

    The file has user_id, item_id, rating, row_with, row_without, uncertainty (variance of the predictions of a
    sample, 1 / models), error_without and error_with (absolute errors).
    """
    targets = np.asarray(targets, dtype=float)
    if targets.shape != (len(samples),):
        raise ValueError(f"Targets have shape {targets.shape} for {len(samples)} samples; give one target per sample.")
    values = {row: np.asarray(prediction, dtype=float) for row, prediction in predictions.items()}
    for row, prediction in values.items():
        if prediction.shape != targets.shape or not np.isfinite(prediction).all():
            raise ValueError(f"Predictions of '{row}' must be {len(samples)} finite numbers, one per sample.")
    if missing := [row for row in (with_it, without) if row is not None and row not in values]:
        raise ValueError(f"There are no predictions of '{missing[0]}'; there are those of {', '.join(values)}.")
    errors = {row: np.abs(prediction - targets) for row, prediction in values.items()}
    # Variants of the system, such as recpie_bootstrap, are no baselines unless `without` names one.
    baselines = [row for row in values if row == without or not (row == with_it or row.startswith(f"{with_it}_"))]
    counted = [*baselines, with_it] if include_own else baselines
    if not baselines or len(counted) < 2:
        raise ValueError(f"Disagreement needs at least two models, but only {counted} are counted; give more rows.")
    without = without or min(baselines, key=lambda row: float((errors[row] ** 2).mean()))
    frame = samples.select("user_id", "item_id", "rating").with_columns(
        row_with=pl.lit(with_it),
        row_without=pl.lit(without),
        uncertainty=pl.Series(np.var([values[row] for row in counted], axis=0)),
        error_without=pl.Series(errors[without]),
        error_with=pl.Series(errors[with_it]),
    )
    return write_parquet_atomic(Path(run_dir) / UNCERTAINTY, frame)


@dataclass
class Gain:
    """The gain (reduction of the squared error) as a function of normalised uncertainty.

    Attributes:
        bins: one row per bin of equally many samples: uncertainty, gain, standard_error (of the mean gain), samples.
        slope, intercept, p_value: of `scipy.stats.linregress` over single samples.
        low, high: 95 % interval of the slope, users resampled.
        samples: how many.
        rows: names of the system and of the baseline.
    """

    bins: pl.DataFrame
    slope: float
    intercept: float
    p_value: float
    low: float
    high: float
    samples: int
    rows: tuple[str, str]


def gain_summary(frames: Sequence[pl.DataFrame], bins: int = 10, resamples: int = 2000, seed: int = 0) -> Gain:
    """Figure 8 from uncertainty.parquet of one or several runs, each run's uncertainty scaled to [0, 1] (min-max)."""
    scaled = []
    for frame in frames:
        low, high = frame["uncertainty"].min(), frame["uncertainty"].max()
        if low == high:
            raise ValueError(f"The uncertainty of all {len(frame)} samples is {low:g}; the models never disagree.")
        scaled.append(frame.with_columns((pl.col("uncertainty") - low) / (high - low)))
    frame = pl.concat(scaled).with_columns(gain=pl.col("error_without") ** 2 - pl.col("error_with") ** 2)
    x, y = frame["uncertainty"].to_numpy(), frame["gain"].to_numpy()
    line = stats.linregress(x, y)
    sums = resampled_sums(np.column_stack([np.ones(len(x)), x, y, x * x, x * y]), frame["user_id"], resamples, seed)
    n, sx, sy, sxx, sxy = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        interval = percentile_interval((n * sxy - sx * sy) / (n * sxx - sx * sx))
    parts = [part for part in np.array_split(np.argsort(x, kind="stable"), bins) if len(part)]
    lines = [
        (x[part].mean(), y[part].mean(), y[part].std(ddof=1) / np.sqrt(len(part)) if len(part) > 1 else 0.0, len(part))
        for part in parts
    ]
    binned = pl.DataFrame(lines, schema=["uncertainty", "gain", "standard_error", "samples"], orient="row")
    names = [frame[column].unique() for column in ("row_with", "row_without")]
    rows = tuple(row_label(found[0]) if len(found) == 1 else "the best baseline" for found in names)
    fitted = {"slope": float(line.slope), "intercept": float(line.intercept), "p_value": float(line.pvalue)}
    return Gain(binned, **fitted, low=interval["low"], high=interval["high"], samples=len(frame), rows=rows)


def gain_tables(gain: Gain) -> dict[str, Table]:
    """{title: table}: the gain per bin, and the regression line."""
    header = ["uncertainty (mean of the bin)", "samples", "squared error saved", "standard error"]
    body = [[f"{x:.4f}", f"{count:,}", f"{y:+.5f}", f"{error:.5f}"] for x, y, error, count in gain.bins.iter_rows()]
    line = [f"{gain.slope:+.4f}", f"{gain.low:+.4f} to {gain.high:+.4f}", p_text(gain.p_value), f"{gain.samples:,}"]
    return {
        f"{gain.rows[0]} against {gain.rows[1]} by prediction uncertainty (Figure 8)": (header, body),
        "Regression of the gain on the uncertainty": (
            ["slope", "95 % interval", "p", "samples"],
            [line],
        ),
    }
