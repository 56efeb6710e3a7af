import os
from pathlib import Path

import polars as pl
import pytest
import torch
from sklearn.metrics import roc_auc_score

from rlrec.data.splits import expctr_samples
from rlrec.recommenders import DeepFM, Vocabulary, fit
from rlrec.recommenders.deepfm import second_order


def test_second_order_term_by_hand():
    # <(1,2),(3,4)> = 11, <(1,2),(5,6)> = 17, <(3,4),(5,6)> = 39; and <(1,0),(2,1)> = 2, the third vector being 0.
    vectors = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [[1.0, 0.0], [2.0, 1.0], [0.0, 0.0]]])
    assert second_order(vectors).tolist() == [67.0, 2.0]


def test_second_order_term_agrees_with_torch_rechub():
    layers = pytest.importorskip("torch_rechub.basic.layers")
    vectors = torch.randn(10, 4, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(second_order(vectors), layers.FM(reduce_sum=True)(vectors).squeeze(1))


def test_logit_by_hand():
    """User 1, item 1, categories {1, 2}, one feature of value 2; the last column is the first-order weight."""
    model = DeepFM(2, 2, 3, 1, embedding_dim=2, hidden_dims=(1,), dropout=0.0)
    with torch.no_grad():
        model.table.weight.zero_()
        model.table.weight[1] = torch.tensor([1.0, 2.0, 0.1])  # user 1
        model.table.weight[3] = torch.tensor([3.0, 0.0, 0.2])  # item 1
        model.table.weight[5] = torch.tensor([2.0, 0.0, 0.4])  # category 1
        model.table.weight[6] = torch.tensor([0.0, 2.0, 0.2])  # category 2; the mean is (1, 1, 0.3)
        model.feature_vectors[0] = torch.tensor([0.5, 0.0, 0.3])  # times 2: (1, 0, 0.6)
        model.mlp[0].weight.fill_(0.1)
        model.mlp[0].bias.fill_(0.1)
        model.head.weight.fill_(2.0)
        model.head.bias.fill_(0.5)
    batch = {
        "user": torch.tensor([1]),
        "item": torch.tensor([1]),
        "categories": torch.tensor([[1, 0, 2]]),
        "features": torch.tensor([[2.0]]),
    }
    # First order .1 + .2 + .3 + .6 = 1.2. Second: u.i 3 + u.c 3 + u.f 1 + i.c 3 + i.f 3 + c.f 1 = 14.
    # Deep: relu(.1 * (1 + 2 + 3 + 0 + 1 + 1 + 1 + 0) + .1) = 1, times 2 plus .5 = 2.5.
    assert model.eval()(batch).item() == pytest.approx(17.7)


def ids(count: int) -> dict[str, torch.Tensor]:
    user = torch.arange(count)
    empty = {"categories": torch.zeros(count, 0, dtype=torch.long), "features": torch.zeros(count, 0)}
    return {"user": user, "item": user, **empty}


def test_a_model_without_slots_refuses_explanations():
    with pytest.raises(ValueError, match="explanation_slots > 0"):
        DeepFM(4, 4)(ids(4), torch.zeros(4, 1, 8))


def test_saved_models_of_before_load():
    """Names and shapes of the weights, and a config without an objective."""
    model = DeepFM(2, 3, 4, 1, embedding_dim=2, hidden_dims=(5,), explanation_slots=1, explanation_dim=6)
    shapes = {name: tuple(values.shape) for name, values in model.state_dict().items()}
    assert shapes == {
        "feature_vectors": (1, 3),
        "table.weight": (9, 3),
        "mlp.0.weight": (5, 2 * 4),
        "mlp.0.bias": (5,),
        "explanation_input.mean": (1, 6),
        "explanation_input.scale": (1, 6),
        "explanation_input.projection.weight": (16, 6),
        "head.0.weight": (5, 5 + 16),
        "head.0.bias": (5,),
        "head.3.weight": (1, 5),
        "head.3.bias": (1,),
    }
    config = {name: value for name, value in model.config.items() if name != "objective"}
    assert DeepFM(**config).objective == "binary"


def test_explanation_dropout_of_one_trains_without_explanations():
    torch.manual_seed(0)
    model = DeepFM(4, 4, dropout=0.0, explanation_slots=1, explanation_dim=8, explanation_dropout=1.0).train()
    assert torch.equal(model(ids(4), torch.randn(4, 1, 8)), model(ids(4)))


def test_the_scale_and_the_common_part_of_embeddings_do_not_matter():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(200, 1, 8, generator=generator)
    labels = (z[:, 0, 0] > 0).long()
    batch = {**ids(200), "user": torch.zeros(200, dtype=torch.long), "item": torch.zeros(200, dtype=torch.long)}
    predictions = []
    for embeddings in (z, 1000 * z + 3000):
        torch.manual_seed(0)
        model = DeepFM(1, 1, explanation_slots=1, explanation_dim=8)
        fit(model, batch, labels, embeddings, epochs=40, learning_rate=1e-2)
        predictions.append(model.predict(batch, embeddings))
    torch.testing.assert_close(predictions[0], predictions[1], atol=5e-3, rtol=0)
    assert roc_auc_score(labels, predictions[0]) > 0.95


def test_a_constant_dimension_does_not_blow_up():
    """A dimension that hardly moves in training and jumps afterwards must not rule the prediction."""
    model = DeepFM(1, 1, explanation_slots=1, explanation_dim=3)
    z = torch.randn(50, 1, 3, generator=torch.Generator().manual_seed(0))
    z[..., 2] = 7.0
    model.explanation_input.standardise(z)
    z[..., 2] = 1e6
    assert model.explanation_input(z, 50).abs().max() < 20


@pytest.mark.skipif("RLREC_DATA_DIR" not in os.environ, reason="RLREC_DATA_DIR is not set")
def test_movielens_100k_user_disjoint():
    """The two history features, which a logistic regression turns into AUC .738 on this split."""
    path = Path(os.environ["RLREC_DATA_DIR"]) / "ml-100k" / "u.data"
    names = ["user_id", "item_id", "rating", "timestamp"]
    ratings = pl.read_csv(path, separator="\t", has_header=False, new_columns=names)
    ratings = ratings.with_columns(pl.col("user_id", "item_id").cast(pl.String))
    items = ratings.select("item_id").unique().with_columns(title=pl.lit(""), categories=pl.lit([]))
    samples = expctr_samples(ratings, items, threshold=4, label_rule="ge", seed=0)
    parts = {name: samples.filter(pl.col("split") == name) for name in ("train", "validation", "test")}
    labels = {name: rows["label"].to_torch() for name, rows in parts.items()}
    aucs = {}
    for features in ((), ("like_rate", "item_mean")):
        vocabulary = Vocabulary.from_samples(parts["train"], features, use_categories=False)
        batches = {name: vocabulary.encode(rows) for name, rows in parts.items()}
        torch.manual_seed(0)
        model = DeepFM(**vocabulary.sizes())
        fit(model, batches["train"], labels["train"], validation=(batches["validation"], labels["validation"], None))
        aucs[features] = roc_auc_score(labels["test"], model.predict(batches["test"]))
    assert 0.63 < aucs[()] < 0.70
    assert aucs[("like_rate", "item_mean")] > 0.73
