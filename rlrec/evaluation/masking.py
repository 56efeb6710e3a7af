"""Explanations with a part of them taken out, to see what that part was worth: the verdict, or all but the sentiment.

What counts as a verdict is stated here, once:

1. A verdict phrase is what `faithfulness` reads as one, the whole of it: "will (likely) (not) like", "may be
   disappointed" ... (`mask_verdicts`). The reasons before it stay, also "they liked "Heat"".
2. A verdict word is one of `POSITIVE`, `NEGATIVE`, `FREQUENCIES` and `NEGATIONS`, as a whole word
   (`mask_verdict_words`). For texts whose reasons are their verdict: RecPIE's
   "Such drama often pleased them." leaves "Such drama them.".

Quoted titles are never touched. English alone.
"""

import re
from collections.abc import Sequence

from rlrec.evaluation.faithfulness import find_quotations, find_verdict, mask_quotations, verdict_spans

POSITIVE = (
    *("like", "likes", "liked", "liking", "love", "loves", "loved", "enjoy", "enjoys", "enjoyed", "enjoyable"),
    *("please", "pleases", "pleased", "pleasing", "appreciate", "appreciates", "appreciated", "adore", "adores"),
    *("good", "great", "excellent", "best", "perfect", "wonderful", "delighted", "satisfied", "satisfying"),
    *(
        "appealing",
        "favorite",
        "favourite",
        "prefer",
        "prefers",
        "preferred",
        "interested",
        "recommend",
        "recommended",
    ),
)
NEGATIVE = (
    *("dislike", "dislikes", "disliked", "hate", "hates", "hated", "displease", "displeases", "displeased"),
    *(
        "detest",
        "detests",
        "bad",
        "poor",
        "terrible",
        "worst",
        "awful",
        "disappointed",
        "disappointing",
        "disappoints",
    ),
    *(
        "bored",
        "boring",
        "unpleasant",
        "unsatisfied",
        "dissatisfied",
        "uninterested",
        "unappealing",
        "avoid",
        "avoids",
    ),
)
NEGATIONS = ("not", "never", "rarely", "seldom", "hardly", "scarcely", "neither", "nor", "cannot")
FREQUENCIES = ("often", "always", "usually", "frequently", "sometimes", "mostly")


def _words(words: Sequence[str]) -> str:
    return rf"(?:{'|'.join(map(re.escape, sorted(words, key=len, reverse=True)))})"


_VERDICT_WORD = re.compile(rf"\b{_words((*POSITIVE, *NEGATIVE, *NEGATIONS, *FREQUENCIES))}\b|n't\b", re.IGNORECASE)
_OPINION = re.compile(
    rf"(?P<negation>(?:\b{_words(NEGATIONS)}|n't)\s+(?:\w+\s+){{0,2}}?)?"
    rf"\b(?:(?P<positive>{_words(POSITIVE)})|(?P<negative>{_words(NEGATIVE)}))\b",
    re.IGNORECASE,
)


def mask_verdicts(texts: Sequence[str]) -> list[str]:
    """The texts without their verdict phrases (rule 1).

    >>> mask_verdicts(['They liked "I will like it", so they will likely like it.'])
    ['They liked "I will like it", so they it.']
    """
    return [_without(text, verdict_spans(_unquoted(text))) for text in texts]


def mask_verdict_words(texts: Sequence[str]) -> list[str]:
    """The texts without their verdict words (rule 2).

    >>> mask_verdict_words(["Such drama rarely displeased them."])
    ['Such drama them.']
    """
    return [_without(text, [found.span() for found in _VERDICT_WORD.finditer(_unquoted(text))]) for text in texts]


def sentiment(text: str) -> float:
    """An explanation as one number: 1 or -1 for its verdict; without one the mean over its opinion words, a negation
    (also "rarely") up to three words before turning it round; 0 where there are none.

    >>> sentiment('They liked "Heat", but they will probably not enjoy it.')
    -1.0
    >>> sentiment("Such drama rarely pleased them."), sentiment("A film.")
    (-1.0, 0.0)
    """
    unquoted = _unquoted(text)
    verdict = find_verdict(unquoted)
    if verdict is not None:
        return 1.0 if verdict[2] else -1.0
    signs = [
        (1.0 if found["positive"] else -1.0) * (-1.0 if found["negation"] else 1.0)
        for found in _OPINION.finditer(unquoted)
    ]
    return sum(signs) / len(signs) if signs else 0.0


def _unquoted(text: str) -> str:
    """The text with its quotations blanked, every other character where it was."""
    return mask_quotations(text, find_quotations(text))


def _without(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """The text without these parts, white space closed up; one without any as it was."""
    if not spans:
        return text
    for start, end in reversed(spans):
        text = text[:start] + text[end:]
    return re.sub(r"\s+([.,;:!?])", r"\1", " ".join(text.split()))
