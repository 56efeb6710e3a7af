"""The claims of an explanation about its item's history, found by pattern and held to it.

`rlrec.trail.trends` says by what rules. A sentence is read once for the periods it names ("March 2014", "3 windows
ago"), which are masked, and then kind by kind; what one kind has read is not read again.
"""

import re
from dataclasses import dataclass

import numpy as np

from rlrec.trail.histories import History, recent_direction, step

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_PARTS = {"early": range(1, 5), "mid": range(5, 9), "late": range(9, 13)}
_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?|"
    r"Nov(?:ember)?|Dec(?:ember)?)\b\.?"
)
_NUMBER_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_AGO = rf"(?P<ago>\d{{1,3}}|{'|'.join(_NUMBER_WORDS)}) (?:windows?|months?) (?:ago|before|earlier)"
_PERIOD = re.compile(
    rf"(?P<iso>(?:19|20)\d\d-\d\d)(?:-\d\d)?\b|(?P<month>\b{_MONTH})(?:,? (?:of )?(?P<year>(?:19|20)\d\d)\b)?|"
    rf"\b(?:(?P<part>[Ee]arly|[Mm]id|[Ll]ate)[ -])?(?P<alone>(?:19|20)\d\d)\b(?!\.\d)|\b{_AGO}\b|"
    r"\b(?P<last>(?:the )?(?:last|latest|most recent|previous) (?:window|month))\b"
)
_NUMBER = r"(\d{1,3}(?:,\d{3})+(?!\d)|\d+(?:\.\d+)?)(?![\d%])"
_LINK = r"(?:(?:in|during|for|of|on|the|with|at|a|an|score|value|count|users?|to|and)\b|[\s,():])*"

_RISING = (
    r"(?:ris(?:es?|ing|en)|rose|upwards?|uptrend|grow(?:s|ing|n|th)?|grew|increas(?:es?|ed|ing)|"
    r"surg(?:es?|ed|ing)|climb(?:s|ed|ing)?|jump(?:s|ed|ing)?)"
)
_FALLING = (
    r"(?:(?<!\bin )(?<!\bthe )(?<!\bthis )(?<!\blast )fall(?!\s+(?:19|20)\d\d)|falls|falling|fallen|fell|"
    r"declin(?:es?|ed|ing)|drop(?:s|ped|ping)?|decreas(?:es?|ed|ing)|downwards?|downtrend|"
    r"plummet(?:s|ed|ing)?|diminish(?:es|ed|ing)?|shr(?:inks?|inking|ank))"
)
_STABLE = r"(?:stable|flat|unchanged|constant|plateau(?:s|ed|ing)?|level(?:l?ed|s)? off|stagnant|steady)"
_FLUCTUATING = r"(?:fluctuat(?:es?|ed|ing|ions?)|volatil(?:e|ity)|erratic|ups and downs|oscillat(?:es?|ed|ing|ions?))"
_DIRECTION = re.compile(
    rf"\b(?:(?P<rising>{_RISING})|(?P<falling>{_FALLING})|(?P<fluctuating>{_FLUCTUATING})|"
    rf"(?P<stable>{_STABLE})(?!,?\s+(?:and\s+)?(?:{_RISING}|{_FALLING})))\b",
    re.IGNORECASE,
)
_OF_A_TREND = re.compile(
    r"\W+(?:\w+\W+)?(?:trends?|trajectory|momentum|patterns?|popularity|history)\b", re.IGNORECASE
)
_NEGATED = re.compile(r"(?:\b(?:no|not|never|without|neither|nor)\b|n't)(?:\s+\w+){0,2}\s+$", re.IGNORECASE)
_FUTURE = re.compile(
    r"\b(?:will|would|could|should|may|might|likely|expect\w*|predict\w*|forecast\w*|anticipat\w*|potential\w*|"
    r"future|upcoming|next)\b"
)
_OVERALL = re.compile(
    r"\b(?:overall|over time|over the (?:years|months)|general(?:ly)?|historically|long-term|throughout|since)\b", re.I
)
_LATELY = re.compile(r"\b(?:lately|recent(?:ly)?|latest|currently|now)\b", re.IGNORECASE)

_FROM_TO = re.compile(rf"\bfrom\s+{_LINK}{_NUMBER}(?P<between>[^\d.;]{{0,40}}?)\bto\s+{_LINK}{_NUMBER}", re.IGNORECASE)
_STABLE_AT = re.compile(rf"\b{_STABLE}\s+at\s+{_NUMBER}", re.IGNORECASE)
_PEAK = re.compile(
    r"\b(?:(?P<local>(?:most recent|recent|latest|last|another|second|smaller|local|first|notable)\s+)?"
    r"peak(?P<plural>s)?(?:ed|ing)?|(?:highest|maximum|max)\b(?:\s+(?:popularity|value|score|count|point|number))*)\b",
    re.IGNORECASE,
)
_PEAK_VALUE = re.compile(
    r"^[\s,]*(?:(?:at|of|with|was|is|had|to|reaching|recorded|popularity|score|value|count|a|an|the|in|on)\b"
    rf"|[\s,:(\x00\x01])*{_NUMBER}",
    re.IGNORECASE,
)
_NUMBERS = (
    (
        r"(?:most recent|latest|last|current|recent)(?:\s+\w+){0,2}?\s+(?:value|score|count|popularity|number)s?",
        "last",
    ),
    (r"(?:average|mean|averaging|averages|averaged)(?:\s+(?:popularity|value|score|count|monthly))*", "mean"),
    (r"(?:lowest|minimum|trough|low)(?:\s+(?:popularity|value|score|count|point|number))*", "least"),
)
_SAID = rf"(?:\s+of users)?(?:\s+(?:of|is|was|being|at|a|about|around|in|on)\b|[\s,:(\x00\x01])*?\s*{_NUMBER}"
_STATISTICS = [(re.compile(rf"\b{name}{_SAID}", re.IGNORECASE), what) for name, what in _NUMBERS]
_DATED_NUMBER = re.compile(
    rf"{_NUMBER}(?:\s+(?:users|interactions|ratings|reviews))?\s+(?:in|during)\s+(?P<after>\x00)|"
    rf"(?P<before>\x00)\x01*\s*(?:(?:with|at|had|saw|reached|:|\(|a|score|value|count|of)\s*)+{_NUMBER}",
    re.IGNORECASE,
)
_NO_HISTORY = re.compile(
    r"\b(?:no|without|lack(?:s|ing)?(?: of)?|absence of)\s+"
    r"(?:(?:any|available|historical|past|prior|previous|popularity|interaction|recorded)\s+)*"
    r"(?:history|data|records?|interactions?|popularity trends?)\b(?!\s+(?:in|during|for)\b)",
    re.IGNORECASE,
)
_SECTION = re.compile(
    r"(?:<b>|\*\*)?\[?\b(Trend|Feature|Integration)s?\b(?:\](?:\*\*)?:?|(?:\*\*)?:)(?:</b>|\*\*)?", re.IGNORECASE
)
_SENTENCE = re.compile(r"(?<=[.;!?])\s+(?=[\"'\[(A-Z])|\n+")
_CLAUSE = re.compile(r"[,;:]\s")


@dataclass(frozen=True)
class Claim:
    """One claim: its kind ("peak", "direction" or "number"), its words, and whether it holds."""

    kind: str
    text: str
    true: bool


@dataclass(frozen=True)
class _Period:
    start: int
    end: int
    windows: list[int]  # of the history that lie in it
    yearless: bool  # a month of which year is not said


def _periods(sentence: str, history: History) -> list[_Period]:
    return [
        _Period(*match.span(), _windows(match, history), bool(match["month"] and not match["year"]))
        for match in _PERIOD.finditer(sentence)
    ]


def _windows(match: re.Match, history: History) -> list[int]:
    """The windows of the history that lie in a period as `_PERIOD` found it."""
    if match["ago"] or match["last"]:
        ago = match["ago"] or "1"
        back = _NUMBER_WORDS.index(ago) + 1 if ago in _NUMBER_WORDS else int(ago)
        return [len(history.counts) - back] if 1 <= back <= len(history.counts) else []
    years, months = None, range(1, 13)
    if match["iso"]:
        years, months = [int(match["iso"][:4])], [int(match["iso"][5:])]
    elif match["month"]:
        years, months = match["year"] and [int(match["year"])], [_MONTHS.index(match["month"][:3].lower()) + 1]
    else:
        years = [int(match["alone"])]
        if match["part"]:
            months = _PARTS[match["part"].lower()]
    return [i for i, (year, month) in enumerate(history.months) if month in months and (not years or year in years)]


def find_claims(text: str, history: History) -> list[Claim]:
    """The claims of a whole explanation, in order: those of [Trend], then those of [Integration]."""
    trend, integration = _sections(text)
    claims = [claim for sentence in _SENTENCE.split(trend) for claim in _Sentence(sentence, history).claims()]
    for sentence in _SENTENCE.split(integration):
        for match in _DIRECTION.finditer(sentence):
            if _OF_A_TREND.match(sentence, match.end()) and not _foretold(sentence, match.start()):
                ways = (recent_direction(history.counts), history.overall())
                holds = history.fluctuates() if match.lastgroup == "fluctuating" else match.lastgroup in ways
                claims.append(Claim("direction", match[0], holds != _negated(sentence, match.start())))
    return claims


def _sections(text: str) -> tuple[str, str]:
    """The sections [Trend] and [Integration]; a text without sections is all trend."""
    parts = _SECTION.split(text)
    sections: dict[str, str] = {}
    for name, body in zip(parts[1::2], parts[2::2]):
        sections.setdefault(name.lower(), body)
    return (sections.get("trend", ""), sections.get("integration", "")) if sections else (text, "")


def _clause(sentence: str, position: int) -> int:
    """Where the clause around `position` starts."""
    return max((match.end() for match in _CLAUSE.finditer(sentence, 0, position)), default=0)


def _foretold(sentence: str, position: int) -> bool:
    return bool(_FUTURE.search(sentence, _clause(sentence, position), position))


def _negated(sentence: str, position: int) -> bool:
    return bool(_NEGATED.search(sentence[:position]))


class _Sentence:
    """The claims of one sentence about the history, each word and number read once."""

    def __init__(self, sentence: str, history: History):
        self.text = " ".join(sentence.replace("\x00", " ").replace("\x01", " ").split())
        self.history, self.periods, self.masked = history, _periods(self.text, history), self.text
        for period in self.periods:  # as many characters as before, so that positions stay
            mask = "\x00" + "\x01" * (period.end - period.start - 1)
            self.masked = self.masked[: period.start] + mask + self.masked[period.end :]
        self.read: list[tuple[int, int]] = []
        self.found: list[tuple[int, Claim]] = []

    def claims(self) -> list[Claim]:
        self._no_history()
        self._steps()
        peaks = self._peaks()
        self._statistics()
        self._directions(peaks)
        return [claim for _, claim in sorted(self.found, key=lambda pair: pair[0])]

    def _add(self, kind: str, start: int, end: int, true: bool) -> None:
        self.read.append((start, end))
        self.found.append((start, Claim(kind, self.text[start:end].strip(" ,"), bool(true))))

    def _free(self, start: int, end: int) -> bool:
        return all(end <= s or e <= start for s, e in self.read)

    def _period_at(self, start: int, end: int) -> _Period | None:
        """The first period between two positions."""
        return next((period for period in self.periods if start <= period.start < end), None)

    def _linked(self, start: int, words: str = r"(?:[\s,(]|in|during|of|on|the|a|score)*") -> _Period | None:
        """The period that follows `start` directly but for some small words."""
        reach = re.compile(words, re.IGNORECASE).match(self.masked, start).end()
        return self._period_at(start, reach + 1) if self.masked[reach : reach + 1] == "\x00" else None

    def _no_history(self) -> None:
        for match in _NO_HISTORY.finditer(self.masked):
            self._add("number", *match.span(), sum(self.history.counts) == 0)

    def _steps(self) -> None:
        """ "from 13 in September to 161 in October" and "stable at 7"."""
        counts = self.history.counts
        for match in _FROM_TO.finditer(self.masked):
            if _foretold(self.masked, match.start()):
                continue
            clause = _clause(self.masked, match.start())
            words = [m for m in _DIRECTION.finditer(self.masked, clause, match.start()) if self._free(*m.span())]
            first, second = _number(match[1]), _number(match[3])
            begun, ended = self._period_at(match.end(1), match.start(3)), self._linked(match.end(3))
            begins = range(len(counts)) if begun is None else begun.windows
            ends = range(len(counts)) if ended is None else ended.windows
            if begun is None and ended is None and _LATELY.search(self.masked, clause, match.start()):
                begins, ends = [len(counts) - 2], [len(counts) - 1]
            true = any(0 <= i < j and counts[i] == first and counts[j] == second for i in begins for j in ends)
            if words:
                way = "rising" if second > first else "falling" if second < first else "stable"
                true = true and words[-1].lastgroup == way
            start = words[-1].start() if words else match.start()
            self._add("direction", start, ended.end if ended else match.end(), true)
        for match in _STABLE_AT.finditer(self.masked):
            if self._free(*match.span()) and not _foretold(self.masked, match.start()):
                self._add("direction", *match.span(), len(counts) > 1 and counts[-2:] == [_number(match[1])] * 2)

    def _peaks(self) -> list[tuple[int, int | None]]:
        """(position, window) of each peak named."""
        named = []
        for match in _PEAK.finditer(self.masked):
            if not self._free(*match.span()) or _foretold(self.masked, match.start()):
                continue
            local = bool(match["local"] or match["plural"])
            candidates = self.history.local_peaks() if local else self.history.peaks()
            end, value = match.end(), None
            periods = self._listed(end, r"(?:[\s,(]|at|of|in|during|on|the|occurred|was|around|a|score|value|\d+)*")
            stated = _PEAK_VALUE.match(self.masked[end:])
            if stated is not None:
                value, end = _number(stated[1]), end + stated.end(1)
            end = max([end, *(period.end for period in periods)])
            if value is None and not periods:
                continue  # names a peak and says nothing of it that could be wrong
            counts = self.history.counts
            fitting = [i for i in candidates if value is None or counts[i] == value]
            there = [[i for i in fitting if i in period.windows] for period in periods] or [fitting]
            self._add("peak", match.start(), end, all(there))
            named.append((end, there[-1][-1] if there[-1] else None))
        return named

    def _listed(self, start: int, words: str) -> list[_Period]:
        """The periods that follow `start`: "in early 2013 and 2014"."""
        found = []
        while (period := self._linked(start, words)) is not None:
            found.append(period)
            start, words = period.end, r"(?:[\s,]|and|to|in|or|through)*"
        return found

    def _statistics(self) -> None:
        counts = self.history.counts
        for pattern, what in _STATISTICS:
            for match in pattern.finditer(self.masked):
                if not self._free(*match.span()) or _foretold(self.masked, match.start()):
                    continue
                said = _number(match[1])
                if what == "mean":
                    mean = float(np.mean(counts)) if counts else np.inf
                    true = abs(said - mean) <= max(0.05 * mean, 0.5) if counts else False
                else:
                    true = bool(counts) and said == (counts[-1] if what == "last" else min(counts))
                self._add("number", *match.span(), true)
        for match in _DATED_NUMBER.finditer(self.masked):
            if self._free(*match.span()) and not _foretold(self.masked, match.start()):
                place = match.start("after") if match["after"] else match.start("before")
                period = self._period_at(place, place + 1)
                there = [counts[i] for i in period.windows]
                said = _number(match[1] or match[4])
                self._add("number", match.start(), max(match.end(), period.end), said in there)

    def _directions(self, peaks: list[tuple[int, int | None]]) -> None:
        for match in _DIRECTION.finditer(self.masked):
            if self._free(*match.span()) and not _foretold(self.masked, match.start()):
                holds = self._holds(match, peaks) != _negated(self.masked, match.start())
                self._add("direction", *match.span(), holds)

    def _holds(self, match: re.Match, peaks: list[tuple[int, int | None]]) -> bool:
        history, word = self.history, match.lastgroup
        if word == "fluctuating":
            return history.fluctuates()
        clause = _clause(self.masked, match.start())
        end = _CLAUSE.search(self.masked, match.end())
        around = slice(clause, end.start() if end else len(self.masked))
        dated = self._listed(match.end(), r"(?:[\s,]|in|during|from|between|throughout|popularity|of|the)*")
        if dated:
            windows = sorted(i for period in dated for i in period.windows[-1 if period.yearless else 0 :])
            since_first = re.match(r"\s+(?:popularity\s+)?(?:from|between)\b", self.masked[match.end() :], re.I)
            first = (windows[0] if since_first else windows[0] - 1) if windows else -1
            if first < 0 or windows[-1] == first:
                return False
            return word == step(history.counts[first], history.counts[windows[-1]])
        lately = _LATELY.search(self.masked[around])
        before = [window for position, window in peaks if position <= match.start()]
        if before and not lately:
            largest = history.peaks()
            peak = before[-1] if before[-1] is not None else largest[-1] if largest else None
            return peak is not None and word == history.after(peak)
        if _OVERALL.search(self.masked[around]) and not lately:
            return word == history.overall()
        return word == recent_direction(history.counts)


def _number(text: str) -> float:
    return float(text.replace(",", ""))
