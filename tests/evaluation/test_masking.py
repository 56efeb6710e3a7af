"""Verdicts taken out of explanations, and their sentiment as one number."""

import pytest

from rlrec.evaluation.masking import mask_verdict_words, mask_verdicts, sentiment


@pytest.mark.parametrize(
    ("text", "masked", "number"),
    [
        (
            'This lukewarm Drama film is dull and they disliked "Heat", so they will likely dislike it.',
            'This lukewarm Drama film is dull and they disliked "Heat", so they it.',
            -1.0,
        ),
        ('They liked "You will like it", so she won\'t enjoy it.', 'They liked "You will like it", so she it.', -1.0),
        ("They will not dislike it, and may be pleased.", "They it, and.", 1.0),  # every verdict goes; the last counts
        ("Nothing to see here", "Nothing to see here", 0.0),
        ("", "", 0.0),
        ("Two  spaces stay where nothing goes", "Two  spaces stay where nothing goes", 0.0),
    ],
)
def test_verdict_phrases(text, masked, number):
    assert mask_verdicts([text]) == [masked]
    assert sentiment(text) == number


@pytest.mark.parametrize(
    ("text", "masked", "number"),
    [
        ("Such drama often pleased them.", "Such drama them.", 1.0),
        ("Such drama rarely pleased them.", "Such drama them.", -1.0),
        ("Such drama often displeased them.", "Such drama them.", -1.0),
        ("Such drama rarely displeased them.", "Such drama them.", 1.0),
        ("A good film with a bad end.", "A film with a end.", 0.0),
        ('A great film like "Good Bad Ugly".', 'A film "Good Bad Ugly".', 1.0),  # two words, both positive
        ("Goodness knows.", "Goodness knows.", 0.0),  # whole words alone
    ],
)
def test_verdict_words(text, masked, number):
    assert mask_verdict_words([text]) == [masked]
    assert sentiment(text) == number


def test_masked_texts_do_not_tell_the_verdict():
    pair = [f'They liked "Heat", so they will likely {verdict} it.' for verdict in ("like", "dislike")]
    assert len(set(mask_verdicts(pair))) == 1
    four = [
        f"Such war {often} {pleased} them." for often in ("often", "rarely") for pleased in ("pleased", "displeased")
    ]
    assert len(set(mask_verdict_words(four))) == 1
