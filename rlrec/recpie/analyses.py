"""RecPIE's analyses from the files of finished runs: attention, embeddings, hard examples, training fractions, rewards.

    python -m rlrec.recpie.analyses RUN_DIR [LABEL=RUN_DIR ...] --output_dir reports

Paper: RecPIE, sections 5.7.1 (Table 6, Figure 7), 5.7.3 (Figure 8), 5.8.1 (eq. 22, Figure 9) and appendix F.

| file of a run | what is made of it |
| --- | --- |
| analyses/attention.parquet (`write_attention`) | attention on explanations of liked and disliked items (Figure 9) |
| analyses/cosines.parquet (`rlrec.recpie.cosines`) | cosines of item pairs over epochs (Figure 7) |
| analyses/uncertainty.parquet (`write_uncertainty`) | gain against prediction uncertainty (Figure 8) |
| results.json with details.training_fraction | the learning curve (Table 6) |
| logs/*.json | rewards over steps; runs of one label are averaged, labels share one picture |

A RUN_DIR may also be a folder of such folders, one per seed. Runs without a label get `details.loss_type`.

Departures:

1. The paper says "significantly more" attention and names no test. Intervals and p-values here resample whole users:
   a user's samples are not independent.
2. Figure 8's improvement is "measured by RMSE", which single observations do not have: the regression is over the
   reduction of the squared error, observation by observation. Its p-value (`scipy.stats.linregress`) takes
   observations as independent; the interval of the slope beside it resamples users.
3. The uncertainty counts RecPIE's own prediction, as in the paper. Where all models agree there is no gain to be had,
   so if RecPIE is better at all, some of the slope is there by construction; `include_own=False` leaves it out.
"""

import argparse
import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from scipy import stats

from rlrec.evaluation.significance import mean_and_sd, percentile_interval, resampled_sums, rmse_difference
from rlrec.recpie.cosines import cosine_summary, cosine_table
from rlrec.results import (
    read_log_histories,
    read_predictions,
    read_results,
    write_parquet_atomic,
    write_text_atomic,
)
from rlrec.tables import cell, markdown_table, metric_label, row_label, sorted_rows, summarise, training_fraction

ATTENTION, COSINES, UNCERTAINTY = (f"analyses/{name}.parquet" for name in ("attention", "cosines", "uncertainty"))
DIFFERENCE = "pos - neg"
LEARNING_METRICS = ("rmse", "mae", "auc")
Table = tuple[list[str], list[list[str]]]


# Attention (eq. 22, Figures 9 and 13)


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


def attention_summary(frame: pl.DataFrame, resamples: int = 2000, seed: int = 0) -> pl.DataFrame:
    """Mean attention per token for all, liked and disliked items, with 95 % intervals over resampled users.

    Args:
        frame: attention.parquet of one run or of several below one another.

    Returns:
        Columns items ("all", "liked", "disliked", "liked - disliked"), token (names, and "pos - neg" where the model
        has both explanations), mean, low, high, p_value (null unless it is a difference), samples.
    """
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

    found, drawn = means(columns.sum(axis=0, keepdims=True)), means(resampled_sums(columns, frame["user_id"], resamples, seed))
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
    """{title: table}: the share of each token, and positive against negative for liked and disliked items."""
    cells = {(line["items"], line["token"]): line for line in summary.iter_rows(named=True)}
    tokens = [token for token in summary["token"].unique(maintain_order=True) if token != DIFFERENCE]
    shares = [
        [token, *(_with_interval(cells[items, token]) for items in ("all", "liked", "disliked"))] for token in tokens
    ]
    tables = {"Attention per input (eq. 22; 95 % intervals, users resampled)": (["input", "all", "liked", "disliked"], shares)}
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


def p_text(p_value: float) -> str:
    """A p-value for readers.

    >>> p_text(0.0312), p_text(2e-5)
    ('0.031', '< 0.001')
    """
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


# Gain against prediction uncertainty (section 5.7.3, Figures 8 and 12)


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
    """Figure 8 from uncertainty.parquet of one or several runs; each run's uncertainty is scaled to [0, 1] (min-max)."""
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
        "Regression of the gain on the uncertainty": (["slope", "95 % interval, users resampled", "p", "samples"], [line]),
    }


# Training fractions (section 5.7.1, Tables 6 and 12)


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
    return frame if rows is None else frame.filter(pl.col("row").is_in(rows))


def learning_table(curve: pl.DataFrame, differences: Mapping[tuple[str, float], str] | None = None) -> Table:
    """Rows x fractions, mean +- deviation over seeds; with `learning_differences`, the distance to the baseline too."""
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


# Rewards over steps


def reward_runs(runs: Sequence[Path]) -> list[np.ndarray]:
    """Per run (steps, rewards) as (2, n), the stages and rounds behind one another; runs without rewards are left out."""
    series = []
    for run in runs:
        steps, rewards = [], []
        for history in read_log_histories(run).values():
            begin = steps[-1] if steps else 0
            points = [(entry["step"], entry["reward"]) for entry in history if entry.get("reward") is not None]
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


# The command line


def find_runs(arguments: Sequence[str]) -> dict[str, list[Path]]:
    """{label: run folders} from arguments FOLDER or LABEL=FOLDER, where FOLDER is a run or holds runs.

    The shell does not expand a pattern behind "LABEL=", so it is expanded here.

    Raises:
        FileNotFoundError: a folder that neither is a run nor holds one.
    """
    groups: dict[str, list[Path]] = {}
    for argument in arguments:
        label, equals, folder = argument.partition("=")
        if not equals or Path(argument).exists():
            label, folder = "", argument
        folders = [Path(path) for path in sorted(glob.glob(folder))]
        found = [run for path in folders for run in ([path] if _is_run(path) else filter(_is_run, sorted(path.glob("*"))))]
        if not found:
            raise FileNotFoundError(
                f"{folder} has no results.json, logs or analyses, and no folder in it has; give folders of finished runs."
            )
        for run in found:
            runs = groups.setdefault(label or _own_label(run), [])
            runs += [run] if run not in runs else []
    return groups


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("results.json", "logs", "analyses"))


def _own_label(run: Path) -> str:
    record = read_results(run) if (run / "results.json").is_file() else {}
    return str(record.get("details", {}).get("loss_type") or record.get("system") or "runs")


def analyse(
    arguments: Sequence[str], output_dir: str | Path, baseline: str = "gru", system: str = "recpie", pictures: bool = True
) -> tuple[str, list[Path]]:
    """Draw and tabulate whatever the run folders have.

    Args:
        arguments: as for `find_runs`.
        output_dir: made when missing.
        baseline, system: the rows of the learning curve; the baseline at 100 % is its horizontal line.
        pictures: draw PNGs (needs the `plot` extra).

    Returns:
        The tables as Markdown, followed by a sentence per run folder without any analysis; and the files written.
    """
    groups = find_runs(arguments)
    prefix = _prefix([run for runs in groups.values() for run in runs])
    output_dir, written, sections, used = Path(output_dir), [], [], set()

    def add(name: str, tables: Mapping[str, Table], drawing: str, *values) -> None:
        sections.extend(f"## {title}\n\n{markdown_table(*table)}" for title, table in tables.items())
        if pictures:
            from rlrec.recpie import figures  # the `plot` extra

            written.append(getattr(figures, drawing)(*values, output_dir / f"{prefix}_{name}.png"))

    for label, runs in groups.items():
        ending, told = (f"_{label.replace('/', '_')}", f", {label}") if len(groups) > 1 else ("", "")
        whole = _largest_fraction(runs)
        for path, name, summarised, tables, drawing in (
            (ATTENTION, "attention", _attention, attention_tables, "attention_bars"),
            (COSINES, "cosines", _cosines, _cosine_tables, "cosine_curves"),
            (UNCERTAINTY, "uncertainty", gain_summary, gain_tables, "gain_by_uncertainty"),
        ):
            having = [run for run in whole if (run / path).is_file()]
            if having:
                used.update(having)
                summary = summarised([pl.read_parquet(run / path) for run in having])
                seeds = f" ({len(having)} runs{told})" if len(having) > 1 else told
                tables_told = {f"{title}{seeds}": table for title, table in tables(summary).items()}
                add(f"{name}{ending}", tables_told, drawing, summary)
        finished = [run for run in runs if (run / "results.json").is_file()]
        results = [read_results(run) for run in finished]
        if len({training_fraction(record) for record in results}) > 1:
            used.update(finished)
            curve = learning_curve(results, (baseline, system))
            table = learning_table(curve, learning_differences(finished, (baseline, system), baseline))
            add(f"learning_curve{ending}", {f"Training fractions (Table 6){told}": table}, "learning_curves", curve, baseline)
    rewards = {label: reward_runs(_largest_fraction(runs)) for label, runs in groups.items()}
    rewards = {label: series for label, series in rewards.items() if series}
    if rewards:
        used.update(run for label in rewards for run in groups[label] if reward_runs([run]))
        add("reward_curves", {"Reward per step": reward_table(rewards)}, "reward_bands", rewards)
    idle = [run for runs in groups.values() for run in runs if run not in used]
    if sections:
        written.append(write_text_atomic(output_dir / f"{prefix}_analyses.md", "\n\n".join(sections) + "\n"))
    sections += [
        f"{run} has nothing to analyse: no rewards in logs, no {ATTENTION}, {COSINES} or {UNCERTAINTY}, and no second "
        "training fraction beside it."
        for run in idle
    ]
    return "\n\n".join(sections), written


def _attention(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return attention_summary(pl.concat(frames))


def _cosines(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    return cosine_summary(pl.concat(frames))


def _cosine_tables(summary: pl.DataFrame) -> dict[str, Table]:
    return {"Cosine of item pairs over epochs (Figure 7)": cosine_table(summary)}


def _largest_fraction(runs: Sequence[Path]) -> list[Path]:
    """The runs trained on the most data, because fractions must not be averaged over."""
    fractions = {
        run: training_fraction(read_results(run)) if (run / "results.json").is_file() else 1.0 for run in runs
    }
    return [run for run in runs if fractions[run] == max(fractions.values())]


def _prefix(runs: Sequence[Path]) -> str:
    records = [read_results(run) for run in runs if (run / "results.json").is_file()]
    groups = sorted({f"{record['system']}_{record['dataset']}" for record in records})
    if len(groups) > 1:
        raise ValueError(f"Runs of {', '.join(groups)} cannot share a picture; give those of one system and dataset.")
    return groups[0].replace("/", "_") if groups else "recpie"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m rlrec.recpie.analyses", description=__doc__.partition("\n")[0])
    parser.add_argument("run_dirs", nargs="+", metavar="[LABEL=]RUN_DIR", help="run folders, or folders that hold such")
    parser.add_argument("--output_dir", default="reports", help="where tables and pictures are written (%(default)s)")
    parser.add_argument("--baseline", default="gru", help="row whose value at 100 %% is the line (%(default)s)")
    parser.add_argument("--system", default="recpie", help="row whose learning curve is drawn (%(default)s)")
    parser.add_argument("--tables_only", action="store_true", help="no pictures, hence no matplotlib")
    options = parser.parse_args(arguments)
    try:
        text, written = analyse(
            options.run_dirs, options.output_dir, options.baseline, options.system, pictures=not options.tables_only
        )
    except (FileNotFoundError, ValueError, ImportError) as error:
        parser.error(str(error))
    print(text, *(f"wrote {path}" for path in written), sep="\n")


if __name__ == "__main__":
    main()
