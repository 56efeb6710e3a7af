"""The explanations that SELLER learns from: two sentences per sample, on its categories and on the user's intent.

Paper: Zhang et al., "Sequence-aware Large Language Models for Explainable Recommendation" (SELLER), section 3.4,
appendix A.2 and Figure 5. The paper's are written by Claude 3.5 Sonnet and not published. Four writers:

- `write_by_template` (the offline default), from the metadata and, where a simulated world has them, the true reasons;
- `read_from_file`, written elsewhere;
- `write_by_asking` an OpenAI-compatible endpoint (or any `Ask`), and `write_by_generation` with a local model in
  batches. Both keep each answer in a JSON-lines file; what failed is counted, and asked again by the next call.

All give the samples' rows in order: user_id, item_id, category_explanation, intent_explanation and problem (why both
are null, else null). Departures:

1. Figure 5's prompt is in our words. A writer sees, beside the item's categories and description, the categories of
   the user's newest `history_items` items: the paper calls its own texts "item-side inference" and this a limitation.
2. No writer is told the title, and where a description has it, "it" is written instead: the EER must not find the
   target by name.
3. The template's intent names a category, which A.2.1 avoids: of most datasets there is nothing else to say it with.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import polars as pl
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlrec.asking import Ask, NoAnswer, append_to_cache, ask_all, read_cache
from rlrec.data.cleaning import clean_text, clean_title
from rlrec.policies.generation import generate_explanations

KEYS = ("user_id", "item_id")
FIELDS = ("category_explanation", "intent_explanation")
LONGEST = 300  # characters of one explanation
PROMPT = """### Task:
Someone chose the {domain} described below. Say why, in two short sentences that would help to find such {a_domain}.

### Rules:
1. category_explanation: what kind of {domain} it is; name at least one of its categories.
2. intent_explanation: the need or wish behind the choice, as specific as the inputs allow and in line with what was \
chosen before; name no category.
3. At most 20 words each. Never the name of the {domain} or of anybody in it.

### Inputs:
<Categories>{categories}</Categories>
<Description>{description}</Description>
<ChosenBefore>{history}</ChosenBefore>

Return your output in JSON: {{"category_explanation": <sentence>, "intent_explanation": <sentence>}}
"""

Explanations = tuple[str, str]  # on the categories, on the intent


def write_by_template(samples: pl.DataFrame, domain: str = "item") -> pl.DataFrame:
    """Two sentences per sample by `template`; no row is ever missing."""
    return _frame(samples, [template(row, domain) for row in samples.iter_rows(named=True)])


def template(row: Mapping, domain: str = "item") -> Explanations:
    """A sentence on the target's categories, and one on what the user does next to the history and in which mood.

    Args:
        row: categories, history_categories (oldest first), and optionally the true `reasons`: the target's categories
            among them say which of them counts, other words are moods ("+" before a word is dropped, a word with "-"
            was no reason). Without reasons it is the category that the history had last.

    >>> row = {"categories": ["crime", "drama"], "history_categories": [["drama"], ["comedy"]]}
    >>> template(row, "film")
    ('This film belongs to crime and drama.', 'You return to drama after comedy.')
    >>> template({**row, "reasons": ["tense", "crime"]}, "film")[1]
    'You turn to crime after comedy, in the mood for something tense.'
    >>> template({"categories": [], "history_categories": [[]]}, "film")
    ('This film has no known category.', 'You try something else.')
    """
    categories = _named(row["categories"])
    history = [names for names in map(_named, row["history_categories"] or []) if names]
    reasons = [reason.lstrip("+") for reason in row.get("reasons") or [] if not reason.startswith("-")]
    moods = _named(reason for reason in reasons if reason not in categories)
    mood = f", in the mood for something {_listed(moods)}" if moods else ""
    if not categories:
        return f"This {domain} has no known category.", f"You try something else{mood}."
    last = {name: place for place, names in enumerate(history) for name in names}
    category = max([name for name in categories if name in reasons] or categories, key=lambda name: last.get(name, -1))
    move = "turn to"
    if category in last:
        move = "continue with" if last[category] == len(history) - 1 else "return to"
    after = f" after {history[-1][0]}" if history and move != "continue with" else ""
    return f"This {domain} belongs to {_listed(categories)}.", f"You {move} {category}{after}{mood}."


def read_from_file(samples: pl.DataFrame, path: str | Path) -> pl.DataFrame:
    """Explanations from a parquet or JSON-lines file with user_id, item_id, category_explanation, intent_explanation.

    Rows without a sample are not looked at; samples without a row, or with an empty text, are missing.

    Raises:
        ValueError: the file is no such table, has no such column, or two rows for one user and item.
    """
    path = Path(path)
    try:
        table = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_ndjson(path)
    except (pl.exceptions.ComputeError, pl.exceptions.NoDataError) as error:
        raise ValueError(f"{path} is neither parquet (.parquet) nor JSON lines: {error}") from None
    if missing := [name for name in (*KEYS, *FIELDS) if name not in table.columns]:
        raise ValueError(f"{path} has no column {', '.join(missing)}; it needs {', '.join((*KEYS, *FIELDS))}.")
    table = table.select(pl.col(*KEYS, *FIELDS).cast(pl.String))
    table = table.join(samples.select(KEYS), on=KEYS, how="semi")
    if table.select(KEYS).is_duplicated().any():
        user, item = table.filter(table.select(KEYS).is_duplicated()).row(0)[:2]
        raise ValueError(f"{path} has two rows for user {user!r} and item {item!r}; keep one.")
    rows = samples.select(KEYS).join(table, on=KEYS, how="left", maintain_order="left").select(FIELDS).rows()
    cleaned = [tuple(clean_text(text, LONGEST) for text in row) for row in rows]
    return _frame(samples, [texts if all(texts) else None for texts in cleaned], "not in the file")


def write_by_asking(
    samples: pl.DataFrame,
    ask: Ask,
    cache: str | Path,
    *,
    domain: str = "item",
    history_items: int = 5,
    name: str | None = None,
    attempts: int = 4,
    backoff: float = 1.0,
    workers: int = 4,
    give_up_after: int = 20,
    progress: str | None = "Writing ground truth",
) -> pl.DataFrame:
    """Explanations by a language model, one question per different prompt; the first rank asks, all get the answers.

    Args:
        samples: categories, history_categories, title, description beside the ids.
        ask: an `Endpoint` or `LocalModel` of rlrec/asking.py.
        cache: JSON-lines file of the answers so far; a second call asks only what is still missing.
        history_items: newest items of the history whose categories are told; 0 is the paper's item-side inference,
            and one question per item.
        name: of the writer, in the cache's keys; default `ask.name`.
        attempts, backoff, workers, give_up_after, progress: of `ask_all`.
    """
    name = name or ask.name
    keys, prompts = _questions(samples, domain, history_items, name)
    result = [None]
    if PartialState().is_main_process:
        answers = read_cache(cache, _read)
        new, problems = ask_all(
            {key: prompt for key, prompt in prompts.items() if key not in answers},
            ask,
            parse_explanations,
            lambda key, _, texts: append_to_cache(cache, _record(key, name, texts)),
            attempts=attempts,
            backoff=backoff,
            workers=workers,
            give_up_after=give_up_after,
            progress=progress,
        )
        result = [(answers | new, problems)]
    broadcast_object_list(result)
    answers, problems = result[0]
    return _frame(samples, map(answers.get, keys), map(problems.get, keys))


def write_by_generation(
    samples: pl.DataFrame,
    load_policy: Callable[[], PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    cache: str | Path,
    *,
    name: str,
    domain: str = "item",
    history_items: int = 5,
    attempts: int = 2,
    part_size: int = 512,
    max_new_tokens: int = 160,
    temperature: float = 0.7,
    batch_size: int = 16,
    seed: int = 0,
    progress: bool = True,
) -> pl.DataFrame:
    """`write_by_asking` of a local model in batches, all ranks sharing the work; answers are kept after each part.

    Args:
        load_policy: gives the model; not called where nothing is missing.
        name: of the model, in the cache's keys.
        attempts: times that an answer which cannot be read is written anew.
        part_size: prompts between two writes of the cache.
        max_new_tokens, temperature, batch_size, seed: of `generate_explanations`.
    """
    keys, prompts = _questions(samples, domain, history_items, name)
    state = PartialState()
    known = [read_cache(cache, _read) if state.is_main_process else None]
    broadcast_object_list(known)
    (answers,), problems, policy = known, {}, None
    for attempt in range(attempts):
        missing = [key for key in prompts if key not in answers]
        for start in range(0, len(missing), part_size):
            policy = policy or load_policy()
            part = missing[start : start + part_size]
            asked = [prompts[key] for key in part]
            if tokenizer.chat_template is not None:
                asked = [[{"role": "user", "content": prompt}] for prompt in asked]
            texts = generate_explanations(
                policy,
                tokenizer,
                asked,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                batch_size=batch_size,
                seed=(seed * attempts + attempt) * 100_003 + start,
                progress=f"Writing ground truth, {start:,} of {len(missing):,}" if progress else None,
            )
            for key, (text,) in zip(part, texts):
                try:
                    answers[key] = parse_explanations(text)
                except NoAnswer as failure:
                    problems[key] = failure.reason
                    continue
                if state.is_main_process:
                    append_to_cache(cache, _record(key, name, answers[key]))
    return _frame(samples, map(answers.get, keys), map(problems.get, keys))


def summary(explanations: pl.DataFrame) -> dict:
    """Rows, how many are written and missing, and {problem: rows}, for a run's results.

    >>> summary(pl.DataFrame({"problem": [None, "timeout", None]}))
    {'rows': 3, 'written': 2, 'missing': 1, 'problems': {'timeout': 1}}
    """
    problems = Counter(explanations["problem"].drop_nulls())
    missing = problems.total()
    return {
        "rows": explanations.height,
        "written": explanations.height - missing,
        "missing": missing,
        "problems": dict(problems.most_common()),
    }


def ground_truth_prompt(row: Mapping, domain: str = "item", history_items: int = 5) -> str:
    """What a language model is asked about one sample; the title is not in it."""
    description = clean_text(row.get("description"))
    if title := clean_title(row.get("title")):
        description = re.sub(rf"(?<!\w){re.escape(title)}(?!\w)", "it", description, flags=re.IGNORECASE)
    newest = (row["history_categories"] or [])[-history_items:] if history_items else []
    return PROMPT.format(
        domain=domain,
        a_domain=f"{'an' if domain[0].lower() in 'aeiou' else 'a'} {domain}",
        categories=", ".join(_named(row["categories"])) or "not known",
        description=description or "no description",
        history="; ".join(", ".join(names) for names in map(_named, newest) if names) or "not known",
    )


def parse_explanations(answer: str) -> Explanations:
    """Both explanations in a model's answer: the first JSON object in it that has them.

    Raises:
        NoAnswer: there is no such object, or a text is empty ("nonsense").

    >>> parse_explanations('Sure! {"category_explanation": "Dark crime.", "intent_explanation": "To be tense."}')
    ('Dark crime.', 'To be tense.')
    """
    for start in (match.start() for match in re.finditer(r"\{", answer)):
        try:
            found, _ = json.JSONDecoder().raw_decode(answer, start)
        except (json.JSONDecodeError, RecursionError):
            continue
        texts = [found.get(field) for field in FIELDS]
        if all(isinstance(text, str) for text in texts):
            cleaned = tuple(clean_text(text, LONGEST) for text in texts)
            if all(cleaned):
                return cleaned
    raise NoAnswer("nonsense")


def _questions(samples: pl.DataFrame, domain: str, history_items: int, name: str) -> tuple[list[str], dict[str, str]]:
    """The key of each sample, and {key: prompt}."""
    prompts = [ground_truth_prompt(row, domain, history_items) for row in samples.iter_rows(named=True)]
    keys = [hashlib.sha256(f"{name}\0{prompt}".encode()).hexdigest() for prompt in prompts]
    return keys, dict(zip(keys, prompts))


def _record(key: str, name: str, texts: Explanations) -> dict:
    return {"key": key, "writer": name, **dict(zip(FIELDS, texts))}


def _read(record: dict) -> Explanations:
    return parse_explanations(json.dumps(record))


def _frame(samples: pl.DataFrame, texts: Sequence[Explanations | None], problems="") -> pl.DataFrame:
    """The samples' ids with their explanations; `problems` is one reason for all that are missing, or one for each."""
    texts = list(texts)
    problems = [problems] * len(texts) if isinstance(problems, str) else problems
    rows = [(*(pair or (None, None)), None if pair else problem) for pair, problem in zip(texts, problems)]
    written = pl.DataFrame(rows, schema=dict.fromkeys((*FIELDS, "problem"), pl.String), orient="row")
    return samples.select(pl.col(KEYS).cast(pl.String)).hstack(written)


def _named(names) -> list[str]:
    return [name for name in dict.fromkeys(map(clean_title, names or [])) if name]


def _listed(names: Sequence[str]) -> str:
    """Some words as a list: "a", "a and b", "a, b and c"."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
