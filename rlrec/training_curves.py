"""Pictures of trainings from their logs: rewards per stage (ExpCTR's Figure 3), TRAIL's losses.

Needs the `plot` extra.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rlrec.figures import COLORS, INK, MUTED, plain_axes, save, smooth
from rlrec.row_names import row_base, row_label

try:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise ImportError("Pictures need matplotlib: pip install 'rlrec[plot]'.") from error

Runs = Sequence[Mapping[str, Sequence[Mapping]]]
Curve = tuple[np.ndarray, np.ndarray]  # steps, values
EXPLANATION_LOSS = {"loss": "L_exp, cross entropy of the explanations (eq. 12)"}  # SELLER's
LOSSES = {"loss_sup": "L_sup, cross entropy of the labels (eq. 9)", "loss_con": "L_con, InfoNCE (eq. 8)"}


def reward_curves(runs: Runs, path: str | Path, title: str = "") -> Path | None:
    """Draw the mean reward over steps, one panel per stage, and save it; None when no run logged a reward.

    Args:
        runs: per seed, {stage: trainer log history}. Drawn are each reward function's own mean
            ("rewards/<name>/mean"), or "reward" where those are missing. With several seeds the line is their mean,
            the thin lines are the seeds; lines are smoothed by a centred mean over a tenth of the steps.
        path: of the PNG.
        title: above the panels.
    """
    series = {stage: _reward_series([run[stage] for run in runs if stage in run]) for stage in _stages(runs)}
    series = {stage: curves for stage, curves in series.items() if curves}
    if not series:
        return None
    figure = Figure(figsize=(1.2 + 3.6 * len(series), 3.4), layout="constrained")
    axes = figure.subplots(1, len(series), squeeze=False)[0]
    for axis, (stage, curves) in zip(axes, series.items()):
        for color, (name, seeds) in zip(COLORS * len(curves), curves.items()):
            _draw(axis, seeds, color, name)
        _dress(axis, stage_label(stage))
        axis.legend(frameon=False, fontsize=8.5, labelcolor=INK, loc="best")
    axes[0].set_ylabel("mean reward of a step", color=MUTED, fontsize=9)
    _title(figure, title)
    return save(figure, path)


def loss_curves(runs: Runs, path: str | Path, title: str = "", losses: Mapping[str, str] = LOSSES) -> Path | None:
    """Draw losses (TRAIL's two) over steps, one panel each, and save them; None when no run logged one.

    Stages (TRAIL, its ablations and ranks) are lines of one panel, so that they can be compared; dashed is validation.
    L_con depends on how many samples a batch holds, so its dashed line may lie elsewhere than the solid one for that
    reason alone. Seeds and smoothing as in `reward_curves`; validation is not smoothed.

    Args:
        runs, path, title: as in `reward_curves`.
        losses: {name in the logs: title of its panel}.
    """
    colors = dict(zip(_stages(runs), (*COLORS, "#8f7fb5", INK, MUTED) * len(_stages(runs))))
    panels = {}
    for loss in losses:
        for stage in colors:
            histories = [run[stage] for run in runs if stage in run]
            found = [_curves(histories, key) for key in (loss, f"eval_{loss}")]
            if any(found):
                panels.setdefault(loss, {})[stage] = found
    if not panels:
        return None
    drawn = [stage for stage in colors if any(stage in panel for panel in panels.values())]
    figure = Figure(figsize=(1.2 + 4.2 * len(panels), 3.9 + 0.2 * (len(drawn) // 3)), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    validated = False
    for axis, (loss, stages) in zip(axes, panels.items()):
        for stage, (training, validation) in stages.items():
            _draw(axis, training, colors[stage])
            if validation:
                steps, values = mean_curve(validation)
                dots = {"marker": "o", "markersize": 3, "markerfacecolor": "white"}
                axis.plot(steps, values, color=colors[stage], linewidth=1.4, linestyle=(0, (4, 2)), **dots)
                validated = True
        _dress(axis, losses[loss])
    handles = [Line2D([], [], color=colors[stage], linewidth=2.2, label=stage_or_row(stage)) for stage in drawn]
    if validated:
        handles.append(Line2D([], [], color=MUTED, linewidth=1.4, linestyle=(0, (4, 2)), label="dashed: validation"))
    if len(runs) > 1:
        handles.append(Line2D([], [], color=MUTED, linewidth=0.9, alpha=0.5, label=f"thin: each of {len(runs)} seeds"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5, labelcolor=INK)
    axes[0].set_ylabel("loss", color=MUTED, fontsize=9)
    _title(figure, title)
    return save(figure, path)


def _stages(runs: Runs) -> list[str]:
    return list(dict.fromkeys(stage for run in runs for stage in run))


def _draw(axis, seeds: Sequence[Curve], color: str, label: str | None = None) -> None:
    """The smoothed line of one seed over its raw one, or the smoothed mean of several over the seeds."""
    if not seeds:
        return
    several = len(seeds) > 1
    for steps, values in seeds:
        axis.plot(steps, values, color=color, alpha=0.3, linewidth=0.9)
    steps, mean = mean_curve(seeds)
    label = f"{label}, mean of {len(seeds)} seeds" if label and several else label
    axis.plot(steps, smooth(mean), color=color, linewidth=2.2, label=label)


def mean_curve(seeds: Sequence[Curve]) -> Curve:
    """Mean of the seeds' curves as far as all of them go; early stopping ends some sooner."""
    if len(seeds) == 1:
        return seeds[0]
    steps = np.unique(np.concatenate([steps for steps, _ in seeds]))
    steps = steps[steps <= min(own[-1] for own, _ in seeds)]
    return steps, np.mean([np.interp(steps, *seed) for seed in seeds], axis=0)


def _dress(axis, title: str) -> None:
    axis.set_title(title, color=INK, fontsize=11, loc="left", pad=8)
    axis.set_xlabel("optimizer step", color=MUTED, fontsize=9)
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    plain_axes(axis, "y")
    axis.margins(x=0.02, y=0.12)


def _title(figure: Figure, title: str) -> None:
    if title:
        figure.suptitle(title, color=INK, fontsize=12.5, fontweight="bold", x=0.01, ha="left")


def stage_label(stage: str) -> str:
    """A stage name for readers.

    >>> stage_label("lc"), stage_label("ic_2"), stage_label("more_lc")
    ('LC alignment', 'IC alignment, round 2', 'more LC, as many steps')
    """
    name, suffix = re.fullmatch(r"(.*?)(?:_(\d+))?", stage).groups()
    known = {"lc": "LC alignment", "ic": "IC alignment", "more_lc": "more LC, as many steps"}
    return known.get(name, name.replace("_", " ")) + (f", round {suffix}" if suffix else "")


def stage_or_row(stage: str) -> str:
    """A stage that trains a row of the tables by that row's label."""
    return stage_label(stage) if row_base(stage) is None else row_label(stage)


def _reward_series(histories: Sequence[Sequence[Mapping]]) -> dict[str, list[Curve]]:
    """{reward name: per seed (steps, rewards)} of one stage."""
    keys = dict.fromkeys(key for history in histories for entry in history for key in entry)
    own = [key for key in keys if re.fullmatch(r"rewards/.+/mean", key)]
    series = {}
    for key in own or [key for key in keys if key == "reward"]:
        name = key.removeprefix("rewards/").removesuffix("/mean").replace("_", " ")
        name = name.upper() if len(name) < 3 else name
        if found := _curves(histories, key):
            series.setdefault(name, []).extend(found)
    return series


def _curves(histories: Sequence[Sequence[Mapping]], key: str) -> list[Curve]:
    """What the histories logged under `key`; one without any is left out."""
    curves = []
    for history in histories:
        points = [(entry["step"], entry[key]) for entry in history if "step" in entry and entry.get(key) is not None]
        if points:
            curves.append(tuple(np.array(points, dtype=float).T))
    return curves
