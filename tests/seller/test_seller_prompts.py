"""SELLER's prompts: places for vectors, category texts, profiles, and answers that can be read again."""

import pytest

from rlrec.policies.injection import PLACEHOLDER
from rlrec.seller.prompts import SellerPrompts, joined

ROW = {
    "title": f"The {PLACEHOLDER} Heist",
    "categories": ["Crime", "Film Noir"],
    "description": f"A {PLACEHOLDER} heist.",
    "category_sequence": ["Drama", f"Odd {PLACEHOLDER}", "Film Noir"],
    "history_titles": ["First", "Second"],
    "history_categories": [["Drama", "War"], ["Drama"]],
}
BARE = {"title": "It", "categories": [], "description": None, "category_sequence": [], "history_titles": [],
        "history_categories": []}  # fmt: skip


@pytest.mark.parametrize("style", ["paper", "compact"])
@pytest.mark.parametrize("row", [ROW, BARE])
def test_each_prompt_has_its_places_and_no_more(style, row):
    for vectors in (0, 1, 2):
        prompts = SellerPrompts(style, "film", vectors=vectors)
        assert prompts.prompt(row).count(PLACEHOLDER) == vectors
        assert prompts.plain(row).count(PLACEHOLDER) == 0
        assert prompts.xrec(row).count(PLACEHOLDER) == prompts.pepler().count(PLACEHOLDER) == 2


def test_the_paper_style_in_the_order_of_equation_9():
    prompt = SellerPrompts("paper", "film").prompt(ROW)
    system, behaviour, rest = prompt.split(PLACEHOLDER)
    assert system.endswith("\nBehaviour: ")
    assert behaviour == "\nContents: "
    assert rest == "\nCategories: Drama, Odd ‹|vector|›, Film Noir\n"
    assert "Heist" not in prompt
    without = SellerPrompts("paper", "film", vectors=1, category_texts=False).prompt(ROW)
    assert without.endswith(f"\nSequence: {PLACEHOLDER}\n")
    assert "listed" not in without


def test_xrec_tells_both_profiles():
    prompt = SellerPrompts("paper", "film").xrec(ROW)
    assert "\nUser profile: most often Drama (2), War (1); most recently First; Second.\n" in prompt
    assert "\nFilm profile: The ‹|vector|› Heist; categories: Crime, Film Noir; A ‹|vector|› heist.\n" in prompt
    assert "most often not known; most recently not known." in SellerPrompts("paper", "film").xrec(BARE)
    assert (
        SellerPrompts("compact", "film").xrec(BARE)
        == f"explain film {PLACEHOLDER} {PLACEHOLDER} user none item none because"
    )


def test_conversational_prompts_are_one_message():
    prompts = SellerPrompts("paper", "film", conversational=True)
    for prompt in (prompts.prompt(ROW), prompts.plain(ROW), prompts.xrec(ROW), prompts.pepler()):
        assert [message["role"] for message in prompt] == ["user"]


@pytest.mark.parametrize("style", ["paper", "compact"])
def test_answers_are_read_again(style):
    prompts = SellerPrompts(style, "film")
    pair = ("A bar, e.g. for dates.", "With friends: late.")
    assert prompts.parse(prompts.answer(*pair)) == pair
    assert prompts.explanation(prompts.answer(*pair)) == joined(*pair) == "A bar, e.g. for dates. With friends: late."
    assert prompts.parse("") == ("", "")
    assert prompts.parse("A bar.") == ("A bar.", "")


def test_what_is_refused():
    with pytest.raises(ValueError, match="'paper' or 'compact'"):
        SellerPrompts("long")
    with pytest.raises(ValueError, match="vectors is 3"):
        SellerPrompts(vectors=3)
