import json

import polars as pl
import pytest
import torch

from rlrec.recommenders import Vocabulary
from rlrec.recommenders.base import write_json


@pytest.fixture
def samples() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_id": ["ann", "bob", "ann"],
            "item_id": ["x", "x", "y"],
            "categories": [["Drama", "Comedy"], ["Drama", "Comedy"], []],
            "like_rate": [0.0, 0.5, 1.0],
        },
        schema_overrides={"categories": pl.List(pl.String)},
    )


def test_encoding_by_hand(samples):
    vocabulary = Vocabulary.from_samples(samples, dense_features=("like_rate",))
    batch = vocabulary.encode(samples)
    assert vocabulary.sizes() == {"num_users": 3, "num_items": 3, "num_categories": 3, "num_features": 1}
    assert batch["user"].tolist() == [1, 2, 1]
    assert batch["item"].tolist() == [1, 1, 2]
    assert batch["categories"].tolist() == [[2, 1], [2, 1], [0, 0]]
    assert batch["features"].tolist() == [[-1.0], [0.0], [1.0]]  # mean .5, deviation .5
    assert {key: values.dtype for key, values in batch.items()} == {
        "user": torch.int64,
        "item": torch.int64,
        "categories": torch.int64,
        "features": torch.float32,
    }


def test_unknown_and_null_categories_are_padding(samples):
    vocabulary = Vocabulary.from_samples(samples)
    rows = samples.with_columns(categories=pl.Series([["War", "Drama"], [None, "Comedy"], None]))
    assert vocabulary.encode(rows)["categories"].tolist() == [[0, 2], [0, 1], [0, 0]]


def test_categories_and_features_are_optional(samples):
    for vocabulary in (
        Vocabulary.from_samples(samples.drop("categories")),
        Vocabulary.from_samples(samples, use_categories=False),
    ):
        batch = vocabulary.encode(samples.select("user_id", "item_id"))
        assert batch["categories"].shape == (3, 0)
        assert batch["features"].shape == (3, 0)


def test_histories_are_padded_and_their_items_known(samples):
    rows = samples.with_columns(history=pl.Series([["z", "x"], [], ["y", "new", "x"]]))
    vocabulary = Vocabulary.from_samples(rows[:2], use_history=True)  # items x, z
    assert vocabulary.sizes()["num_items"] == 3
    assert vocabulary.encode(rows)["history"].tolist() == [[2, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert "history" not in Vocabulary.from_samples(rows).encode(rows)
    with pytest.raises(ValueError, match=r"no column \['history'\]"):
        vocabulary.encode(samples)
    with pytest.raises(ValueError, match=r"no column \['history'\]"):
        Vocabulary.from_samples(samples, use_history=True)


def test_reactions_beside_the_history(samples):
    rows = samples.with_columns(
        history=pl.Series([["z", "x"], [], ["y", "new", "x"]]),
        history_labels=pl.Series([[1, 0], None, [0, 1, 1]]),
        history_targets=pl.Series([[0.75, 0.25], [], [0.0, 0.5, 1.0]]),
    )
    vocabulary = Vocabulary.from_samples(rows, use_history=True, use_history_labels=True)
    labels = vocabulary.encode(rows)["history_labels"]
    assert labels.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 1]]
    assert labels.dtype == torch.float32
    options = {"use_history": True, "use_history_labels": True, "history_labels_column": "history_targets"}
    scaled = Vocabulary.from_samples(rows, **options)
    assert scaled.encode(rows)["history_labels"].tolist() == [[0.75, 0.25, 0], [0, 0, 0], [0, 0.5, 1]]
    assert "history_labels" not in Vocabulary.from_samples(rows, use_history=True).encode(rows)


def test_reactions_that_do_not_belong_to_a_history(samples):
    rows = samples.with_columns(history=pl.Series([["z", "x"], [], ["y"]]), history_labels=pl.Series([[1, 0], [], []]))
    vocabulary = Vocabulary.from_samples(rows, use_history=True, use_history_labels=True)
    with pytest.raises(ValueError, match="row 2 has 1 items in its history and 0 reactions in 'history_labels'"):
        vocabulary.encode(rows)
    with pytest.raises(ValueError, match=r"no column \['history_labels'\]"):
        vocabulary.encode(rows.drop("history_labels"))
    with pytest.raises(ValueError, match=r"no column \['history_targets'\]"):
        Vocabulary.from_samples(
            rows, use_history=True, use_history_labels=True, history_labels_column="history_targets"
        )
    with pytest.raises(ValueError, match="needs use_history=True"):
        Vocabulary.from_samples(rows, use_history_labels=True)
    nothing = rows.with_columns(history_labels=pl.Series([[1, None], [], [1]]))
    with pytest.raises(ValueError, match="row 0 has no reaction to an item of its history"):
        vocabulary.encode(nothing)


def test_only_empty_histories(samples):
    rows = samples.with_columns(history=pl.Series([[], None, []]))
    vocabulary = Vocabulary.from_samples(rows, use_history=True)
    assert vocabulary.items == ["x", "y"]
    assert vocabulary.encode(rows)["history"].tolist() == [[0], [0], [0]]


def test_a_vocabulary_saved_before_histories_were_known(samples, tmp_path):
    vocabulary = Vocabulary.from_samples(samples)
    vocabulary.save(tmp_path)
    content = json.loads((tmp_path / "vocabulary.json").read_text())
    assert content.pop("history") is False
    assert content.pop("history_labels") is None
    write_json(tmp_path / "vocabulary.json", content)
    assert Vocabulary.load(tmp_path) == vocabulary


def test_constant_feature_and_numeric_ids(samples):
    rows = samples.with_columns(user_id=pl.Series([10, 9, 10]), like_rate=pl.lit(0.3))
    batch = Vocabulary.from_samples(rows, ("like_rate",)).encode(rows)
    assert batch["features"].flatten().tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)
    assert batch["user"].tolist() == [1, 2, 1]  # in the order of the strings "10", "9"


def test_save_and_load(samples, tmp_path):
    vocabulary = Vocabulary.from_samples(samples.with_columns(item_id=pl.Series(['Ünï "q"', "\n", "y"])))
    vocabulary.save(tmp_path)
    assert Vocabulary.load(tmp_path) == vocabulary


def test_bad_tables_are_refused(samples):
    with pytest.raises(ValueError, match=r"no column \['item_mean'\]"):
        Vocabulary.from_samples(samples, ("like_rate", "item_mean"))
    with pytest.raises(ValueError, match="at least one training row"):
        Vocabulary.from_samples(samples[:0])
    with pytest.raises(ValueError, match="'like_rate' has no finite value in 3 training rows"):
        Vocabulary.from_samples(samples.with_columns(like_rate=pl.lit(float("inf"))), ("like_rate",))
    with pytest.raises(ValueError, match=r"no column \['categories'\]"):
        Vocabulary.from_samples(samples).encode(samples.drop("categories"))
