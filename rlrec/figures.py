"""Pictures from results: AUC of every row, RMSE beside AUC, HR@10 beside NDCG@10, and HR@10 by group of items.

Needs the `plot` extra. Nothing here opens a window: figures are drawn without a screen and saved as PNG or PDF.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from rlrec.row_names import HEURISTICS, UPPER_BOUND, row_base, row_label
from rlrec.tables import RANKINGS, UTILITY, groups_of, metric_label

try:
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise ImportError("Pictures need matplotlib: pip install 'rlrec[plot]'.") from error

INK, MUTED, GRID = "#222222", "#6b7280", "#e5e7eb"
# Okabe and Ito's palette, which colour-blind readers can tell apart; grey for what uses no text and no training.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
KINDS = {  # kind: (colour, bases)
    "heuristic, no text": ("#b8bec7", (*HEURISTICS, "random", "empty")),
    "recommender on ids": (
        "#56B4E9",
        ("fm", "dssm", "deepfm", "autoint", "pnn", "xdeepfm", "fignn", "dcn", "dcnv2", "ncf", "recpie_free", "bpr"),
    ),
    "recommender on histories": (
        "#CC79A7",
        ("din", "dien", "caser", "gru4rec", "sasrec", "bert4rec", "unisrec", "hgn", "gru", "userknn"),
    ),
    "LLM tuned on labels": ("#F0E442", ("tallrec",)),
    "popularity model": ("#0072B2", ("pare",)),
    "untuned LLM": ("#E69F00", ("icl", "llm")),
    "explanations alone": ("#D55E00", ("expctr_llm",)),
    "recommender + explanations": ("#009E73", ("expctr_aug", "recpie")),
    "fine-tuned LLM": ("#009E73", ("trail",)),
    "explanation generator": ("#56B4E9", ("peter", "pepler", "xrec")),
    "sequence-aware generator": ("#009E73", ("seller",)),
    "true explanations": ("#D55E00", ("ground_truth",)),
    "other": ("#8f7fb5", ()),
}
HATCHED = ("heuristic, no text",)


def smooth(values: np.ndarray) -> np.ndarray:
    """Centred mean over about a tenth of the values; the window shrinks at both ends."""
    half = max(len(values) // 20, min(1, len(values) // 8))
    padded = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (padded[high] - padded[low]) / (high - low)


def auc_bars(summary: pl.DataFrame, path: str | Path, title: str = "") -> Path | None:
    """Draw the AUC of every row of `tables.summarise` as bars and save it; None when no row has an AUC.

    Bars grow from chance (0.5), and the best heuristic is a dashed line, because a text that does not pass it tells
    nothing beyond base rates. Whiskers are standard deviations over seeds; a diamond is the paper's value.
    """
    lines = summary.filter(pl.col("metric") == "auc").to_dicts()
    if not lines:
        return None
    kinds = [row_kind(line["row"]) for line in lines]
    means = np.array([line["mean"] for line in lines])
    deviations = np.array([line["sd"] or 0.0 for line in lines])
    papers = [line["paper"] for line in lines]
    heights = np.arange(len(lines))[::-1]
    known = np.concatenate([means - deviations, means + deviations, [value for value in papers if value is not None]])

    figure = Figure(figsize=(8.6, 1.5 + 0.36 * len(lines)), layout="constrained")
    axis = figure.subplots()
    for height, mean, deviation, kind in zip(heights, means, deviations, kinds):
        hatch = {"hatch": "////", "edgecolor": "white", "linewidth": 0} if kind in HATCHED else {}
        axis.barh(height, mean - 0.5, left=0.5, height=0.68, color=KINDS[kind][0], zorder=2, **hatch)
        if deviation:
            axis.errorbar(mean, height, xerr=deviation, color=INK, linewidth=1.1, capsize=2.5, zorder=4)
        text = axis.annotate(f"{mean:.3f}", (max(mean, 0.5) + deviation, height), xytext=(5, 0), va="center",
                             textcoords="offset points", fontsize=9, color=INK, zorder=5)  # fmt: skip
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])
    for height, value in zip(heights, papers):
        if value is not None:
            axis.scatter(value, height, marker="D", s=26, color="white", edgecolor=INK, linewidth=1.1, zorder=6)
    axis.set_xlim(min(0.47, known.min() - 0.02), max(0.6, known.max() + 0.05))
    axis.set_ylim(-0.6, len(lines) - 0.4)
    axis.axvline(0.5, color=INK, linewidth=1.1, zorder=4)
    notes = [(0.5, "chance")]
    heuristics = [mean for mean, kind in zip(means, kinds) if kind in HATCHED]
    if heuristics:
        axis.axvline(max(heuristics), color=MUTED, linewidth=1.1, linestyle=(0, (4, 3)), zorder=1)
        notes.append((max(heuristics), "best heuristic"))
    close = len(notes) == 2 and abs(notes[1][0] - 0.5) < 0.17 * np.ptp(axis.get_xlim())
    for (value, note), side in zip(notes, ("right", "left") if close else ("center", "center")):
        axis.annotate(note, (value, len(lines) - 0.4), xytext=(0, 3), textcoords="offset points", ha=side, va="bottom",
                      fontsize=8.5, color=MUTED)  # fmt: skip
    axis.set_yticks(heights, [row_label(line["row"]) for line in lines])
    seeds = [line["seeds"] for line in lines]
    spread = f"; whiskers: {deviation_over(seeds)}" if max(seeds) > 1 else ""
    axis.set_xlabel(f"AUC on test samples{spread}", color=MUTED, fontsize=9)
    plain_axes(axis, "x")
    axis.tick_params(axis="y", length=0, labelsize=9.5, labelcolor=INK)
    _legend(figure, list(dict.fromkeys(kinds)), any(value is not None for value in papers))
    if title:
        figure.suptitle(title, color=INK, fontsize=12.5, fontweight="bold", x=0.01, ha="left")
    return save(figure, path)


def accuracy_bars(
    summary: pl.DataFrame, path: str | Path, title: str = "", metrics: Sequence[str] = ("rmse", "auc")
) -> Path | None:
    """Draw RMSE beside AUC (or HR@10 beside NDCG@10) of every row as bars and save it; None when no row has the first.

    RMSE has no zero worth showing, so its bars grow from the row without explanations ("gru"; without it, from the
    worst row): to the left is better. AUC's grow from chance, those of rankings from 0, towards a dashed line that is
    the upper bound. Whiskers are standard deviations over seeds; a diamond is the paper's value.
    """
    values = {(line["row"], line["metric"]): line for line in summary.to_dicts() if line["metric"] in metrics}
    bounds = {
        metric: values.pop((UPPER_BOUND, metric))["mean"] for metric in metrics if (UPPER_BOUND, metric) in values
    }
    rows = [row for row in summary["row"].unique(maintain_order=True) if (row, metrics[0]) in values]
    if not rows:
        return None
    metrics = [metric for metric in metrics if any((row, metric) in values for row in rows)]
    figure = Figure(figsize=(3.4 + 3.4 * len(metrics), 1.7 + 0.36 * len(rows)), layout="constrained")
    axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    heights = dict(zip(rows, range(len(rows) - 1, -1, -1)))
    for axis, metric in zip(axes, metrics):
        lines = {row: values[row, metric] for row in rows if (row, metric) in values}
        origin, note = _origin(metric, lines)
        known = [origin]
        if metric in bounds:
            known.append(bounds[metric])
            axis.axvline(bounds[metric], color=MUTED, linewidth=1.1, linestyle=(0, (4, 3)), zorder=1)
            axis.annotate(f"upper bound {bounds[metric]:.4f}", (bounds[metric], len(rows) - 0.45), xytext=(0, 3),
                          textcoords="offset points", ha="center", va="bottom", fontsize=8.5, color=MUTED)  # fmt: skip
        for row, line in lines.items():
            color, hatch = _row_style(row)
            mean, deviation = line["mean"], line["sd"] or 0.0
            axis.barh(heights[row], mean - origin, left=origin, height=0.68, color=color, zorder=2, **hatch)
            if deviation:
                axis.errorbar(mean, heights[row], xerr=deviation, color=INK, linewidth=1.1, capsize=2.5, zorder=4)
            known += [mean - deviation, mean + deviation]
            if line["paper"] is not None:
                diamond = {"marker": "D", "s": 26, "color": "white", "edgecolor": INK, "linewidth": 1.1}
                axis.scatter(line["paper"], heights[row], zorder=6, **diamond)
                known.append(line["paper"])
            side = 1 if mean >= origin else -1
            place = {"xytext": (5 * side, 0), "textcoords": "offset points", "va": "center"}
            place |= {"ha": "left" if side > 0 else "right", "zorder": 5}
            end = (mean + side * deviation, heights[row])
            text = axis.annotate(f"{mean:.4f}", end, fontsize=8.5, color=INK, **place)
            text.set_path_effects([withStroke(linewidth=3, foreground="white")])
        room = 0.22 * (np.ptp(known) or 0.01)
        axis.set_xlim(min(known) - (room if min(known) < origin else 0.1 * room), max(known) + room)
        axis.axvline(origin, color=INK, linewidth=1.1, zorder=4)
        axis.annotate(note, (origin, len(rows) - 0.45), xytext=(0, 3), textcoords="offset points", ha="center",
                      va="bottom", fontsize=8.5, color=MUTED)  # fmt: skip
        axis.set_xlabel(metric_label(metric, arrow=True), color=INK, fontsize=10)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axis.set_ylim(-0.6, len(rows) - 0.4)
        plain_axes(axis, "x")
        axis.tick_params(axis="y", length=0, labelsize=9.5, labelcolor=INK)
    axes[0].set_yticks(list(heights.values()), [row_label(row) for row in heights])
    kinds = list(dict.fromkeys(map(row_kind, rows)))
    with_paper = any(line["paper"] is not None for line in values.values())
    _legend(figure, kinds, with_paper, [line["seeds"] for line in values.values()])
    if title:
        figure.suptitle(title, color=INK, fontsize=12.5, fontweight="bold", x=0.01, ha="left")
    return save(figure, path)


def _origin(metric: str, lines: Mapping[str, Mapping]) -> tuple[float, str]:
    """Where the bars of a metric begin, and what stands over it."""
    if metric == "auc":
        return 0.5, "chance"
    if metric in (*RANKINGS.metrics, *UTILITY.metrics):
        return 0.0, ""
    if "gru" in lines:
        return lines["gru"]["mean"], row_label("gru")
    return max(line["mean"] for line in lines.values()), "worst row"


def group_bars(
    summary: pl.DataFrame,
    path: str | Path,
    title: str = "",
    rows: Sequence[str] = ("last_window", "pare", "llm", "trail"),
    metric: str = "hr@10",
) -> Path | None:
    """Draw a metric within groups of items (TRAIL's Figure 3) and save it; None when none of the rows has any.

    Left cold and warm items, right the classes of trends. A short line over the bars is the upper bound of the group.
    Whiskers are standard deviations over seeds. Groups differ in users and in the number of items, so bars are to be
    compared within a group.

    Args:
        rows: of `summary`; those without groups are left out.
    """
    lines = {(line["row"], line["metric"]): line for line in summary.to_dicts()}
    groups = groups_of(summary, metric)
    rows = [row for row in rows if any((row, f"{metric}/{group}") in lines for group in groups)]
    if not rows:
        return None
    panels = [[group for group in groups if (group in ("cold", "warm")) == by_age] for by_age in (True, False)]
    panels = [panel for panel in panels if panel]
    figure = Figure(figsize=(1.5 + 0.32 * len(groups) * (len(rows) + 1), 4.0), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False, width_ratios=list(map(len, panels)))[0]
    width = 0.82 / len(rows)
    bounded = False
    for axis, panel in zip(axes, panels):
        for place, group in enumerate(panel):
            name = f"{metric}/{group}"
            for number, row in enumerate(rows):
                if (row, name) not in lines:
                    continue
                middle = place + width * (number - (len(rows) - 1) / 2)
                color, hatch = _row_style(row)
                mean, deviation = lines[row, name]["mean"], lines[row, name]["sd"] or 0.0
                axis.bar(middle, mean, width=0.92 * width, color=color, zorder=2, **hatch)
                if deviation:
                    axis.errorbar(middle, mean, yerr=deviation, color=INK, linewidth=1.1, capsize=2.5, zorder=4)
                # on white, because the upper bound may lie right behind it
                axis.annotate(f"{mean:.3f}", (middle, mean + deviation), xytext=(0, 3), textcoords="offset points",
                              ha="center", va="bottom", fontsize=7.5, color=INK, zorder=5,
                              bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6})  # fmt: skip
            if (UPPER_BOUND, name) in lines:
                bounded = True
                axis.hlines(lines[UPPER_BOUND, name]["mean"], place - 0.45, place + 0.45, color=MUTED, linewidth=1.2,
                            linestyle=(0, (4, 3)), zorder=3)  # fmt: skip
        axis.set_xticks(range(len(panel)), panel)
        axis.set_xlim(-0.55, len(panel) - 0.45)
        axis.margins(y=0.1)
        plain_axes(axis, "y")
        axis.tick_params(axis="y", length=0)
        axis.tick_params(axis="x", length=0, labelsize=9.5, labelcolor=INK)
    axes[0].set_ylabel(metric_label(metric, arrow=True), color=INK, fontsize=10)
    handles = [Patch(facecolor=color, label=row_label(row), **hatch)
               for row, (color, hatch) in zip(rows, map(_row_style, rows))]  # fmt: skip
    if bounded:
        dashes = {"color": MUTED, "linewidth": 1.2, "linestyle": (0, (4, 3))}
        handles.append(Line2D([], [], label=row_label(UPPER_BOUND), **dashes))
    seeds = [lines[row, f"{metric}/{group}"]["seeds"] for row in rows for group in groups
             if (row, f"{metric}/{group}") in lines]  # fmt: skip
    if max(seeds) > 1:
        handles.append(_whisker(seeds))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5, labelcolor=INK)
    if title:
        figure.suptitle(title, color=INK, fontsize=12.5, fontweight="bold", x=0.01, ha="left")
    return save(figure, path)


def _row_style(row: str) -> tuple[str, dict]:
    """A row's colour and, for kinds that are hatched, the hatch."""
    kind = row_kind(row)
    return KINDS[kind][0], {"hatch": "////", "edgecolor": "white", "linewidth": 0} if kind in HATCHED else {}


def row_kind(row: str) -> str:
    """The kind (a key of KINDS) a row is coloured by.

    >>> row_kind("item_mean"), row_kind("expctr_aug_mean4"), row_kind("something")
    ('heuristic, no text', 'recommender + explanations', 'other')
    """
    base = row_base(row)
    return next((kind for kind, (_, bases) in KINDS.items() if base in bases), "other")


def _legend(figure: Figure, kinds: Sequence[str], with_paper: bool, seeds: Sequence[int] = (1,)) -> None:
    handles = []
    for kind in kinds:
        hatch = {"hatch": "////", "edgecolor": "white", "linewidth": 0} if kind in HATCHED else {}
        handles.append(Patch(facecolor=KINDS[kind][0], label=kind, **hatch))
    if with_paper:
        diamond = {"marker": "D", "markersize": 5, "markerfacecolor": "white", "markeredgecolor": INK, "linestyle": ""}
        handles.append(Line2D([], [], label="the paper's value", **diamond))
    if max(seeds) > 1:
        handles.append(_whisker(seeds))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5, labelcolor=INK)


def deviation_over(seeds: Sequence[int]) -> str:
    """What whiskers are, rows having these numbers of seeds.

    >>> deviation_over([3, 3]), deviation_over([5, 3, 1])
    ('standard deviation over 3 seeds', 'standard deviation over 3 to 5 seeds')
    """
    several = sorted({number for number in seeds if number > 1})
    told = f"{several[0]} to {several[-1]}" if len(several) > 1 else f"{several[0]}"
    return f"standard deviation over {told} seeds"


def _whisker(seeds: Sequence[int]) -> Line2D:
    whisker = {"marker": "|", "markersize": 7, "color": INK, "linewidth": 1.1}
    return Line2D([], [], label=deviation_over(seeds), **whisker)


def plain_axes(axis, grid: str) -> None:
    """Grid lines across `grid` ("x", "y" or "both"), no frame, quiet ticks."""
    axis.grid(axis=grid, color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color(GRID)
    axis.tick_params(colors=MUTED, labelsize=8.5)


def save(figure: Figure, path: str | Path) -> Path:
    """Write the figure whole or not at all: as PDF where the name says so, else as PNG."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    if path.suffix == ".pdf":
        # Letters as TrueType, which publishers ask for, and no date, so that the same data give the same file.
        with rc_context({"pdf.fonttype": 42}):
            figure.savefig(temporary, format="pdf", facecolor="white", metadata={"CreationDate": None})
    else:
        figure.savefig(temporary, format="png", dpi=150, facecolor="white")
    os.replace(temporary, path)
    return path
