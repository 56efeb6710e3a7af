"""Score and explanation of what a model wrote: strict JSON first, then repair; what cannot be read is counted.

Paper: "Following the TRAIL" (2026), appendix A.3 and Table 6 (a JSON object {predict_popularity_score,
explanation_of_score}, the explanation between two markers). The paper does not say what it does with other output.
Ours: repaired where what the model meant can be told; a score that is no number stays missing, it is never 0.

Read by repair: text and code fences around the object, what stands before `</think>`, an object inside a string,
single quotes, trailing commas, unescaped quotes and line breaks in the explanation, a missing closing quote or brace,
no quotes at all, the explanation as an object or list of sections, and a score with words ("12.5 users"), if there is
one number in it alone. Of several objects the first with both fields counts: a plain model goes on with samples of its
own. The markers are optional, since generation drops special tokens; where both stand, what is between them counts.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from typing import Any, NamedTuple

SCORE_KEY, EXPLANATION_KEY = "predict_popularity_score", "explanation_of_score"

EMPTY, THINKING, NO_OBJECT = "empty", "thinking not finished", "no answer object"
NO_SCORE, NOT_A_NUMBER, NEGATIVE = "no score", "score is not a number", "score is negative"
NO_EXPLANATION = "no explanation"
MOST_OBJECTS = 100  # looked at in one text
PROBLEMS = (EMPTY, THINKING, NO_OBJECT, NO_SCORE, NOT_A_NUMBER, NEGATIVE, NO_EXPLANATION)

# a word-level tokenizer takes the markers apart
_START, _END = re.compile(r"<\s?exp_start\s?>"), re.compile(r"<\s?exp_end\s?>")
_NUMBER = re.compile(r"[-−+]?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|\.[0-9]+")
_KEY = r"""\\?["'“”]?\b{}\b\\?["'“”]?\s*[:=]"""
_SCORE_FIELD = re.compile(_KEY.format(SCORE_KEY))
_EXPLANATION_FIELD = re.compile(_KEY.format(EXPLANATION_KEY))
_OBJECT_START = re.compile(rf"""\{{\s*["'](?:{SCORE_KEY}|{EXPLANATION_KEY})["']""")
_VALUE_END = re.compile(r"[,}\n]")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "", "f": ""}
_DECODER = json.JSONDecoder(strict=False)  # line breaks inside strings are read


class Answer(NamedTuple):
    """What could be read of a model's text.

    Attributes:
        score: predicted popularity, finite and at least 0; None where there is none.
        explanation: without markers; None where there is none.
        problem: why score or explanation is missing (one of `PROBLEMS`), or None.
        repaired: it is not the JSON that was asked for, but could be read.
        cut: the explanation breaks off without its closing quote.
    """

    score: float | None
    explanation: str | None
    problem: str | None
    repaired: bool
    cut: bool = False


def parse_answer(text: str) -> Answer:
    """Reads score and explanation; never raises, whatever the text.

    >>> parse_answer('{"predict_popularity_score": "12", "explanation_of_score": "<exp_start>Up.<exp_end>"}')
    Answer(score=12.0, explanation='Up.', problem=None, repaired=False, cut=False)
    >>> parse_answer("Sure! {'predict_popularity_score': '12.5 users', 'explanation_of_score': 'It's up")
    Answer(score=12.5, explanation="It's up", problem=None, repaired=True, cut=True)
    """
    if not text.strip():
        return Answer(None, None, EMPTY, False)
    value = _load(text)
    if isinstance(value, dict) and (SCORE_KEY in value or EXPLANATION_KEY in value):
        return _from_fields(value)
    if isinstance(value, str):  # the object was written as a string
        text = value
    text, unfinished = _without_thinking(text)
    best = None
    for fields in _objects(text):
        answer = _from_fields(fields)
        if best is None or (answer.score is not None) > (best.score is not None):
            best = answer
        if answer.problem is None:
            break
    if best is None or best.problem is not None:
        loose = _loose_fields(text)
        if loose is not None and (best is None or loose.problem is None):
            best = loose
    if best is None:
        return Answer(None, None, THINKING if unfinished else NO_OBJECT, False)
    return best._replace(repaired=best.score is not None or best.explanation is not None)


def parse_compact(text: str) -> Answer:
    """Reads an answer of the compact style: a whole number, then the explanation; never raises.

    >>> parse_compact("9 <exp_start> [Trend]: no history. <exp_end>")
    Answer(score=9.0, explanation='[Trend]: no history.', problem=None, repaired=False, cut=False)
    """
    if not text.strip():
        return Answer(None, None, EMPTY, False)
    number = re.match(r"\s*([0-9]{1,15})(?![^\s<\[])", text)
    explanation = _explanation(text[number.end() :] if number else text)
    problem = NO_SCORE if number is None else NO_EXPLANATION if explanation is None else None
    cut = explanation is not None and not explanation.endswith(".")
    return Answer(float(number[1]) if number else None, explanation, problem, False, cut)


def summarise_answers(answers: Iterable[Answer]) -> dict[str, int]:
    """How many answers there are, and how many are malformed (score or explanation missing), repaired or cut off, and
    lack a score or an explanation; then how many have each problem that occurs.

    >>> summarise_answers([parse_answer("7")])
    {'answers': 1, 'malformed': 1, 'repaired': 0, 'cut': 0, 'missing_score': 1, 'missing_explanation': 1,
     'no answer object': 1}
    """
    answers = list(answers)
    return {
        "answers": len(answers),
        "malformed": sum(answer.problem is not None for answer in answers),
        "repaired": sum(answer.repaired for answer in answers),
        "cut": sum(answer.cut for answer in answers),
        "missing_score": sum(answer.score is None for answer in answers),
        "missing_explanation": sum(answer.explanation is None for answer in answers),
        **Counter(answer.problem for answer in answers if answer.problem is not None),
    }


def _load(text: str) -> Any:
    """The text as JSON, or None; RecursionError is how deep nesting ends."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _without_thinking(text: str) -> tuple[str, bool]:
    """What follows the last `</think>`, or stands before a `<think>` that is never closed, and whether it is not."""
    before, opened, _ = text.rpartition("</think>")[2].partition("<think>")
    return before, bool(opened)


def _objects(text: str) -> Iterable[dict]:
    """The valid JSON objects in a text that begin with one of the two keys."""
    for match in islice(_OBJECT_START.finditer(text), MOST_OBJECTS):
        try:
            value, _ = _DECODER.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            continue
        yield value


def _from_fields(fields: dict) -> Answer:
    score, problem, repaired = _score(fields.get(SCORE_KEY))
    given = fields.get(EXPLANATION_KEY)
    text = _sections(given)
    explanation = None if text is None else _explanation(text)
    if problem is None and explanation is None:
        problem = NO_EXPLANATION
    return Answer(score, explanation, problem, repaired or (explanation is not None and not isinstance(given, str)))


def _sections(value: Any) -> str | None:
    """An explanation as text; one given in sections has them in a row."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and value and all(isinstance(part, str) for part in value.values()):
        return " ".join(f"[{name.strip('[]: ')}]: {part}" for name, part in value.items())
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        return " ".join(value)
    return None


def _score(value: Any) -> tuple[float | None, str | None, bool]:
    """(score, problem, repaired) of a field's value."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None, NO_SCORE, False
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None, NOT_A_NUMBER, False
    repaired = False
    if isinstance(value, str):
        numbers = _NUMBER.findall(value[:1000])
        if len(numbers) != 1:
            return None, NOT_A_NUMBER, False
        repaired = numbers[0] != value.strip()
        value = numbers[0].replace(",", "").replace("−", "-")
    try:
        score = float(value)
    except OverflowError:  # a JSON integer beyond 1e308
        score = math.inf
    if not math.isfinite(score):
        return None, NOT_A_NUMBER, False
    return (None, NEGATIVE, False) if score < 0 else (score, None, repaired)


def _explanation(text: str) -> str | None:
    """Without markers and halves of characters, which JSON can spell and no file holds; None if nothing is left."""
    start = _START.search(text)
    end = _END.search(text, start.end()) if start else None
    if end:
        text = text[start.end() : end.start()]
    text = _END.sub("", _START.sub("", text)).strip()
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") or None


def _loose_fields(text: str) -> Answer | None:
    """The two fields by their keys, whatever stands around them; None where neither key does."""
    scored = _SCORE_FIELD.search(text)
    explained = _EXPLANATION_FIELD.search(text, scored.end() if scored else 0) or _EXPLANATION_FIELD.search(text)
    if not scored and not explained:
        return None
    score, problem, _ = _score(_loose_number(text, scored.end(), explained)) if scored else (None, NO_SCORE, False)
    explanation, cut = None, False
    if explained:
        # the explanation may stand first
        end = scored.start() if scored and scored.start() > explained.end() else len(text)
        body, cut = _loose_text(text[explained.end() : end].strip(), end < len(text))
        explanation = _explanation(body)
    if problem is None and explanation is None:
        problem = NO_EXPLANATION
    return Answer(score, explanation, problem, True, cut and explanation is not None)


def _loose_number(text: str, start: int, explained: re.Match | None) -> str | None:
    """The value of the score field without its quotes; a comma may stand in it ("1,234")."""
    rest = text[start : explained.start() if explained and explained.start() > start else len(text)].strip()
    quote = re.match(r"""\\?["'“”]""", rest)
    if quote:
        return re.split(r"""["'“”\n}]""", rest[quote.end() :], maxsplit=1)[0].rstrip("\\ ,")
    return _VALUE_END.split(re.sub(r"(?<=[0-9]),(?=[0-9]{3}\b)", "", rest), maxsplit=1)[0].strip() or None


def _loose_text(body: str, followed: bool) -> tuple[str, bool]:
    """The value of the explanation field, and whether it breaks off; `followed`: by another field, not by the end."""
    quote = re.match(r"""\\?(["'“”])""", body)
    if re.match(r"""\{|\[\s*["']""", body):
        return "", False  # sections that are no JSON
    if quote is None:
        end = re.search(r"\}|\n\s*```", body)
        return (body[: end.start()].rstrip(" ,\n"), False) if end else (body.rstrip(" ,\n"), not followed)
    body = body[quote.end() :]
    closing = "[”“]" if quote[1] in "“”" else re.escape(quote[1])
    ends = re.search(rf"\\?{closing}\s*(?:,\s*)?\}}", body)
    if ends is None:  # no closing brace: the quote may be the last thing, but for a code fence
        ends = re.search(rf"\\?{closing}\s*(?:,\s*)?(?:```)?$", body)
    if ends is not None:
        return _unescape(body[: ends.start()]), False
    if fence := re.search(r"\}\s*(?:```)?$", body):
        return _unescape(body[: fence.start()]), False
    return _unescape(body.removesuffix("```")), not (followed or _END.search(body))


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] else _ESCAPED.get(match[2], match[2]), text)
