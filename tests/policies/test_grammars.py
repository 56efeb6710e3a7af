"""The embedded policy's contrastive explanations: what is drawn, how often, and what a short bootstrap learns of it.

`VerdictGrammar` is tested in test_tiny.py.
"""

import re
from collections import Counter

import numpy as np
import pytest

from rlrec.data import simulate
from rlrec.data.prompts import category_words
from rlrec.data.splits import recpie_samples
from rlrec.policies.generation import generate_explanations
from rlrec.policies.grammars import ContrastiveGrammar, share
from rlrec.policies.tiny import TinyConfig, bootstrap
from rlrec.recpie.prompts import ExplanationPrompts

GRAMMAR, OFTEN = ContrastiveGrammar("film"), ("often", "rarely")
# Of the history three are dramas, two of them liked, and one is dark: disliked.
ROW = {
    "side": "pos",
    "categories": ["drama", "Dark Comedy"],
    "category_words": ["drama", "Dark-Comedy"],
    "history_labels": [1, 0, 1, 0],
    "history_categories": [["drama"], ["drama", "war"], ["war", "drama"], ["Dark Comedy"]],
}


def draws(row, count=4000, seed=0):
    rng = np.random.default_rng(seed)
    return [GRAMMAR.draw(row, rng) for _ in range(count)]


def shares(row, count=4000) -> dict[str, float]:
    return {text: n / count for text, n in Counter(drawn.text for drawn in draws(row, count)).items()}


def test_a_share_of_nothing_is_one_half():
    assert share([]) == 0.5
    assert share([False, False, True]) == 1 / 3


@pytest.mark.parametrize(
    ("side", "verb", "drama", "dark"),  # shares of "often": 2 of 3 and 0 of 1 liked, the rest disliked
    [("pos", "pleased", 2 / 3, 0), ("neg", "displeased", 1 / 3, 1)],
)
def test_often_is_drawn_as_often_as_the_history_bears_it_out(side, verb, drama, dark):
    expected = {
        f"Such drama often {verb} them.": drama / 2,  # each category is drawn half of the time
        f"Such drama rarely {verb} them.": (1 - drama) / 2,
        f"Such Dark-Comedy often {verb} them.": dark / 2,
        f"Such Dark-Comedy rarely {verb} them.": (1 - dark) / 2,
    }
    possible = {text: p for text, p in expected.items() if p}
    assert shares({**ROW, "side": side}) == pytest.approx(possible, abs=0.03)  # sd: below 0.008


def test_the_general_side_is_either_form():
    found = shares({**ROW, "side": "general", "categories": ["drama"], "category_words": ["drama"]})
    expected = {"often pleased": 2 / 3, "rarely pleased": 1 / 3, "often displeased": 1 / 3, "rarely displeased": 2 / 3}
    assert found == pytest.approx({f"Such drama {words} them.": p / 2 for words, p in expected.items()}, abs=0.03)


def test_the_answer_is_what_the_text_speaks_for():
    answers = {drawn.text: drawn.answer for side in ("pos", "neg") for drawn in draws({**ROW, "side": side}, 100)}
    assert len(answers) == 6  # of a category that never pleased it is never said that it often did
    for text, answer in answers.items():
        assert answer == (("often" in text) == (" pleased" in text)), text
    assert all(drawn.titles == [] for drawn in draws(ROW, 5))


def test_draws_are_blind_to_the_label_and_to_the_target():
    others = [{"label": 0, "rating": 1.0, "target": 0.0}, {"label": 1, "rating": 5.0, "target": 1.0}]
    drawn = [draws({**ROW, **other, "title": title}, 50) for other, title in zip(others, "AB")]
    assert drawn[0] == drawn[1] == draws(ROW, 50)


def test_without_history_it_is_even():
    empty = {**ROW, "history_labels": [], "history_categories": []}
    assert shares(empty) == pytest.approx(
        {
            f"Such {word} {often} pleased them.": 0.25
            for word in ROW["category_words"]
            for often in ("often", "rarely")
        },
        abs=0.03,
    )


def test_a_category_the_history_does_not_have_is_even():
    new = {**ROW, "categories": ["western"], "category_words": ["western"]}
    assert shares(new)["Such western often pleased them."] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("categories", [[], None])
def test_without_a_category_it_speaks_of_the_domain_and_of_the_whole_history(categories):
    found = shares({**ROW, "categories": categories, "category_words": [], "history_labels": [1, 1, 1, 0]})
    often = 3 / 4
    assert found == pytest.approx(
        {"Such film often pleased them.": often, "Such film rarely pleased them.": 1 - often}, abs=0.03
    )


def test_history_items_without_categories_count_for_no_category():
    row = {**ROW, "categories": ["drama"], "category_words": ["drama"], "history_categories": [None, [], None, None]}
    assert shares(row)["Such drama often pleased them."] == pytest.approx(0.5, abs=0.03)


def test_practice_is_several_draws_in_a_row():
    text, titles = GRAMMAR.practice(ROW, np.random.default_rng(3), 5)
    rng = np.random.default_rng(3)
    assert text == " ".join(GRAMMAR.draw(ROW, rng).text for _ in range(5))
    assert titles == []


def test_the_words_are_those_of_its_texts_and_prompts():
    texts = {drawn.text for side in GRAMMAR.sides for drawn in draws({**ROW, "side": side}, 50)}
    words = {word for text in texts for word in text.rstrip(".").split()}
    assert words - set(ROW["category_words"]) <= set(GRAMMAR.words)
    prompts = ExplanationPrompts("contrastive", "compact", "film")
    row = {**ROW, "title": "T", "crowd": "mixed"}
    written = {w for side in ("pos", "neg") for w in prompts.generation({**row, "side": side}).split()}
    assert written - {*ROW["category_words"], '"T"', "mixed"} <= set(GRAMMAR.words)


def test_a_short_bootstrap_writes_of_the_right_category_and_side():
    """A second of training; chance would name 1.4 of 8 categories, and the right side half of the time."""
    world = simulate(num_users=60, num_items=16, interactions_per_user=10)
    samples = recpie_samples(world.interactions, world.items, rating_scale=(1, 5), history_length=9)
    prompts = ExplanationPrompts("contrastive", "compact", "film")
    catalogue = [(t, c, category_words(c)) for t, c in world.items.select("title", "categories").iter_rows()]
    rows = prompts.rows(samples.filter(samples["split"] == "train"))
    config = TinyConfig(warmup_steps=0, template_steps=100, batch_size=32, learning_rate=8e-3)
    model, tokenizer = bootstrap(rows, catalogue, prompts.generation, None, GRAMMAR, config, progress=False)
    tested = prompts.rows(samples.filter(samples["split"] == "test"))
    written = generate_explanations(
        model, tokenizer, [row["prompt"] for row in tested], max_new_tokens=8, progress=None
    )
    right = {"form": 0, "category": 0, "side": 0}
    for row, (text,) in zip(tested, written):
        match = re.fullmatch(r"Such (\S+) (often|rarely) (pleased|displeased) them\.", text)
        if match:
            right["form"] += 1
            right["category"] += match[1] in row["category_words"]
            right["side"] += (match[3] == "pleased") == (row["side"] == "pos")
    assert min(right.values()) > 0.85 * len(tested), right
