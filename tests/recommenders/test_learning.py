"""Every recommender of users and items learns who likes what, which the means of the items cannot say."""

import polars as pl
import pytest
import torch
from sklearn.metrics import roc_auc_score

from rlrec.recommenders import (
    DCN,
    DSSM,
    FM,
    NCF,
    PNN,
    AutoInt,
    DCNv2,
    DeepFM,
    FiGNN,
    SelfAttentiveGRU,
    Vocabulary,
    XDeepFM,
    fit,
)

MODELS = [FM, DSSM, DeepFM, AutoInt, PNN, XDeepFM, FiGNN, DCN, DCNv2, NCF, SelfAttentiveGRU]
USERS, ITEMS, SEEN, TRAIN, VALIDATION = 60, 40, 30, 22, 4  # of each user's SEEN items the last 4 are for tests


def simulated_clicks() -> pl.DataFrame:
    """Users and items of two kinds: a user mostly likes items of one kind, and some items are liked more by all."""
    generator = torch.Generator().manual_seed(0)
    quality = torch.randn(ITEMS, generator=generator)
    rows = []
    for user in range(USERS):
        items = torch.randperm(ITEMS, generator=generator)[:SEEN]
        own_kind = 2.0 * (items % 2 == user % 2) - 1
        probabilities = torch.sigmoid(2 * own_kind + quality[items])
        likes = (torch.rand(SEEN, generator=generator) < probabilities).long().tolist()
        names = [f"item {item}" for item in items.tolist()]
        for time in range(SEEN):
            before = slice(max(time - 5, 0), time)
            rows.append((f"user {user}", names[time], names[before], likes[before], time, likes[time]))
    schema = ["user_id", "item_id", "history", "history_labels", "time", "label"]
    return pl.DataFrame(rows, schema=schema, orient="row")


@pytest.fixture(scope="module")
def splits() -> dict[str, pl.DataFrame]:
    clicks = simulated_clicks()
    part = pl.col("time").cut([TRAIN - 1, TRAIN + VALIDATION - 1], labels=["train", "validation", "test"])
    clicks = clicks.with_columns(part.cast(pl.String).alias("split"))
    return {name: clicks.filter(pl.col("split") == name) for name in ("train", "validation", "test")}


@pytest.mark.parametrize("model_class", MODELS, ids=lambda model_class: model_class.__name__)
def test_beats_the_item_mean(model_class, splits):
    vocabulary = Vocabulary.from_samples(splits["train"], use_history=True)
    batches = {name: vocabulary.encode(rows) for name, rows in splits.items()}
    labels = {name: rows["label"].to_torch() for name, rows in splits.items()}
    torch.manual_seed(0)
    model = model_class(**vocabulary.sizes())
    validation = (batches["validation"], labels["validation"], None)
    fit(model, batches["train"], labels["train"], validation=validation, batch_size=64, learning_rate=1e-2, epochs=30)
    means = splits["train"].group_by("item_id").agg(pl.col("label").mean().alias("mean"))
    item_means = splits["test"].join(means, on="item_id", how="left", maintain_order="left")["mean"]
    auc = roc_auc_score(labels["test"], model.predict(batches["test"]))
    assert auc > roc_auc_score(labels["test"], item_means) + 0.05
