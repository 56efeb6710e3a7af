"""Reading what a model wrote: what is sound, what can be repaired, what is missing, and that nothing raises."""

import json
import random
import time

import pytest

from rlrec.trail.output import PROBLEMS, Answer, parse_answer, parse_compact, summarise_answers

SOUND = '{"predict_popularity_score": "12", "explanation_of_score": "<exp_start>[Trend]: up.<exp_end>"}'
READ = (12.0, "[Trend]: up.")


def test_sound_json():
    assert parse_answer(SOUND) == (*READ, None, False, False)
    assert parse_answer(f"\n {SOUND}\n") == (*READ, None, False, False)
    assert parse_answer(SOUND.replace('"12", ', "12,\n")) == (*READ, None, False, False)
    bare = '{"explanation_of_score": "Up.", "predict_popularity_score": 12.5, "more": []}'
    assert parse_answer(bare) == (12.5, "Up.", None, False, False)


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{SOUND}\n```",
        f"Sure, here it is:\n{SOUND}\nI hope that helps {{really}}.",
        f"<think>Is it {{5}}? {SOUND.replace('12', '99')}</think>\n{SOUND}",
        f"First 3, then 4, so it is high.\n</think>\n\n{SOUND}",  # the chat template opened the thought
        f"{SOUND}\n\n### Inputs:\n{SOUND.replace('12', '99')}",  # a plain model goes on
        f'{{"predict_popularity_score": "xxx", "explanation_of_score": "xxx"}}\n{SOUND}',  # it repeats the form
        json.dumps(SOUND),
        SOUND.replace('"', "'"),
        SOUND.replace('"', '\\"'),
        SOUND.replace('"}', '",}'),
        SOUND.replace('"}', '"'),
        SOUND.replace('"}', "}"),
        SOUND.replace('"12"', '"12 users"'),
        SOUND.replace('"12"', "12 users"),
        SOUND.replace('"12"', '"about 12.0"'),
        SOUND.replace("up.", "up.\n"),
        '{predict_popularity_score: 12, explanation_of_score: "[Trend]: up."}',
        "predict_popularity_score: 12\nexplanation_of_score: [Trend]: up.}",
        '{"predict_popularity_score" = "12", "explanation_of_score" = "< exp_start > [Trend]: up. < exp_end >"}',
        '{"predict_popularity_score": 12, "explanation_of_score": {"Trend": "up."}}',
        '{"predict_popularity_score": 12, "explanation_of_score": {"[Trend]": "up."}}',
        '{"predict_popularity_score": 12, "explanation_of_score": ["[Trend]:", "up."]}',
        '{"explanation_of_score": "[Trend]: up.", "predict_popularity_score": "12"',
        '{"answer": ' + SOUND + "}",
    ],
)
def test_repaired(text):
    assert parse_answer(text) == (*READ, None, True, False)


def test_quotes_inside_the_explanation():
    text = '{"predict_popularity_score": "3", "explanation_of_score": "The "Rack" is\nwell \\"known\\"."}'
    assert parse_answer(text) == (3.0, 'The "Rack" is\nwell "known".', None, True, False)
    text = "{'predict_popularity_score': 3, 'explanation_of_score': 'It's a baby\\'s rack'}"
    assert parse_answer(text) == (3.0, "It's a baby's rack", None, True, False)


def test_cut_off_in_the_explanation():
    text = '{"predict_popularity_score": "3", "explanation_of_score": "<exp_start>[Trend]: it rose to'
    assert parse_answer(text) == (3.0, "[Trend]: it rose to", None, True, True)
    assert parse_answer(text + "<exp_end>") == (3.0, "[Trend]: it rose to", None, True, False)


def test_numbers():
    def score(value):
        return parse_answer(json.dumps({"predict_popularity_score": value, "explanation_of_score": "x"}))[:3]

    assert score("1,234.5")[0] == 1234.5
    assert score("1e2")[0] == 100.0
    assert score(0)[0] == 0.0
    for value in ("NaN", "high", "10-15", "5 to 6", "1.2.3", True, [3], {"a": 1}, 10**400, "1e999", float("inf")):
        assert score(value) == (None, "x", "score is not a number"), value
    assert score("-3") == score(-0.5) == (None, "x", "score is negative")
    assert score("") == score(None) == (None, "x", "no score")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", (None, None, "empty", False, False)),
        (" \n", (None, None, "empty", False, False)),
        ("It will be popular: 12.", (None, None, "no answer object", False, False)),
        ("12", (None, None, "no answer object", False, False)),
        ("{}", (None, None, "no answer object", False, False)),
        ("<think>Let me see. Horror in October", (None, None, "thinking not finished", False, False)),
        (f"<think>Perhaps {SOUND}", (None, None, "thinking not finished", False, False)),
        ('{"predict_popularity_score": "12"}', (12.0, None, "no explanation", False, False)),
        ('{"predict_popularity_score": "12", "explanation_of_sc', (12.0, None, "no explanation", True, False)),
        (
            '{"predict_popularity_score": 12, "explanation_of_score": " "}',
            (12.0, None, "no explanation", False, False),
        ),
        ('{"explanation_of_score": "Up."}', (None, "Up.", "no score", False, False)),
    ],
)
def test_missing(text, answer):
    assert parse_answer(text) == answer


def test_half_characters_can_be_stored():
    escaped = '{"predict_popularity_score": 1, "explanation_of_score": "a\\ud83d\\ude00b\\ud83d"}'
    assert parse_answer(escaped).explanation == "a😀b\ufffd"
    assert parse_answer(escaped.replace('"}', '",}')).explanation == "a😀b\ufffd"


def test_compact():
    assert parse_compact("12 <exp_start> [Trend]: up. <exp_end>") == (*READ, None, False, False)
    assert parse_compact("12 < exp_start > [Trend]: up. < exp_end >") == (*READ, None, False, False)
    assert parse_compact("12 [Trend]: up.") == (*READ, None, False, False)  # markers are dropped with special tokens
    assert parse_compact("12 [Trend]: up").cut
    assert parse_compact("[Trend]: up.") == (None, "[Trend]: up.", "no score", False, False)
    assert parse_compact("12") == (12.0, None, "no explanation", False, False)
    assert parse_compact("").problem == "empty"


def test_summary():
    answers = [parse_answer(text) for text in (SOUND, SOUND + "!", "", '{"predict_popularity_score": "12"}', "high")]
    assert summarise_answers(answers) == {
        "answers": 5,
        "malformed": 3,
        "repaired": 1,
        "cut": 0,
        "missing_score": 2,
        "missing_explanation": 3,
        "empty": 1,
        "no explanation": 1,
        "no answer object": 1,
    }
    assert summarise_answers([])["answers"] == 0


PIECES = [
    *(
        '{"predict_popularity_score": ',
        '"explanation_of_score": "',
        "predict_popularity_score",
        "explanation_of_score",
    ),
    *('"', "'", "“", "{", "}", "[", "]", ",", ":", "\\", "\\u", "\\ud800", "\n", "```", "<think>", "</think>", "12"),
    *("-3", "NaN", "1e999", "9" * 400, "<exp_start>", "<exp_end>", "null", "\x00", "\ud800", "好", "word ", "   "),
]


def test_any_text_gives_an_answer():
    rng = random.Random(0)
    texts = ["".join(rng.choices(PIECES, k=rng.randrange(25))) for _ in range(20_000)]
    texts += [
        SOUND[: rng.randrange(len(SOUND))] + rng.choice(PIECES) + SOUND[rng.randrange(len(SOUND)) :] for _ in texts
    ]
    for text in texts:
        for answer in (parse_answer(text), parse_compact(text)):
            check(answer, text)


def check(answer: Answer, text: str) -> None:
    assert answer.score is None or 0 <= answer.score < float("inf"), text
    assert (answer.problem is None) == (answer.score is not None and answer.explanation is not None), text
    assert answer.problem is None or answer.problem in PROBLEMS, text
    if answer.explanation is not None:
        answer.explanation.encode()
        assert answer.explanation.strip() == answer.explanation != ""


@pytest.mark.parametrize(
    "piece", ["{", "[", '{"a":', '"', " ", "\\", '{"predict_popularity_score": ', '", ', "<think>"]
)
def test_long_texts_are_read_in_time(piece):
    began = time.perf_counter()
    for text in (piece * 20_000, SOUND[:-1] + piece * 20_000, '{"explanation_of_score": "' + piece * 20_000):
        check(parse_answer(text), text[:50])
    assert time.perf_counter() - began < 5
