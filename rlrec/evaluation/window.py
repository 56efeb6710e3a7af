"""Aspect terms without a parser: words beside opinion words. A stand-in of our own, not the Coverage of RecPIE.

Where no parser is at hand, the word after an opinion word ("great gift", "love this card") and the word before "is"
and an opinion word ("the food was very good") are taken for aspects, if they are so taken often enough in the corpus.
Parts of speech are not known, so verbs and adjectives slip in, compounds are cut to one word ("gift" of "great gift
cards"), and nothing propagates to new opinion words. Scores computed with these terms are named `coverage_window`,
and compare only with each other.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from rlrec.evaluation.aspects import SEED_OPINIONS, STOP_NOUNS, singulars

COPULAS = {"is", "are", "was", "were", "looks", "look", "looked", "seems", "seem", "seemed", "tastes", "tasted"}
ADVERBS = {"very", "so", "really", "always", "super", "too", "quite", "pretty", "extremely", "not", "just"}
DETERMINERS = {"a", "an", "the", "this", "that", "these", "those", "my", "your", "his", "her", "our", "their"}


def window_terms(
    reviews: Sequence[str | None],
    opinions: Iterable[str] = SEED_OPINIONS,
    *,
    min_count: int = 2,
    stop_nouns: Iterable[str] = STOP_NOUNS,
) -> list[list[str] | None]:
    """The presumed aspect terms of each review; None without a review.

    Args:
        reviews: N texts, which are also the corpus.
        opinions: opinion words in every form that counts (`read_opinion_lexicon`).
        min_count: words found beside an opinion word fewer times are dropped.
        stop_nouns: words that are no aspects, beside scikit-learn's English stop words.

    >>> window_terms(["Great gift, the food was good.", "A gift of bad food", None], min_count=1)
    [['gift', 'food'], ['food', 'gift'], None]
    """
    opinions = frozenset(opinions)
    excluded = opinions | frozenset(stop_nouns) | ENGLISH_STOP_WORDS | COPULAS | ADVERBS
    found = [
        None if not text or not text.strip() else [word for word, _ in _beside(text, opinions)] for text in reviews
    ]
    candidates = (word for words in found for word in words or () if len(word) > 2)
    counts = Counter(word for word in candidates if not singulars(word) & excluded)
    singular = {word: min(singulars(word) & counts.keys(), key=len) for word in counts}  # "gifts" is "gift" if that is
    totals = Counter()
    for word, count in counts.items():
        totals[singular[word]] += count
    terms = []
    for text, words in zip(reviews, found):
        if words is None:
            terms.append(None)
        else:  # what an opinion is said on, then what of the corpus's aspects is named without one
            named = [singular.get(word, word) for word in (*words, *re.findall(r"\w+", text.casefold()))]
            terms.append([word for word in dict.fromkeys(named) if totals[word] >= min_count])
    return terms


def window_pairs(text: str, terms: Iterable[str], opinions: Iterable[str] = SEED_OPINIONS) -> list[tuple[str, str]]:
    """(aspect, opinion word) of a review, whose aspects are among its `window_terms`.

    >>> window_pairs("Great gifts, the food was good.", ["gift", "food"])
    [('gift', 'great'), ('food', 'good')]
    """
    terms = set(terms)
    beside = ((singulars(word) & terms, opinion) for word, opinion in _beside(text, frozenset(opinions)))
    return [(min(found, key=len), opinion) for found, opinion in beside if found]


def _beside(text: str, opinions: frozenset[str]) -> Iterator[tuple[str, str]]:
    """(word, opinion): the word after each opinion word, and the one before a copula and one, in a clause."""
    for clause in re.split(r"[^\w\s'’-]+", text.casefold()):
        words = re.findall(r"\w+", clause)
        for index, word in enumerate(words):
            if word not in opinions:
                continue
            following = index + 1
            while following < len(words) and words[following] in opinions | DETERMINERS:
                following += 1
            if following < len(words):
                yield words[following], word
            before = index - 1
            while before > 0 and words[before] in ADVERBS:
                before -= 1
            if before > 0 and words[before] in COPULAS:
                yield words[before - 1], word
