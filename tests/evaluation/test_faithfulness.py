"""The rules of the faithfulness check, one hand-read sentence after another."""

import numpy as np
import polars as pl
import pytest

from rlrec.evaluation.faithfulness import (
    check_explanations,
    find_verdict,
    mask_quotations,
    summarise_checks,
    title_key,
)

TITLES = ["Heat (1995)", "Matrix, The (1999)", "Love Actually", 'The "Best" Show']
LABELS = [1, 0, 0, 1]


def check(text, titles=TITLES, labels=LABELS, target="Alien (1979)", **options):
    return check_explanations([text], [titles], [labels], [target], **options).row(0, named=True)


@pytest.mark.parametrize("first", ["liked", "disliked"])
@pytest.mark.parametrize("connective", ["and", "but"])
@pytest.mark.parametrize("verdict", ["like", "dislike"])
def test_the_embedded_grammar(first, connective, verdict):
    text = f'They {first} "Heat (1995)", {connective} this is a mixed Drama film, so they will likely {verdict} it.'
    row = check(text)
    assert (row["citations"], row["citations_real"], row["citations_stated"]) == (1, 1, 1)
    assert row["citations_right"] == (first == "liked")
    assert row["verdict"] == (verdict == "like")
    # By hand: "and" carries the evidence over, "but" turns it round.
    follows = {("liked", "and"): "like", ("liked", "but"): "dislike"}
    follows |= {("disliked", "and"): "dislike", ("disliked", "but"): "like"}
    assert row["consistent"] == (follows[first, connective] == verdict)
    assert row["malformed"] is None


@pytest.mark.parametrize(
    ("text", "real", "right"),
    [
        ("They liked “Heat”, so they will like it.", 1, 1),  # curly quotes, no year
        ("They liked “heat,” so they will like it.", 1, 1),  # case, comma inside the quotes
        ('They hated "The Matrix", so they will like it.', 1, 1),  # the article moved
        ('They liked "The Matrix", so they will like it.', 1, 0),
        ('They did not like "The Matrix", so they will like it.', 1, 1),
        ('They didn’t really enjoy "The Matrix", so they will like it.', 1, 1),
        ('They liked "Solaris", so they will like it.', 0, 0),  # invented
        ('They liked "Heat" and disliked "The Matrix", so they will like it.', 2, 2),
        ('They liked "Heat" and "The Matrix", so they will like it.', 2, 1),
        ('They liked "The "Best" Show", so they will like it.', 1, 1),  # a title with quotes of its own
        ('Given "Heat", they will like it.', 1, 0),  # no polarity stated
        ('Given "Love Actually" and "Heat", they will like it.', 2, 0),  # "Love" in a title is no polarity
        ('They disliked films like "The Matrix", so they will dislike it.', 1, 1),  # "films like" compares
        ('They not only liked "Heat", so they will like it.', 1, 1),
        ('They will likely enjoy it given "Heat".', 1, 0),  # the verdict says nothing about the history
    ],
)
def test_citations(text, real, right):
    row = check(text)
    assert (row["citations_real"], row["citations_right"]) == (real, right)
    assert row["malformed"] is None


def test_the_target_is_no_citation():
    row = check('They liked "Heat", so they will likely enjoy "Alien".')
    assert (row["citations"], row["target_citations"], row["verdict"], row["consistent"]) == (1, 1, 1, True)
    only_target = check('They will likely enjoy "Alien".')
    assert (only_target["citations"], only_target["malformed"]) == (0, "no citation")
    # Another edition of the target in the history makes it evidence.
    again = check('They liked "Alien", so they will like it.', ["Alien (1979)"], [1])
    assert (again["citations_right"], again["target_citations"]) == (1, 0)


def test_a_title_with_both_labels_is_right_either_way():
    for word in ("liked", "disliked"):
        row = check(f'They {word} "Sabrina", so they will like it.', ["Sabrina (1954)", "Sabrina (1995)"], [1, 0])
        assert row["citations_right"] == 1


def test_without_history_every_citation_is_unreal():
    row = check('They liked "Heat", so they will like it.', [], [])
    assert (row["citations"], row["citations_real"], row["malformed"]) == (1, 0, None)
    assert check("They will like it.", [], [])["malformed"] is None


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("they will likely like it", 1),
        ("they will likely not like it", 0),
        ("they will not dislike it", 1),
        ("they won't enjoy it", 0),
        ("she would probably love it", 1),
        ("he is unlikely to enjoy it", 0),
        ("they are likely to hate it", 0),
        ("they are not likely to hate it", 1),
        ("the user will probably not be interested", 0),
        ("they will be very pleased", 1),
        ("they may find it boring", 0),
        ("they will enjoy the plot, but they will not like the end", 0),  # the last one counts
        ("they will have a neutral opinion", None),
        ("they liked it", None),
        ("a willful like", None),
    ],
)
def test_verdicts(text, verdict):
    found = find_verdict(text)
    assert (None if found is None else found[2]) == verdict


@pytest.mark.parametrize(
    ("text", "consistent"),
    [
        ('Although they liked "Heat", this is slow, so they will dislike it.', True),
        ('Although it is popular, they disliked "Love Actually", so they will dislike it.', True),
        ('They will like it, because they liked "Heat".', True),
        ('They will dislike it, although they liked "Heat".', True),
        ('They will like it, although they liked "Heat".', False),
        ('They liked "Heat"; however, this is slow, so they will dislike it.', True),
        ('They liked "Heat", but however this is slow, so they will dislike it.', True),  # one contrast, two words
        ('They liked "Heat", but this is slow, yet they will like it.', True),  # two contrasts
        ('They liked "Heat" but disliked "Love Actually", so they will dislike it.', True),  # the nearest decides
        ('They liked "Heat" but disliked "Love Actually", so they will like it.', False),
        ('Given "Heat", they will like it.', None),
        ('They liked "Heat".', None),
    ],
)
def test_verdict_consistency(text, consistent):
    assert check(text)["consistent"] is consistent


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("They will like it.", "no citation"),
        ('They liked "Heat".', "no verdict"),
        ('They liked "Heat". They will like it.', "too many sentences"),
        ('They liked "Heat", so they will like it', "unfinished"),
        ('They liked "Heat", so they will like it. It is', "too many sentences"),
        ('They liked "Heat" (e.g. the end vs. Pacino), so they will like it.', None),
        ('They liked "Dr. No. 2!", so they will like it.', None),  # full stops inside a title
        ('They will like it as they liked "Heat."', None),  # full stop inside the closing quote
        ("They will like it as they liked “Heat”!", None),
    ],
)
def test_malformed(text, reason):
    assert check(text)["malformed"] == reason


def test_sentence_limit_is_an_option():
    text = 'They liked "Heat". They will like it.'
    assert check(text, max_sentences=2)["malformed"] is None
    assert check(text, max_sentences=None)["malformed"] is None


def test_mask_keeps_positions():
    assert mask_quotations('a "b" c', [(2, 5, "b")]) == "a \x00\x00\x00 c"


def test_title_keys():
    assert title_key("Good, the Bad and the Ugly, The (1966)") == "the good, the bad and the ugly"
    assert title_key("1984") == "1984"


def test_hostile_text_is_read_in_reasonable_time():
    text = '"' * 20_000 + "not " * 20_000 + "will " * 20_000 + ". " * 20_000
    assert check(text)["malformed"] == "no citation"


def test_summary_by_hand():
    checks = check_explanations(
        [
            'They liked "A", so they will like it.',  # real, right, consistent, positive
            'They liked "B" and "X", so they will dislike it.',  # one real of two, none right, inconsistent
            "They will like it.",  # malformed: no citation
            'They disliked "B".',  # malformed: no verdict; real and right
        ],
        [["A", "B"]] * 4,
        [[1, 0]] * 4,
    )
    summary = summarise_checks(checks, scores=[0.9, 0.8, 0.4, 0.1])
    assert summary == {
        "cited_real": 3 / 4,
        "polarity_right": 2 / 4,
        "polarity_stated": 1.0,
        "verdict_consistency": 1 / 2,
        "citations_per_explanation": 1.0,
        "target_cited": 0.0,
        "positive_verdicts": 2 / 3,
        "malformed": 2 / 4,
        "verdict_matches_score": 1 / 3,
    }


def test_summary_of_nothing_is_none():
    summary = summarise_checks(check_explanations([""], [[]], [[]]))
    assert summary["cited_real"] is None
    assert summary["verdict_consistency"] is None
    assert summary["malformed"] == 1.0


def test_lengths_are_checked():
    with pytest.raises(ValueError, match="Got 1 explanations, 2 histories"):
        check_explanations(["a"], [[], []], [[]])
    with pytest.raises(ValueError, match="Row 0: 2 history titles but 1 labels"):
        check_explanations(["a"], [["A", "B"]], [[1]])
    with pytest.raises(ValueError, match="one per explanation"):
        summarise_checks(check_explanations(["a"], [[]], [[]]), scores=np.zeros(2))


def test_polars_columns_are_accepted():
    frame = pl.DataFrame({"titles": [["A"], ["A"], []], "labels": [[1], [1], []], "target": ["T", "T", "T"]})
    texts = ['They liked "A", so they will like it.', "They will like it.", "They will like it."]
    checks = check_explanations(texts, frame["titles"], frame["labels"], frame["target"])
    assert checks["citations_right"].to_list() == [1, 0, 0]
    assert checks["malformed"].to_list() == [None, "no citation", None]
