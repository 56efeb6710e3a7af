"""The groundedness reward on both kinds of quotes, and the gate around another reward."""

import pytest

from reward_models import GroundednessReward, gated

HISTORY = {"history_titles": [["Heat", "Antz"]], "history_labels": [[1, 0]], "title": ["Speed"]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('They liked "Heat", and this is a popular Action film, so they will likely like it.', 1),
        ("Because the user disliked “Antz”, they will probably not enjoy “Speed”.", 1),
        ('They liked "Heat" but disliked "Antz", so they will likely dislike it.', 1),
        ('They disliked "Heat", so they will likely dislike it.', 0),  # the wrong polarity
        ('They liked "Alien", so they will likely like it.', 0),  # not in the history
        ('They liked "Heat" and "Antz", so they will likely like it.', 0),  # one of two is wrong
        ("They will likely like it.", 1),  # nothing is cited, so nothing is false
    ],
)
def test_evidence_must_be_real_and_of_the_right_polarity(text, expected):
    assert GroundednessReward()(None, [text], **HISTORY) == [expected]
    assert GroundednessReward()(None, [[{"role": "assistant", "content": text}]], **HISTORY) == [expected]


def test_citations_can_be_required():
    texts = ["They will likely like it.", 'They liked "Heat".']
    columns = {name: values * 2 for name, values in HISTORY.items()}
    assert GroundednessReward(require_citation=True)(None, texts, **columns) == [0, 1]


def test_shares_are_logged():
    logged = {}
    texts = ['They liked "Heat" and "Antz".', 'They liked "Alien".', "They will like it."]
    columns = {name: values * 3 for name, values in HISTORY.items()}
    GroundednessReward()(None, texts, log_metric=logged.__setitem__, **columns)
    assert logged == pytest.approx({"groundedness/real": 0.5, "groundedness/right": 0.25})


def constant(value):
    def reward(prompts, completions, **columns):
        return [value] * len(completions)

    return reward


def test_the_gate_floors_what_it_refuses():
    def length(prompts, completions, *, log_metric, **columns):
        log_metric("length", 1.0)
        return [float(len(text)) if text else None for text in completions]

    def only_a(prompts, completions, **columns):
        return [None if text == "none" else float("a" in text) for text in completions]

    logged = {}
    reward = gated(length, only_a, floor=-1.0)
    assert reward(None, ["aa", "bb", "", "none"], log_metric=logged.__setitem__) == [2.0, -1.0, None, 4.0]
    assert logged == {"length": 1.0, "only_a/refused": 0.5}
    assert reward.__name__ == "length_gated"


def test_a_gate_of_the_wrong_length_is_an_error():
    with pytest.raises(ValueError, match="shorter"):
        gated(constant(1.0), lambda prompts, completions, **columns: [1.0])(None, ["a", "b"])
