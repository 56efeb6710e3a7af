"""Popularity samples to prompts and answers: TRAIL's own template, and a short form for the embedded policy.

Paper: Zhang et al., "Following the TRAIL: Predicting and Explaining Tomorrow's Hits with a Fine-Tuned LLM" (2026),
section 4.3, appendix A.3 (the two markers), Table 6 (prompts), Tables 4 and 7 (how items and histories are printed).

Departures:

1. Table 6 is printed with "..." in it; those places are filled in our words, and `domain` stands where it says movie.
2. Table 6's inference prompt ends before "### Answer:". Ours holds that line too: what a model is trained to
   continue is then, letter for letter, what it is asked to continue.
3. A history row is named after the month in which its window starts, as Table 7 prints it. Windows have 30 days, so a
   month can stand there twice and February never. `InferenceTimestamp` is the first day of the window to predict.
4. A cold item's history reads "No historical popularity trend.". Table 4 adds "Just Released", which nobody knows.
5. Titles, categories and descriptions are data: control tokens, tags and the markers in them are defused
   (`rlrec.data.cleaning`), here again for rows that no reader of ours prepared.
6. The compact style is words and whole numbers, and no JSON: `Horror film month 10 age 4 peak 12 ago 1 history 0 4
   rising from 7 to 12 score`, then `9 <exp_start> ... <exp_end>`. It names no title: a small policy learns nothing
   from a word that it sees once. It spells out what a large model finds by itself and one of 0.1 million parameters
   does not, or only after long training: the peak and how many windows ago it was, the last direction, and of the
   description's first words the months, which become distances ("October" in August is "2 ahead", "March 2014" in
   May is "2 ago").
"""

import bisect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

from rlrec.data.cleaning import MAX_TEXT_LENGTH, clean_text, clean_title
from rlrec.data.prompts import category_words
from rlrec.trail.markers import EXPLANATION_END, EXPLANATION_START
from rlrec.trail.output import (
    EXPLANATION_KEY,
    SCORE_KEY,
    Answer,
    parse_answer,
    parse_compact,
)

__all__ = ["EXPLANATION_END", "EXPLANATION_START", "TrendPrompts"]

NO_HISTORY = "No historical popularity trend."
NO_DESCRIPTION = "no description"
COMPACT_WINDOWS = 12
COMPACT_DESCRIPTION = 12  # words
STEP = 1.19
MONTHS = [
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
]
DATE = re.compile(rf"\b({'|'.join(MONTHS)})\b(?: (\d{{4}})\b)?")
FILLERS = ("a", "an", "and", "the", "of", "in", "by")
ANSWER_LINE = "### Answer:"
PLACES = ("description", "history", "timestamp")
ANSWER_PLACES = ("score", "explanation")
TEMPLATE = f"""### Instruction:
You are {{a_domain}} popularity analyst. Your task is to predict {{a_domain}}'s popularity score based on its \
features and historical data, providing a structured explanation. Your output MUST be a single, valid JSON object \
with only two keys: {SCORE_KEY} and {EXPLANATION_KEY}.

### Output Requirements:
1. {SCORE_KEY}: The predicted {{domain}} popularity score at the given <InferenceTimestamp>, output a float.
2. {EXPLANATION_KEY}: A text with three mandatory sections, in order:
[Trend]: Using concrete numbers (e.g., recent value, average, peaks/troughs), describe how the popularity moved in \
<PopularityHistory>.
[Feature]: Refer to at least two specific aspects from <{{Domain}}Description> and explain how they affect popularity.
[Integration]: Combine [Trend] and [Feature], and justify why the predicted score is reasonable at \
<InferenceTimestamp>.

### Inputs:
<{{Domain}}Description>{{description}}</{{Domain}}Description>
<PopularityHistory>{{history}}</PopularityHistory>
<InferenceTimestamp>{{timestamp}}</InferenceTimestamp>

{ANSWER_LINE}
{{"{SCORE_KEY}": "{{score}}", "{EXPLANATION_KEY}": "{EXPLANATION_START}{{explanation}}{EXPLANATION_END}"}}
"""


@dataclass(frozen=True)
class TrendPrompts:
    """How a sample becomes a prompt, a score and an explanation the answer to it, and an answer these two again.

    A row has the columns of `PopularityData.samples`, of which only inputs are read, never the label, and the item's
    title, categories and description.

    Args:
        style: "paper" (Table 6), or "compact" for the embedded policy.
        domain: singular word for an item ("movie" in the paper).
        conversational: wrap prompts as one user message, for models with a chat template.
        max_history: windows printed at most, the newest; None: all in the paper style, 12 in the compact style.
        max_count: compact style: the largest number; what is above is written as this. Numbers above 10 are written in
            steps of about a fifth (`scale`), so that each is seen often enough to be learned.
        window_days: length of a window.
        template_file: a text file instead of `TEMPLATE`, with the places {description}, {history} and {timestamp}
            (and {domain}, {a_domain}, {Domain} where wanted), a line "### Answer:", and after it the answer: a JSON
            object, the score first, with {score} and <exp_start>{explanation}<exp_end>.

    Raises:
        ValueError: an unknown style, a number out of range, or a template without its places or markers.

    >>> row = {"title": "It", "categories": ["Horror"], "description": "", "window_start": 1_412_121_600,
    ...        "history": [0, 4, 7, 12], "history_cut": 0}
    >>> prompts = TrendPrompts("compact", "film")
    >>> prompts.prompt(row)
    'Horror film month 10 age 4 peak 12 ago 1 history 0 4 rising from 7 to 12 score'
    >>> prompts.answer("9", "[Trend]: rising.")
    '9 <exp_start> [Trend]: rising. <exp_end>'
    >>> print("\\n".join(TrendPrompts("paper", "film").prompt(row).splitlines()[-5:-2]))
    <FilmDescription>The film name is It; no description; The category of the film is Horror.</FilmDescription>
    <PopularityHistory>2014-06: 0, 2014-07: 4, 2014-08: 7, 2014-09: 12</PopularityHistory>
    <InferenceTimestamp>2014-10-01</InferenceTimestamp>
    """

    style: str = "paper"
    domain: str = "movie"
    conversational: bool = False
    max_history: int | None = None
    max_count: int = 999
    window_days: int = 30
    template_file: str | None = None
    _template: tuple[str, str] = field(init=False, repr=False)
    scale: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self):
        if self.style not in ("paper", "compact"):
            raise ValueError(f"prompt style must be 'paper' or 'compact', not {self.style!r}.")
        if not re.fullmatch(r"[^\W\d_]+(?:[ -][^\W\d_]+)*", self.domain):
            raise ValueError(f"domain is {self.domain!r}; use a word or two for an item, such as 'movie'.")
        for name in ("max_history", "max_count", "window_days"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1.")
        if self.style == "compact" and self.template_file is not None:
            raise ValueError("template_file is for the prompt style 'paper'; the compact style has no template.")
        object.__setattr__(self, "_template", _read_template(self.template_file))
        object.__setattr__(self, "scale", _scale(self.max_count))

    def prompt(self, row: Mapping) -> str | list[dict]:
        """The prompt that asks for the popularity of `row`; there is nothing of the answer in it."""
        text = self._compact(row) if self.style == "compact" else self._paper(row)
        return [{"role": "user", "content": text}] if self.conversational else text

    def until_score(self, row: Mapping) -> str:
        """The prompt with the beginning of its answer, up to where the score's first character follows.

        Raises:
            ValueError: conversational prompts, whose answer is not begun for the model.
        """
        if self.conversational:
            raise ValueError("The beginning of an answer cannot be given in a conversation: set --score written.")
        if self.style == "compact":
            return self.prompt(row)
        return f"{self.prompt(row)}{self._template[1].partition('{score}')[0]}"

    def answer(self, score: str, explanation: str) -> str:
        """What a model should write: the score, then the explanation between the markers."""
        explanation = clean_text(explanation, max_length=max(len(explanation), 1))
        if self.style == "compact":
            return f"{score} {EXPLANATION_START} {explanation} {EXPLANATION_END}"
        return _fill(
            self._template[1], {"score": score, "explanation": json.dumps(explanation, ensure_ascii=False)[1:-1]}
        )

    def score(self, popularity: float) -> str:
        """A popularity as an answer spells it: 7, 6.5, and in the compact style a number of `scale`."""
        if self.style == "compact":
            return str(self._on_scale(popularity))
        return str(int(popularity)) if popularity == int(popularity) else str(popularity)

    def _on_scale(self, count: float) -> int:
        """The number of `scale` that is nearest, the lower one of two."""
        above = bisect.bisect_left(self.scale, count)
        if above == len(self.scale):
            return self.max_count
        near = self.scale[max(above - 1, 0) : above + 1]
        return min(near, key=lambda number: abs(number - count))

    def parse(self, text: str) -> Answer:
        """Score and explanation of a text that a model wrote; never raises."""
        return parse_compact(text) if self.style == "compact" else parse_answer(text)

    def few_shot(self, row: Mapping, examples: Sequence[tuple[Mapping, str]]) -> str | list[dict]:
        """The prompt of `row` after those of `examples`, (row, its answer) each, with their answers.

        Raises:
            ValueError: in the compact style, whose policy has never seen two samples in one prompt.
        """
        if self.style == "compact":
            raise ValueError("few_shot is for the prompt style 'paper'; the embedded policy reads one sample.")
        if self.conversational:
            shots = [[*self.prompt(example), {"role": "assistant", "content": answer}] for example, answer in examples]
            return [*(message for shot in shots for message in shot), *self.prompt(row)]
        return "".join(f"{self.prompt(example)}{answer}\n\n" for example, answer in examples) + self.prompt(row)

    def shown(self, row: Mapping) -> list[int]:
        """The history as the prompt shows it, oldest first: what an explanation can be held to."""
        limit = self.max_history or (COMPACT_WINDOWS if self.style == "compact" else None)
        history = [int(count) for count in row["history"] or []]
        history = history if limit is None else history[-limit:]
        return [self._on_scale(count) for count in history] if self.style == "compact" else history

    def history_cut(self, row: Mapping) -> int:
        """How many windows since the item's first interaction the prompt leaves out."""
        return (row.get("history_cut") or 0) + len(row["history"] or []) - len(self.shown(row))

    def category_words(self, row: Mapping) -> list[str]:
        """The item's categories, one word each."""
        return category_words([clean_title(name) for name in row.get("categories") or []])

    def month(self, row: Mapping) -> int:
        """The month (1 to 12) in which the window to predict starts."""
        return _day(row["window_start"]).month

    def _compact(self, row: Mapping) -> str:
        history = self.shown(row)
        age = self._on_scale(len(history) + self.history_cut(row))
        words = [*self.category_words(row), self.domain, *self._told(row), "month", self.month(row), "age", age]
        if history:
            peak = max(history)
            words += ["peak", peak, "ago", history[::-1].index(peak) + 1, "history", *history[:-2]]
            words += [_direction(*history[-2:]), "from", history[-2]] if len(history) > 1 else []
            words += ["to", history[-1]]
        else:
            words += ["history", "none"]
        return " ".join(map(str, [*words, "score"]))

    def _told(self, row: Mapping) -> list[str]:
        """The first words of the description, months as distances from the window's."""
        day = _day(row["window_start"])

        def distance(match: re.Match) -> str:
            month = MONTHS.index(match[1]) + 1
            if match[2] is None:
                return f"{(month - day.month) % 12} ahead"
            ago = (day.year - int(match[2])) * 12 + day.month - month
            return f"{self._on_scale(abs(ago))} {'ago' if ago >= 0 else 'ahead'}"

        text = DATE.sub(distance, clean_text(row.get("description"), MAX_TEXT_LENGTH))
        known = {self.domain, *FILLERS, *(name.lower() for name in self.category_words(row))}
        words = [word for word in re.findall(r"\w+", text) if word.lower() not in known]
        return words[:COMPACT_DESCRIPTION]

    def _paper(self, row: Mapping) -> str:
        values = {
            "a_domain": f"{'an' if self.domain[0].lower() in 'aeiou' else 'a'} {self.domain}",
            "domain": self.domain,
            "Domain": re.sub(r"\W", "", self.domain.title()),
            "description": self._description(row),
            "history": self._history(row),
            "timestamp": f"{_day(row['window_start']):%Y-%m-%d}",
        }
        return _fill(self._template[0], values)

    def _description(self, row: Mapping) -> str:
        title, text = clean_title(row.get("title")), clean_text(row.get("description"), MAX_TEXT_LENGTH)
        categories = [name for name in map(clean_title, row.get("categories") or []) if name]
        noun, verb = ("category", "is") if len(categories) < 2 else ("categories", "are")
        return (
            f"The {self.domain} name is {title or 'not known'}; {text.rstrip('.') or NO_DESCRIPTION}; "
            f"The {noun} of the {self.domain} {verb} {', '.join(categories) or 'not known'}."
        )

    def _history(self, row: Mapping) -> str:
        history, end = self.shown(row), _day(row["window_start"])
        if not history:
            return NO_HISTORY
        starts = (end - timedelta(days=self.window_days * back) for back in range(len(history), 0, -1))
        printed = [f"{start:%Y-%m}: {count}" for start, count in zip(starts, history)]
        return ", ".join(["...", *printed] if self.history_cut(row) else printed)


def _direction(before: int, last: int) -> str:
    return "rising" if last > before else "falling" if last < before else "stable"


def _scale(largest: int) -> tuple[int, ...]:
    """0 to 10, then in steps of about a fifth.

    >>> _scale(40)[10:]
    (10, 12, 14, 17, 20, 24, 28, 34, 40)
    """
    numbers = list(range(min(10, largest) + 1))
    while numbers[-1] < largest:
        numbers.append(min(round(10 * STEP ** (len(numbers) - 10)), largest))
    return tuple(numbers)


def _day(seconds: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=int(seconds))


def _fill(template: str, values: Mapping[str, str]) -> str:
    """One pass over the template, so that braces in a title stay as they are."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)


def _read_template(path: str | None) -> tuple[str, str]:
    """The prompt, "### Answer:" line included, and the answer of a template that was found sound."""
    name = "The template" if path is None else f"Template {path}"
    text = TEMPLATE if path is None else Path(path).read_text(encoding="utf-8")
    head, line, answer = text.rpartition(f"{ANSWER_LINE}\n")
    if not line:
        raise ValueError(f"{name} has no line {ANSWER_LINE!r}; put it between the prompt and the answer.")
    for part, where, places in ((head, "prompt", PLACES), (answer, "answer", ANSWER_PLACES)):
        if missing := [place for place in places if f"{{{place}}}" not in part]:
            raise ValueError(f"{name} has no place {{{missing[0]}}} in its {where}; write it where it belongs.")
    if f"{EXPLANATION_START}{{explanation}}{EXPLANATION_END}" not in answer:
        raise ValueError(
            f"{name} lacks the markers in its answer; write {EXPLANATION_START}{{explanation}}{EXPLANATION_END}."
        )
    probe = parse_answer(_fill(answer, {"score": "7", "explanation": "text"}))
    first = answer.find(SCORE_KEY) < answer.find(EXPLANATION_KEY)
    if probe.repaired or probe.problem or (probe.score, probe.explanation) != (7.0, "text") or not first:
        raise ValueError(
            f"{name} has an answer that is no JSON object with {SCORE_KEY} first and {EXPLANATION_KEY} second; write "
            f'{{"{SCORE_KEY}": "{{score}}", "{EXPLANATION_KEY}": '
            f'"{EXPLANATION_START}{{explanation}}{EXPLANATION_END}"}}.'
        )
    return head + line, answer.strip()
