"""What explanations are worth as texts, worked by hand on two samples."""

import polars as pl
import pytest

from rlrec.recpie.quality import explanation_quality

# u liked the drama and the dark comedy and disliked both wars; v has no history.
SAMPLES = pl.DataFrame(
    {
        "title": ["T", "V"],
        "categories": [["drama", "war", "Dark Comedy"], ["western"]],
        "history_titles": [["A", "B", "C", "D"], []],
        "history_labels": [[1, 0, 0, 1], []],
        "history_categories": [[["drama"], ["war", "drama"], ["war"], ["Dark Comedy"]], []],
        "reasons": [["+drama", "-war"], ["-western"]],
    },
    schema_overrides={
        "history_titles": pl.List(pl.String),
        "history_labels": pl.List(pl.Int64),
        "history_categories": pl.List(pl.List(pl.String)),
    },
)
WITHOUT_REASONS = SAMPLES.drop("reasons")


def often(*texts, samples=WITHOUT_REASONS, side="pos"):
    quality = explanation_quality({side: [*texts, *["unread"] * (2 - len(texts))]}, samples)
    return quality.get("often"), quality.get("degree_true")


def test_the_sides_must_name_their_own_reasons():
    texts = {
        "pos": ["Such drama often pleased them.", "Such western often pleased them."],
        "neg": ["Such drama rarely displeased them.", "nothing"],
    }
    quality = explanation_quality(texts, SAMPLES)
    # three true reasons: drama and western are named by some side, war is not
    assert quality["coverage"] == pytest.approx(2 / 3)
    # by the right side only drama: western is a negative reason. Named are drama, western and (negative) drama.
    assert quality["signed_coverage"] == pytest.approx(1 / 3)
    assert quality["signed_precision"] == pytest.approx(1 / 3)
    swapped = explanation_quality({"pos": texts["neg"], "neg": texts["pos"]}, SAMPLES)
    assert swapped["coverage"] == quality["coverage"]
    assert swapped["signed_coverage"] == pytest.approx(2 / 3)  # drama and western
    assert swapped["signed_precision"] == pytest.approx(2 / 3)


def test_naming_everything_covers_all_and_is_imprecise():
    everything = ["drama war western"] * 2
    quality = explanation_quality({"pos": everything, "neg": everything}, SAMPLES)
    assert quality["coverage"] == quality["signed_coverage"] == 1.0
    assert quality["signed_precision"] == pytest.approx(3 / 12)


def test_the_positive_side_alone_has_the_positive_reasons():
    quality = explanation_quality({"pos": ["It is a drama about war.", "western"]}, SAMPLES)
    assert quality["coverage"] == 1.0
    assert quality["signed_coverage"] == 1.0  # of one positive reason
    assert quality["signed_precision"] == pytest.approx(1 / 3)


def test_a_general_explanation_has_no_sign():
    quality = explanation_quality({"general": ["drama", "war"]}, SAMPLES)
    assert quality["coverage"] == pytest.approx(1 / 3)
    assert not {"signed_coverage", "signed_precision"} & set(quality)


def test_without_true_reasons_there_is_no_coverage():
    quality = explanation_quality({"pos": ["drama", "war"]}, WITHOUT_REASONS)
    assert quality == {"cited_real": None, "polarity_right": None}


def test_citations_are_checked_on_both_sides():
    texts = {"pos": ['They liked "A".', "x"], "neg": ['They disliked "D".', 'They liked "Z".']}
    quality = explanation_quality(texts, WITHOUT_REASONS)
    # A is real and liked; D is real but liked; v's history has no Z
    assert quality == {"cited_real": pytest.approx(2 / 3), "polarity_right": pytest.approx(1 / 3)}


@pytest.mark.parametrize(
    ("text", "is_often", "true"),
    [
        ("Such war often pleased them.", 1.0, 0.0),  # of two wars none was liked
        ("Such war rarely pleased them.", 0.0, 1.0),
        ("Such war often displeased them.", 1.0, 1.0),
        ("Such war rarely displeased them.", 0.0, 0.0),
        ("Such Dark-Comedy often pleased them.", 1.0, 1.0),
        ("Such drama often pleased them.", 1.0, None),  # one of two: neither is true
        ("Such western often pleased them.", 1.0, None),  # nothing is known of westerns
    ],
)
def test_a_degree_is_true_where_the_history_bears_it_out(text, is_often, true):
    assert often(text) == (is_often, true)


def test_degrees_are_shares_over_all_texts_of_the_grammar():
    texts = {
        "pos": ["Such war often pleased them.", "Such western rarely pleased them."],
        "neg": ["Such war often displeased them.", "They will like it."],
    }
    quality = explanation_quality(texts, WITHOUT_REASONS)
    assert quality["often"] == pytest.approx(2 / 3)
    assert quality["degree_true"] == 0.5


@pytest.mark.parametrize("text", ["such war often pleased them.", "Such war often pleased them. Indeed.", "war", ""])
def test_other_texts_have_no_degree(text):
    assert often(text) == (None, None)


def test_a_text_about_the_domain_is_judged_by_the_whole_history():
    """An item without categories: the grammar writes "Such film ...", and three of v's four were liked."""
    samples = WITHOUT_REASONS.with_columns(
        categories=pl.lit([], pl.List(pl.String)),
        history_labels=pl.Series([[1, 1, 1, 0], []], dtype=pl.List(pl.Int64)),
    )
    assert often("Such film often pleased them.", samples=samples) == (1.0, 1.0)
