"""Coverage and precision of true reasons, counted by hand."""

import pytest

from rlrec.evaluation.reasons import check_reasons, summarise_reasons

ASPECTS = ["Drama", "War", "Sci-Fi", "dark comedy", "comedy"]


def test_counts_by_hand():
    checks = check_reasons(
        [
            'They liked "War Horse", and this is a popular Drama film, so they will likely like it.',
            "This is a sci-fi war film, so they will likely dislike it.",
            "A dark comedy; tragicomedy and dramatic scenes.",
            "Drama drama.",
        ],
        [["+drama"], ["-war", "+drama"], ["+comedy"], []],
        ASPECTS,
    )
    assert checks["named"].to_list() == [["drama"], ["sci-fi", "war"], ["dark comedy"], ["drama"]]
    assert checks["hits"].to_list() == [1, 1, 0, 0]
    assert checks["signed_hits"].to_list() == [1, 1, 0, 0]
    assert checks["verdict"].to_list() == [1, 0, None, None]
    summary = summarise_reasons(checks)
    assert summary["coverage"] == pytest.approx(2 / 4)
    assert summary["precision"] == pytest.approx(2 / 5)
    assert summary["aspects_per_explanation"] == pytest.approx(5 / 4)


def test_sign_follows_the_verdict():
    checks = check_reasons(
        ["A war film, so they will like it.", "A war film, so they will not like it.", "A war film."],
        [["-war"]] * 3,
        ASPECTS,
    )
    assert checks["hits"].to_list() == [1, 1, 1]
    assert checks["signed_hits"].to_list() == [0, 1, 0]
    summary = summarise_reasons(checks)
    assert (summary["coverage"], summary["signed_coverage"], summary["signed_precision"]) == (1, 1 / 3, 1 / 3)


def test_nothing_named_and_nothing_true():
    summary = summarise_reasons(check_reasons(["Nice."], [[]], ASPECTS))
    assert summary["coverage"] is None
    assert summary["precision"] is None


def test_bad_input():
    with pytest.raises(ValueError, match="'drama' is not a signed aspect"):
        check_reasons(["x"], [["drama"]], ASPECTS)
    with pytest.raises(ValueError, match="vocabulary is empty"):
        check_reasons(["x"], [["+drama"]], [])
    with pytest.raises(ValueError, match="1 explanations and 2"):
        check_reasons(["x"], [[], []], ASPECTS)
