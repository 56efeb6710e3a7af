"""Tables from results: rows are systems, columns metrics, cells mean +- standard deviation over seeds.

Runs that predict clicks (ExpCTR) have AUC first, runs that predict ratings (RecPIE) RMSE, and arrows for the direction
in which each metric is better.

The paper's values (ExpCTR's Table 1 in expctr_table_1.json, RecPIE's tables of accuracy in recpie_tables.json) stand
beside a row where the dataset has them. They were measured on the paper's own samples with Llama 3 8B or 3.1 8B, so
they are a landmark and not a like-for-like comparison.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import polars as pl

from rlrec.evaluation.ctr import TEMPERATURE_BOUNDS
from rlrec.evaluation.significance import auc_difference, mean_and_sd, rmse_difference

CLICK_METRICS = ("auc", "log_loss", "log_loss_t1", "mae", "rmse")
RATING_METRICS = ("rmse", "mae", "rmse_stars", "mae_stars", "auc", "log_loss")
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
    "user_mean": "user mean",
    "global_mean": "global mean",
    "user_mean_plus_item_mean": "user mean + item mean",
}
BASES = {
    **HEURISTICS,
    "icl": "ICL",
    "deepfm": "DeepFM",
    "fm": "FM",
    "sasrec": "SASRec",
    "bert4rec": "BERT4Rec",
    "ncf": "NCF",
    "gru": "GRU, no text",
    "expctr_llm": "ExpCTR-LLM",
    "expctr_aug": "ExpCTR-Aug",
    "recpie_free": "RecPIE, free parameters (ablation 1)",
    "recpie": "RecPIE",
    "seller": "SELLER",
    "trail": "TRAIL",
}
PARTS = {
    r"user_mean": " + user mean",
    r"bootstrap": ", before RL",
    r"llm_embeddings": ", LLM embeddings (ablation 3)",
    r"alternative_wording": ", other wording (ablation 2)",
    r"ncf": ", NCF",
    r"like_rate": " + like-rate",
    r"item_mean": " + item mean",
    r"more_lc": ", more LC",
    r"after_lc": ", after LC",
    r"mean_?(\d+)": r", mean of \1",
    r"shuffled_explanations?": ", explanations shuffled",
    r"shuffled_labels?": ", labels shuffled",
}
# Known pairs worth an interval: (what one would have without it, the system). RecPIE's variants are added as found.
COMPARISONS = (
    ("gru", "recpie"),
    ("gru", "recpie_bootstrap"),
    ("gru", "recpie_free"),
    ("gru_like_rate_item_mean", "recpie"),
    ("item_mean", "recpie"),
    ("ncf", "recpie_ncf"),
    ("recpie_bootstrap", "recpie"),
    ("recpie_free", "recpie"),
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
    >>> row_label("recpie_free"), row_label("recpie_positive_only"), row_label("gru_like_rate_item_mean")
    ('RecPIE, free parameters (ablation 1)', 'RecPIE, positive only', 'GRU, no text + like-rate + item mean')
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
def paper_values(dataset: str, system: str = "expctr", fraction: float = 1.0) -> Mapping[str, Mapping[str, float]]:
    """{row: {metric: value}} as the system's paper prints it; empty where it has nothing.

    Args:
        dataset: "book-crossing", "ml-20m" or "amazon-books" (ExpCTR's Table 1); "google-local", "yelp", "tripadvisor"
            or "amazon-movies" (RecPIE's tables of accuracy).
        system: "expctr" or "recpie"; others have no table.
        fraction: of the training data; RecPIE has 0.12, 0.25 and 0.5 as well (Tables 6 and 12).

    >>> paper_values("ml-20m")["expctr_aug"]["auc"]
    0.6951
    >>> paper_values("yelp", "recpie")["recpie"]["rmse"], paper_values("yelp", "recpie", 0.25)["recpie"]["rmse"]
    (0.202, 0.2356)
    """
    files = {"expctr": "expctr_table_1.json", "recpie": "recpie_tables.json"}
    if system not in files:
        return {}
    tables = json.loads((Path(__file__).parent / files[system]).read_text(encoding="utf-8"))
    if fraction < 1:
        return tables.get("training_fractions", {}).get(dataset, {}).get(f"{100 * fraction:g}", {})
    return tables["datasets"].get(dataset, {})


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


def prediction_metrics(summary: pl.DataFrame) -> tuple[str, ...]:
    """The metrics of the table of predictions, in order: RATING_METRICS where RMSE in stars is among them.

    >>> prediction_metrics(pl.DataFrame({"metric": ["auc", "rmse_stars"]}))[0]
    'rmse'
    """
    return RATING_METRICS if predicts_ratings(summary) else CLICK_METRICS


def predicts_ratings(summary: pl.DataFrame) -> bool:
    """Whether the runs predict ratings, in which case they report RMSE in stars."""
    return "rmse_stars" in summary["metric"].to_list()


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
    """The table of predictions: click metrics as ever, or rating metrics to four digits and with arrows."""
    ratings = predicts_ratings(summary)
    return result_table(summary, prediction_metrics(summary), arrows=ratings, digits=4 if ratings else 3)


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
    predictions = prediction_metrics(summary)
    return [metric for metric in summary["metric"].unique(maintain_order=True) if metric not in predictions]


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
    predictions: Mapping[int, pl.DataFrame], comparisons: Sequence[tuple[str, str]] | None = None, metric: str = "auc"
) -> Table:
    """Header and cells of differences on the same test samples, users resampled (95 % bootstrap interval).

    Args:
        predictions: {seed: predictions.parquet of that run}.
        comparisons: (row without, row with); pairs whose scores are not in the file are left out. None: COMPARISONS,
            and every other variant of RecPIE against RecPIE.
        metric: "auc", or "rmse" for runs whose file has the scaled rating as `target`; others have no RMSE lines.
    """
    body = []
    if comparisons is None:
        comparisons = _comparisons(column for frame in predictions.values() for column in frame.columns)
    for without, with_it in comparisons:
        for seed, frame in predictions.items():
            columns = [f"score_{without}", f"score_{with_it}"]
            truth = "label" if metric == "auc" else "target"
            if not {truth, *columns} <= set(frame.columns):
                continue
            scored = frame.drop_nulls([truth, *columns])
            differ = auc_difference if metric == "auc" else rmse_difference
            found = differ(scored[truth], scored[columns[0]], scored[columns[1]], users=scored["user_id"])
            digits = 3 if metric == "auc" else 4
            interval = f"{found['low']:+.{digits}f} to {found['high']:+.{digits}f}"
            difference = f"{found['difference']:+.{digits}f}"
            body.append([f"{row_label(with_it)} against {row_label(without)}", str(seed), difference, interval])
    better = "" if metric == "auc" else " (below 0: better)"
    return ["comparison", "seed", f"{metric_label(metric)} difference{better}", "95 % interval"], body


def _comparisons(columns: Iterable[str]) -> list[tuple[str, str]]:
    variants = [
        column.removeprefix("score_") for column in dict.fromkeys(columns) if column.startswith("score_recpie_")
    ]
    known = {row for pair in COMPARISONS for row in pair}
    return [*COMPARISONS, *((row, "recpie") for row in variants if row not in known)]


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
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$",
               "↓": r"$\downarrow$", "↑": r"$\uparrow$", "≥": r"$\geq$", "≤": r"$\leq$"}  # fmt: skip
    special |= {character: f"\\{character}" for character in "&%$#_{}"} | {"–": "--"}
    return "".join(special.get(character, character) for character in text)
