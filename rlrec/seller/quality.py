"""How close written explanations come to the ground truth, and how often what they say is true.

BLEU and BERTScore are the paper's Table 3. BLEU is sacrebleu's over all test samples, divided by 100.

On the simulated world the true reasons are known, so that three things can be checked by rule: whether the first
sentence names all the item's categories and no other (`categories_right`), whether the first category that the second
sentence names is the one the user was in (`interest_right`), and the same of the mood (`mood_right`).
"""

from collections.abc import Sequence

import polars as pl
from transformers import AutoModel

from rlrec.evaluation.reasons import aspect_pattern
from rlrec.evaluation.text import Checkpoint, bert_score, bleu

Explanations = Sequence[tuple[str, str]]  # on the categories, on the intent


def text_metrics(texts: Sequence[str], references: Sequence[str], bertscore_model: str | None, device) -> dict:
    """bleu, and bertscore (the mean F1) where there is a model for it."""
    metrics = {"bleu": bleu(texts, references)[0] / 100}
    if bertscore_model is not None:
        scores, _ = bert_score(Checkpoint.load(bertscore_model, AutoModel, str(device), 512), texts, references)
        metrics["bertscore"] = float(scores.mean())
    return metrics


def reason_metrics(explanations: Explanations, samples: pl.DataFrame, moods: Sequence[str]) -> dict[str, float]:
    """The three shares of this module's docstring.

    Args:
        samples: N rows with categories and `reasons`, [mood, category].
        moods: all there are.

    >>> samples = pl.DataFrame({"categories": [["war", "drama"]], "reasons": [["tense", "war"]]})
    >>> told = ("This film belongs to war and drama.", "You turn to war after drama, in the mood for something grand.")
    >>> reason_metrics([told], samples, ["tense", "grand"])
    {'categories_right': 1.0, 'interest_right': 1.0, 'mood_right': 0.0}
    """
    categories = set(samples["categories"].list.explode().drop_nulls())
    named, mood = aspect_pattern(categories), aspect_pattern(moods)
    right = {"categories_right": 0, "interest_right": 0, "mood_right": 0}
    for (kind, intent), row in zip(explanations, samples.iter_rows(named=True), strict=True):
        reasons = set(row["reasons"])
        right["categories_right"] += set(named.findall(kind)) == set(row["categories"])
        for name, pattern in (("interest_right", named), ("mood_right", mood)):
            first = pattern.search(intent)
            right[name] += first is not None and first.group() in reasons
    return {name: count / len(samples) for name, count in right.items()}
