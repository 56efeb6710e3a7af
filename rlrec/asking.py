"""Asking a language model many questions: behind an OpenAI-compatible endpoint, or in a local folder.

An attempt that fails is made again, greedily at first and then by sampling (a greedy model would repeat its nonsense);
a question that fails for good is counted with its reason, and a later call asks it again. Answers can be kept in a
JSON-lines file, one line each as soon as it is there, so that a killed run loses nothing.
"""

import http.client
import json
import os
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tqdm.auto import tqdm

KEY_VARIABLE = "RLREC_API_KEY"
LARGEST_ANSWER = 10_000_000  # bytes
LONGEST_WAIT = 60.0  # seconds, whatever an endpoint's Retry-After says
RETRIED_TEMPERATURE = 0.7
ANSWERED = ("nonsense", "out of range")  # the model did answer, though to no avail

Ask = Callable[[str, int], str]  # (prompt, attempt from 0) -> answer; raises NoAnswer
Parsed = TypeVar("Parsed")


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
        """What a cache knows the model by: behind another address it is the same one."""
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


class LocalModel:
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
        options = {"local_files_only": True, "trust_remote_code": False}
        self.tokenizer = AutoTokenizer.from_pretrained(path, **options)
        model = AutoModelForCausalLM.from_pretrained(path, use_safetensors=True, dtype="auto", **options)
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


def ask_all(
    prompts: Mapping[str, str],
    ask: Ask,
    parse: Callable[[str], Parsed],
    keep: Callable[[str, str, Parsed], None] = lambda key, answer, parsed: None,
    *,
    attempts: int = 4,
    backoff: float = 1.0,
    workers: int = 4,
    give_up_after: int = 20,
    progress: str | None = "Asking",
) -> tuple[dict[str, Parsed], dict[str, str]]:
    """Ask each question until its answer can be read.

    Args:
        prompts: {key: prompt}.
        ask: an `Endpoint`, a `LocalModel`, or any function (prompt, attempt) -> answer that raises NoAnswer.
        parse: reads an answer, and raises NoAnswer where it cannot.
        keep: called with (key, answer, what was read of it), by one thread, as soon as a question is answered.
        attempts: questions per prompt at most.
        backoff: seconds before the second attempt, doubled before each further one (or as long as the endpoint asks
            for, up to a minute).
        workers: questions under way at once; 1 for a local model.
        give_up_after: after so many prompts in a row without any answer the rest is not asked ("gave up").
        progress: text of the progress bar, None for none.

    Returns:
        {key: what was read}, and {key: why there is nothing} of the other keys.

    Raises:
        ValueError: attempts, workers or give_up_after below 1.
    """
    for argument, value in (("attempts", attempts), ("workers", workers), ("give_up_after", give_up_after)):
        if value < 1:
            raise ValueError(f"{argument} is {value}; it must be at least 1.")
    answers, problems = {}, {}
    stop, silent = threading.Event(), 0

    def question(prompt: str) -> tuple[str, Parsed] | None:
        for attempt in range(attempts):
            if stop.is_set():
                return None
            try:
                answer = ask(prompt, attempt)
                return answer, parse(answer)
            except NoAnswer as failure:
                if not failure.retry or attempt == attempts - 1:
                    raise
                stop.wait(min(max(backoff * 2**attempt, failure.wait), LONGEST_WAIT))
        return None

    executor = ThreadPoolExecutor(workers)
    try:
        asked = {executor.submit(question, prompt): key for key, prompt in prompts.items()}
        for future in tqdm(as_completed(asked), total=len(asked), desc=progress, disable=progress is None):
            key = asked[future]
            try:
                result = future.result()
            except NoAnswer as failure:
                problems[key] = failure.reason
                silent += failure.reason not in ANSWERED
                if silent >= give_up_after:
                    stop.set()
                continue
            if result is None:
                problems[key] = "gave up"
                continue
            silent = 0
            answers[key] = result[1]
            keep(key, *result)
    finally:
        stop.set()
        executor.shutdown(cancel_futures=True)
    return answers, problems


def read_cache(path: str | Path, read: Callable[[dict], Parsed]) -> dict[str, Parsed]:
    """{key: what `read` makes of its line} of a cache; a last line that a killed run left unfinished is cut off.

    Raises:
        ValueError: another line has no key, or `read` fails on it (KeyError, TypeError, ValueError or NoAnswer).
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
            answers[record["key"]] = read(record)
        except (KeyError, TypeError, ValueError, NoAnswer):
            raise ValueError(f"{path}, line {number} is no answer; delete the line or the file.") from None
    return answers


def append_to_cache(path: str | Path, record: Mapping) -> None:
    """Add one line, on the disk before this returns."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=True) + "\n")
        file.flush()
        os.fsync(file.fileno())
