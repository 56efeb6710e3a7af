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
import http.client
import json
import math
import os
import re
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import polars as pl
from tqdm.auto import tqdm

DIMENSIONS = ("trend_accuracy", "metadata_faithfulness", "predictive_consistency", "reasoning_coherence")
KEY_VARIABLE = "RLREC_JUDGE_API_KEY"
LARGEST_ANSWER = 10_000_000  # bytes
LONGEST_WAIT = 60.0  # seconds, whatever an endpoint's Retry-After says
RETRIED_TEMPERATURE = 0.7
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

Ask = Callable[[str, int], str]  # (prompt, attempt from 0) -> answer; raises NoAnswer


class NoAnswer(Exception):
    """One attempt failed.

    Attributes:
        reason: a few words that are counted.
        retry: whether another attempt can help.
        wait: seconds that the endpoint asked to wait.
    """

    def __init__(self, reason: str, retry: bool = True, wait: float = 0.0):
        super().__init__(reason)
        self.reason, self.retry, self.wait = reason, retry, wait


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


@dataclass(frozen=True)
class Endpoint:
    """Asks a model behind an OpenAI-compatible endpoint (`POST <url>/chat/completions`).

    The key is read from the environment at each question, sent to this address alone (not to where it may redirect),
    and written nowhere.

    Args:
        url: such as "https://api.openai.com/v1", or "http://localhost:8000/v1" for a local server.
        model: name of the model there.
        timeout: seconds without a byte until an attempt counts as failed.
        max_tokens: longest answer.
        key_variable: environment variable with the key; no key is sent where it is not set.
    """

    url: str
    model: str
    timeout: float = 60.0
    max_tokens: int = 512
    key_variable: str = KEY_VARIABLE

    def __post_init__(self):
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"endpoint is {self.url!r}; give an address such as http://localhost:8000/v1.")

    @property
    def name(self) -> str:
        """What the cache knows the judge by: the same model behind another address is the same judge."""
        return self.model

    def __call__(self, prompt: str, attempt: int = 0) -> str:
        """The model's answer; NoAnswer says why there is none."""
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": RETRIED_TEMPERATURE if attempt else 0.0,
            "max_tokens": self.max_tokens,
        }
        url = self.url.rstrip("/")
        url += "" if url.endswith("/chat/completions") else "/chat/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        if key := os.environ.get(self.key_variable):
            request.add_unredirected_header("Authorization", f"Bearer {key}")
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                content = json.loads(response.read(LARGEST_ANSWER))["choices"][0]["message"]["content"]
        except urllib.error.HTTPError as error:
            with error:
                wait = error.headers.get("Retry-After", "")
            retry = error.code in (408, 409, 425, 429) or error.code >= 500
            raise NoAnswer(f"HTTP {error.code}", retry, float(wait) if wait.isdecimal() else 0.0) from None
        except TimeoutError:
            raise NoAnswer("timeout") from None
        except urllib.error.URLError as error:
            raise NoAnswer("timeout" if isinstance(error.reason, TimeoutError) else "no connection") from None
        except (OSError, http.client.HTTPException):
            raise NoAnswer("connection lost") from None
        except (ValueError, KeyError, IndexError, TypeError):
            raise NoAnswer("nonsense") from None
        if not isinstance(content, str):
            raise NoAnswer("nonsense")
        return content


class LocalJudge:
    """Asks a causal language model from a local folder; nothing is downloaded. To be used with `workers=1`.

    Args:
        path: folder with safetensors weights and a tokenizer; a chat template is used where there is one.
        device: such as "cpu" or "cuda".
        max_new_tokens: longest answer.
    """

    def __init__(self, path: str | Path, device: str = "cpu", max_new_tokens: int = 512):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if not Path(path).is_dir():
            raise FileNotFoundError(f"There is no folder {path}; give the local folder of a language model.")
        self.name, self.max_new_tokens = str(path), max_new_tokens
        self.tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(path, local_files_only=True, use_safetensors=True, dtype="auto")
        self.model = model.to(device).eval()

    def __call__(self, prompt: str, attempt: int = 0) -> str:
        """The model's answer; NoAnswer if the prompt does not fit into its context."""
        if self.tokenizer.chat_template is None:
            encoded = self.tokenizer(prompt, return_tensors="pt", split_special_tokens=True)
        else:
            encoded = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}],
                add_generation_prompt=True,
                return_tensors="pt",
                return_dict=True,
                sanitize_control_tokens=True,
            )
        length = encoded["input_ids"].shape[1]
        room = getattr(self.model.config, "max_position_embeddings", length + self.max_new_tokens) - length
        if room < 1:
            raise NoAnswer("prompt too long", retry=False)
        sampling = {"do_sample": True, "temperature": RETRIED_TEMPERATURE} if attempt else {"do_sample": False}
        output = self.model.generate(
            input_ids=encoded["input_ids"].to(self.model.device),
            attention_mask=encoded["attention_mask"].to(self.model.device),
            **sampling,
            max_new_tokens=min(self.max_new_tokens, room),
            pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id,
        )
        return self.tokenizer.decode(output[0, length:], skip_special_tokens=True)


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
        ask: an `Endpoint`, a `LocalJudge`, or any function (prompt, attempt) -> answer that raises NoAnswer.
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
    for argument, value in (("attempts", attempts), ("workers", workers), ("give_up_after", give_up_after)):
        if value < 1:
            raise ValueError(f"{argument} is {value}; it must be at least 1.")
    name = name or ask.name
    prompts = {}  # row -> (key, prompt)
    for number, row in enumerate(frame.select(needed).iter_rows(named=True)):
        if row["explanation"] and row["explanation"].strip():
            prompt = judge_prompt(row, window_days)
            prompts[number] = (hashlib.sha256(f"{name}\0{prompt}".encode()).hexdigest(), prompt)
    answers = read_cache(cache) if cache is not None else {}
    wanted = {key: prompt for key, prompt in prompts.values() if key not in answers}
    problems = {}  # key -> reason
    stop, silent = threading.Event(), 0

    def question(prompt: str) -> tuple[str, dict[str, float]] | None:
        for attempt in range(attempts):
            if stop.is_set():
                return None
            try:
                answer = ask(prompt, attempt)
                return answer, parse_marks(answer)
            except NoAnswer as failure:
                if not failure.retry or attempt == attempts - 1:
                    raise
                stop.wait(min(max(backoff * 2**attempt, failure.wait), LONGEST_WAIT))
        return None

    executor = ThreadPoolExecutor(workers)
    try:
        asked = {executor.submit(question, prompt): key for key, prompt in wanted.items()}
        for future in tqdm(as_completed(asked), total=len(asked), desc="Judging explanations", disable=not progress):
            key = asked[future]
            try:
                result = future.result()
            except NoAnswer as failure:
                problems[key] = failure.reason
                silent += failure.reason not in ("nonsense", "out of range")
                if silent >= give_up_after:
                    stop.set()
                continue
            if result is None:
                problems[key] = "gave up"
                continue
            silent = 0
            answers[key] = result[1]
            if cache is not None:
                append_to_cache(cache, {"key": key, "judge": name, "marks": result[1], "answer": result[0]})
    finally:
        stop.set()
        executor.shutdown(cancel_futures=True)

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


def read_cache(path: str | Path) -> dict[str, dict[str, float]]:
    """{key: marks} of a cache; a last line that a killed run left unfinished is cut off.

    Raises:
        ValueError: another line is no answer of a judge.
    """
    path = Path(path)
    if not path.is_file():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    answers = {}
    for number, line in enumerate(whole.decode("utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            answers[record["key"]] = parse_marks(json.dumps(record["marks"]))
        except (json.JSONDecodeError, KeyError, TypeError, NoAnswer):
            raise ValueError(f"{path}, line {number} is no answer of a judge; delete the line or the file.") from None
    return answers


def append_to_cache(path: str | Path, record: Mapping) -> None:
    """Add one line, on the disk before this returns."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=True) + "\n")
        file.flush()
        os.fsync(file.fileno())
