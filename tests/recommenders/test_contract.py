"""The contract that every recommender keeps; add a builder to RECOMMENDERS and all of this runs for it."""

import json

import polars as pl
import pytest
import torch

from rlrec.recommenders import (
    DCN,
    DIEN,
    DIN,
    DSSM,
    FM,
    NCF,
    PNN,
    AutoInt,
    DCNv2,
    DeepFM,
    FiGNN,
    PointwiseBERT4Rec,
    PointwiseCaser,
    PointwiseGRU4Rec,
    PointwiseSASRec,
    SelfAttentiveGRU,
    UniSRec,
    Vocabulary,
    XDeepFM,
    fit,
)
from rlrec.recommenders.base import write_json

SLOTS, DIM = 2, 6


def builder(model_class, **arguments):
    def build(sizes: dict[str, int]):
        torch.manual_seed(0)
        return model_class(**sizes, explanation_slots=SLOTS, explanation_dim=DIM, **arguments)

    return build


def build_unisrec(sizes: dict[str, int]) -> UniSRec:
    model = builder(UniSRec, text_dim=5)(sizes)
    model.set_text_vectors(torch.randn(sizes["num_items"], 5))
    return model


SMALL = {"embedding_dim": 4, "hidden_dims": (8, 8)}
RECOMMENDERS = [
    pytest.param(builder(DeepFM, **SMALL), id="deepfm"),
    pytest.param(builder(DeepFM, objective="rating", **SMALL), id="deepfm_rating"),
    pytest.param(builder(FM), id="fm"),
    pytest.param(builder(DSSM, **SMALL), id="dssm"),
    pytest.param(builder(AutoInt, **SMALL), id="autoint"),
    pytest.param(builder(PNN, **SMALL), id="pnn"),
    pytest.param(builder(XDeepFM, cin_dims=(4, 4), **SMALL), id="xdeepfm"),
    pytest.param(builder(FiGNN), id="fignn"),
    pytest.param(builder(DCN, **SMALL), id="dcn"),
    pytest.param(builder(DCNv2, **SMALL), id="dcnv2"),
    pytest.param(builder(DCNv2, objective="rating", **SMALL), id="dcnv2_rating"),
    pytest.param(builder(SelfAttentiveGRU), id="self_attentive_gru"),
    pytest.param(builder(SelfAttentiveGRU, objective="rating"), id="self_attentive_gru_rating"),
    pytest.param(builder(NCF), id="ncf"),
    pytest.param(builder(DIN), id="din"),
    pytest.param(builder(DIN, objective="rating"), id="din_rating"),
    pytest.param(builder(DIEN), id="dien"),
    pytest.param(builder(PointwiseCaser), id="caser"),
    pytest.param(builder(PointwiseGRU4Rec), id="gru4rec"),
    pytest.param(builder(PointwiseSASRec), id="sasrec"),
    pytest.param(builder(PointwiseBERT4Rec), id="bert4rec"),
    pytest.param(build_unisrec, id="unisrec"),
]
pytestmark = pytest.mark.parametrize("build", RECOMMENDERS)


def make_samples(rows: int = 64) -> pl.DataFrame:
    numbers = range(rows)
    return pl.DataFrame(
        {
            "user_id": [f"user {n % 7}" for n in numbers],
            "item_id": [f"item {n % 5}" for n in numbers],
            "categories": [[["Drama"], ["Drama", "Comedy"], []][n % 3] for n in numbers],
            "like_rate": [n % 11 / 10 for n in numbers],
            "item_mean": [n % 4 / 3 for n in numbers],
            "history": [[f"item {m % 6}" for m in range(n, n + n % 4)] for n in numbers],  # item 5 is nobody's target
            "history_labels": [[m % 2 for m in range(n % 4)] for n in numbers],
            "label": [int(n % 5 < 2) for n in numbers],
        },
        schema_overrides={"categories": pl.List(pl.String)},
    )


@pytest.fixture
def samples() -> pl.DataFrame:
    return make_samples()


@pytest.fixture
def vocabulary(samples) -> Vocabulary:
    return Vocabulary.from_samples(samples, ("like_rate", "item_mean"), use_history=True, use_history_labels=True)


@pytest.fixture
def batch(vocabulary, samples):
    return vocabulary.encode(samples)


@pytest.fixture
def labels(samples):
    return samples["label"].to_torch()


@pytest.fixture
def explanations(labels):
    """The first dimension of the first slot says the label; the rest is noise around 10."""
    z = 10 + torch.randn(len(labels), SLOTS, DIM, generator=torch.Generator().manual_seed(0))
    z[:, 0, 0] += 3 * labels
    return z


def test_logits_have_one_value_per_row(build, vocabulary, batch, explanations):
    model = build(vocabulary.sizes()).eval()
    assert model(batch, explanations).shape == (64,)
    assert torch.isfinite(model(batch, explanations)).all()


def test_no_explanation_equals_zeros_exactly_before_and_after_training(build, vocabulary, batch, labels, explanations):
    model = build(vocabulary.sizes()).eval()
    zeros = torch.zeros_like(explanations)
    assert torch.equal(model(batch), model(batch, zeros))
    fit(model, batch, labels, explanations, epochs=3, batch_size=16)
    assert torch.equal(model(batch), model(batch, zeros))
    assert not torch.equal(model(batch), model(batch, explanations))


def test_predict_applies_the_objective_without_touching_mode_or_gradients(build, vocabulary, batch, explanations):
    model = build(vocabulary.sizes()).train()
    predictions = model.predict(batch, explanations)
    assert model.training
    assert not predictions.requires_grad
    outputs = model.eval()(batch, explanations).detach()
    expected = outputs if model.objective == "rating" else 1 / (1 + torch.exp(-outputs))
    torch.testing.assert_close(predictions, expected)
    torch.testing.assert_close(model.predict(batch, explanations, batch_size=5), predictions)


def test_predict_takes_half_precision_explanations(build, vocabulary, batch, explanations):
    model = build(vocabulary.sizes())
    rounded = explanations.bfloat16()
    torch.testing.assert_close(model.predict(batch, rounded), model.predict(batch, rounded.float()))


def test_gradients_reach_every_parameter(build, vocabulary, batch, explanations):
    model = build(vocabulary.sizes()).eval()
    model(batch, explanations).square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_save_and_load_give_equal_predictions(build, vocabulary, samples, batch, labels, explanations, tmp_path):
    model = build(vocabulary.sizes())
    fit(model, batch, labels, explanations, epochs=2)
    model.save_pretrained(tmp_path / "model", vocabulary)
    loaded = type(model).from_pretrained(tmp_path / "model")
    encoded = Vocabulary.load(tmp_path / "model").encode(samples)
    assert torch.equal(loaded.predict(encoded, explanations), model.predict(batch, explanations))
    assert torch.equal(loaded.predict(encoded), model.predict(batch))
    written = sorted(path.name for path in (tmp_path / "model").glob("[!.]*"))
    assert written == ["config.json", "model.safetensors", "vocabulary.json"]


def test_loading_another_recommender_is_refused(build, vocabulary, tmp_path):
    model = build(vocabulary.sizes())
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    write_json(tmp_path / "config.json", {**config, "recommender": "Other"})
    with pytest.raises(ValueError, match="describes 'Other', not"):
        type(model).from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError):
        type(model).from_pretrained(tmp_path / "nowhere")


def test_fit_learns_from_explanations_and_a_second_fit_goes_on(build, vocabulary, batch, labels, explanations):
    model = build(vocabulary.sizes())
    arguments = {"epochs": 30, "batch_size": 16, "learning_rate": 1e-2}
    first = fit(model, batch, labels, explanations, **arguments)
    after_first = model.predict(batch, explanations)
    assert first.history[-1]["train_loss"] < 0.5 * first.history[0]["train_loss"]
    second = fit(model, batch, labels, explanations, **arguments)
    assert second.history[0]["train_loss"] < 0.5 * first.history[0]["train_loss"]
    assert not torch.equal(model.predict(batch, explanations), after_first)


def test_equal_seeds_give_equal_models_and_leave_the_global_random_state(
    build, vocabulary, batch, labels, explanations
):
    predictions = []
    for seed in (1, 1, 2):
        model = build(vocabulary.sizes())
        state = torch.get_rng_state()
        fit(model, batch, labels, explanations, epochs=2, batch_size=16, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        predictions.append(model.predict(batch, explanations))
    assert torch.equal(predictions[0], predictions[1])
    assert not torch.equal(predictions[0], predictions[2])


def test_one_user_and_one_item(build):
    samples = pl.DataFrame({"user_id": ["u"] * 4, "item_id": ["i"] * 4, "history": [[]] * 4, "label": [0, 1, 1, 1]})
    samples = samples.with_columns(history_labels="history")
    vocabulary = Vocabulary.from_samples(samples, use_history=True, use_history_labels=True)
    model = build(vocabulary.sizes())
    batch = vocabulary.encode(samples)
    fit(model, batch, samples["label"].to_torch(), epochs=300, learning_rate=1e-2)
    torch.testing.assert_close(model.predict(batch), torch.full((4,), 0.75), atol=0.05, rtol=0)


def test_a_single_row_and_no_row(build, vocabulary, samples, explanations):
    model = build(vocabulary.sizes())
    assert model.predict(vocabulary.encode(samples[:1]), explanations[:1]).shape == (1,)
    assert model.predict(vocabulary.encode(samples[:0]), explanations[:0]).shape == (0,)


def test_unknown_ids_categories_and_missing_features_are_predicted(build, vocabulary):
    model = build(vocabulary.sizes())
    stranger = pl.DataFrame(
        {
            "user_id": ["new", None],
            "item_id": ["new", "item 1"],
            "categories": [["Western"], None],
            "like_rate": [None, float("nan")],
            "item_mean": [None, None],
            "history": [["new", None], None],
            "history_labels": [[1, 0], None],
        },
        schema_overrides={"item_mean": pl.Float64},
    )
    batch = vocabulary.encode(stranger)
    assert batch["user"].tolist() == [0, 0]
    assert batch["categories"].tolist() == [[0], [0]]
    assert batch["history"].tolist() == [[0, 0], [0, 0]]
    assert batch["features"].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert torch.isfinite(model.predict(batch)).all()


def test_a_row_without_categories_does_not_depend_on_padding(build, vocabulary, samples):
    model = build(vocabulary.sizes())
    batch = vocabulary.encode(samples[:3])
    padded = {**batch, "categories": torch.nn.functional.pad(batch["categories"], (0, 3))}
    torch.testing.assert_close(model.predict(batch), model.predict(padded))


def test_inputs_that_do_not_fit_are_refused(build, vocabulary, batch, explanations):
    model = build(vocabulary.sizes())
    beyond = {**batch, "user": batch["user"] + 1000}
    with pytest.raises(ValueError, match=r"batch\['user'\] holds indices 1001\.\.1007.*num_users=8"):
        model.predict(beyond)
    with pytest.raises(ValueError, match=r"batch\['item'\] has 3 rows"):
        model.predict({**batch, "item": batch["item"][:3]})
    with pytest.raises(ValueError, match=r"features'\] has shape \(64, 1\), expected \(64, 2\)"):
        model.predict({**batch, "features": batch["features"][:, :1]})
    with pytest.raises(ValueError, match=r"shape \(64, 6\), expected \(rows, slots, d\) = \(64, 2, 6\)"):
        model.predict(batch, explanations[:, 0])
    broken = explanations.clone()
    broken[5, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="explanations row 5 holds NaN"):
        model.predict(batch, broken)
