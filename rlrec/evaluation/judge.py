"""A language model's marks for TRAIL's explanations: four dimensions, each from 0 to 1.

Paper: Zhang et al., "Following the TRAIL" (2026), section 5.2.4 and Table 6 (the judge's prompt, whose criteria stand
here as printed; the paper's judge is GPT-4.1-mini).

Departures:

1. Table 6 names no keys and asks for a short comment somewhere in "JSON"; the prompt here ends with the form wanted
   (not valid JSON itself, so that copying it gives no marks), and has its inputs in tags, like the paper's others.
2. A window of the history is named after the month in which it starts, as in Table 7: with 30 days a month can stand
   there twice.
3. The first question is answered greedily, a repeated one by sampling: a greedy model would repeat its nonsense.

A row without usable marks has None and a reason, never 0, and takes no part in a mean.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path

import polars as pl

from rlrec.asking import Ask, NoAnswer, append_to_cache, ask_all, read_cache

DIMENSIONS = ("trend_accuracy", "metadata_faithfulness", "predictive_consistency", "reasoning_coherence")
KEY_VARIABLE = "RLREC_JUDGE_API_KEY"
PROMPT = """### Instruction:
Your goal is to strictly and objectively assess the explanation's quality. You will be given the true \
historical trend data, item description and metadata, the prediction timestamp, the ground-truth and predicted \
popularity scores, and the model's generated explanation. Please rate the explanation from 4 perspectives \
(scores between 0 and 1) and give a short comment:
1. trend_accuracy: how the explanation describes the historical trend - does it accurately reflect the real \
trend's direction, peaks, and fluctuations? Give a score between 0 and 1 for how truthful it is with respect \
to the historical trend, where 1 means completely accurate and 0 means completely inconsistent.
2. metadata_faithfulness: metadata - are the mentioned product attributes (such as item name, item special \
feature, etc.) actually present well in the provided item description? Give a score between 0 and 1 for how \
truthful it is with respect to the metadata, where 1 means completely accurate and 0 means completely \
inconsistent.
3. predictive_consistency: Evaluate whether the explanation's reasoning about future popularity makes sense \
given the past trend. If the trend shows steady growth and the explanation predicts continued or strong \
demand, that's consistent and should get a high score. If the explanation predicts something that clearly \
contradicts the trend without any justification, that's inconsistent and should get a low score. Rate it from \
0 to 1, where 1 means highly consistent and reasonable.
4. reasoning_coherence: Give a score from 0 to 1 based on how logical, consistent, and well-written the \
explanation is. Do not judge formatting or section structure; focus only on clarity, coherence, and internal \
logic.

### Inputs:
<ItemDescription>{description}</ItemDescription>
<PopularityHistory>{history}</PopularityHistory>
<InferenceTimestamp>{timestamp}</InferenceTimestamp>
<GroundTruthScore>{popularity}</GroundTruthScore>
<PredictedScore>{score}</PredictedScore>
<Explanation>{explanation}</Explanation>

Return your output in JSON: {{"trend_accuracy": <score>, "metadata_faithfulness": <score>, \
"predictive_consistency": <score>, "reasoning_coherence": <score>, "comment": "<short comment>"}}
"""


def judge_prompt(row: Mapping, window_days: int = 30) -> str:
    """The judge's prompt (Table 6) of one explanation.

    Args:
        row: description, history (users per window, oldest first), window_start (seconds), popularity (true),
            score (predicted) and explanation.
    """
    start = datetime.fromtimestamp(row["window_start"], timezone.utc)
    history = row["history"]
    months = (start - timedelta(days=window_days * back) for back in range(len(history), 0, -1))
    written = ", ".join(f"{month:%Y-%m}: {count}" for month, count in zip(months, history))
    return PROMPT.format(
        description=row["description"] or "no description",
        history=written or "No historical popularity trend.",
        timestamp=f"{start:%Y-%m-%d}",
        popularity=f"{row['popularity']:.10g}",
        score="missing" if row["score"] is None or math.isnan(row["score"]) else f"{row['score']:.10g}",
        explanation=row["explanation"],
    )


def parse_marks(answer: str) -> dict[str, float]:
    """The four marks in a judge's answer: the first JSON object in it that has them all, whatever stands around it.

    A mark is a number, a number in quotes, or an object with the number as its "score".

    Raises:
        NoAnswer: there is no such object ("nonsense"), or a mark is not within [0, 1] ("out of range").

    >>> parse_marks('Sure: {"trend_accuracy": 1, "metadata_faithfulness": "0.5", "predictive_consistency": '
    ...             '{"score": 0.25, "comment": "so so"}, "Reasoning Coherence": 0}')["predictive_consistency"]
    0.25
    """
    for start in (match.start() for match in re.finditer(r"\{", answer)):
        try:
            found, _ = json.JSONDecoder().raw_decode(answer, start)
        except (json.JSONDecodeError, RecursionError):
            continue
        named = {re.sub(r"[^a-z]+", "_", key.lower()).strip("_"): value for key, value in found.items()}
        marks = {name: _number(named.get(name)) for name in DIMENSIONS}
        if None in marks.values():
            continue
        if not all(0 <= mark <= 1 for mark in marks.values()):  # NaN too
            raise NoAnswer("out of range")
        return marks
    raise NoAnswer("nonsense")


def _number(value) -> float | None:
    if isinstance(value, dict):
        value = value.get("score")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def judge(
    frame: pl.DataFrame,
    ask: Ask,
    cache: str | Path | None = None,
    *,
    name: str | None = None,
    attempts: int = 4,
    backoff: float = 1.0,
    workers: int = 4,
    give_up_after: int = 20,
    window_days: int = 30,
    progress: bool = True,
) -> tuple[pl.DataFrame, dict]:
    """Mark each explanation, and say how many could not be marked, and why.

    Args:
        frame: description, history, window_start, popularity, score, explanation; rows without an explanation are
            not asked about.
        ask: an `Endpoint` or `LocalModel` of rlrec/asking.py, or any function (prompt, attempt) -> answer that raises
            NoAnswer.
        cache: JSON-lines file of the answers so far, by hash of judge and prompt: a second call asks only what is
            still missing. One process at a time may write it. None keeps nothing.
        name: of the judge, part of the hash; default `ask.name`.
        attempts: questions per row at most.
        backoff: seconds before the second attempt, doubled before each further one (or as long as the endpoint asks
            for, up to a minute).
        workers: questions under way at once; 1 for a local model.
        give_up_after: after so many rows in a row without any answer the rest is not asked ("gave up").
        window_days: length of a window.
        progress: whether to show a bar.

    Returns:
        The frame with a column per dimension (null where missing) and `judge_problem` (the reason, else null); and a
        summary: judge, rows, judged, missing, problems {reason: rows}, and the mean of each dimension over the rows
        judged (None without any).

    Raises:
        ValueError: columns missing, or an argument outside its range.
    """
    needed = ("description", "history", "window_start", "popularity", "score", "explanation")
    if missing := [column for column in needed if column not in frame.columns]:
        raise ValueError(f"The explanations have no column {', '.join(missing)}; the judge needs {', '.join(needed)}.")
    name = name or ask.name
    prompts = {}  # row -> (key, prompt)
    for number, row in enumerate(frame.select(needed).iter_rows(named=True)):
        if row["explanation"] and row["explanation"].strip():
            prompt = judge_prompt(row, window_days)
            prompts[number] = (hashlib.sha256(f"{name}\0{prompt}".encode()).hexdigest(), prompt)
    answers = read_cache(cache, lambda record: parse_marks(json.dumps(record["marks"]))) if cache is not None else {}

    def keep(key: str, answer: str, marks: dict[str, float]) -> None:
        if cache is not None:
            append_to_cache(cache, {"key": key, "judge": name, "marks": marks, "answer": answer})

    new, problems = ask_all(
        {key: prompt for key, prompt in prompts.values() if key not in answers},
        ask,
        parse_marks,
        keep,
        attempts=attempts,
        backoff=backoff,
        workers=workers,
        give_up_after=give_up_after,
        progress="Judging explanations" if progress else None,
    )
    answers |= new
    marks, reasons = [], []
    for number in range(frame.height):
        key = prompts[number][0] if number in prompts else None
        marks.append(answers.get(key, dict.fromkeys(DIMENSIONS)))
        reasons.append(None if key in answers else problems.get(key, "no explanation"))
    columns = [pl.Series(d, [row[d] for row in marks], dtype=pl.Float64) for d in DIMENSIONS]
    judged = frame.with_columns(*columns, pl.Series("judge_problem", reasons, dtype=pl.String))
    counts = Counter(reason for reason in reasons if reason is not None)
    summary = {
        "judge": name,
        "rows": frame.height,
        "judged": frame.height - counts.total(),
        "missing": counts.total(),
        "problems": dict(counts.most_common()),
        **{dimension: judged[dimension].mean() for dimension in DIMENSIONS},
    }
    return judged, summary
