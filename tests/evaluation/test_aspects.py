"""Double Propagation rule by rule, and Coverage counted by hand."""

import pytest

from rlrec.evaluation.aspects import (
    aspect_terms,
    coverage,
    double_propagation,
    named_terms,
    read_opinion_lexicon,
    summarise_coverage,
)
from rlrec.evaluation.parses import Token

POS = {"n": "NOUN", "a": "ADJ", "v": "VERB", "p": "PROPN", "x": "X"}


def parse(text):
    """'good/a/2/amod screen/n/0/root': form, part of speech, head from 1, relation."""
    words = [word.split("/") for word in text.split()]
    return [Token(form, form.lower(), POS[pos], int(head) - 1, relation) for form, pos, head, relation in words]


def propagate(*sentences, seeds=("good",), **options):
    return double_propagation([[parse(sentence)] for sentence in sentences], seeds, **{"min_count": 1} | options)


@pytest.mark.parametrize(
    ("sentence", "targets", "opinions"),
    [
        # R1_1: a good screen; the screen is good (subject of the predicate); they like the screen (object)
        ("good/a/2/amod screen/n/0/root", {"screen"}, {"good"}),
        ("screen/n/3/nsubj is/x/3/cop good/a/0/root", {"screen"}, {"good"}),
        ("they/x/2/nsubj good/v/0/root screen/n/2/obj", {"screen"}, {"good"}),
        # R1_2 through one head: (iPod) is the good player; the pizza tastes good
        ("iPod/p/4/nsubj is/x/4/cop good/a/4/amod player/n/0/root", {"player", "ipod"}, {"good"}),
        ("pizza/n/2/nsubj tastes/v/0/root good/a/2/xcomp", {"pizza"}, {"good"}),
        # nothing: another relation, another opinion word, no noun
        ("good/a/2/advmod screen/n/0/root", set(), {"good"}),
        ("odd/a/2/amod screen/n/0/root", set(), set()),
        ("good/a/2/amod one/x/0/root", set(), {"good"}),
        # R4_1 and R4_2: good and cheap; a good, odd screen; R2 then R1 the other way round
        ("good/a/0/root and/x/3/cc cheap/a/1/conj", set(), {"good", "cheap"}),
        ("good/a/3/amod odd/a/3/amod X/x/0/root", set(), {"good", "odd"}),
        ("good/a/0/root and/x/3/cc cheaply/x/1/conj", set(), {"good"}),
    ],
)
def test_one_rule_at_a_time(sentence, targets, opinions):
    found = propagate(sentence)
    assert found.targets == targets
    assert found.opinions == opinions


def test_targets_lead_to_targets_and_opinions():
    found = propagate(
        "good/a/2/amod screen/n/0/root",
        "screen/n/0/root and/x/3/cc keyboard/n/1/conj",  # R3_1
        "Canon/p/2/nsubj has/v/0/root keyboard/n/2/obj",  # R3_2
        "crisp/a/2/amod keyboard/n/0/root",  # R2_1: crisp
        "crisp/a/2/amod sound/n/0/root",  # R1_1 with the new opinion word
        "lonely/n/2/nsubj sits/v/0/root",
    )
    assert found.targets == {"screen", "keyboard", "canon", "sound"}
    assert found.opinions == {"good", "crisp"}


def test_a_verb_found_beside_a_target_is_no_new_opinion_word():
    found = propagate(
        "good/a/2/amod screen/n/0/root", "screen/n/2/nsubj broke/v/0/root", "glass/n/2/nsubj broke/v/0/root"
    )
    assert found.targets == {"screen"}
    assert found.opinions == {"good"}


def test_order_of_the_corpus_makes_no_difference():
    sentences = [
        "good/a/2/amod a/n/0/root",
        "x/a/2/amod a/n/0/root",
        "x/a/2/amod b/n/0/root",
        "y/a/2/amod b/n/0/root",
        "y/a/2/amod c/n/0/root",
    ]
    assert propagate(*sentences) == propagate(*reversed(sentences))
    assert propagate(*sentences).targets == {"a", "b", "c"}


def test_pruning():
    sentences = ["good/a/2/amod screen/n/0/root", "the/x/2/det screen/n/0/root", "good/a/2/amod pen/n/0/root"]
    assert propagate(*sentences, min_count=2).targets == {"screen"}
    assert propagate(*sentences, stop_nouns=["screen"]).targets == {"pen"}
    # a stop noun passes nothing on, and neither does a noun of the lexicon
    bridge = ["good/a/2/amod thing/n/0/root", "odd/a/2/amod thing/n/0/root", "odd/a/2/amod pen/n/0/root"]
    assert propagate(*bridge).targets == set()
    assert propagate(*bridge, seeds=["good", "thing"], stop_nouns=[]).targets == set()
    assert propagate(*bridge, stop_nouns=[]).targets == {"thing", "pen"}


def test_a_seed_matches_form_or_lemma():
    sentence = [Token("Loved", "love", "VERB", -1, "root"), Token("cards", "card", "NOUN", 0, "obj")]
    for seed in ("love", "loved"):
        assert double_propagation([[sentence]], [seed], min_count=1).targets == {"card"}


def test_terms_of_a_review_with_compounds():
    battery = "the/x/3/det battery/n/3/compound life/n/5/nsubj is/x/5/cop good/a/0/root"
    corpus = [battery, battery, "good/a/2/amod battery/n/0/root", "phone/n/2/compound life/n/0/root"]
    found = propagate(*corpus, min_count=2)
    assert found.targets == {"life", "battery"}
    assert found.phrases == {"battery life"}
    review = [parse(battery), parse("life/n/0/root with/x/3/case battery/n/1/nmod"), parse(corpus[3])]
    # in one piece where it is a phrase; "phone life" is too rare, so its head stands alone
    assert aspect_terms(review, found) == ["battery life", "life", "battery"]


def test_lexicon_files(tmp_path):
    positive, negative = tmp_path / "positive-words.txt", tmp_path / "negative-words.txt"
    positive.write_bytes(b"; Opinion lexicon\n;\n\nGood\nna\xefve\n")
    negative.write_text("bad\n", encoding="utf-8")
    assert read_opinion_lexicon(positive, negative) == {"good", "naïve", "bad"}
    negative.write_text("; nothing\n", encoding="utf-8")
    with pytest.raises(ValueError, match="holds no opinion word"):
        read_opinion_lexicon(negative)
    negative.write_text("good\ngood 1\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: 'good 1' is not one word"):
        read_opinion_lexicon(negative)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_opinion_lexicon(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="starts from opinion words"):
        propagate("screen/n/0/root", seeds=[])


@pytest.mark.parametrize(
    ("text", "term", "named"),
    [
        ("The ROOMS, and more.", "room", True),
        ("mushroom", "room", False),
        ("Movies.", "movie", True),
        ("Batteries' lives", "battery", True),
        ("the boxes", "box", True),
        ("glass", "glas", False),
        ("gift and card", "gift card", False),
        ("a gift-card", "gift card", True),
        ("", "room", False),
    ],
)
def test_whole_words_and_plurals(text, term, named):
    assert named_terms(text, [term]) == [term] * named


def test_coverage_by_hand():
    rows = coverage(
        ["They liked the rooms and the pool.", 'They liked "Pool Party".', "Nice.", "Nice."],
        [["room", "pool", "breakfast"], ["pool"], [], None],
    )
    assert rows["named"].to_list() == [["room", "pool"], ["pool"], [], []]
    assert rows["coverage"].to_list() == [pytest.approx(2 / 3), 1.0, None, None]
    assert summarise_coverage(rows) == {
        "coverage": pytest.approx((2 / 3 + 1) / 2),
        "rows": 2,
        "without_review": 1,
        "without_aspect": 1,
        "terms_per_review": 2.0,
    }
    quoted = coverage(['They liked "Pool Party".'], [["pool"]], read_quotations=False)
    assert quoted["coverage"].to_list() == [0.0]


def test_no_row_counts():
    assert summarise_coverage(coverage(["Nice."], [[]]))["coverage"] is None
    with pytest.raises(ValueError, match=r"none of the 2 rows has one.*check_reasons"):
        coverage(["a", "b"], [None, None])
    with pytest.raises(ValueError, match="1 explanations and 2 lists"):
        coverage(["a"], [[], []])
