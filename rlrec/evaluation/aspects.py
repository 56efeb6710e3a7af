"""Coverage: what share of the aspects in a user's review does the explanation name?

Papers: Qiu, Liu, Bu and Chen, "Opinion Word Expansion and Target Extraction through Double Propagation" (Computational
Linguistics 37(1), 2011), rules R1 to R4; Coverage as RecPIE (section 5.3 and note 11) uses it.

A review's aspect terms are the nouns on which it says an opinion. Starting from a lexicon of opinion words, targets
and further opinion words are found through the syntax that links them, until nothing new is found in the corpus:

| rule | finds | from | by |
| --- | --- | --- | --- |
| R1 | targets | opinion words | a modifier, subject or object relation, direct (1) or through one common head (2) |
| R2 | opinion words | targets | the same relations |
| R3 | targets | targets | a conjunction (1), or subject and object of one verb (2) |
| R4 | opinion words | opinion words | a conjunction (1), or the same relation to one head (2) |

Departures:

1. Parses are in Universal Dependencies, where the paper has Minipar's. Its modifier and argument relations MR become
   amod, acl, nsubj, csubj, obj, iobj and xcomp; some of them run from predicate to argument (the screen is great:
   screen is the nsubj of great), so the direct relation is taken in both directions.
2. Targets must be nouns or proper nouns and new opinion words adjectives, as in the paper; the seeds may be of any
   part of speech, because the lexicon has verbs and nouns too ("love the screen"). No word of the seeds is a target.
3. Words are their lemmas over the whole corpus, so a fixed point is what the seeds reach in the graph of the rules'
   instances: one pass over the corpus and one search, with the outcome of the iterated rules. A seed matches a word's
   lemma or its form.
4. Pruning: targets seen fewer than `min_count` times in the corpus are dropped, and a list of nouns that are no
   aspects (`STOP_NOUNS`) neither counts nor passes anything on. The paper's pruning within clauses and of other
   products is left out. Of its target phrases, compounds are kept ("battery life"), adjectives before nouns are not.
5. No polarity is assigned: Coverage does not use it.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import polars as pl

from rlrec.evaluation.faithfulness import find_quotations, mask_quotations
from rlrec.evaluation.parses import Document, Sentence

MODIFIERS = {"amod", "acl"}  # the dependent modifies its head
ARGUMENTS = {"nsubj", "csubj", "obj", "iobj", "xcomp"}
RELATIONS = MODIFIERS | ARGUMENTS
NOUNS = {"NOUN", "PROPN"}
_STOP_NOUNS = """
thing lot bit way time day week month year hour minute today yesterday tomorrow person people man woman guy someone
anyone everyone something anything everything nothing one kind sort type part number star review reason fact case
point idea
"""
_SEED_OPINIONS = """
good great nice excellent amazing awesome fantastic wonderful perfect beautiful lovely pretty cute fun funny easy
simple quick fast convenient comfortable clean fresh tasty delicious friendly helpful kind polite useful reliable cheap
affordable bright quiet cozy spacious modern strong sturdy smart happy glad pleased satisfied love like enjoy recommend
appreciate best better favorite favourite impressive interesting exciting attentive generous safe smooth
bad terrible horrible awful poor worst worse boring dull ugly dirty noisy slow rude unfriendly expensive overpriced
difficult hard confusing broken defective weak flimsy uncomfortable bland stale cold disgusting disappointing
disappointed annoying annoyed useless unreliable unhelpful wrong mediocre hate dislike regret avoid sad angry crowded
dangerous fake
"""
STOP_NOUNS = frozenset(_STOP_NOUNS.split())
SEED_OPINIONS = frozenset(_SEED_OPINIONS.split())


def read_opinion_lexicon(*paths: str | Path) -> frozenset[str]:
    """Opinion words from files in the format of Hu and Liu's lexicon: one word per line, lines with ';' are comments.

    The lexicon has one file for positive and one for negative words; RecPIE starts from both. The original files are
    in Latin-1, which is tried where a file is not UTF-8.

    Raises:
        FileNotFoundError, ValueError: a file that does not exist, holds more than a word on a line, or no word at all.
    """
    words = set()
    for path in map(Path, paths):
        if not path.is_file():
            raise FileNotFoundError(f"There is no opinion lexicon {path}; give a file with one word per line.")
        data = path.read_bytes()
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            text = data.decode("latin-1")
        found = set()
        for number, line in enumerate(text.splitlines(), start=1):
            word = line.strip()
            if word and not word.startswith(";"):
                if len(word.split()) > 1:
                    raise ValueError(f"{path}, line {number}: {word[:60]!r} is not one word; give one word per line.")
                found.add(word.lower())
        if not found:
            raise ValueError(f"{path} holds no opinion word; give a file with one word per line.")
        words |= found
    return frozenset(words)


@dataclass(frozen=True)
class Propagation:
    """What double propagation found in a corpus.

    Attributes:
        opinions: seeds that occur in the corpus, and the opinion words found (lemmas).
        targets: lemmas of the nouns on which opinions are said, after pruning.
        phrases: compounds that end in a target and are frequent enough: "battery life".
    """

    opinions: frozenset[str]
    targets: frozenset[str]
    phrases: frozenset[str]


def double_propagation(
    corpus: Iterable[Document],
    opinions: Iterable[str] = SEED_OPINIONS,
    *,
    min_count: int = 2,
    stop_nouns: Iterable[str] = STOP_NOUNS,
) -> Propagation:
    """Opinion words and targets of a corpus of parsed reviews, by the rules at the top of this file.

    Args:
        corpus: documents (`read_conllu(...).values()`, `parse_with_spacy`).
        opinions: seeds (`read_opinion_lexicon`; default: a short list of our own).
        min_count: targets and phrases seen fewer times in the corpus are dropped; 1 keeps all.
        stop_nouns: nouns that are no aspects.

    Raises:
        ValueError: no seeds.
    """
    seeds = frozenset(opinions)
    no_targets = seeds | frozenset(stop_nouns)
    if not seeds:
        raise ValueError("Double propagation starts from opinion words, and there are none; give a lexicon.")
    # (word, "opinion" or "target") -> what it brings in once it is known
    edges: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    words, phrases = Counter(), Counter()
    known = set()
    for document in corpus:
        for sentence in document:
            known |= {(t.lemma, "opinion") for t in sentence if t.lemma in seeds or t.form.lower() in seeds}
            for source, found in _instances(sentence):
                if found[1] == "opinion" or found[0] not in no_targets:
                    edges[source].add(found)
            words.update(token.lemma for token in sentence if token.pos in NOUNS)
            phrases.update(phrase for phrase, _ in _compounds(sentence).values())
    waiting = list(known)
    while waiting:
        new = edges[waiting.pop()] - known
        known |= new
        waiting += new
    targets = frozenset(word for word, kind in known if kind == "target" and words[word] >= min_count)
    return Propagation(
        frozenset(word for word, kind in known if kind == "opinion"),
        targets,
        frozenset(p for p, count in phrases.items() if count >= min_count and p.rpartition(" ")[2] in targets),
    )


def _instances(sentence: Sentence):
    """Each instance of a rule in the sentence, as ((word, kind) that must be known, (word, kind) that follows)."""
    relations = [token.relation.partition(":")[0] for token in sentence]

    def opinion_and_target(a: int, b: int):  # R1 and R2, whichever of the two may be what
        for opinion, target in ((sentence[a], sentence[b]), (sentence[b], sentence[a])):
            if target.pos in NOUNS and opinion.lemma != target.lemma:
                yield (opinion.lemma, "opinion"), (target.lemma, "target")
                if opinion.pos == "ADJ":
                    yield (target.lemma, "target"), (opinion.lemma, "opinion")

    def alike(a: int, b: int, kind: str, parts_of_speech: set[str]):  # R3 (target) and R4 (opinion)
        for one, other in ((sentence[a], sentence[b]), (sentence[b], sentence[a])):
            if other.pos in parts_of_speech:
                yield (one.lemma, kind), (other.lemma, kind)

    dependents = defaultdict(list)
    for index, token in enumerate(sentence):
        if token.head < 0:
            continue
        if relations[index] in RELATIONS:
            dependents[token.head].append(index)
            yield from opinion_and_target(index, token.head)
        elif relations[index] == "conj":
            yield from alike(index, token.head, "target", NOUNS)
            yield from alike(index, token.head, "opinion", {"ADJ"})
    for siblings in dependents.values():
        for a, b in combinations(siblings, 2):
            yield from opinion_and_target(a, b)
            pair = {relations[a], relations[b]}
            if len(pair) == 1 or pair == {"nsubj", "obj"}:
                yield from alike(a, b, "target", NOUNS)
            if len(pair) == 1 or pair <= MODIFIERS:
                yield from alike(a, b, "opinion", {"ADJ"})


def _compounds(sentence: Sentence) -> dict[int, tuple[str, set[int]]]:
    """{position of the head: (phrase in lemmas, positions of its other words)} of nouns with compounds before them."""
    found = {}
    for index, token in enumerate(sentence):
        start = index
        while start and sentence[start - 1].relation == "compound" and start <= sentence[start - 1].head <= index:
            start -= 1
        if start < index and token.pos in NOUNS and token.relation != "compound":
            found[index] = " ".join(word.lemma for word in sentence[start : index + 1]), set(range(start, index))
    return found


def aspect_terms(document: Document, propagation: Propagation) -> list[str]:
    """The aspect terms of a parsed review, in order and without repetition: targets, compounds in one piece."""
    terms = []
    for sentence in document:
        kept = {
            index: compound for index, compound in _compounds(sentence).items() if compound[0] in propagation.phrases
        }
        inside = set().union(*(positions for _, positions in kept.values()))
        for index, token in enumerate(sentence):
            if index in kept:
                terms.append(kept[index][0])
            elif index not in inside and token.pos in NOUNS and token.lemma in propagation.targets:
                terms.append(token.lemma)
    return list(dict.fromkeys(terms))


def opinion_pairs(document: Document, propagation: Propagation) -> list[tuple[str, str]]:
    """(aspect, opinion word) of a parsed review, in order and without repetition: what is said on what (R1 and R2).

    An aspect is one noun here: of a compound its last word.
    """
    pairs = [
        (target, opinion)
        for sentence in document
        for (opinion, kind), (target, found) in _instances(sentence)
        if (kind, found) == ("opinion", "target")
        if opinion in propagation.opinions and target in propagation.targets
    ]
    return list(dict.fromkeys(pairs))


def singulars(word: str) -> set[str]:
    """The word and what it may be the regular plural of.

    >>> sorted(singulars("boxes")), singulars("glass")
    (['box', 'boxe', 'boxes'], {'glass'})
    """
    forms = {word}
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        forms |= {word[:-1]}
        forms |= {word[:-2]} if word.endswith("es") else set()
        forms |= {word[:-3] + "y"} if word.endswith("ies") else set()
    return forms


def named_terms(text: str, terms: Sequence[str]) -> list[str]:
    """The terms that stand in the text as whole words, whatever the case, in the singular or a regular plural.

    >>> named_terms("Great Batteries' life in a cartoon!", ["battery life", "car", "cartoon"])
    ['battery life', 'cartoon']
    """
    words = [singulars(word) for word in re.findall(r"\w+", text.casefold())]
    anywhere = set().union(*words)

    def named(term: str) -> bool:
        wanted = re.findall(r"\w+", term.casefold())
        if not wanted or not anywhere.issuperset(wanted):
            return False
        starts = range(len(words) - len(wanted) + 1)
        return any(all(want in words[start + k] for k, want in enumerate(wanted)) for start in starts)

    return [term for term in terms if named(term)]


def coverage(
    explanations: Sequence[str], terms: Sequence[Sequence[str] | None], *, read_quotations: bool = True
) -> pl.DataFrame:
    """RecPIE's Coverage per row: the share of the review's aspect terms that the explanation names.

    Args:
        explanations: N texts.
        terms: for each, the aspect terms of the user's review of the item; None without a review.
        read_quotations: False leaves out what stands between double quotes, where explanations quote titles.

    Returns:
        A frame of N rows: terms (null without a review), named (those the explanation names) and coverage (null
        without a term).

    Raises:
        ValueError: lengths that differ, or no row with a review.

    >>> coverage(["Good rooms."], [["room", "pool"]]).row(0)
    (['room', 'pool'], ['room'], 0.5)
    """
    if len(explanations) != len(terms):
        raise ValueError(f"Got {len(explanations)} explanations and {len(terms)} lists of terms; give as many.")
    if all(wanted is None for wanted in terms):
        raise ValueError(
            f"Coverage compares explanations with the users' reviews, and none of the {len(terms)} rows has one; "
            "prepare the dataset with its reviews (on the simulated world use check_reasons)."
        )
    rows = []
    for text, wanted in zip(explanations, terms):
        if not read_quotations:
            text = mask_quotations(text, find_quotations(text))
        named = named_terms(text, wanted or ())
        rows.append((None if wanted is None else list(wanted), named, len(named) / len(wanted) if wanted else None))
    schema = {"terms": pl.List(pl.String), "named": pl.List(pl.String), "coverage": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def summarise_coverage(rows: pl.DataFrame) -> dict[str, float | int | None]:
    """Mean of `coverage` over its rows, with the rows that count and those that do not.

    Returns:
        coverage (mean; None when no row counts), rows (those it is the mean of), without_review, without_aspect, and
        terms_per_review (over the rows that count).
    """
    counted = rows.filter(pl.col("coverage").is_not_null())
    without_review = rows["terms"].null_count()
    return {
        "coverage": counted["coverage"].mean(),
        "rows": len(counted),
        "without_review": without_review,
        "without_aspect": len(rows) - len(counted) - without_review,
        "terms_per_review": counted["terms"].list.len().mean(),
    }
