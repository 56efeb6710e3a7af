"""Does an explanation tell the truth about its user's history, and does its verdict follow from what it cites?

A rule check for one-sentence explanations that quote titles. It reads the embedded policy's grammar,

    This is a lukewarm Drama film and they (liked|disliked) "TITLE", (so|yet) they will likely (like|dislike) it.

and free text of that shape by any language model. Rules, in the order in which they apply:

1. A citation is a text between double quotes, straight or curly, of a title. A quoted target title is counted apart:
   naming what is explained is no evidence. Every other quotation counts as a citation, also one of an invented title.
2. A citation is real when it names a title of this user's history: same letters whatever the case and spacing, with
   or without a trailing "(1995)", with "Matrix, The" as "The Matrix". An empty history makes every citation unreal.
3. The polarity a citation is given is that of the nearest word before it that says liked or disliked (with negation:
   "did not like"). Quotations and the verdict are not read as such words. It is right when the history holds that
   title with that label; a title held with both labels is right either way; a citation with no such word is not right.
4. The verdict is the last "will (likely) (not) like / enjoy / dislike ..." of the text.
5. The verdict is consistent when it agrees with the polarity of the citation nearest to it among those given a
   polarity (before the verdict if there is one). Each contrast ("but", "however", "although" ...) between the two
   turns the expectation round, as does an "although" or "despite" that opens the citation's own clause.
6. An explanation is malformed when it is empty, cites nothing (unless the history is empty), has no verdict, is
   longer than one sentence, or breaks off without a full stop, which is what a text cut at the token limit does.
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl

_QUOTED = r"[“”\"]({})[“”\"]"
_ANY_QUOTED = re.compile(_QUOTED.format(r"[^“”\"\n]+"))
_BLANK = "\x00"  # stands for quoted characters when the rest of the sentence is read

_LIKING = r"(?:lik|lov|enjoy|appreciat|ador|favou?r|prefer|admir)(?:ed|es|e|s|ing|red|ring|ences?|ite)?"
_DISLIKING = r"(?:dislik|hat|detest|loath|despis)(?:ed|es|e|s|ing)?"
_POLARITY = re.compile(
    rf"(?P<negation>(?:\b(?:not(?!\s+only)|never|neither|nor)|n't)\s+(?:\w+\s+){{0,2}}?)?"
    rf"\b(?:(?P<negative>{_DISLIKING})|(?P<positive>{_LIKING}))\b",
    re.IGNORECASE,
)
# "films like X" compares; "they like X" tells a preference. A bare "like" counts only after one of these words.
_BEFORE_VERB_LIKE = re.compile(
    r"(?:\b(?:i|you|they|he|she|who|and|also|really|generally|usually|often|do|does|did|to|not|never|users?|readers?|"
    r"viewers?|customers?|people|persons?|shoppers?)|n't)\s+$",
    re.IGNORECASE,
)
_VERDICT = re.compile(
    r"\b(?P<auxiliary>(?:will|would|may|might|could|should)(?:n't)?|won't|can(?:not|'t)|"
    r"(?:is|are|be|seems?|appears?)(?:n't)?\s+(?:\w+\s+)?(?:un)?likely|going|expected|predicted)"
    r"(?P<fillers>(?:[\s,]+(?:likely|unlikely|probably|possibly|most|very|quite|rather|really|definitely|certainly|"
    r"surely|also|still|much|highly|greatly|particularly|especially|be|to|not|never|find|it|this|feel))*?)"
    r"[\s,]+(?:(?P<negative>dislike|hate|detest|loathe|despise|disappointed|bored|uninterested|disinterested|boring)|"
    r"(?P<positive>like|love|enjoy|appreciate|adore|favou?r|interested|pleased|satisfied|delighted|appealing))\b",
    re.IGNORECASE,
)
_VERDICT_NEGATION = re.compile(r"n't\b|not\b|\bnever\b|\bunlikely\b", re.IGNORECASE)
_CONCESSIVE = r"even\s+though|although|though|despite|in\s+spite\s+of|while|whereas"
_CONTRAST_WORDS = rf"(?:{_CONCESSIVE}|but(?!\s+also)|however|yet|nevertheless|nonetheless)"
_CONTRAST = re.compile(rf"\b{_CONTRAST_WORDS}\b(?:[\s,]+{_CONTRAST_WORDS}\b)*", re.IGNORECASE)
_CONCESSIVE_OPENER = re.compile(rf"\b(?:{_CONCESSIVE})\b[^,.;:!?{_BLANK}]*$", re.IGNORECASE)
_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|vs|mr|mrs|ms|dr|st|jr|sr|vol|no|[a-z])\.$", re.IGNORECASE)
_SENTENCE_END = re.compile(rf"[.!?]+[\"”')\]{_BLANK}]*(?=\s|$)")
_ARTICLE_AT_END = re.compile(r"^(.*), (the|a|an|le|la|les|il|el|der|die|das)$")
_YEAR_AT_END = re.compile(r"\s*\(\d{4}\)$")

CHECK_SCHEMA = {
    "citations": pl.Int64,
    "citations_real": pl.Int64,
    "citations_stated": pl.Int64,
    "citations_right": pl.Int64,
    "target_citations": pl.Int64,
    "verdict": pl.Int64,
    "expected_verdict": pl.Int64,
    "consistent": pl.Boolean,
    "malformed": pl.String,
}


def title_key(title: str) -> str:
    """The form in which titles are compared.

    >>> title_key("Matrix, The (1999)"), title_key(" the  MATRIX,")
    ('the matrix', 'the matrix')
    """
    key = " ".join(title.replace("’", "'").casefold().split()).rstrip(",.;:")
    key = _YEAR_AT_END.sub("", key)
    return _ARTICLE_AT_END.sub(r"\2 \1", key)


def find_quotations(text: str, titles: Iterable[str] = ()) -> list[tuple[int, int, str]]:
    """(start, end, title) of each quotation; known titles that hold quotation marks themselves are matched whole.

    >>> find_quotations('They liked "Heat".')
    [(11, 17, 'Heat')]
    """
    pattern = _ANY_QUOTED
    nested = sorted({title for title in titles if re.search(r"[“”\"]", title)}, key=len, reverse=True)
    if nested:
        known = "|".join(re.escape(title) for title in nested)
        pattern = re.compile(_QUOTED.format(rf"(?:{known})[,.]?|[^“”\"\n]+"), re.IGNORECASE)
    return [(*match.span(), match[1]) for match in pattern.finditer(text)]


def mask_quotations(text: str, quotations: Sequence[tuple[int, int, str]]) -> str:
    """The text with its quotations blanked, every other character where it was."""
    for start, end, _ in quotations:
        text = text[:start] + _BLANK * (end - start) + text[end:]
    return text.replace("’", "'")


def verdict_spans(masked_text: str) -> list[tuple[int, int]]:
    """(start, end) of every verdict in a text without quotations.

    >>> verdict_spans("They will like it.")
    [(5, 14)]
    """
    return [match.span() for match in _VERDICT.finditer(masked_text)]


def find_verdict(masked_text: str) -> tuple[int, int, int] | None:
    """(start, end, 1 or 0) of the last verdict in a text without quotations; None when there is none.

    >>> find_verdict("They will probably not enjoy it.")[2], find_verdict("She won't dislike it.")[2]
    (0, 1)
    """
    verdict = None
    for match in _VERDICT.finditer(masked_text):
        negations = len(_VERDICT_NEGATION.findall(f"{match['auxiliary']} {match['fillers']}"))
        verdict = match.start(), match.end(), int((match["positive"] is not None) ^ (negations % 2 == 1))
    return verdict


def _stated_polarities(masked_text: str, verdict: tuple[int, int, int] | None) -> list[tuple[int, int]]:
    """(end, 1 or 0) of each word that says liked or disliked, the verdict left out."""
    outside = masked_text if verdict is None else _without(masked_text, *verdict[:2])
    return [
        (match.end(), int((match["positive"] is not None) ^ (match["negation"] is not None)))
        for match in _POLARITY.finditer(outside)
        if (match["positive"] or "").lower() != "like" or _BEFORE_VERB_LIKE.search(outside[: match.start("positive")])
    ]


def _without(text: str, start: int, end: int) -> str:
    return text[:start] + " " * (end - start) + text[end:]


def _expected_verdict(
    masked_text: str, verdict: tuple[int, int, int], cited: list[tuple[int, int, int]]
) -> int | None:
    """What the citation nearest to the verdict leads one to expect; cited holds (start, end, polarity)."""
    before = [citation for citation in cited if citation[1] <= verdict[0]]
    if before:
        start, end, polarity = before[-1]
        contrasts = len(_CONTRAST.findall(masked_text[end : verdict[0]]))
        contrasts += bool(_CONCESSIVE_OPENER.search(masked_text[:start]))
    elif cited:
        start, end, polarity = cited[0]
        contrasts = len(_CONTRAST.findall(masked_text[verdict[1] : start]))
    else:
        return None
    return polarity ^ (contrasts % 2)


def count_sentences(text: str, masked_text: str) -> tuple[int, bool]:
    """(sentences, whether the last one is finished) of a text and its masked form."""
    ends = [
        match.end()
        for match in _SENTENCE_END.finditer(masked_text)
        if not (
            _ABBREVIATION.search(masked_text[max(match.start() - 8, 0) : match.start() + 1])
            and masked_text[match.end() :].strip()
        )
    ]
    rest = masked_text[ends[-1] if ends else 0 :].strip()
    finished = not rest or bool(re.search(r"[.!?][\"”')\]]*$", text.strip()))
    return len(ends) + bool(rest), finished


def _check(text: str, titles: Sequence[str], labels: Sequence[int], target: str | None, max_sentences: int | None):
    """The row of CHECK_SCHEMA of one explanation, as a tuple."""
    known = [*titles, target] if target is not None else titles
    quotations = find_quotations(text, known)
    masked = mask_quotations(text, quotations)
    verdict = find_verdict(masked)
    stated = _stated_polarities(masked, verdict)
    labels_of_title: dict[str, set[int]] = {}
    for title, label in zip(titles, labels, strict=True):
        labels_of_title.setdefault(title_key(title), set()).add(int(label))
    target_key = None if target is None else title_key(target)

    citations = real = right = target_citations = 0
    with_polarity = []  # (start, end, polarity)
    for start, end, title in quotations:
        key = title_key(title)
        if key == target_key and key not in labels_of_title:
            target_citations += 1
            continue
        citations += 1
        real += key in labels_of_title
        polarity = next((polarity for word_end, polarity in reversed(stated) if word_end <= start), None)
        if polarity is not None:
            with_polarity.append((start, end, polarity))
            right += polarity in labels_of_title.get(key, ())

    expected = None if verdict is None else _expected_verdict(masked, verdict, with_polarity)
    consistent = None if expected is None else expected == verdict[2]
    sentences, finished = count_sentences(text, masked)
    malformed = None
    if not text.strip():
        malformed = "empty"
    elif citations == 0 and titles:
        malformed = "no citation"
    elif verdict is None:
        malformed = "no verdict"
    elif max_sentences is not None and sentences > max_sentences:
        malformed = "too many sentences"
    elif not finished:
        malformed = "unfinished"
    verdict_value = None if verdict is None else verdict[2]
    return (
        citations, real, len(with_polarity), right, target_citations, verdict_value, expected, consistent, malformed
    )  # fmt: skip


def check_explanations(
    explanations: Sequence[str],
    history_titles: Sequence[Sequence[str]],
    history_labels: Sequence[Sequence[int]],
    target_titles: Sequence[str] | None = None,
    max_sentences: int | None = 1,
) -> pl.DataFrame:
    """Read each explanation against its user's history by the rules at the top of this file.

    Args:
        explanations: N texts.
        history_titles: for each, the titles of the user's history (possibly none).
        history_labels: for each, 1 (liked) or 0 of these titles.
        target_titles: for each, the title that is explained. A history that holds the target's title too (another
            edition) wins: the citation is then one of the history.
        max_sentences: longer texts are malformed (ExpCTR's prompt asks for one sentence); None for no limit.

    Returns:
        A frame of N rows: citations (of anything but the target), citations_real, citations_stated (given a
        polarity), citations_right (real and given the right one), target_citations, verdict (1, 0 or null),
        expected_verdict and consistent (null without a verdict or a citation with polarity), malformed (the reason,
        or null).

    >>> checks = check_explanations(['They liked "Heat", so they will likely like it.'], [["Heat"]], [[1]])
    >>> checks.select("citations_real", "citations_right", "consistent", "malformed").row(0)
    (1, 1, True, None)
    """
    targets = [None] * len(explanations) if target_titles is None else target_titles
    lengths = {len(column) for column in (explanations, history_titles, history_labels, targets)}
    if len(lengths) > 1:
        raise ValueError(
            f"Got {len(explanations)} explanations, {len(history_titles)} histories, {len(history_labels)} lists of "
            f"labels and {len(targets)} targets; give as many of each."
        )
    rows = []
    columns = zip(explanations, history_titles, history_labels, targets)
    for index, (text, titles, labels, target) in enumerate(columns):
        if len(titles) != len(labels):
            raise ValueError(
                f"Row {index}: {len(titles)} history titles but {len(labels)} labels; give one per title."
            )
        rows.append(_check(text, list(titles), list(labels), target, max_sentences))
    return pl.DataFrame(rows, schema=CHECK_SCHEMA, orient="row")


def summarise_checks(checks: pl.DataFrame, scores=None) -> dict[str, float | None]:
    """Shares over the explanations of `check_explanations`; a share of nothing is None.

    Args:
        checks: the frame of `check_explanations`.
        scores: (N,) probabilities of the system the explanations belong to; adds `verdict_matches_score`.

    Returns:
        cited_real and polarity_right (of all citations; the second counts those real and of right polarity),
        polarity_stated (citations given a polarity at all), verdict_consistency (of explanations with a verdict and a
        citation with polarity), citations_per_explanation, target_cited (explanations that quote their target),
        positive_verdicts (of those with a verdict), malformed (of all), and verdict_matches_score: of explanations
        with a verdict, those positive exactly when the score is above 0.5.
    """
    citations = int(checks["citations"].sum())
    count = len(checks)

    def share(part, of: int) -> float | None:
        return float(part) / of if of else None

    verdicts = checks["verdict"]
    summary = {
        "cited_real": share(checks["citations_real"].sum(), citations),
        "polarity_right": share(checks["citations_right"].sum(), citations),
        "polarity_stated": share(checks["citations_stated"].sum(), citations),
        "verdict_consistency": share(checks["consistent"].sum(), checks["consistent"].count()),
        "citations_per_explanation": share(citations, count),
        "target_cited": share((checks["target_citations"] > 0).sum(), count),
        "positive_verdicts": share(verdicts.sum(), verdicts.count()),
        "malformed": share(checks["malformed"].count(), count),
    }
    if scores is not None:
        scores = np.asarray(scores, dtype=float)
        if scores.shape != (count,):
            raise ValueError(f"Scores have shape {scores.shape} for {count} explanations; give one per explanation.")
        agree = (pl.Series(scores > 0.5).cast(pl.Int64) == verdicts).drop_nulls()
        summary["verdict_matches_score"] = share(agree.sum(), len(agree))
    return summary
