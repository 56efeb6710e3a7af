"""The prose a run leaves: a case study (ExpCTR's Table 2) and a model card, both Markdown, both from files alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from rlrec.tables import (
    HEURISTICS,
    control_table,
    explanation_metrics,
    markdown_table,
    prediction_table,
    predicts_ratings,
    result_table,
    row_label,
    summarise,
)

LONGEST_CELL = 700  # characters; some reviews are pages long

METHODS = {
    "expctr": "ExpCTR: PPO with a per-token KL penalty, rewarded first by how well a frozen language model predicts "
    "the user's rating from the explanation alone (LC), then by how much the explanation helps a recommender (IC).",
    "recpie": "RecPIE: alternating rounds of PPO on the explanations and training of the recommender that reads them.",
}


def case_study(
    predictions: pl.DataFrame, before: str = "icl", after: str = "expctr_llm", count: int = 6, seed: int = 0
) -> str:
    """Explanations of the same samples before and after training, side by side with what the user thought.

    Cases are drawn at random by `seed`, liked and disliked in turn, and not picked for their looks.

    Args:
        predictions: a run's predictions.parquet, with columns explanation_<before> and explanation_<after>.
        before, after: row names.
        count: cases.
    """
    missing = [row for row in (before, after) if f"explanation_{row}" not in predictions.columns]
    if missing:
        raise ValueError(
            f"predictions.parquet has no column explanation_{missing[0]}; write it with write_predictions."
        )
    rng = np.random.default_rng(seed)
    by_label = [rng.permutation(np.flatnonzero(predictions["label"].to_numpy() == label)) for label in (1, 0)]
    in_turn = [rows[place] for place in range(count) for rows in by_label if place < len(rows)]
    parts = []
    for number, row in enumerate(in_turn[:count], start=1):
        case = predictions.row(int(row), named=True)
        lines = [["history", _history(case)]] if case.get("history_titles") is not None else []
        lines += [["review", case["review"]]] if case.get("review") else []
        lines += [["true reasons", ", ".join(case["reasons"])]] if case.get("reasons") else []
        lines += [["truth", _truth(case)]]
        for name in (before, after):
            score = case.get(f"score_{name}")
            predicted = "" if score is None else f" (score {score:.2f})"
            lines.append([f"{row_label(name)}{predicted}", case[f"explanation_{name}"]])
        parts.append(f"### {number}. {_shortened(case.get('title') or case['item_id'])}\n\n{_case_table(lines)}")
    intro = (
        f"{len(parts)} test samples drawn at random (seed {seed}), liked and disliked in turn, none picked by hand."
    )
    return "\n\n".join(["## Case study", intro, *parts]) + "\n"


def _case_table(lines: Sequence[tuple[str, str]]) -> str:
    """Two columns without padding: these cells are sentences."""
    rows = ["| | |", "| --- | --- |"]
    return "\n".join([*rows, *(f"| **{name}** | {_shortened(text)} |" for name, text in lines)])


def _shortened(text: str) -> str:
    text = " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")
    return text if len(text) <= LONGEST_CELL else text[:LONGEST_CELL].rstrip() + " …"


def _history(case: Mapping) -> str:
    groups = {1: [], 0: []}
    for title, label in zip(case["history_titles"], case.get("history_labels") or [], strict=True):
        groups[label].append(f"“{title}”")
    told = [f"{word} {', '.join(groups[label])}" for word, label in (("liked", 1), ("disliked", 0)) if groups[label]]
    return "; ".join(told) or "none"


def _truth(case: Mapping) -> str:
    rating = case.get("rating")
    return ("liked" if case["label"] else "disliked") + ("" if rating is None else f" (rating {rating:g})")


def model_card(results: Sequence[Mapping]) -> str:
    """A model card (Markdown with a YAML header) from the results of one system and dataset, one per seed.

    `details` of the first result may hold base_model, dataset_license, dataset_size, domain, encoder, license,
    hyperparameters (a mapping) and how_to_load (Python); what is missing is left out of the card.
    """
    summary = summarise(results)
    first, details = results[0], results[0].get("details", {})
    system, dataset = first["system"], first["dataset"]
    base_model = details.get("base_model")
    header = {
        "library_name": "peft",
        "tags": [
            "recommendation",
            "explainable-recommendation",
            "reinforcement-learning",
            "ppo",
            "trl",
            "rlrec",
            system,
        ],
        "pipeline_tag": "text-generation",
        "metrics": ["mse", "mae", "roc_auc"] if predicts_ratings(summary) else ["roc_auc"],
    }
    if base_model and _is_hub_name(base_model):
        header["base_model"] = base_model
    if details.get("license"):
        header["license"] = details["license"]
    about = {
        "base model": base_model,
        "text encoder": details.get("encoder"),
        "dataset": dataset,
        "samples": details.get("dataset_size"),
        "licence of the data": details.get("dataset_license") or "see the dataset's own terms; no data is included",
        "seeds": ", ".join(str(record["seed"]) for record in results),
        "git revision": first.get("git_revision"),
        "command": first.get("command") and f"`{first['command']}`",
    }
    sections = [
        f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---",
        f"# {system} on {dataset}",
        METHODS.get(system, f"A policy that explains recommendations, trained with {system}."),
        "\n".join(f"- **{name}**: {_shortened(value)}" for name, value in about.items() if value),
        "## Results",
        markdown_table(*prediction_table(summary)),
        _reading(summary),
    ]
    quality = result_table(summary, explanation_metrics(summary))
    controls = control_table(results)
    if quality[1]:
        sections += ["### The explanations themselves", markdown_table(*quality)]
    if controls[1]:
        sections += ["### Controls", markdown_table(*controls)]
    if details.get("hyperparameters"):
        lines = [[name, str(value)] for name, value in details["hyperparameters"].items()]
        sections += ["## Hyperparameters", markdown_table(["name", "value"], lines)]
    sections += ["## How to load", f"```python\n{details.get('how_to_load') or _how_to_load(base_model)}\n```"]
    sections += ["## Limitations", _limitations(dataset)]
    return "\n\n".join(sections) + "\n"


def _is_hub_name(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).exists()


def _reading(summary: pl.DataFrame) -> str:
    """One honest sentence: where the best explained row stands against the best row that reads no text."""
    if predicts_ratings(summary):
        return _reading_of_ratings(summary)
    auc = dict(summary.filter(pl.col("metric") == "auc").select("row", "mean").iter_rows())
    heuristics = [row for row in auc if row in HEURISTICS]
    explained = [row for row in auc if row.startswith(("expctr", "recpie"))]
    if not heuristics or not explained:
        return "Scores are on held-out samples; AUC 0.5 is chance."
    bar, best = max(heuristics, key=auc.get), max(explained, key=auc.get)
    relation = "above" if auc[best] > auc[bar] else "not above"
    return (
        f"The best row with explanations ({row_label(best)}, AUC {auc[best]:.3f}) is {relation} the best row that "
        f"reads no text ({row_label(bar)}, AUC {auc[bar]:.3f}). Scores are on held-out samples; AUC 0.5 is chance."
    )


def _reading_of_ratings(summary: pl.DataFrame) -> str:
    """The same for ratings: how far RMSE fell against the recommender without explanations and the best heuristic."""
    rmse = dict(summary.filter(pl.col("metric") == "rmse").select("row", "mean").iter_rows())
    about = "Ratings are scaled to [0, 1] for RMSE and MAE; AUC is of liked against disliked; all on held-out samples."
    others = [row for row in rmse if row == "gru" or row in HEURISTICS]
    if "recpie" not in rmse or not others:
        return about
    told = [
        f"{abs(1 - rmse['recpie'] / rmse[row]):.1%} {'below' if rmse['recpie'] < rmse[row] else 'above'} "
        f"{row_label(row)} ({rmse[row]:.4f})"
        for row in sorted(others, key=rmse.get)
    ]
    return f"The RMSE of RecPIE ({rmse['recpie']:.4f}) is {', '.join(told)}. {about}"


def _how_to_load(base_model: str | None) -> str:
    base = base_model if base_model and _is_hub_name(base_model) else "FOLDER_OF_THE_BASE_MODEL"
    return (
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'base = AutoModelForCausalLM.from_pretrained("{base}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{base}")\n'
        'policy = PeftModel.from_pretrained(base, "FOLDER_OF_THE_ADAPTER")'
    )


def _limitations(dataset: str) -> str:
    points = [
        "An explanation is rewarded for predicting a rating. It can be predictive without being the reason the user "
        "would give; citation checks show whether its evidence is real, not whether it was decisive.",
        "Much of what such texts predict is in base rates (how often the user likes things, how liked the item is). "
        "The heuristic rows show how much.",
        f"Trained and tested on {dataset} alone; other domains, languages and prompts were not tried.",
        "Explanations describe the tastes of real people where the data does; check them before showing them.",
    ]
    if dataset.startswith(("simulated", "smoke")):
        points.append(
            "The data is simulated: users, items and ratings are generated, so figures say nothing about people."
        )
    return "\n".join(f"- {point}" for point in points)
