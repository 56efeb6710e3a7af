"""The model card of a run, from its results file alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl
import yaml

from rlrec.case_study import shortened
from rlrec.row_names import HEURISTICS, UPPER_BOUND, row_label
from rlrec.tables import (
    CLICKS,
    RANKINGS,
    RATINGS,
    UTILITY,
    control_table,
    defused,
    explanation_table,
    group_table,
    markdown_table,
    metric_label,
    prediction_table,
    summarise,
    task_of,
)

QUOTE = "'"  # for backticks, which would end the code that a text stands in

METHODS = {
    "expctr": "ExpCTR: PPO with a per-token KL penalty, rewarded first by how well a frozen language model predicts "
    "the user's rating from the explanation alone (LC), then by how much the explanation helps a recommender (IC).",
    "recpie": "RecPIE: alternating rounds of PPO on the explanations and training of the recommender that reads them.",
    "trail": "TRAIL: from an item's text and popularity history, the model writes its popularity in the next window "
    "and an explanation; all users get the items in the order of that number. Trained are the number, by cross "
    "entropy, and the explanations' embeddings, by a contrastive loss that draws samples of similar history and text "
    "together.",
    "seller": "SELLER: a frozen language model explains why a user chose an item. Of the user's sequence it reads two "
    "vectors, one of SASRec's states and one of the items' texts, and the categories; the adapters that make the "
    "vectors are trained on ground-truth explanations.",
}
REWARD_LIMITS = (
    "An explanation is rewarded for predicting a rating. It can be predictive without being the reason the user "
    "would give; citation checks show whether its evidence is real, not whether it was decisive.",
    "Much of what such texts predict is in base rates (how often the user likes things, how liked the item is). "
    "The heuristic rows show how much.",
)
TRAIL_LIMITS = (
    "Everybody gets the same list: nothing here knows what one user likes, and showing what is popular makes it more "
    "popular.",
    "Popularity is the number of users in a window of the data. Counting the past alone predicts much of it; the "
    "heuristic rows show how much.",
    "There are no true explanations to train on: the texts were the untrained model's own, written without knowing "
    "the true number. Trend accuracy shows whether what they say of the past holds, not whether it is why an item "
    "became popular; what they say of an item's features is not checked.",
)
SELLER_LIMITS = (
    "The generator sees the item that it explains. Utility asks whether a recommender that does not see it finds it "
    "with the explanation's help; an explanation that describes the item well does that without being the user's "
    "reason.",
    "Explanations are as true as those the adapters learned from (details.ground_truth of results.json).",
)
LEARNING_TAGS = {
    "seller": ["explanation-generation", "adapters"],
    "trail": ["popularity-prediction", "sft", "contrastive-learning"],
}
HUB_METRICS = {
    CLICKS: ["roc_auc"],
    RATINGS: ["mse", "mae", "roc_auc"],
    RANKINGS: ["hit_rate", "ndcg", "jaccard"],
    UTILITY: ["recall", "ndcg", "bleu"],
}


def model_card(results: Sequence[Mapping]) -> str:
    """A model card (Markdown with a YAML header) from the results of one system and dataset, one per seed.

    `details` of the first result may hold base_model, dataset_license, dataset_size, domain, encoder, license,
    hyperparameters (a mapping), popularity (the metadata of `popularity_data`), dropped ({reason: rows}) and
    how_to_load (Python); what is missing is left out of the card.
    """
    summary = summarise(results)
    first, details = results[0], results[0].get("details", {})
    system, dataset = first["system"], first["dataset"]
    base_model = details.get("base_model")
    header = {
        "library_name": "transformers" if system == "seller" else "peft",
        "tags": [
            "recommendation",
            "explainable-recommendation",
            *LEARNING_TAGS.get(system, ["reinforcement-learning", "ppo"]),
            "trl",
            "rlrec",
            system,
        ],
        "pipeline_tag": "text-generation",
        "metrics": HUB_METRICS[task_of(summary)],
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
        **_windows(details.get("popularity") or {}),
        "training answers": ", ".join(f"{name} {count}" for name, count in (details.get("dropped") or {}).items()),
        "licence of the data": details.get("dataset_license") or "see the dataset's own terms; no data is included",
        "seeds": ", ".join(str(record["seed"]) for record in results),
        "git revision": first.get("git_revision"),
        "command": first.get("command") and f"`{first['command'].replace('`', QUOTE)}`",
    }
    sections = [
        f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---",
        f"# {defused(system)} on {defused(dataset)}",
        METHODS.get(system, f"A policy that explains recommendations, trained with {system}."),
        "\n".join(f"- **{name}**: {shortened(value)}" for name, value in about.items() if value),
        "## Results",
        markdown_table(*prediction_table(summary)),
        _reading(summary),
    ]
    quality, groups = explanation_table(summary), group_table(summary)
    controls = control_table(results)
    if quality[1]:
        sections += ["### The explanations themselves", markdown_table(*quality)]
    if groups[1]:
        sections += ["### HR@10 by group of items (compare rows, not groups)", markdown_table(*groups)]
    if controls[1]:
        sections += ["### Controls", markdown_table(*controls)]
    if details.get("hyperparameters"):
        lines = [[name, str(value)] for name, value in details["hyperparameters"].items()]
        sections += ["## Hyperparameters", markdown_table(["name", "value"], lines)]
    sections += [
        "## How to load",
        f"```python\n{(details.get('how_to_load') or _how_to_load(system, base_model)).replace('```', QUOTE)}\n```",
    ]
    sections += ["## Limitations", _limitations(system, dataset)]
    return "\n\n".join(sections) + "\n"


def _is_hub_name(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).exists()


def _reading(summary: pl.DataFrame) -> str:
    """One honest sentence: where the best explained row stands against the best row that reads no text."""
    task = task_of(summary)
    if task is not CLICKS:
        reading = {RATINGS: _reading_of_ratings, RANKINGS: _reading_of_rankings, UTILITY: _reading_of_utility}
        return reading[task](summary)
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
    against = _against(rmse, "recpie", sorted(others, key=rmse.get))
    return f"The RMSE of RecPIE ({rmse['recpie']:.4f}) is {against}. {about}"


def _reading_of_rankings(summary: pl.DataFrame) -> str:
    """The same for rankings: TRAIL against the best heuristic, PARE and the untuned model, and how near the bound."""
    about = (
        "All users of a test window get one list; HR@10 is the share of them with one of their items in its top 10."
    )
    told = []
    for metric in RANKINGS.headline:
        values = dict(summary.filter(pl.col("metric") == metric).select("row", "mean").iter_rows())
        heuristics = sorted((row for row in values if row in HEURISTICS), key=values.get)
        others = [*heuristics[-1:], *(row for row in ("pare", "llm") if row in values)]
        others = [row for row in others if values[row] > 0]
        if "trail" not in values or not others:
            continue
        reached = values.get(UPPER_BOUND)
        reached = f", and {values['trail'] / reached:.0%} of the upper bound ({reached:.4f})" if reached else ""
        against = _against(values, "trail", others)
        told.append(f"The {metric_label(metric)} of TRAIL ({values['trail']:.4f}) is {against}{reached}.")
    return " ".join([*told, about])


def _reading_of_utility(summary: pl.DataFrame) -> str:
    """The same for utility: SELLER against XRec, random texts and the untuned model, and the ground truth's own."""
    about = "One recommender, trained on ground-truth explanations, ranks all items with each row's explanations."
    told = []
    for metric in UTILITY.headline:
        values = dict(summary.filter(pl.col("metric") == metric).select("row", "mean").iter_rows())
        others = [row for row in ("xrec", "random", "llm", "ground_truth") if values.get(row, 0) > 0]
        if "seller" in values and others:
            against = _against(values, "seller", others)
            told.append(f"The {metric_label(metric)} of SELLER ({values['seller']:.4f}) is {against}.")
    return " ".join([*told, about])


def _against(values: Mapping[str, float], row: str, others: Sequence[str]) -> str:
    """How far the value of `row` is below or above those of other rows, in words."""
    return ", ".join(
        f"{abs(1 - values[row] / values[other]):.1%} {'below' if values[row] < values[other] else 'above'} "
        f"{row_label(other)} ({values[other]:.4f})"
        for other in others
    )


def _windows(popularity: Mapping) -> dict[str, str]:
    """What the card tells of popularity windows."""
    if not popularity:
        return {}
    told = {name: popularity.get(name) for name in ("windows", "window_days", "first_day")}
    tested = (popularity.get("target_windows") or {}).get("test") or []
    return {
        "popularity windows": "{windows} of {window_days} days from {first_day}".format(**told),
        "test windows": ", ".join(map(str, tested)),
        "samples without history": popularity.get("cold_samples"),
    }


def _how_to_load(system: str, base_model: str | None) -> str:
    base = base_model if base_model and _is_hub_name(base_model) else "FOLDER_OF_THE_BASE_MODEL"
    if system == "seller":
        return "\n".join(
            [
                "from transformers import AutoModelForCausalLM",
                "",
                "from rlrec.policies.injection import InjectedLLM",
                "from rlrec.policies.sequence_adapter import SequenceAdapter",
                "",
                f'base = AutoModelForCausalLM.from_pretrained("{base}")',
                "# as adapter.json says: widths of SASRec's states and of the text encoder's, and positions",
                "adapter = SequenceAdapter(base.config.hidden_size, 64, 768, positions=0)",
                'model = InjectedLLM.load("FOLDER_OF_THE_ADAPTER", base, adapter).eval()',
                "# Prompts and answers: rlrec.seller.prompts.SellerPrompts; texts: rlrec.seller.trainer.write_texts.",
            ]
        )
    imports = ["from peft import PeftModel", "from transformers import AutoModelForCausalLM, AutoTokenizer"]
    markers = []
    if system == "trail":
        imports += ["", "from rlrec.trail.markers import add_markers"]
        markers = ["add_markers(base, tokenizer)  # <exp_start> and <exp_end>, whose rows the adapter holds"]
    lines = [
        *imports,
        "",
        f'base = AutoModelForCausalLM.from_pretrained("{base}")',
        f'tokenizer = AutoTokenizer.from_pretrained("{base}")',
        *markers,
        'policy = PeftModel.from_pretrained(base, "FOLDER_OF_THE_ADAPTER")',
    ]
    if system == "trail":
        lines += [
            "# Prompts and answers: rlrec.trail.prompts.TrendPrompts, its `prompt` and `parse`.",
            "# projection_head.safetensors beside the adapter is needed to go on training, not to predict.",
        ]
    return "\n".join(lines)


def _limitations(system: str, dataset: str) -> str:
    points = {"trail": TRAIL_LIMITS, "seller": SELLER_LIMITS}.get(system, REWARD_LIMITS)
    points = [
        *points,
        f"Trained and tested on {defused(dataset)} alone; other domains, languages and prompts were not tried.",
    ]
    if system != "trail":
        points.append(
            "Explanations describe the tastes of real people where the data does; check them before showing them."
        )
    if dataset.startswith(("simulated", "smoke")):
        points.append(
            "The data is simulated: users, items and ratings are generated, so figures say nothing about people."
        )
    return "\n".join(f"- {point}" for point in points)
