"""Samples as tensors by split, and the mean of several fits."""

import numpy as np
import polars as pl
import pytest
import torch

from rlrec.recommenders import DeepFM, SplitData, cross_fit, mean_of_fits

SAMPLES = pl.DataFrame(
    {
        "split": ["test", "train", "validation", "train", "train"],
        "user_id": ["new", "u", "u", "v", "u"],
        "item_id": ["b", "a", "c", "b", "b"],
        "label": [1, 0, 1, 1, 0],
        "target": [0.75, 0.25, 1.0, 0.5, 0.0],
        "categories": [["war"], ["drama"], ["new"], ["war", "drama"], []],
        "history": [["a", "c"], [], ["a"], ["c"], ["a"]],
        "history_labels": [[1, 0], [], [0], [1], [1]],
        "stars": [[0.5, 0.0], [], [0.25], [1.0], [0.75]],
        "like_rate": [2.0, 1.0, 0.0, 3.0, 2.0],
    }
)


def test_the_vocabulary_is_that_of_the_training_samples():
    data = SplitData.build(SAMPLES)
    assert (data.vocabulary.users, data.vocabulary.items) == (["u", "v"], ["a", "b"])
    assert {split: len(part) for split, part in data.samples.items()} == {"train": 3, "validation": 1, "test": 1}
    assert data.batches["train"]["user"].tolist() == [1, 2, 1]
    assert data.batches["train"]["item"].tolist() == [1, 2, 2]
    assert (data.batches["test"]["user"].tolist(), data.batches["test"]["item"].tolist()) == ([0], [2])
    assert data.batches["validation"]["item"].tolist() == [0]
    assert data.batches["train"]["features"].shape == (3, 0)
    assert data.batches["train"]["categories"].shape == (3, 0)
    assert "history" not in data.batches["train"]


@pytest.mark.parametrize(("target", "train", "test"), [("label", [0, 1, 0], [1]), ("target", [0.25, 0.5, 0], [0.75])])
def test_the_target_is_a_column(target, train, test):
    data = SplitData.build(SAMPLES, target=target)
    assert data.targets["train"].tolist() == train
    assert data.targets["test"].tolist() == test
    assert data.targets["test"].dtype == torch.float32


def test_options_of_the_vocabulary():
    data = SplitData.build(SAMPLES, ("like_rate",), use_categories=True, use_history=True)
    assert data.vocabulary.categories == ["drama", "war"]
    assert data.batches["test"]["categories"].tolist() == [[2]]
    assert data.batches["validation"]["categories"].tolist() == [[0]]
    assert data.vocabulary.items == ["a", "b", "c"]  # c stands in a training history
    assert data.batches["test"]["history"].tolist() == [[1, 3]]
    # training mean 2, deviation 1; the test sample's 2 is the mean
    assert data.batches["train"]["features"].flatten().tolist() == [-1.0, 1.0, 0.0]
    assert data.batches["test"]["features"].tolist() == [[0.0]]


def test_reactions_to_the_history():
    data = SplitData.build(SAMPLES, use_history=True, use_history_labels=True)
    assert data.batches["test"]["history_labels"].tolist() == [[1, 0]]
    data = SplitData.build(SAMPLES, use_history=True, use_history_labels=True, history_labels_column="stars")
    assert data.batches["train"]["history_labels"].tolist() == [[0.0], [1.0], [0.75]]


def test_rows_are_what_fit_takes():
    data = SplitData.build(SAMPLES)
    z = {"train": torch.ones(3, 1, 2)}
    batch, targets, explanations = data.rows("train", z)
    assert batch is data.batches["train"]
    assert targets is data.targets["train"]
    assert explanations is z["train"]
    assert data.rows("test")[2] is None


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match=r"no column \['history'\]"):
        SplitData.build(SAMPLES.drop("history"), use_history=True)


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (120,), generator=generator).tolist()
    splits = ["train"] * 80 + ["validation"] * 20 + ["test"] * 20
    users = [f"u{i % 10}" for i in range(120)]
    return SplitData.build(pl.DataFrame({"split": splits, "user_id": users, "item_id": "i", "label": labels}))


def z_of_labels(data):
    return {split: torch.stack([y, 1 - y], 1).unsqueeze(1) for split, y in data.targets.items()}


def make_model(data, dim=None):
    slots = {} if dim is None else {"explanation_slots": 1, "explanation_dim": dim}
    return lambda: DeepFM(**data.vocabulary.sizes(), **slots)


def brier(targets, predictions):
    return {"brier": float(np.mean((targets - predictions) ** 2))}


def test_fit_stops_by_the_validation_split(data):
    torch.manual_seed(0)
    result = data.fit(make_model(data)(), epochs=50, patience=1)
    assert len(result.history) < 50  # there is nothing to learn
    assert "validation_log_loss" in result.history[0]


def test_the_mean_of_fits_by_hand(data):
    """Metrics are means; predictions are the first fit's; each fit is that of its own seed."""
    options = {"epochs": 2}
    row, predictions, models = mean_of_fits(data, make_model(data), brier, fits=3, seed=4, **options)
    targets = data.targets["test"].numpy()
    own = [model.predict(data.batches["test"]).numpy() for model in models]
    assert (predictions == own[0]).all()
    assert row["brier"] == pytest.approx(np.mean([brier(targets, p)["brier"] for p in own]))
    assert not (own[0] == own[1]).all()
    assert not (own[1] == own[2]).all()
    torch.rand(7)  # what was drawn before does not matter
    again, first, _ = mean_of_fits(data, make_model(data), brier, fits=1, seed=4, **options)
    assert (first == predictions).all()
    assert again["brier"] == pytest.approx(brier(targets, own[0])["brier"])
    _, other, _ = mean_of_fits(data, make_model(data), brier, fits=1, seed=5, **options)
    assert not (other == predictions).all()


def test_fits_in_two_processes_are_the_same_bit_for_bit(data):
    options, make = {"epochs": 2, "seed": 4}, make_model(data)
    row, predictions, models = mean_of_fits(data, make, brier, fits=2, **options)
    again, spread, others = mean_of_fits(data, make, brier, fits=2, workers=2, **options)
    assert (again, spread.tolist()) == (row, predictions.tolist())
    for model, other in zip(models, others):
        assert all(torch.equal(values, other.state_dict()[name]) for name, values in model.state_dict().items())
    groups = data.samples["train"]["user_id"].to_list()
    crossed = [cross_fit(make, *data.rows("train"), groups=groups, folds=2, epochs=1, workers=w) for w in (1, 2)]
    assert torch.equal(crossed[0].predictions, crossed[1].predictions)


def test_explanations_of_the_test_split_are_read(data):
    z = z_of_labels(data)
    without, _, _ = mean_of_fits(data, make_model(data), brier, fits=1)
    row, predictions, _ = mean_of_fits(data, make_model(data, 2), brier, z, fits=1, epochs=20, learning_rate=0.02)
    assert row["brier"] < 0.1 < without["brier"]
    labels = data.targets["test"].numpy()
    assert predictions[labels == 1].min() > predictions[labels == 0].max()
