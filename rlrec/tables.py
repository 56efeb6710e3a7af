"""Tables from results: rows are systems, columns metrics, cells mean +- standard deviation over seeds.

The paper's values (ExpCTR's Table 1, kept in expctr_table_1.json) stand beside a row where the dataset has them. They
were measured on the paper's own samples with Llama 3 8B, so they are a landmark and not a like-for-like comparison.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import polars as pl

from rlrec.evaluation.significance import auc_difference, mean_and_sd

PREDICTION_METRICS = ("auc", "log_loss", "log_loss_t1", "mae", "rmse")
METRIC_LABELS = {
    "auc": "AUC", "log_loss": "LogLoss", "log_loss_t1": "LogLoss (T=1)", "mae": "MAE", "rmse": "RMSE",
    "rmse_stars": "RMSE (stars)", "mae_stars": "MAE (stars)",
    "cited_real": "cited real", "polarity_right": "polarity right", "verdict_consistency": "verdict consistent",
    "citations_per_explanation": "citations", "hr@10": "HR@10", "ndcg@10": "NDCG@10",
}  # fmt: skip
LOWER_IS_BETTER = {"log_loss", "log_loss_t1", "mae", "rmse", "mae_stars", "rmse_stars", "malformed"}

Table = tuple[list[str], list[list[str]]]  # header and cells

# Row names are built of these parts; the first is what the row is about.
HEURISTICS = {
    "history_like_rate": "history like-rate",
    "item_mean": "item mean",
    "like_rate_plus_item_mean": "like-rate + item mean",
}
BASES = {
    **HEURISTICS,
    "icl": "ICL",
    "deepfm": "DeepFM",
    "fm": "FM",
    "sasrec": "SASRec",
    "expctr_llm": "ExpCTR-LLM",
    "expctr_aug": "ExpCTR-Aug",
    "recpie": "RecPIE",
    "seller": "SELLER",
    "trail": "TRAIL",
}
PARTS = {
    r"like_rate": " + like-rate",
    r"item_mean": " + item mean",
    r"more_lc": ", more LC",
    r"after_lc": ", after LC",
    r"mean_?(\d+)": r", mean of \1",
    r"shuffled_explanations?": ", explanations shuffled",
    r"shuffled_labels?": ", labels shuffled",
}
# Known pairs worth an interval: (what one would have without it, the system).
COMPARISONS = (
    ("icl", "expctr_llm"),
    ("icl_mean4", "expctr_llm_mean4"),
    ("deepfm", "expctr_aug"),
    ("deepfm", "expctr_aug_mean4"),
    ("deepfm_like_rate_item_mean", "expctr_aug_like_rate_item_mean"),
    ("like_rate_plus_item_mean", "expctr_llm_mean4"),
    ("like_rate_plus_item_mean", "expctr_aug_mean4"),
    ("expctr_llm_more_lc_mean4", "expctr_llm_mean4"),
    ("expctr_aug_more_lc", "expctr_aug"),
    ("expctr_aug_more_lc_mean4", "expctr_aug_mean4"),
)


def row_base(row: str) -> str | None:
    """The known base a row name begins with, the longest one; None for an unknown row.

    >>> row_base("expctr_llm_mean4"), row_base("like_rate_plus_item_mean"), row_base("fmlp")
    ('expctr_llm', 'like_rate_plus_item_mean', None)
    """
    known = [base for base in BASES if row == base or row.startswith(f"{base}_")]
    return max(known, key=len, default=None)


def row_label(row: str) -> str:
    """A row name for readers; what is unknown in it keeps its words.

    >>> row_label("expctr_llm_more_lc_mean4"), row_label("deepfm_like_rate_item_mean")
    ('ExpCTR-LLM, more LC, mean of 4', 'DeepFM + like-rate + item mean')
    >>> row_label("my_new_system"), row_label("item_mean"), row_label("expctr_aug_in_sample_mean4")
    ('my new system', 'item mean (heuristic)', 'ExpCTR-Aug, in sample, mean of 4')
    """
    if row in HEURISTICS:
        return f"{HEURISTICS[row]} (heuristic)"
    base = row_base(row)
    rest = row if base is None else row[len(base) :].strip("_")
    label = BASES.get(base, "")
    while rest:
        found = [(match, text) for part, text in PARTS.items() if (match := re.search(rf"(?:^|_){part}(?=_|$)", rest))]
        match, text = min(found, key=lambda pair: pair[0].start(), default=(None, ""))
        words = (rest if match is None else rest[: match.start()]).strip("_").replace("_", " ")
        label += (f", {words}" if label else words) if words else ""
        label += match.expand(text) if match else ""
        rest = rest[match.end() :].strip("_") if match else ""
    return label


def sorted_rows(rows: Sequence[str]) -> list[str]:
    """Heuristics, ICL, recommenders, ExpCTR, then unknown rows; within one base as given."""
    order = list(BASES)
    return sorted(rows, key=lambda row: order.index(base) if (base := row_base(row)) else len(order))


@cache
def paper_values(dataset: str) -> Mapping[str, Mapping[str, float]]:
    """{row: {metric: value}} of ExpCTR's Table 1 for "book-crossing", "ml-20m" or "amazon-books"; else empty.

    >>> paper_values("ml-20m")["expctr_aug"]["auc"]
    0.6951
    """
    tables = json.loads((Path(__file__).parent / "expctr_table_1.json").read_text(encoding="utf-8"))
    return tables["datasets"].get(dataset, {})


def summarise(results: Sequence[Mapping]) -> pl.DataFrame:
    """Mean and deviation over seeds of the results of one system and dataset, one line per row and metric.

    Returns:
        A frame with columns row, metric, mean, sd (null for one seed), seeds (how many had a value), paper (or null);
        rows sorted for a table. A metric that is null in every seed has no line.

    Raises:
        ValueError: no results, several systems or datasets, or one seed twice.
    """
    if not results:
        raise ValueError("There are no results to put into a table; give at least one run folder.")
    groups = {(record["system"], record["dataset"]) for record in results}
    if len(groups) > 1:
        raise ValueError(f"Results of {sorted(groups)} cannot share one table; summarise each group alone.")
    seeds = [record["seed"] for record in results]
    doubled = {seed for seed in seeds if seeds.count(seed) > 1}
    if doubled:
        raise ValueError(
            f"Seed {min(doubled)} of {groups.pop()} is given twice; a mean over seeds needs each one once."
        )
    paper = paper_values(results[0]["dataset"]) if results[0]["system"] == "expctr" else {}
    lines = []
    for row in sorted_rows(list(dict.fromkeys(row for record in results for row in record["rows"]))):
        found = [record["rows"][row] for record in results if row in record["rows"]]
        for metric in dict.fromkeys(metric for metrics in found for metric in metrics):
            values = [metrics[metric] for metrics in found if metrics.get(metric) is not None]
            if values:
                line = (row, metric, *mean_and_sd(values), len(values), paper.get(row, {}).get(metric))
                lines.append(line)
    schema = {"row": pl.String, "metric": pl.String, "mean": pl.Float64, "sd": pl.Float64, "seeds": pl.Int64}
    return pl.DataFrame(lines, schema={**schema, "paper": pl.Float64}, orient="row")


def cell(mean: float, sd: float | None, digits: int = 3) -> str:
    """Mean and deviation as text.

    >>> cell(0.7251, 0.0104), cell(0.7251, None)
    ('0.725 ± 0.010', '0.725')
    """
    return f"{mean:.{digits}f}" + (f" ± {sd:.{digits}f}" if sd is not None else "")


def result_table(summary: pl.DataFrame, metrics: Sequence[str]) -> Table:
    """Header and cells of a table of `metrics` from `summarise`; rows and metrics without any value are left out.

    Columns with the paper's values follow those metrics that have any.
    """
    values = {(line["row"], line["metric"]): line for line in summary.iter_rows(named=True)}
    rows = [
        row for row in summary["row"].unique(maintain_order=True) if any((row, metric) in values for metric in metrics)
    ]
    metrics = [metric for metric in metrics if any((row, metric) in values for row in rows)]
    papers = [m for m in metrics if any(values.get((row, m), {}).get("paper") is not None for row in rows)]
    header = ["row", *map(metric_label, metrics), *(f"paper {metric_label(metric)}" for metric in papers)]
    body = []
    for row in rows:
        lines = {metric: values.get((row, metric)) for metric in metrics}
        cells = [cell(line["mean"], line["sd"]) if line else "–" for line in lines.values()]
        printed = [lines[metric]["paper"] if lines[metric] else None for metric in papers]
        body.append([row_label(row), *cells, *("–" if value is None else f"{value:.4f}" for value in printed)])
    return header, body


def metric_label(metric: str, arrow: bool = False) -> str:
    """A metric's name for readers, with the direction in which it is better where asked for.

    >>> metric_label("rmse_stars"), metric_label("rmse", arrow=True), metric_label("cited_real")
    ('RMSE (stars)', 'RMSE ↓', 'cited real')
    """
    label = METRIC_LABELS.get(metric, metric.replace("_", " "))
    return f"{label} {'↓' if metric in LOWER_IS_BETTER else '↑'}" if arrow else label


def training_fraction(record: Mapping) -> float:
    """Share of the training data that a run used, `details.training_fraction`; 1.0 where the run does not say."""
    fraction = record.get("details", {}).get("training_fraction")
    fraction = 1.0 if fraction is None else float(fraction)
    if not 0 < fraction <= 1:
        raise ValueError(
            f"details.training_fraction of seed {record['seed']} is {fraction:g}; it must be in (0, 1], such as 0.25."
        )
    return fraction


def explanation_metrics(summary: pl.DataFrame) -> list[str]:
    """The metrics of `summarise` that do not measure predictions, in the order in which they occur."""
    return [metric for metric in summary["metric"].unique(maintain_order=True) if metric not in PREDICTION_METRICS]


def p_text(p_value: float) -> str:
    """A p-value for readers.

    >>> p_text(0.0312), p_text(2e-5)
    ('0.031', '< 0.001')
    """
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def control_table(results: Sequence[Mapping]) -> Table:
    """Header and cells of the controls, mean +- deviation over seeds; nested controls are named "control: metric"."""
    values: dict[str, list[float]] = {}
    for record in results:
        for control, value in record["controls"].items():
            nested = value if isinstance(value, Mapping) else {None: value}
            for metric, number in nested.items():
                if isinstance(number, int | float) and not isinstance(number, bool):
                    name = control.replace("_", " ")
                    name = name if metric is None else f"{name}: {metric_label(metric)}"
                    values.setdefault(name, []).append(number)
    return ["control", "value"], [[name, cell(*mean_and_sd(numbers))] for name, numbers in values.items()]


def difference_table(
    predictions: Mapping[int, pl.DataFrame], comparisons: Sequence[tuple[str, str]] = COMPARISONS
) -> Table:
    """Header and cells of AUC differences on the same test samples, users resampled (95 % bootstrap interval).

    Args:
        predictions: {seed: predictions.parquet of that run}.
        comparisons: (row without, row with); pairs whose scores are not in the file are left out.
    """
    body = []
    for without, with_it in comparisons:
        for seed, frame in predictions.items():
            columns = [f"score_{without}", f"score_{with_it}"]
            if not set(columns) <= set(frame.columns):
                continue
            scored = frame.drop_nulls(columns)
            found = auc_difference(scored["label"], scored[columns[0]], scored[columns[1]], users=scored["user_id"])
            interval = f"{found['low']:+.3f} to {found['high']:+.3f}"
            difference = f"{found['difference']:+.3f}"
            body.append([f"{row_label(with_it)} against {row_label(without)}", str(seed), difference, interval])
    return ["comparison", "seed", "AUC difference", "95 % interval"], body


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Markdown, aligned for reading in a terminal too; the first column to the left, the others to the right.

    >>> print(markdown_table(["row", "AUC"], [["a|b", "0.5"]]))
    | row  | AUC |
    | :--- | --: |
    | a\\|b | 0.5 |
    """
    lines = [[" ".join(str(text).split()).replace("|", "\\|") for text in line] for line in (header, *body)]
    widths = [max(3 + (column == 0), *(len(line[column]) for line in lines)) for column in range(len(header))]

    def joined(line: Sequence[str]) -> str:
        cells = [line[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(line[1:], widths[1:]))]
        return f"| {' | '.join(cells)} |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([joined(lines[0]), joined(rule), *map(joined, lines[1:])])


def latex_table(header: Sequence[str], body: Sequence[Sequence[str]], caption: str) -> str:
    """A LaTeX table in the style of the booktabs package, every special character escaped."""
    lines = [" & ".join(map(latex_escape, line)) + r" \\" for line in (header, *body)]
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

    >>> print(latex_escape("50 % of a_b ± 1"))
    50 \% of a\_b $\pm$ 1
    """
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
    special |= {character: f"\\{character}" for character in "&%$#_{}"} | {"–": "--"}
    return "".join(special.get(character, character) for character in text)
