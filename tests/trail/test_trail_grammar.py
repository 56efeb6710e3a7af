"""The embedded policy's explanations: word by word, from a closed vocabulary, never from the label."""

import re

import numpy as np
import pytest

from rlrec.policies.tiny import build_tokenizer
from rlrec.trail.grammar import TrendGrammar
from rlrec.trail.prompts import TrendPrompts

OCTOBER = 1_412_121_600  # 2014-10-01
PROMPTS = TrendPrompts("compact", "baby product", max_count=50)
GRAMMAR = TrendGrammar(PROMPTS)


def row(history, categories=("Horror",), **more):
    return {"categories": list(categories), "window_start": OCTOBER, "history": history, **more}


@pytest.mark.parametrize(
    ("history", "trend", "score"),
    [
        ([], "no history", 0),
        ([3], "peaked at 3, 1 window ago", 3),
        ([12, 4, 4, 7], "peaked at 12, 4 windows ago, lately rising from 4 to 7", 7),
        ([1, 9, 9, 2], "peaked at 9, 2 windows ago, lately falling from 9 to 2", 2),
        ([8, 8], "peaked at 8, 1 window ago, lately stable at 8", 8),
        ([99, *[0] * 12], "lately stable at 0", 0),  # the prompt shows twelve windows
        ([1, 80], "peaked at 50, 1 window ago, lately rising from 1 to 50", 50),  # and no count above 50
    ],
)
def test_trend_and_score(history, trend, score):
    text = GRAMMAR.draw(row(history), np.random.default_rng(0))
    assert text.startswith(f"[Trend]: {trend}. [Feature]: Horror baby product in month 10. [Integration]: ")
    assert GRAMMAR.score(row(history)) == score


def test_one_of_the_true_features_is_named():
    rng = np.random.default_rng(0)
    texts = {GRAMMAR.draw(row([4, 7], ["Horror", "Gift Cards"]), rng) for _ in range(100)}
    trend = "[Trend]: peaked at 7, 1 window ago, lately rising from 4 to 7."
    score = "[Integration]: the score follows from the last count 7 and from"
    assert texts == {
        f"{trend} [Feature]: {category} baby product in month 10. {score} {feature}."
        for category in ("Horror", "Gift-Cards")
        for feature in (category, "month 10")
    }
    assert GRAMMAR.draw(row([], []), rng) == (
        "[Trend]: no history. [Feature]: baby product in month 10. "
        "[Integration]: the score follows from month 10 alone."
    )


def test_draws_do_not_read_the_label():
    first, second = (
        [GRAMMAR.draw(row([4, 7], popularity=p, change_rate=p - 7.0), np.random.default_rng(s)) for s in range(20)]
        for p in (0, 40)
    )
    assert first == second


def test_every_word_is_known():
    tokenizer = build_tokenizer(["none"], [*GRAMMAR.words, "Horror", "Gift-Cards", "<exp_start>", "<exp_end>"])
    tokenizer.add_special_tokens({"extra_special_tokens": ["<exp_start>", "<exp_end>"]})
    assert len(set(GRAMMAR.words)) == len(GRAMMAR.words)
    rng = np.random.default_rng(0)
    for _ in range(300):
        history = (rng.poisson(30, size=rng.integers(20)) * rng.integers(2)).tolist()
        sample = row(history, ["Horror", "Gift Cards"][: rng.integers(3)])
        explanation = GRAMMAR.draw(sample, rng)
        text = f"{PROMPTS.prompt(sample)} {PROMPTS.answer(PROMPTS.score(GRAMMAR.score(sample)), explanation)}"
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert len(re.findall(r"<\w+>|[^\s,.]+|[,.]", text)) == len(ids)  # a word is a token
        answer = tokenizer.decode(ids[ids.index(tokenizer.convert_tokens_to_ids("score")) + 1 :], True)
        assert PROMPTS.parse(answer) == (GRAMMAR.score(sample), explanation, None, False, False)


def test_only_compact_prompts():
    with pytest.raises(ValueError, match="these are in style 'paper'"):
        TrendGrammar(TrendPrompts())
