"""Pictures of RecPIE's analyses (Figures 7, 8 and 9, Table 6 as curves, rewards). Needs the `plot` extra.

Each function takes what `rlrec.recpie.analyses` or `rlrec.recpie.cosines` summed up, and a path, and returns the path.
Colours are Okabe and Ito's; lines differ by marker or dash too, so that a grey print can be read.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from rlrec.figures import COLORS, GRID, INK, MUTED, plain_axes, save, smooth
from rlrec.recpie.attention import DIFFERENCE
from rlrec.recpie.cosines import KINDS, SEPARATION
from rlrec.recpie.curves import LEARNING_METRICS
from rlrec.recpie.uncertainty import Gain
from rlrec.row_names import row_label
from rlrec.tables import metric_label, p_text

try:
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise ImportError("Pictures need matplotlib: pip install 'rlrec[plot]'.") from error

MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
POSITIVE, NEGATIVE = COLORS[0], COLORS[1]
TOKENS = {
    "pos": "positive\nexplanation",
    "neg": "negative\nexplanation",
    "c": "consumer",
    "p": "product",
    "seq": "history",
    "context": "context",
}


def attention_bars(summary: pl.DataFrame, path: str | Path) -> Path:
    """Figure 9 from `attention_summary`: the share of each input, and positive against negative explanations."""
    lines = {(line["items"], line["token"]): line for line in summary.iter_rows(named=True)}
    tokens = [token for token in summary["token"].unique(maintain_order=True) if token != DIFFERENCE]
    contrastive = ("all", DIFFERENCE) in lines
    figure = Figure(figsize=(10.5 if contrastive else 6.0, 3.9), layout="constrained")
    axes = figure.subplots(1, 2 if contrastive else 1, squeeze=False, width_ratios=[1.25, 1] if contrastive else [1])[
        0
    ]
    colors = [{"pos": POSITIVE, "neg": NEGATIVE}.get(token, "#b8bec7") for token in tokens]
    _bars(axes[0], np.arange(len(tokens)), [lines["all", token] for token in tokens], colors)
    axes[0].axhline(1 / len(tokens), color=MUTED, linewidth=1.1, linestyle=(0, (4, 3)), zorder=3)
    axes[0].set_xticks(np.arange(len(tokens)), [TOKENS.get(token, token) for token in tokens])
    axes[0].set_xlabel("dashed: equal shares", color=MUTED, fontsize=9)
    told = sum(lines["all", token]["mean"] for token in tokens if token in ("pos", "neg"))
    axes[0].set_title(f"All items: {told:.0%} on explanations", color=INK, fontsize=11, loc="left", pad=8)
    axes[0].set_ylabel("mean attention (eq. 22)", color=MUTED, fontsize=9)
    if contrastive:
        groups = ("liked", "disliked")
        for shift, token, color, label in ((-0.2, "pos", POSITIVE, "on the positive explanation"),
                                           (0.2, "neg", NEGATIVE, "on the negative explanation")):  # fmt: skip
            hatch = "////" if token == "neg" else None
            _bars(
                axes[1],
                np.arange(2) + shift,
                [lines[items, token] for items in groups],
                [color] * 2,
                0.38,
                hatch,
                label,
            )
        names = []
        for items in groups:
            line = lines[items, DIFFERENCE]
            p = p_text(line["p_value"])
            p = f"p {p}" if p.startswith("<") else f"p = {p}"
            difference = f"{line['mean']:+.3f}".replace("-", "−")
            names.append(f"{items} ({line['samples']:,} samples)\npos. − neg. {difference}\n{p}")
        axes[1].set_xticks([0, 1], names)
        axes[1].set_title("Liked and disliked items", color=INK, fontsize=11, loc="left", pad=8)
        axes[1].set_ylim(0, 1.32 * max(lines[items, token]["high"] for items in groups for token in ("pos", "neg")))
        axes[1].legend(frameon=False, fontsize=8.5, labelcolor=INK, loc="upper center", ncols=2, columnspacing=1.2)
    for axis in axes:
        plain_axes(axis, "y")
        axis.tick_params(axis="x", length=0, labelsize=9, labelcolor=INK)
    axes[-1].set_xlabel("whiskers: 95 % intervals, users resampled", color=MUTED, fontsize=9)
    return save(figure, path)


def _bars(axis, places, lines: Sequence[Mapping], colors, width: float = 0.66, hatch=None, label=None) -> None:
    for number, (place, line, color) in enumerate(zip(places, lines, colors)):
        edge = {"hatch": hatch, "edgecolor": "white", "linewidth": 0} if hatch else {}
        axis.bar(place, line["mean"], width, color=color, zorder=2, label=None if number else label, **edge)
        spread = [[line["mean"] - line["low"]], [line["high"] - line["mean"]]]
        axis.errorbar(place, line["mean"], yerr=spread, color=INK, linewidth=1.1, capsize=2.5, zorder=4)
        text = axis.annotate(f"{line['mean']:.3f}", (place, line["high"]), xytext=(0, 3), textcoords="offset points",
                             ha="center", va="bottom", fontsize=8.5, color=INK, zorder=5)  # fmt: skip
        text.set_path_effects([withStroke(linewidth=3, foreground="white")])


def cosine_curves(summary: pl.DataFrame, path: str | Path) -> Path:
    """Figure 7 from `cosine_summary`: mean cosine over epochs, a panel per kind and one for the separation."""
    present = summary["kind"].unique(maintain_order=True).to_list()
    order = dict.fromkeys([*KINDS, *(kind for kind in present if kind != SEPARATION), SEPARATION])  # others in between
    kinds = [kind for kind in order if kind in present]
    models = summary["model"].unique(maintain_order=True).to_list()
    figure = Figure(figsize=(1.0 + 3.1 * len(kinds), 3.6), layout="constrained")
    axes = figure.subplots(1, len(kinds), squeeze=False)[0]
    figure.get_layout_engine().set(w_pad=0.1)
    for axis, kind in zip(axes, kinds):
        for number, model in enumerate(models):
            lines = summary.filter(pl.col("kind") == kind, pl.col("model") == model).sort("epoch")
            if lines.is_empty():
                continue
            epochs, means = lines["epoch"].to_numpy(), lines["mean"].to_numpy()
            errors = lines["standard_error"].fill_null(0.0).to_numpy()
            color = COLORS[number % len(COLORS)]
            axis.fill_between(epochs, means - errors, means + errors, color=color, alpha=0.15, linewidth=0)
            axis.plot(epochs, means, color=color, linewidth=2, linestyle=DASHES[number % len(DASHES)],
                      marker=MARKERS[number % len(MARKERS)], markersize=4.5, label=model,
                      markevery=max(1, len(epochs) // 10))  # fmt: skip
        pairs = summary.filter(pl.col("kind") == kind)["pairs"].max()
        title = "Similar minus unrelated" if kind == SEPARATION else f"{kind.capitalize()} items ({pairs} pairs)"
        axis.set_title(title, color=INK, fontsize=10.5, loc="left", pad=8)
        axis.set_xlabel("epoch", color=MUTED, fontsize=9)
        axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axis.axhline(0, color=MUTED, linewidth=0.8, zorder=1)
        plain_axes(axis, "y")
        axis.margins(x=0.03)
    shared = [axis for axis, kind in zip(axes, kinds) if kind != SEPARATION]
    limits = [limit for axis in shared for limit in axis.get_ylim()]
    for axis in shared:  # so that the kinds can be compared
        axis.set_ylim(min(limits), max(limits))
    axes[0].set_ylabel("cosine of item embeddings (mean)", color=MUTED, fontsize=9)
    if kinds[-1] == SEPARATION:
        axes[-1].set_ylabel("difference of the means", color=MUTED, fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    told = {"title": "bands: standard error over pairs", "title_fontproperties": {"size": 8.5}}
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9,
                  labelcolor=INK, handlelength=3, **told)  # fmt: skip
    return save(figure, path)


def gain_by_uncertainty(gain: Gain, path: str | Path) -> Path:
    """Figure 8 from `gain_summary`: bins of equally many samples with standard errors, and the regression line."""
    x, y, errors, counts = (gain.bins[column].to_numpy() for column in gain.bins.columns)
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = figure.subplots()
    axis.axhline(0, color=MUTED, linewidth=1.0, zorder=1)
    axis.errorbar(x, y, yerr=errors, color=COLORS[0], marker="o", markersize=6, linewidth=0, elinewidth=1.3, capsize=3,
                  zorder=4, label=f"bins of about {int(np.median(counts)):,} samples, ± standard error")  # fmt: skip
    ends = np.array([0.0, x.max()])
    p = p_text(gain.p_value)
    label = f"regression over {gain.samples:,} samples\nslope {gain.slope:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"
    label += f", p {p if p.startswith('<') else f'= {p}'}"
    axis.plot(ends, gain.intercept + gain.slope * ends, color=COLORS[1], linewidth=2, linestyle=DASHES[1], label=label)
    axis.set_xlabel("prediction uncertainty (variance between models, scaled to 0 to 1)", color=MUTED, fontsize=9)
    axis.set_ylabel(f"squared error saved by {gain.rows[0]}\nover {gain.rows[1]}", color=MUTED, fontsize=9)
    plain_axes(axis, "both")
    axis.spines["bottom"].set_visible(False)
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1.01), frameon=False, fontsize=8.8, labelcolor=INK)
    return save(figure, path)


def learning_curves(curve: pl.DataFrame, baseline: str, path: str | Path) -> Path:
    """Table 6 as curves from `learning_curve`; dashed across: `baseline` trained on everything."""
    metrics = [metric for metric in LEARNING_METRICS if metric in curve["metric"].to_list()]
    figure = Figure(figsize=(1.0 + 3.3 * len(metrics), 3.7), layout="constrained")
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    rows = sorted(curve["row"].unique(maintain_order=True), key=lambda row: row == baseline)  # the baseline last
    fractions = sorted(curve["fraction"].unique())
    for axis, metric in zip(axes, metrics):
        for number, row in enumerate(rows):
            lines = curve.filter(pl.col("row") == row, pl.col("metric") == metric).sort("fraction")
            color = MUTED if row == baseline else COLORS[number % len(COLORS)]
            # Side by side, so that whiskers do not hide one another.
            places = [
                fractions.index(fraction) + 0.06 * (number - (len(rows) - 1) / 2) for fraction in lines["fraction"]
            ]
            axis.errorbar(places, lines["mean"], yerr=lines["sd"].fill_null(0.0), color=color, linewidth=2, capsize=3,
                          elinewidth=1.2, marker=MARKERS[number % len(MARKERS)], markersize=6, zorder=4,
                          linestyle=DASHES[2] if row == baseline else "-", label=row_label(row))  # fmt: skip
            whole = lines.filter(pl.col("fraction") == 1.0)
            if row == baseline and len(whole):
                axis.axhline(whole["mean"][0], color=INK, linewidth=1.3, linestyle=DASHES[1], zorder=2,
                             label=f"{row_label(row)}, all training data")  # fmt: skip
        axis.set_xticks(range(len(fractions)), [f"{fraction:.0%}" for fraction in fractions])
        axis.set_title(metric_label(metric, arrow=True), color=INK, fontsize=11, loc="left", pad=8)
        axis.set_xlabel("share of the training data", color=MUTED, fontsize=9)
        plain_axes(axis, "y")
        axis.margins(x=0.08, y=0.12)
    handles, labels = axes[0].get_legend_handles_labels()
    seeds = curve["seeds"].max()
    told = {"title": f"whiskers: standard deviation over {seeds} seeds", "title_fontproperties": {"size": 8.5}}
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9, labelcolor=INK,
                  handlelength=3.2, **(told if seeds > 1 else {}))  # fmt: skip
    return save(figure, path)


def reward_bands(series: Mapping[str, Sequence[np.ndarray]], path: str | Path) -> Path:
    """Rewards over steps of several labels: smoothed mean in a band from lowest to highest seed."""
    figure = Figure(figsize=(7.0, 4.0), layout="constrained")
    axis = figure.subplots()
    for number, (label, runs) in enumerate(series.items()):
        color = COLORS[number % len(COLORS)]
        last = min(run[0, -1] for run in runs)  # beyond it there is no mean over the same seeds
        steps = np.unique(np.concatenate([run[0] for run in runs]))
        steps = steps[steps <= last]
        seeds = np.array([smooth(np.interp(steps, *run)) for run in runs])
        name = f"{label} (mean of {len(runs)} seeds)" if len(runs) > 1 else label
        axis.plot(
            steps, seeds.mean(axis=0), color=color, linewidth=2.2, linestyle=DASHES[number % len(DASHES)], label=name
        )
        if len(runs) > 1:
            axis.fill_between(steps, seeds.min(axis=0), seeds.max(axis=0), color=color, alpha=0.18, linewidth=0)
        else:
            axis.plot(*runs[0], color=color, linewidth=0.8, alpha=0.3)
    several = any(len(runs) > 1 for runs in series.values())
    axis.set_xlabel("optimizer step" + ("; bands: lowest to highest seed" if several else ""), color=MUTED, fontsize=9)
    axis.set_ylabel("mean reward of a step (smoothed)", color=MUTED, fontsize=9)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    plain_axes(axis, "y")
    axis.spines["bottom"].set_color(GRID)
    axis.margins(x=0.02, y=0.12)
    axis.legend(frameon=False, fontsize=9, labelcolor=INK, loc="best", handlelength=3.2)
    return save(figure, path)
