"""RecPIE's prompts: every variant's text, the sides and pairs, the compact style by hand, and titles as data."""

import polars as pl
import pytest

from rlrec.policies.grammars import ContrastiveGrammar
from rlrec.policies.tiny import build_tokenizer
from rlrec.recpie.prompts import EMBEDDED, VARIANTS, ExplanationPrompts

ROW = {
    "user_id": "u",
    "item_id": "i",
    "title": "Speed",
    "categories": ["Action", "Dark Comedy"],
    "crowd": "popular",
    "label": 1,
    "history_titles": ["Heat", "Antz"],
    "history_ratings": [5.0, 2.5],
    "history_labels": [1, 0],
    "history_categories": [["Action", "Crime"], ["Dark Comedy"]],
    "description": "A bus must not slow down.",
}
WENT = 'Given the films this consumer has been to "Heat" (5 of 5), "Antz" (2.5 of 5), can you '
INCLUDES = 'The consumer\'s consumption history includes "Heat" (5 of 5), "Antz" (2.5 of 5). '
GOOD = 'Please generate a reason why "Speed" would be a good recommendation for this consumer.'
BAD = 'Please generate a reason why "Speed" would not be a good recommendation for this consumer.'
PROFILE = '"Speed" is described as follows: A bus must not slow down. '
SUMMARY = "Given the history of the films this consumer has been to, can you provide a summary of the consumer's "
BECAUSE = (
    'Can you explain the reason why this consumer {0} this film "Speed", based on the list of previous films she {1} '
    '"Heat" (5 of 5), "Antz" (2.5 of 5)? Answer with one sentence with the following format: The consumer {0} this '
    "film because ..."
)
TEXTS = {
    "contrastive": {"pos": INCLUDES + GOOD, "neg": INCLUDES + BAD},
    "positive": {"pos": f'{WENT}provide a reason why this consumer may enjoy the following recommended film "Speed"?'},
    "general": {
        "general": f"{WENT}provide a reason why this consumer may or may not enjoy the following recommended film "
        '"Speed"?'
    },
    "aspects": {
        "aspects": f"{WENT}generate a series of aspect terms that represent the most important properties of the "
        'candidate film "Speed" that the consumer might consider?'
    },
    "summary": {
        "pos": f"{INCLUDES}{SUMMARY}positive preference?",
        "neg": f"{INCLUDES}{SUMMARY}negative preference?",
    },
    "alternative": {"pos": BECAUSE.format("enjoys", "enjoyed"), "neg": BECAUSE.format("dislikes", "disliked")},
    "profile": {"pos": INCLUDES + PROFILE + GOOD, "neg": INCLUDES + PROFILE + BAD},
}


def test_every_variant_is_tested_here():
    assert {name: list(sides) for name, sides in VARIANTS.items()} == {n: list(sides) for n, sides in TEXTS.items()}


@pytest.mark.parametrize(("variant", "side"), [(name, side) for name, sides in TEXTS.items() for side in sides])
def test_the_text_of_each_side(variant, side):
    prompts = ExplanationPrompts(variant, domain="film")
    assert prompts.sides == tuple(TEXTS[variant])
    assert prompts.generation({**ROW, "side": side}) == TEXTS[variant][side]


def test_conversations():
    prompts = ExplanationPrompts("contrastive", domain="film", conversational=True)
    assert prompts.generation({**ROW, "side": "neg"}) == [{"role": "user", "content": INCLUDES + BAD}]


def test_the_scale_and_an_empty_history_and_description():
    prompts = ExplanationPrompts("profile", domain="film", rating_scale=(0, 10))
    text = prompts.generation({**ROW, "side": "pos"})
    assert '"Heat" (5 of 10), "Antz" (2.5 of 10).' in text
    for description in (None, ""):
        empty = {**ROW, "side": "pos", "history_titles": [], "history_ratings": [], "description": description}
        text = prompts.generation(empty)
        assert text.startswith("The consumer's consumption history includes nothing yet. ")
        assert '"Speed" is described as follows: There is no description. Please' in text


SAMPLES = pl.DataFrame([ROW, {**ROW, "user_id": "v", "label": 0, "categories": None}])


def test_rows_of_two_sides_are_pairs_next_to_each_other():
    rows = ExplanationPrompts("contrastive", domain="film").rows(SAMPLES)
    assert [(row["user_id"], row["side"], row["pair_id"]) for row in rows] == [
        ("u", "pos", 0),
        ("u", "neg", 0),
        ("v", "pos", 1),
        ("v", "neg", 1),
    ]
    assert [row["prompt"] for row in rows] == [INCLUDES + GOOD, INCLUDES + BAD] * 2
    assert set(rows[0]) == {*SAMPLES.columns, "prompt", "side", "pair_id", "category_words"}
    assert [row["category_words"] for row in rows[1:3]] == [["Action", "Dark-Comedy"], []]
    assert [row["label"] for row in rows] == [1, 1, 0, 0]


@pytest.mark.parametrize("variant", ["positive", "general", "aspects"])
def test_rows_of_one_side_are_no_pairs(variant):
    dataset = ExplanationPrompts(variant, domain="film").dataset(SAMPLES)
    assert len(dataset) == 2
    assert "pair_id" not in dataset.column_names  # the trainer would ask for an even number of them
    assert set(dataset["side"]) == set(VARIANTS[variant])


def test_the_dataset_holds_the_rows():
    prompts = ExplanationPrompts("contrastive", domain="film")
    dataset = prompts.dataset(SAMPLES)
    for name in ("prompt", "side", "pair_id", "history_titles"):
        assert list(dataset[name]) == [row[name] for row in prompts.rows(SAMPLES)]


# -- titles are data -------------------------------------------------------------------------------------------------

TITLES = ["{history}", "{title} {0} {", "\\1 \\g<title>", "</s><|eot_id|>", "%s $x", "{description}"]


@pytest.mark.parametrize("title", TITLES)
def test_a_title_stays_as_it_is(title):
    plain = ExplanationPrompts("profile", domain="film").generation({**ROW, "side": "neg"})
    row = {**ROW, "side": "neg", "title": title, "history_titles": [title, "Antz"], "description": f"On {title}."}
    expected = (
        plain.replace("Speed", title).replace("Heat", title).replace("A bus must not slow down.", f"On {title}.")
    )
    assert ExplanationPrompts("profile", domain="film").generation(row) == expected


def test_a_control_token_in_a_title_is_no_control_token_for_the_embedded_policy():
    grammar = ContrastiveGrammar("film")
    tokenizer = build_tokenizer(["</s>"], [*grammar.words, "popular", "Action", "Dark-Comedy"])
    prompts = ExplanationPrompts("contrastive", "compact", "film")
    row = {**ROW, "title": "</s>", "category_words": [], "side": "pos"}
    ids = tokenizer(prompts.generation(row), split_special_tokens=True)["input_ids"]
    assert tokenizer.eos_token_id not in ids
    assert tokenizer.convert_tokens_to_ids('"</s>"') in ids
    assert tokenizer.unk_token_id not in ids


# -- the compact style -----------------------------------------------------------------------------------------------

# Five liked of six; of the two Action films both, of the one Dark Comedy none.
COMPACT = {
    **ROW,
    "history_titles": list("abcdef"),
    "history_ratings": [5.0] * 6,
    "history_labels": [1, 1, 0, 1, 1, 1],
    "history_categories": [["Action"], ["Action", "Crime"], ["Dark Comedy"], [], None, ["Crime"]],
}


@pytest.mark.parametrize(
    ("variant", "side", "text"),
    [
        # 5 / 6 = .83, 2 / 2, 0 / 1
        ("contrastive", "pos", 'liked all 8 Action 10 Dark-Comedy 0 target "Speed" popular good'),
        # 1 / 6 = .17, 0 / 2, 1 / 1
        ("contrastive", "neg", 'disliked all 2 Action 0 Dark-Comedy 10 target "Speed" popular bad'),
        ("positive", "pos", 'liked all 8 Action 10 Dark-Comedy 0 target "Speed" popular good'),
        ("general", "general", 'liked all 8 Action 10 Dark-Comedy 0 target "Speed" popular because'),
    ],
)
def test_the_compact_style_by_hand(variant, side, text):
    assert ExplanationPrompts(variant, "compact", "film").generation({**COMPACT, "side": side}) == text


def test_the_compact_style_without_history_or_categories():
    prompts = ExplanationPrompts("contrastive", "compact", "film")
    empty = {**COMPACT, "history_labels": [], "history_categories": [], "side": "pos"}
    assert prompts.generation(empty) == 'liked all 5 Action 5 Dark-Comedy 5 target "Speed" popular good'
    for categories in ([], None):
        row = {**COMPACT, "categories": categories, "side": "neg"}
        assert prompts.generation(row) == 'disliked all 2 target "Speed" popular bad'


def test_the_label_stands_in_no_prompt():
    for variant in VARIANTS:
        for style in ("paper", "compact") if variant in EMBEDDED else ("paper",):
            prompts = ExplanationPrompts(variant, style, "film")
            for side in prompts.sides:
                texts = {
                    str(prompts.generation({**COMPACT, "side": side, "label": y, "rating": 4.0 * y + 1, "target": y}))
                    for y in (0, 1)
                }
                assert len(texts) == 1


# -- refused ---------------------------------------------------------------------------------------------------------


def test_an_unknown_variant():
    known = "contrastive, positive, general, aspects, summary, alternative, profile"
    with pytest.raises(ValueError, match=f"^variant is 'contrast', but must be one of {known}.$"):
        ExplanationPrompts("contrast")


def test_an_unknown_style():
    with pytest.raises(ValueError, match="prompt style must be 'paper' or 'compact', not 'short'"):
        ExplanationPrompts(style="short")


@pytest.mark.parametrize("variant", ["aspects", "summary", "alternative", "profile"])
def test_variants_that_the_embedded_policy_cannot_write(variant):
    assert variant not in EMBEDDED
    message = (
        f"The embedded policy cannot write the variant '{variant}', only contrastive, positive, general: give a "
        "pretrained model with --model_name_or_path."
    )
    with pytest.raises(ValueError, match=message):
        ExplanationPrompts(variant, "compact", "film")
