"""Explanations held to their history: the paper's own examples, then rule by rule, all worked by hand."""

from datetime import datetime, timezone

import numpy as np
import pytest

from rlrec.trail.grammar import TrendGrammar
from rlrec.trail.histories import recent_direction, step
from rlrec.trail.prompts import TrendPrompts
from rlrec.trail.trends import check_trends, summarise_trends, trend_class


def seconds(year, month, day=1):
    return int(datetime(year, month, day, tzinfo=timezone.utc).timestamp())


JUNE = seconds(2014, 6)
RACK = [7, 11, 14, 3, 2]  # 2014-01 to 2014-05, Table 7


def claims(text, history, window_start=JUNE):
    """(claims, [those that do not hold])"""
    row = check_trends([text], [history], [window_start]).row(0, named=True)
    assert row["claims"] - row["true_claims"] == len(row["false_claims"])
    return row["claims"], row["false_claims"]


def one_claim(text, history):
    """Whether the only claim of a text holds."""
    number, wrong = claims(text, history)
    assert number == 1
    return not wrong


def test_table_7_drying_rack():
    text = (
        "Trend: The historical popularity scores show a peak in March 2014 with a score of 14, followed by a "
        "significant drop in April and May, which indicates a potential decline in interest. "
        "Feature: The product's capacity, along with its flexible design, makes it highly functional. Drops rise. "
        "Integration: Combining the declining trend with these, the moderate score is fine."
    )
    row = check_trends([text], [RACK], [JUNE]).row(0, named=True)
    assert row["trend_accuracy"] == 1.0
    # the peak; the drop and the declining trend (the potential decline is none)
    assert (row["peak_claims"], row["direction_claims"], row["number_claims"]) == (1, 2, 0)


def test_table_7_joker():
    text = (
        "Trend: The popularity score increased significantly from 13 in September to 161 in October, indicating "
        "strong growth momentum. The movie's win at the Venice Film Festival likely contributed to this trend. "
        "Integration: a score of 170 in November is reasonable as it follows the upward trend of the movie."
    )
    assert claims(text, [3, 13, 161], seconds(2019, 11)) == (3, [])
    assert claims(text, [13, 3, 161], seconds(2019, 11)) == (
        3,
        ["increased significantly from 13 in September to 161 in October"],
    )


def test_table_7_spoon():
    """It peaks at 16 in December 2013 and does not continue to rise, which is what the paper calls a failure."""
    text = (
        "[Trend]: The historical popularity trends score peaked at 16 in December 2013 and continued to rise in "
        "subsequent years. [Feature]: The product's features, such as being specifically designed for infants. "
        "[Integration]: Combining the upward trend, the predicted score is 16, reflecting continued growth."
    )
    # windows start on 2013-12-03, 2014-01-02, 02-01, 03-03, 04-02 and 05-02
    history = [1, 0, 0, 7, 5, 16, 4, 10, 12, 6, 9]
    assert claims(text, history) == (3, ["rise"])  # the halves' means, 2.6 and 9.5, do bear out the upward trend
    assert claims(text, history[:-1], seconds(2014, 5, 2)) == (3, ["rise"])


def test_table_4_toothbrush():
    text = (
        "Trend: The historical popularity trends show a general upward trajectory over time, with notable peaks in "
        "early 2013 and 2014. The most recent peak in March 2014 had a score of 17, suggesting strong interest. "
        "Feature: It is safe. Integration: Combining the upward trend with the product's innovative features, which "
        "are likely to attract parents, the predicted score for June 2014 is 15, reflecting positive momentum."
    )
    # 2013-02 to 2014-05, but for the day: 30-day windows back from June 2014 start in
    # 02, 03, 04, 05, 06, 07, 08, 09, 10, 11, 12 of 2013, then 01 to 05 of 2014
    history = [4, 9, 2, 3, 3, 1, 2, 5, 6, 4, 8, 9, 12, 17, 9, 10]
    assert claims(text, history) == (4, [])
    assert claims(text, [*history[:13], 10, 17, 10])[1] == ["most recent peak in March 2014 had a score of 17"]


def test_table_4_cold_film():
    text = "Trend: Without historical popularity data, we cannot assess trends over time. Feature: Its genre (Comedy)."
    assert claims(text, []) == (1, [])
    assert claims(text, [3]) == (1, ["Without historical popularity data"])


@pytest.mark.parametrize(
    ("text", "history", "holds"),
    [
        ("It peaked at 14.", RACK, True),
        ("It peaked at 11.", RACK, False),
        ("It reached a peak of 14 in Mar. 2014.", RACK, True),
        ("It peaked at 14 in February 2014.", RACK, False),
        ("It peaked at 14 in March 2013.", RACK, False),
        ("The highest score of 14 was in 2014-03.", RACK, True),
        ("Popularity peaked in March.", RACK, True),
        ("Popularity peaked in April.", RACK, False),
        ("It peaked at 14, 3 windows ago.", RACK, True),
        ("It peaked at 14 three windows ago.", RACK, True),
        ("It peaked at 14, 2 windows ago.", RACK, False),
        ("It peaked at 1,614.", [1614, 2], True),
        ("It peaked at 0.", [0, 0], False),
        ("It peaked at 3.", [], False),
        ("There was another peak in May.", [*RACK[:4], 9], True),
        ("There was another peak in April.", [*RACK[:4], 9], False),
        ("There was a peak in May.", [*RACK[:4], 9], False),
    ],
)
def test_peaks(text, history, holds):
    assert one_claim(text, history) == holds


@pytest.mark.parametrize(
    ("text", "history", "holds"),
    [
        # the last window against the mean of the three before: 2 against 28 / 3
        ("Interest is declining.", RACK, True),
        ("Interest is rising.", RACK, False),
        ("Interest is stable.", RACK, False),
        ("Interest is not rising.", RACK, True),
        ("There is no decline.", RACK, False),
        ("Interest is growing steadily.", [1, 2, 3], True),
        ("Interest is stable.", [9, 10, 11, 10], True),  # 10 against 10
        ("Interest is increasing.", [10, 10, 10, 11], False),  # one user more, but a tenth
        ("Interest is increasing.", [10, 10, 10, 12], True),
        ("Interest is increasing.", [0, 0, 0, 1], True),
        ("Interest is increasing.", [5], False),  # nothing to compare with
        ("Interest is falling.", [], False),
        # what the text refers to
        ("It grew overall.", [1, 1, 9, 9, 9, 3], True),  # halves 11 / 3 and 7, though it ends lower
        ("It grew.", [1, 1, 9, 9, 9, 3], False),
        ("There was a drop in April.", [14, 3, 20], True),
        ("There was a drop in May.", [14, 3, 20], False),
        ("There was a drop in July.", [14, 3, 20], False),
        ("It rose from April to May.", [14, 3, 20], True),
        ("It rose from 3 to 20.", [14, 3, 20], True),
        ("It rose from 3 to 14.", [14, 3, 20], False),  # not in this order
        ("It fell from 3 to 20.", [14, 3, 20], False),
        ("It went lately from 14 to 3.", [14, 3, 20], False),
        ("It went from 14 to 3.", [14, 3, 20], True),
        ("It went lately from 3 to 20.", [14, 3, 20], True),
        ("It is stable at 7.", [0, 0, 7, 7], True),
        ("It is stable at 7.", [0, 7, 7, 8], False),
        ("It is fluctuating.", [4, 9, 4, 9], True),
        ("It is fluctuating.", [4, 9, 9, 4], False),  # it turns round once
    ],
)
def test_directions(text, history, holds):
    assert one_claim(text, history) == holds


def test_after_a_peak():
    assert claims("It peaked at 14 in March before dropping.", RACK) == (2, [])
    assert claims("It peaked at 14 in March and kept growing.", RACK) == (2, ["growing"])
    assert claims("It peaked at 14 in February, but is now growing.", [14, 1, 2, 9]) == (2, [])  # 9 against 17 / 3
    assert claims("It peaked at 2 in May and then fell.", [1, 1, 2]) == (2, ["fell"])  # nothing follows


@pytest.mark.parametrize(
    ("text", "history", "holds"),
    [
        ("The most recent value of 2 is low.", RACK, True),
        ("The most recent value is 3.", RACK, False),
        ("The latest count (2) is low.", RACK, True),
        ("The most recent value of 5 is low.", [], False),
        ("It has an average of 7.4.", RACK, True),  # 37 / 5
        ("It has an average of 7.", RACK, True),
        ("It has an average of 9.", RACK, False),
        ("It had a minimum of 2.", RACK, True),
        ("It had a minimum of 1.", RACK, False),
        ("There were 11 users in February.", RACK, True),
        ("There were 11 in January 2014.", RACK, False),
        ("April 2014 had 3.", RACK, True),
        ("April 2014 (4).", RACK, False),
        ("It has no history.", [], True),
        ("It has no history.", [0, 0], True),
        ("There is no popularity history available.", [1], False),
    ],
)
def test_numbers(text, history, holds):
    assert one_claim(text, history) == holds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A well-made rack for 3 bottles, and popular.",
        "Interest will rise.",
        "A potential decline is ahead.",
        "It may peak at 30 in July.",
        "It has a peak season.",
        "[Feature]: It has grown on parents. [Integration]: So demand increases to 30.",
        "It comes out in the fall of 2014.",
    ],
)
def test_what_claims_nothing(text):
    assert claims(text, RACK) == (0, [])


def test_no_text_claims_nothing():
    row = check_trends([None], [RACK], [JUNE]).row(0, named=True)
    assert (row["claims"], row["trend_accuracy"]) == (0, None)


def test_summary():
    checks = check_trends(
        ["It peaked at 14 in March before dropping.", "It peaked at 11.", "It is safe.", "The latest count is 2."],
        [RACK] * 4,
        [JUNE] * 4,
    )
    assert summarise_trends(checks) == {
        "trend_accuracy": 3 / 4,
        "peak_accuracy": 1 / 2,
        "direction_accuracy": 1.0,
        "number_accuracy": 1.0,
        "trend_claims": 1.0,
        "with_trend_claims": 3 / 4,
    }
    assert summarise_trends(checks[:0])["trend_accuracy"] is None


def test_as_many_of_each():
    with pytest.raises(ValueError, match="Got 1 texts, 2 histories and 1 window_starts; give as many of each"):
        check_trends(["x"], [[1], [2]], [0])


def test_any_text_is_read():
    rng = np.random.default_rng(0)
    pieces = [
        *("peaked", "peaks", "at", "of", "in", "from", "to", "14", "1,614", "March", "2014", "early 2013", "2014-99"),
        *(
            "3 windows ago",
            "0 windows ago",
            "rising",
            "fell",
            "stable at",
            "no",
            "history",
            ",",
            ".",
            "\n",
            "[Trend]:",
        ),
        *("Integration:", "trend", "overall", "latest value", "\x00", "\x01", "²", "٣", "(", "average", "  "),
    ]
    texts = [" ".join(rng.choice(pieces, size=rng.integers(20))) for _ in range(3000)]
    histories = [rng.integers(4, size=rng.integers(6)).tolist() for _ in texts]
    checks = check_trends(texts, histories, [JUNE] * len(texts))
    assert (checks["true_claims"] <= checks["claims"]).all()
    assert 0 < checks["true_claims"].sum() < checks["claims"].sum()


def test_the_grammar_tells_the_truth_and_a_wrong_history_shows():
    rng = np.random.default_rng(0)
    prompts = TrendPrompts("compact", "film")
    grammar = TrendGrammar(prompts)
    rows = [
        {
            "categories": ["Horror", "Science Fiction"][: rng.integers(3)],
            "window_start": JUNE + 86_400 * 30 * int(rng.integers(12)),
            "history": (rng.poisson(rng.choice([0.3, 5, 200]), size=rng.integers(20)) * rng.integers(2)).tolist(),
        }
        for _ in range(400)
    ]
    texts = [grammar.draw(row, rng) for row in rows]
    starts = [row["window_start"] for row in rows]
    right = check_trends(texts, [prompts.shown(row) for row in rows], starts)
    assert right["true_claims"].sum() == right["claims"].sum()
    assert (right["claims"] > 0).all()
    assert (
        summarise_trends(check_trends(texts, [prompts.shown(row) for row in rows[::-1]], starts))["trend_accuracy"]
        < 0.5
    )


def test_classes():
    assert trend_class([1, 2, 3, 4, 5, 6]) == "increasing"
    assert trend_class([6, 5, 4, 3, 2, 1]) == "decreasing"
    assert trend_class([1, 2]) == "increasing"
    assert trend_class([3, 1, 4]) == "fluctuating"  # two pairs rise, one falls: 1 / 3
    assert trend_class([16, 4, 10, 12, 6, 9]) == "fluctuating"  # Table 7's spoon: 6 rise, 9 fall: -1 / 5
    assert trend_class([9, 9, 9]) == "fluctuating"
    assert trend_class([50, 40, 30, 1, 2, 3, 4, 5, 6]) == "increasing"  # only the newest six count
    assert [trend_class(history) for history in ([], [40], [0, 1, 0])] == ["unknown"] * 3


def test_steps():
    assert [step(10, after) for after in (8, 9, 11, 12)] == ["falling", "stable", "stable", "rising"]
    assert recent_direction([100, 0, 0, 0, 1]) == "rising"
    assert recent_direction([1, 2]) == "rising"
