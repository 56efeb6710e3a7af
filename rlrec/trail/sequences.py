"""One training sequence of TRAIL: prompt and answer as token ids, labels on the score alone (eq. 9, appendix A.3).

The tokens after the end marker are in no loss: nothing after them is a label or an explanation's embedding.
"""

import random
import re
from collections.abc import Mapping

from transformers import PreTrainedTokenizerBase

from rlrec.trail.markers import EXPLANATION_END, EXPLANATION_START

SCORE = re.compile(r'"predict_popularity_score"\s*:\s*"?\s*(-?\d+(?:\.\d+)?)(?=[\s",}])')
COMPACT_SCORE = re.compile(rf"\s*(\d+)(?=\s+{EXPLANATION_START})")
PROBLEMS = ("no score", "no explanation between the markers", "answer longer than max_length")


def score_span(answer: str) -> tuple[int, int] | None:
    """First and end character of the score's number; None where there is none.

    The answer is a JSON object, or the compact style's number before the explanation.

    >>> answer = '{"predict_popularity_score": "12.5", "explanation_of_score": "..."}'
    >>> answer[slice(*score_span(answer))], score_span('{"predict_popularity_score": "many"}')
    ('12.5', None)
    """
    found = COMPACT_SCORE.match(answer) or SCORE.search(answer)
    return found.span(1) if found else None


def has_explanation(answer: str) -> bool:
    """Whether there is text between the last start marker and an end marker after it."""
    _, start, explanation = answer.rpartition(EXPLANATION_START)
    explanation, end, _ = explanation.partition(EXPLANATION_END)
    return bool(start and end and explanation.strip())


def prompt_ids(prompt: str | list[Mapping[str, str]], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The prompt as it is at inference: text, or messages followed by the template's opening of an answer."""
    if isinstance(prompt, str):
        return tokenizer(prompt)["input_ids"]
    return tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]


def fit_prompt(ids: list[int], length: int, bos_token_id: int | None) -> list[int]:
    """The last `length` ids of a prompt; a leading BOS stays in front.

    >>> fit_prompt([1, 5, 6, 7], 3, bos_token_id=1), fit_prompt([5, 6, 7], 2, bos_token_id=1)
    ([1, 6, 7], [6, 7])
    """
    first = 1 if 0 < length < len(ids) and ids[0] == bos_token_id else 0
    return ids[:first] + ids[len(ids) - max(length - first, 0) :] if length < len(ids) else ids


def encode(
    row: Mapping,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
    require_explanation: bool = True,
    supervise_score_end: bool = True,
    explanation_share: float = 0.0,
    supervise: bool = True,
) -> dict:
    """`input_ids` and `labels` of a row with `prompt` and `completion` (the answer, or one message that holds it).

    Prompt and answer are tokenized apart, since at inference the prompt is tokenized alone. A share of the answer's
    tokens, drawn by a hash of it, can be labels too, and without `supervise` alone.

    Returns:
        Also `cut` (the prompt's start was left out) and `problem`: empty, or one of `PROBLEMS` and then no ids.
    """
    answer = row["completion"] if isinstance(row["completion"], str) else row["completion"][-1]["content"]
    failed = {"input_ids": [], "labels": [], "cut": False}
    if (span := score_span(answer)) is None:
        return {**failed, "problem": PROBLEMS[0]}
    if require_explanation and not has_explanation(answer):
        return {**failed, "problem": PROBLEMS[1]}
    encoded = tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True)
    ids, (first, end) = encoded["input_ids"], span
    prompt = prompt_ids(row["prompt"], tokenizer)
    room = len(prompt) if max_length is None else max_length - len(ids)
    if room < 1:
        return {**failed, "problem": PROBLEMS[2]}
    kept = fit_prompt(prompt, room, tokenizer.bos_token_id)
    end += supervise_score_end
    labels = [
        token if start < end and stop > first and start < stop else -100
        for token, (start, stop) in zip(ids, encoded["offset_mapping"])
    ]
    if explanation_share:
        drawn = random.Random(answer).random  # the same tokens whenever the row is encoded
        chosen = [drawn() < explanation_share for _ in ids]
        # a score is a label or not by `supervise` alone, or the ablation without L_sup would still be told some
        labels = [token if (chosen[i] if labels[i] == -100 else supervise) else -100 for i, token in enumerate(ids)]
    return {
        "input_ids": kept + ids,
        "labels": [-100] * len(kept) + labels,
        "cut": len(kept) < len(prompt),
        "problem": "",
    }
