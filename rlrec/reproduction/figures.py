"""Pictures of a reproduced table, each as PNG and PDF, from run folders. Needs the `plot` extra.

| picture | drawn by |
| --- | --- |
| all rows, the paper's values beside them | `rlrec.figures` |
| rewards or losses over steps (ExpCTR's Figure 3) | `rlrec.training_curves` |
| attention, cosines, hard examples (RecPIE's Figures 7 to 9) | `rlrec.recpie.figures` |
| groups of items (TRAIL's Figure 3) | `rlrec.figures.group_bars` |
| settings (ExpCTR's Figure 4, TRAIL's 2c), training fractions (RecPIE's Table 6) | `parameter_lines` |
| ablations (SELLER's Figure 2) | `ablation_bars` |
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from rlrec.evaluation.significance import mean_and_sd
from rlrec.figures import COLORS, INK, MUTED, accuracy_bars, auc_bars, deviation_over, group_bars, plain_axes, save
from rlrec.files import read_frame
from rlrec.recpie.figures import DASHES, MARKERS
from rlrec.reproduction.tables import Cell, PaperTable
from rlrec.results import read_log_histories, read_results
from rlrec.row_names import row_label
from rlrec.tables import CLICKS, UTILITY, metric_label, summarise, task_of
from rlrec.training_curves import EXPLANATION_LOSS, LOSSES, loss_curves, reward_curves

try:
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke
except ImportError as error:
    raise ImportError("Pictures need matplotlib: pip install 'rlrec[plot]'.") from error

ENDINGS = (".png", ".pdf")
# Of rows such as "expctr_aug@beta=0.01" (ExpCTR's Figure 4, RecPIE's Table 6)
PARAMETERS = {
    "beta": "KL penalty β",
    "delta": "reward bound δ",
    "training_fraction": "share of the training data",
}
PARAMETER_SCHEMA = {
    "parameter": pl.String,
    "value": pl.Float64,
    "line": pl.String,
    "mean": pl.Float64,
    "sd": pl.Float64,
    "seeds": pl.Int64,
}


class Drawn(NamedTuple):
    """A picture: what it shows, and its files, the PNG first."""

    caption: str
    paths: list[Path]


def draw(draw_to: Callable[[Path], Path | None], stem: Path, caption: str) -> list[Drawn]:
    """Draw a picture as PNG and as PDF; nothing where `draw_to` finds nothing to draw (returns None)."""
    paths = [draw_to(stem.with_name(stem.name + ending)) for ending in ENDINGS]
    return [Drawn(caption, paths)] if None not in paths else []


def table_figures(table: PaperTable, cells: Sequence[Cell], dataset: str, output_dir: Path, name: str) -> list[Drawn]:
    """Draw all pictures that the run folders of one dataset have something for, into output_dir/figures."""
    done = [cell for cell in cells if cell.dataset == dataset and cell.status == "done" and cell.folder is not None]
    results = merged_results(table, done)
    if not results:
        return []
    summary = summarise(results)
    task = task_of(summary)
    stem = output_dir / "figures" / f"{name}_{dataset.replace('/', '_')}"
    headline = [metric for metric in task.headline if metric in summary["metric"]]
    drawn = []

    def add(ending: str, caption: str, draw_to: Callable[[Path], Path | None]) -> None:
        drawn.extend(draw(draw_to, stem.with_name(f"{stem.name}_{ending}"), caption))

    in_table = summary.filter(pl.col("row").is_in([row.name for row in table.rows]))
    if task is CLICKS:
        add("auc", f"AUC of every row on {dataset}", lambda path: auc_bars(in_table, path))
    elif headline:
        told = f"{' and '.join(map(metric_label, headline))} of every row on {dataset}"
        add("accuracy", told, lambda path: accuracy_bars(in_table, path, metrics=headline))
    folders = list(dict.fromkeys(cell.folder for cell in done if cell.row == table.reference))
    histories = [read_log_histories(folder) for folder in folders]
    losses = EXPLANATION_LOSS if task is UTILITY else LOSSES
    add("rewards", f"Rewards during training on {dataset}", lambda path: reward_curves(histories, path))
    if len(drawn) < 2:
        add("losses", f"Losses during training on {dataset}", lambda path: loss_curves(histories, path, losses=losses))
    add("groups", f"HR@10 by group of items on {dataset}; compare within a group",
        lambda path: group_bars(summary, path, rows=("sasrec", "pare", "llm", "trail")))  # fmt: skip
    ranks = rank_values(results)
    add("ranks", f"LoRA rank on {dataset}", lambda path: parameter_lines(ranks, path, "accuracy ↑"))
    add("ablations", f"SELLER without its parts on {dataset}", lambda path: ablation_bars(summary, path))
    metric = table.metrics[0]
    settings, label = parameter_values(summary, metric), metric_label(metric, arrow=True)
    add("settings", f"{label} by settings on {dataset}", lambda path: parameter_lines(settings, path, label))
    return [*drawn, *_analyses(folders, stem, dataset)]


def merged_results(table: PaperTable, done: Sequence[Cell]) -> list[dict]:
    """One record per seed, as `rlrec.tables.summarise` takes it: a row of the table from the folder of its cell, and
    what that folder has beside the table (ablations, groups of items), the reference's folder first."""
    names = {row.name for row in table.rows}
    merged: dict[int, dict] = {}
    for cell in sorted(done, key=lambda cell: cell.row != table.reference):
        record, result_row = read_results(cell.folder), cell.row.partition("@")[0]
        # The share of the training data stands in the rows' names: of a seed without the whole system's run, the
        # first record may be that of a share, and `summarise` refuses shares that differ.
        details = {name: value for name, value in record.get("details", {}).items() if name != "training_fraction"}
        same = {"system": table.system, "dataset": cell.dataset, "details": details, "rows": {}}
        own = merged.setdefault(cell.seed, {**record, **same})
        beside = {row: metrics for row, metrics in record["rows"].items() if row not in names}
        own["rows"] = {**beside, **own["rows"], cell.row: record["rows"].get(result_row, cell.values)}
    return [merged[seed] for seed in sorted(merged)]


def _analyses(folders: Sequence[Path], stem: Path, dataset: str) -> list[Drawn]:
    """RecPIE's Figures 7 to 9, where the folders have a folder `analyses`."""
    if not any((folder / "analyses").is_dir() for folder in folders):
        return []
    from rlrec.recpie import figures
    from rlrec.recpie.attention import ATTENTION, attention_summary
    from rlrec.recpie.cosines import COSINES, cosine_summary
    from rlrec.recpie.uncertainty import UNCERTAINTY, gain_summary

    drawn = []
    for path, ending, caption, summarised, drawing in (
        (ATTENTION, "attention", "Attention on the explanations", attention_summary, figures.attention_bars),
        (COSINES, "cosines", "Cosines of item embeddings while training", cosine_summary, figures.cosine_curves),
        (UNCERTAINTY, "uncertainty", "Gain by uncertainty", gain_summary, figures.gain_by_uncertainty),
    ):
        frames = [read_frame(folder / path) for folder in folders if (folder / path).is_file()]
        if frames:
            summary = summarised(frames)
            place = stem.with_name(f"{stem.name}_{ending}")
            drawn += draw(
                lambda path, drawing=drawing, summary=summary: drawing(summary, path), place, f"{caption} on {dataset}"
            )
    return drawn


# -- lines over a parameter -------------------------------------------------------------------------------------------
def parameter_values(summary: pl.DataFrame, metric: str) -> pl.DataFrame:
    """What `parameter_lines` draws, from rows named <row>@<parameter>=<value> of a summary.

    Of training fractions the row itself, where `summary` has it, stands at 1.
    """
    lines = []
    of_metric = {line["row"]: line for line in summary.filter(pl.col("metric") == metric).iter_rows(named=True)}
    for name, line in of_metric.items():
        if match := re.fullmatch(r"(.+)@(\w+)=([\d.e-]+)", name):
            row, parameter, value = match.groups()
            found = [(float(value), line)]
            if parameter == "training_fraction" and row in of_metric:
                found.append((1.0, of_metric[row]))
            label = PARAMETERS.get(parameter, parameter.replace("_", " "))
            lines += [(label, at, row_label(row), own["mean"], own["sd"], own["seeds"]) for at, own in found]
    return pl.DataFrame(lines, schema=PARAMETER_SCHEMA, orient="row").unique(maintain_order=True)


def rank_values(
    results: Sequence[Mapping], metrics: Sequence[str] = ("hr@5", "hr@10", "ndcg@5", "ndcg@10")
) -> pl.DataFrame:
    """What `parameter_lines` draws for TRAIL's LoRA ranks (Figure 2c): rows trail_rank<r>, and trail with its own."""
    ranks = {row: int(match[1]) for record in results for row in record["rows"]
             if (match := re.fullmatch(r"trail_rank_?(\d+)", row))}  # fmt: skip
    own = results[0].get("details", {}).get("hyperparameters", {}).get("lora_r") if results else None
    if ranks and own:
        ranks["trail"] = own
    lines = []
    for metric in metrics:
        for row, rank in sorted(ranks.items(), key=lambda pair: pair[1]):
            found = [record["rows"].get(row, {}).get(metric) for record in results]
            found = [number for number in found if number is not None]
            if found:
                lines.append(("LoRA rank", rank, metric_label(metric), *mean_and_sd(found), len(found)))
    return pl.DataFrame(lines, schema=PARAMETER_SCHEMA, orient="row")


def parameter_lines(frame: pl.DataFrame, path: str | Path, label: str = "", title: str = "") -> Path | None:
    """Draw a metric over the values of each parameter, a panel per parameter, and save it; None for an empty frame.

    Values stand at equal distances, since they are chosen on no common scale. Whiskers are standard deviations over
    seeds.

    Args:
        frame: columns parameter, value, line, mean, sd (or null), seeds.
        path: of the picture.
        label: of the vertical axis.
        title: above the panels.
    """
    if frame.is_empty():
        return None
    parameters = frame["parameter"].unique(maintain_order=True).to_list()
    lines = frame["line"].unique(maintain_order=True).to_list()
    figure = Figure(figsize=(1.6 + 3.6 * len(parameters), 3.9), layout="constrained")
    axes = figure.subplots(1, len(parameters), sharey=True, squeeze=False)[0]
    for axis, parameter in zip(axes, parameters):
        own = frame.filter(pl.col("parameter") == parameter)
        values = sorted(own["value"].unique())
        for number, line in enumerate(lines):
            points = own.filter(pl.col("line") == line).sort("value")
            # Side by side, so that whiskers do not hide one another.
            shift = 0.06 * (number - (len(lines) - 1) / 2)
            axis.errorbar([values.index(value) + shift for value in points["value"]], points["mean"],
                          yerr=points["sd"].fill_null(0.0), color=COLORS[number % len(COLORS)], linewidth=2,
                          elinewidth=1.2, capsize=3, marker=MARKERS[number % len(MARKERS)], markersize=6, label=line,
                          linestyle=DASHES[number % len(DASHES)])  # fmt: skip
        axis.set_xticks(range(len(values)), [f"{value:g}" for value in values])
        axis.set_xlabel(parameter, color=INK, fontsize=10)
        plain_axes(axis, "y")
        axis.margins(x=0.08, y=0.12)
    axes[0].set_ylabel(label, color=INK, fontsize=10)
    handles, labels = axes[0].get_legend_handles_labels()
    seeds = frame["seeds"].to_list()
    told = {"title": f"whiskers: {deviation_over(seeds)}", "title_fontproperties": {"size": 8.5}}
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9, labelcolor=INK,
                  handlelength=3.2, **(told if max(seeds) > 1 else {}))  # fmt: skip
    if title:
        figure.suptitle(title, color=INK, fontsize=12.5, fontweight="bold", x=0.01, ha="left")
    return save(figure, path)


# -- ablations --------------------------------------------------------------------------------------------------------
def ablation_bars(
    summary: pl.DataFrame,
    path: str | Path,
    title: str = "",
    rows: Sequence[str] = ("seller_without_be", "seller_without_se", "seller_without_ct", "seller_without_de"),
    whole: str = "seller",
    metrics: Sequence[str] = UTILITY.headline,
) -> Path | None:
    """Draw a system beside itself without its parts (SELLER's Figure 2), a panel per metric; None without any.

    The dashed line is the whole system. Whiskers are standard deviations over seeds.

    Args:
        summary: from `rlrec.tables.summarise`.
        path: of the picture.
        title: above the panels.
        rows: the ablations; those that `summary` does not have are left out.
        whole: row of the whole system.
        metrics: a panel each.
    """
    lines = {(line["row"], line["metric"]): line for line in summary.iter_rows(named=True)}
    rows = [row for row in rows if any((row, metric) in lines for metric in metrics)]
    if not rows or not any((whole, metric) in lines for metric in metrics):
        return None
    metrics = [metric for metric in metrics if (whole, metric) in lines]
    figure = Figure(figsize=(1.0 + 3.9 * len(metrics), 3.7), layout="constrained")
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axis, metric in zip(axes, metrics):
        for place, row in enumerate((whole, *rows)):
            if (row, metric) not in lines:
                continue
            mean, deviation = lines[row, metric]["mean"], lines[row, metric]["sd"] or 0.0
            hatch = {} if row == whole else {"hatch": "////", "edgecolor": "white", "linewidth": 0}
            axis.bar(place, mean, 0.68, color=COLORS[2] if row == whole else "#56B4E9", zorder=2, **hatch)
            if deviation:
                axis.errorbar(place, mean, yerr=deviation, color=INK, linewidth=1.1, capsize=2.5, zorder=4)
            text = axis.annotate(f"{mean:.4f}", (place, mean + deviation), xytext=(0, 3), textcoords="offset points",
                                 ha="center", va="bottom", fontsize=8, color=INK, zorder=5)  # fmt: skip
            text.set_path_effects([withStroke(linewidth=3, foreground="white")])
        axis.axhline(lines[whole, metric]["mean"], color=MUTED, linewidth=1.1, linestyle=DASHES[1], zorder=3)
        names = [row_label(row).removeprefix(f"{row_label(whole)} ").replace(" ", "\n") for row in (whole, *rows)]
        axis.set_xticks(np.arange(len(names)), names)
        axis.set_title(metric_label(metric, arrow=True), color=INK, fontsize=11, loc="left", pad=8)
        plain_axes(axis, "y")
        axis.tick_params(axis="x", length=0, labelsize=8.5, labelcolor=INK)
        axis.margins(y=0.12)
    seeds = [lines[whole, metric]["seeds"] for metric in metrics]
    told = f"; whiskers: {deviation_over(seeds)}" if max(seeds) > 1 else ""
    figure.supxlabel(f"dashed: {row_label(whole)}{told}", color=MUTED, fontsize=9)
    if title:
        figure.suptitle(title, color=INK, fontsize=12.5, fontweight="bold", x=0.01, ha="left")
    return save(figure, path)
