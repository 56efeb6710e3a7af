"""Triples of opinions by hand, and cornac's aspect-based models on a small simulated world."""

import numpy as np
import polars as pl
import pytest

from rlrec.baselines import aspects
from rlrec.baselines.aspects import aspect_row, opinion_triples
from rlrec.data.simulated import simulate
from rlrec.data.splits import recpie_samples
from rlrec.evaluation.aspects import double_propagation, opinion_pairs
from rlrec.evaluation.parses import Token

CONLLU = """# newdoc id = u/a
1\tgreat\tgreat\tADJ\t_\t_\t2\tamod\t_\t_
2\tgift\tgift\tNOUN\t_\t_\t0\troot\t_\t_

# newdoc id = v/a
1\tdull\tdull\tADJ\t_\t_\t2\tamod\t_\t_
2\tgift\tgift\tNOUN\t_\t_\t0\troot\t_\t_

# newdoc id = test/a
1\tgreat\tgreat\tADJ\t_\t_\t2\tamod\t_\t_
2\tbox\tbox\tNOUN\t_\t_\t0\troot\t_\t_

# newdoc id = test/b
1\tgreat\tgreat\tADJ\t_\t_\t2\tamod\t_\t_
2\tbox\tbox\tNOUN\t_\t_\t0\troot\t_\t_

"""


def test_pairs_of_a_parsed_review():
    """A good and cheap screen that they like, with an odd frame: "odd" is no opinion word."""
    words = [
        ("good", "ADJ", 4, "amod"),
        ("and", "X", 3, "cc"),
        ("cheap", "ADJ", 1, "conj"),
        ("screen", "NOUN", 0, "root"),
    ]
    tokens = [Token(word, word, pos, head - 1, relation) for word, pos, head, relation in words]
    frame = [Token("odd", "odd", "ADJ", 1, "amod"), Token("frame", "frame", "NOUN", -1, "root")]
    document = [tokens, frame]
    found = double_propagation([document], ("good",), min_count=1)
    assert opinion_pairs(document, found) == [("screen", "good")]


def test_triples_of_reviews(tmp_path):
    training = pl.DataFrame(
        {
            "user_id": ["u", "v", "w"],
            "item_id": ["a", "a", "a"],
            "label": [1, 0, 1],
            "review": ["Great gift.", "A dull gift, a gift nobody wants.", None],
        }
    )
    expected = [[("gift", "great", 1.0)], [("gift", "dull", -1.0)], []]
    assert opinion_triples(training) == expected
    (tmp_path / "reviews.conllu").write_text(CONLLU, encoding="utf-8")
    assert opinion_triples(training, conllu=tmp_path / "reviews.conllu") == expected  # "box" is of test reviews alone


def test_where_there_are_no_opinions():
    training = pl.DataFrame({"user_id": ["u"], "item_id": ["a"], "label": [1]})
    with pytest.raises(ValueError, match=r"learn from opinions in reviews, and this dataset has none: make them on"):
        opinion_triples(training)
    with pytest.raises(ValueError, match="this dataset has none"):
        opinion_triples(training.with_columns(review=pl.lit(None, dtype=pl.String)))
    with pytest.raises(ValueError, match="No opinion on an aspect was found in 1 training samples"):
        opinion_triples(training.with_columns(review=pl.lit("fine")))


@pytest.fixture(scope="module")
def samples() -> pl.DataFrame:
    world = simulate(num_users=80, num_items=40, interactions_per_user=20)
    return recpie_samples(world.interactions, world.items, rating_scale=(1.0, 5.0))


@pytest.mark.parametrize("name", aspects.ROWS)
def test_every_row(name, samples, monkeypatch):
    pytest.importorskip("cornac")
    monkeypatch.setitem(aspects.FIXED, name, {"efm": {"max_iter": 20}, "mter": {"max_iter": 50}}[name])
    train, test = (samples.filter(pl.col("split") == split) for split in ("train", "test"))
    triples = opinion_triples(train)
    grid = {name: aspects.GRID[name][1:3]}
    row = aspect_row(name, samples, triples, rating_scale=(1.0, 5.0), grid=grid)
    assert set(row.metrics) == {"rmse", "mae", "rmse_stars", "mae_stars", "auc"}
    assert row.predictions.shape == (len(test),)
    assert row.predictions.min() >= 0
    assert row.predictions.max() <= 1
    error = row.predictions - test["target"].to_numpy()
    assert row.metrics["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)))
    assert row.metrics["rmse_stars"] == pytest.approx(4 * row.metrics["rmse"])
    losses = [one["rmse"] for one in row.details["grid"]]
    assert row.details["chosen"] == grid[name][losses.index(min(losses))]
    again = aspect_row(name, samples, triples, rating_scale=(1.0, 5.0), grid=grid)
    assert again.metrics == row.metrics


def test_efm_learns(samples):
    """Its predictions order the test samples better than chance does."""
    pytest.importorskip("cornac")
    train = samples.filter(pl.col("split") == "train")
    grid = {"efm": aspects.GRID["efm"][1:2]}
    row = aspect_row("efm", samples, opinion_triples(train), rating_scale=(1.0, 5.0), grid=grid)
    assert row.metrics["auc"] > 0.6


def test_what_does_not_fit_is_refused(samples):
    with pytest.raises(ValueError, match="no aspect-based row 'sulm'"):
        aspect_row("sulm", samples, [], rating_scale=(1.0, 5.0))
    with pytest.raises(ValueError, match="0 lists of triples for"):
        aspect_row("efm", samples, [], rating_scale=(1.0, 5.0))
    with pytest.raises(ValueError, match="there are none"):
        aspect_row("efm", samples.filter(pl.col("split") != "validation"), [], rating_scale=(1.0, 5.0))
