"""Tables from results: rows are systems, columns metrics, cells mean +- standard deviation over seeds.

Which metrics come first depends on what the runs predict: clicks (ExpCTR), ratings (RecPIE) or rankings (TRAIL); of
SELLER it is what explanations are worth. The paper's values stand beside a row where the dataset has them
(`rlrec.paper_values`).
"""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from rlrec.evaluation.ctr import TEMPERATURE_BOUNDS
from rlrec.evaluation.significance import mean_and_sd
from rlrec.paper_values import paper_times, paper_values
from rlrec.row_names import row_label, sorted_rows

RANKING_LABELS = {"hr": "HR", "recall": "Recall", "ndcg": "NDCG", "jaccard": "Jaccard"}
METRIC_LABELS = {
    "auc": "AUC", "log_loss": "LogLoss", "log_loss_t1": "LogLoss (T=1)", "mae": "MAE", "rmse": "RMSE",
    "rmse_stars": "RMSE (stars)", "mae_stars": "MAE (stars)",
    "cited_real": "cited real", "polarity_right": "polarity right", "verdict_consistency": "verdict consistent",
    "citations_per_explanation": "citations", "bleu": "BLEU", "bertscore": "BERTScore",
    **{f"{metric}@{k}": f"{label}@{k}" for metric, label in RANKING_LABELS.items() for k in (5, 10)},
}  # fmt: skip
LOWER_IS_BETTER = {"log_loss", "log_loss_t1", "mae", "rmse", "mae_stars", "rmse_stars", "malformed", "cut", "repaired",
                   "titles_named", "training_time", "inference_time"}  # fmt: skip
NO_DIRECTION = {"trend_claims", "with_trend_claims"}
# Groups of items in the order of the tables; the metric of one is named "hr@10/cold".
GROUPS = ("cold", "warm", "increasing", "decreasing", "fluctuating", "unknown")

INVISIBLE, JOINERS = ("Cc", "Cf", "Cs"), "\u200c\u200d"  # unicode categories, and what scripts and emoji need of them

Table = tuple[list[str], list[list[str]]]  # header and cells


@dataclass(frozen=True)
class Task:
    """What runs predict, and how tables show it.

    Attributes:
        metrics: of the table of predictions, in order.
        headline: those of them that are drawn, and whose differences between rows are tested.
        digits: of the table of predictions.
        arrows: whether its header says which direction is better.
        explanation_arrows: whether that of the table of explanations does.
    """

    metrics: tuple[str, ...]
    headline: tuple[str, ...]
    digits: int = 4
    arrows: bool = True
    explanation_arrows: bool = False


CLICKS = Task(("auc", "log_loss", "log_loss_t1", "mae", "rmse"), ("auc",), digits=3, arrows=False)
RATINGS = Task(("rmse", "mae", "rmse_stars", "mae_stars", "auc", "log_loss"), ("rmse", "auc"))
RANKINGS = Task(
    ("hr@5", "hr@10", "ndcg@5", "ndcg@10", "jaccard@5", "jaccard@10"), ("hr@10", "ndcg@10"), explanation_arrows=True
)

UTILITY = Task(
    ("recall@5", "recall@10", "ndcg@5", "ndcg@10"), ("recall@10", "ndcg@10"), digits=4, explanation_arrows=True
)


def task_of(summary: pl.DataFrame) -> Task:
    """What the runs of a summary predict: ratings have RMSE in stars, rankings HR@10, utility Recall@10.

    >>> task_of(pl.DataFrame({"metric": ["auc", "rmse_stars"]})).metrics[0]
    'rmse'
    """
    metrics = set(summary["metric"])
    telling = {"rmse_stars": RATINGS, "hr@10": RANKINGS, "recall@10": UTILITY}
    return next((task for metric, task in telling.items() if metric in metrics), CLICKS)


def summarise(results: Sequence[Mapping]) -> pl.DataFrame:
    """Mean and deviation over seeds of the results of one system and dataset, one line per row and metric.

    Returns:
        A frame with columns row, metric, mean, sd (null for one seed), seeds (how many had a value), paper (or null)
        and note (what stands in the table in place of the mean, or null); rows sorted for a table. A metric that is
        null in every seed has no line.

    Raises:
        ValueError: no results, several systems, datasets or training fractions, or one seed twice.
    """
    if not results:
        raise ValueError("There are no results to put into a table; give at least one run folder.")
    groups = {(record["system"], record["dataset"]) for record in results}
    fractions = {training_fraction(record) for record in results}
    if len(groups) == 1 and len(fractions) > 1:
        shares = ", ".join(f"{fraction:.0%}" for fraction in sorted(fractions))
        raise ValueError(f"Runs on {shares} of the training data cannot share one table; summarise each share alone.")
    if len(groups) > 1:
        raise ValueError(f"Results of {sorted(groups)} cannot share one table; summarise each group alone.")
    seeds = [record["seed"] for record in results]
    doubled = {seed for seed in seeds if seeds.count(seed) > 1}
    if doubled:
        raise ValueError(
            f"Seed {min(doubled)} of {groups.pop()} is given twice; a mean over seeds needs each one once."
        )
    paper = paper_values(results[0]["dataset"], results[0]["system"], *fractions)
    lines = []
    for row in sorted_rows(list(dict.fromkeys(row for record in results for row in record["rows"]))):
        found = [record["rows"][row] for record in results if row in record["rows"]]
        for metric in dict.fromkeys(metric for metrics in found for metric in metrics):
            values = [metrics[metric] for metrics in found if metrics.get(metric) is not None]
            if values:
                note = bound_note(values) if metric == "temperature" else None
                line = (row, metric, *mean_and_sd(values), len(values), paper.get(row, {}).get(metric), note)
                lines.append(line)
    schema = {"row": pl.String, "metric": pl.String, "mean": pl.Float64, "sd": pl.Float64, "seeds": pl.Int64}
    return pl.DataFrame(lines, schema={**schema, "paper": pl.Float64, "note": pl.String}, orient="row")


def bound_note(temperatures: Sequence[float]) -> str | None:
    """What to print where a fitted temperature ended at a bound of the search: a mean over such values says nothing.

    >>> bound_note([999.999]), bound_note([2.0, 999.9999, 1000.0]), bound_note([2.0, 3.0])
    ('≥ 1000', '≥ 1000 in 2 of 3 seeds', None)
    """
    low, high = TEMPERATURE_BOUNDS
    # The search is bounded on log T and stops within 1e-6 of the bound, hence the tolerance.
    found = {
        f"≥ {high:g}": sum(value > 0.999 * high for value in temperatures),
        f"≤ {low:g}": sum(value < 1.001 * low for value in temperatures),
    }
    several = len(temperatures) > 1
    found = {text: count for text, count in found.items() if count}
    notes = [text + (f" in {count} of {len(temperatures)} seeds" if several else "") for text, count in found.items()]
    return ", ".join(notes) or None


def cell(mean: float, sd: float | None, digits: int = 3) -> str:
    """Mean and deviation as text.

    >>> cell(0.7251, 0.0104), cell(0.7251, None)
    ('0.725 ± 0.010', '0.725')
    """
    return f"{mean:.{digits}f}" + (f" ± {sd:.{digits}f}" if sd is not None else "")


def result_table(summary: pl.DataFrame, metrics: Sequence[str], arrows: bool = False, digits: int = 3) -> Table:
    """Header and cells of a table of `metrics` from `summarise`; rows and metrics without any value are left out.

    Columns with the paper's values follow those metrics that have any. With `arrows`, the header says which direction
    is better.
    """
    values = {(line["row"], line["metric"]): line for line in summary.iter_rows(named=True)}
    rows = [
        row for row in summary["row"].unique(maintain_order=True) if any((row, metric) in values for metric in metrics)
    ]
    metrics = [metric for metric in metrics if any((row, metric) in values for row in rows)]
    papers = [m for m in metrics if any(values.get((row, m), {}).get("paper") is not None for row in rows)]
    header = ["row", *(metric_label(metric, arrows) for metric in metrics)]
    header += [f"paper {metric_label(metric)}" for metric in papers]
    body = []
    for row in rows:
        lines = {metric: values.get((row, metric)) for metric in metrics}
        cells = [line["note"] or cell(line["mean"], line["sd"], digits) if line else "–" for line in lines.values()]
        printed = [lines[metric]["paper"] if lines[metric] else None for metric in papers]
        body.append([row_label(row), *cells, *("–" if value is None else f"{value:.4f}" for value in printed)])
    return header, body


def prediction_table(summary: pl.DataFrame) -> Table:
    """The table of predictions."""
    task = task_of(summary)
    return result_table(summary, task.metrics, task.arrows, task.digits)


def explanation_table(summary: pl.DataFrame) -> Table:
    """The table of what does not measure predictions, metrics in the order in which they occur."""
    task = task_of(summary)
    metrics = summary["metric"].unique(maintain_order=True)
    others = [metric for metric in metrics if metric.partition("/")[0] not in task.metrics]
    return result_table(summary, others, task.explanation_arrows)


def masked_table(summary: pl.DataFrame) -> Table:
    """The utility of explanations whose target's title is masked; without rows where no run has it."""
    names = [f"{metric}/masked" for metric in UTILITY.metrics]
    header, body = result_table(summary, names, digits=4)
    return [metric_label(name.removesuffix("/masked")) for name in header], body


def time_table(results: Sequence[Mapping]) -> Table:
    """Seconds per sample of training and writing relative to XRec's, the paper's beside; no rows without XRec."""
    kinds, body = ("training", "inference"), []
    for row in ("xrec", "seller", "llm"):
        cells = []
        for kind in kinds:
            times = [record["controls"].get(f"{kind}_seconds", {}) for record in results]
            ratios = [each[row] / each["xrec"] for each in times if each.get(row) and each.get("xrec")]
            cells.append(cell(*mean_and_sd(ratios)) if ratios else "–")
        printed = [paper_times()[kind].get(row) for kind in kinds]
        if set(cells) != {"–"}:
            body.append([row_label(row), *cells, *("–" if value is None else f"{value:.3f}" for value in printed)])
    return ["row", *kinds, *(f"paper {kind}" for kind in kinds)], body


def group_table(summary: pl.DataFrame, metric: str = "hr@10") -> Table:
    """The table of a metric within each group of items; without rows where no run has groups."""
    groups = groups_of(summary, metric)
    _, body = result_table(summary, [f"{metric}/{group}" for group in groups], digits=4)
    return ["row", *groups], body


def groups_of(summary: pl.DataFrame, metric: str) -> list[str]:
    """The groups of items for which a summary has `metric`, those of GROUPS first.

    >>> groups_of(pl.DataFrame({"metric": ["hr@10", "hr@10/warm", "hr@10/cold"]}), "hr@10")
    ['cold', 'warm']
    """
    names = summary["metric"].unique(maintain_order=True)
    groups = [name.removeprefix(f"{metric}/") for name in names if name.startswith(f"{metric}/")]
    return sorted(groups, key=lambda group: GROUPS.index(group) if group in GROUPS else len(GROUPS))


def metric_label(metric: str, arrow: bool = False) -> str:
    """A metric's name for readers, with the direction in which it is better where asked for.

    >>> metric_label("rmse_stars"), metric_label("rmse", arrow=True), metric_label("hr@10/cold")
    ('RMSE (stars)', 'RMSE ↓', 'HR@10, cold')
    """
    name, _, group = metric.partition("/")
    label = METRIC_LABELS.get(name, name.replace("_", " ")) + (f", {group}" if group else "")
    if not arrow or metric in NO_DIRECTION:
        return label
    return f"{label} {'↓' if metric in LOWER_IS_BETTER else '↑'}"


def training_fraction(record: Mapping) -> float:
    """Share of the training data that a run used, `details.training_fraction`; 1.0 where the run does not say."""
    fraction = record.get("details", {}).get("training_fraction")
    fraction = 1.0 if fraction is None else float(fraction)
    if not 0 < fraction <= 1:
        raise ValueError(
            f"details.training_fraction of seed {record['seed']} is {fraction:g}; it must be in (0, 1], such as 0.25."
        )
    return fraction


def p_text(p_value: float) -> str:
    """A p-value for readers.

    >>> p_text(0.0312), p_text(2e-5)
    ('0.031', '< 0.001')
    """
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def control_table(results: Sequence[Mapping]) -> Table:
    """Header and cells of the controls, mean +- deviation over seeds; nested controls are named "control: metric"."""
    values: dict[str, list[float]] = {}
    digits = {}
    for record in results:
        for control, value in record["controls"].items():
            nested = value if isinstance(value, Mapping) else {None: value}
            for metric, number in nested.items():
                if isinstance(number, int | float) and not isinstance(number, bool):
                    name = control.replace("_", " ")
                    name = name if metric is None else f"{name}: {metric_label(metric)}"
                    values.setdefault(name, []).append(number)
                    digits[name] = 5 if control.endswith("_seconds") else 3
    body = [[name, cell(*mean_and_sd(numbers), digits[name])] for name, numbers in values.items()]
    return ["control", "value"], body


def markdown_table(
    header: Sequence[str], body: Sequence[Sequence[str]], escape: Callable[[str], str] | None = None
) -> str:
    """Markdown, aligned for reading in a terminal too; the first column to the left, the others to the right.

    Args:
        header, body: text.
        escape: makes Markdown of a cell; None: `defused`.

    >>> print(markdown_table(["row", "AUC"], [["a|b", "0.5"]]))
    | row  | AUC |
    | :--- | --: |
    | a\\|b | 0.5 |
    """
    escape = escape or defused
    lines = [[escape(text) for text in line] for line in (header, *body)]
    widths = [max(3 + (column == 0), *(len(line[column]) for line in lines)) for column in range(len(header))]

    def joined(line: Sequence[str]) -> str:
        cells = [line[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(line[1:], widths[1:]))]
        return f"| {' | '.join(cells)} |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([joined(lines[0]), joined(rule), *map(joined, lines[1:])])


def defused(text: object) -> str:
    """Any text as one line of Markdown in which HTML and links are text, and a table's cell stays one.

    Control and bidirectional characters go, since they could show one text for another.

    >>> print(defused("a | <b>x</b> ![y](http://z) 1 < 2"))
    a \\| &lt;b>x&lt;/b> ![y]\\(http://z) 1 < 2
    """
    text = "".join(c for c in " ".join(str(text).split()) if c in JOINERS or unicodedata.category(c) not in INVISIBLE)
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text).replace("](", "]\\(")
    return re.sub(r"(\\*)\|", r"\1\1\\|", text)  # an odd number of backslashes before a bar keeps it in its cell


def spreadsheet_safe(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with an apostrophe before every text that a spreadsheet would take for a formula.

    >>> spreadsheet_safe(pl.DataFrame({"row": ["=1+1", "icl"], "mean": [-1.0, 2.0]})).rows()
    [("'=1+1", -1.0), ('icl', 2.0)]
    """
    text = pl.col(pl.String)
    return frame.with_columns(
        pl.when(text.str.contains(r"^[=+\-@\t\r\n＝＋－＠]")).then("'" + text).otherwise(text).name.keep()
    )


def latex_table(
    header: Sequence[str], body: Sequence[Sequence[str]], caption: str, escape: Callable[[str], str] | None = None
) -> str:
    """A LaTeX table in the style of the booktabs package.

    Args:
        header, body, caption: text.
        escape: makes LaTeX of a cell; None: `latex_escape`. The caption is escaped in any case.
    """
    escape = escape or latex_escape
    lines = [" & ".join(map(escape, line)) + r" \\" for line in (header, *body)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{latex_escape(caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def latex_escape(text: str) -> str:
    r"""Text that LaTeX prints as it stands.

    >>> print(latex_escape("−50 % of a_b ± 1"))
    $-$50 \% of a\_b $\pm$ 1
    """
    text = "".join(c for c in " ".join(text.split()) if c in JOINERS or unicodedata.category(c) not in INVISIBLE)
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
               "↓": r"$\downarrow$", "↑": r"$\uparrow$", "≥": r"$\geq$", "≤": r"$\leq$", "−": "$-$",
               "<": r"\textless{}", ">": r"\textgreater{}",
               "▲": r"$^{\bigtriangleup}$", "▼": r"$^{\bigtriangledown}$"}  # fmt: skip
    special |= {character: f"\\{character}" for character in "&%$#_{}"} | {"–": "--"}
    return "".join(special.get(character, character) for character in text)
