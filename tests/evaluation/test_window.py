"""Words beside opinion words, by hand."""

import pytest

from rlrec.evaluation.window import window_terms


@pytest.mark.parametrize(
    ("review", "terms"),
    [
        ("Great gift!", ["gift"]),
        ("I love this nice card", ["card"]),
        ("The food was really very good.", ["food"]),
        ("Good. Food.", []),  # another clause
        ("It was good", []),  # a stop word
        ("good good", []),  # opinion words alone
        ("A gift", []),
        ("", None),
        (None, None),
    ],
)
def test_one_review(review, terms):
    assert window_terms([review], min_count=1) == [terms]


def test_the_corpus_decides_and_plurals_are_one_word():
    reviews = ["great gifts", "a gift for my niece", "good gift", "nice tin"]
    assert window_terms(reviews) == [["gift"], ["gift"], ["gift"], []]
    assert window_terms(reviews, ["nice"], min_count=1) == [[], [], [], ["tin"]]
    assert window_terms(reviews, stop_nouns=["gift"], min_count=1)[0] == []
