"""Clicks and ratings from histories: what each sequence model learns in a world where the history tells the label."""

import polars as pl
import pytest
import torch
from sklearn.metrics import roc_auc_score

from rlrec.recommenders import (
    DIEN,
    DIN,
    PointwiseBERT4Rec,
    PointwiseCaser,
    PointwiseGRU4Rec,
    PointwiseSASRec,
    SplitData,
    UniSRec,
)

TEXT_DIM = 6


def build(model_class, sizes: dict[str, int], **options):
    torch.manual_seed(0)
    if model_class is UniSRec:
        options["text_dim"] = TEXT_DIM
    model = model_class(**sizes, **options)
    if model_class is UniSRec:
        model.set_text_vectors(torch.randn(sizes["num_items"], TEXT_DIM))
    return model


MODELS = [DIN, DIEN, PointwiseCaser, PointwiseGRU4Rec, PointwiseSASRec, PointwiseBERT4Rec, UniSRec]
models = pytest.mark.parametrize("model_class", MODELS, ids=lambda model_class: model_class.__name__)


def make_world(rows: int = 1600, num_items: int = 8, length: int = 6) -> pl.DataFrame:
    """Even or odd items please a user, every user a new one; a history of 1 to 6 items says which.

    So neither the share of liked items of a history, nor an item's mean, nor the user tell the label.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(num_items, (rows, length + 1), generator=generator)
    taste = torch.randint(2, (rows, 1), generator=generator)
    lengths = torch.randint(1, length + 1, (rows,), generator=generator).tolist()
    liked = (drawn % 2 == taste).long()
    histories = [items[:count].tolist() for items, count in zip(drawn, lengths)]
    labels = [row[:count].tolist() for row, count in zip(liked, lengths)]
    return pl.DataFrame(
        {
            "split": ["train"] * (rows - 600) + ["validation"] * 200 + ["test"] * 400,
            "user_id": [f"u{n}" for n in range(rows)],
            "item_id": [f"i{item}" for item in drawn[:, -1].tolist()],
            "history": [[f"i{item}" for item in items] for items in histories],
            "history_labels": labels,
            "history_targets": [[0.25 + 0.5 * label for label in row] for row in labels],
            "label": liked[:, -1].tolist(),
            "target": (0.25 + 0.5 * liked[:, -1]).tolist(),
        }
    )


@pytest.fixture(scope="module")
def world() -> pl.DataFrame:
    return make_world()


@pytest.fixture(scope="module")
def data(world) -> SplitData:
    return SplitData.build(world, use_history=True, use_history_labels=True)


def heuristics(world: pl.DataFrame) -> pl.DataFrame:
    """The test rows with the two heuristics of every table: the history's share of likes, the item's mean."""
    train, test = (world.filter(pl.col("split") == split) for split in ("train", "test"))
    means = train.group_by("item_id").agg(item_mean=pl.col("label").mean(), item_target=pl.col("target").mean())
    test = test.join(means, on="item_id", maintain_order="left")
    return test.with_columns(like_rate=pl.col("history_labels").list.mean())


@models
def test_the_history_tells_the_click(model_class, world, data):
    trivial = heuristics(world)
    best = max(roc_auc_score(trivial["label"], trivial[name]) for name in ("like_rate", "item_mean"))
    assert best < 0.6
    model = build(model_class, data.vocabulary.sizes())
    data.fit(model, epochs=40, patience=10, learning_rate=1e-2, batch_size=128, metric="auc")
    assert roc_auc_score(data.targets["test"], model.predict(data.batches["test"])) > 0.9


@pytest.mark.parametrize("model_class", [DIN, PointwiseSASRec])
def test_the_history_tells_the_rating(model_class, world):
    data = SplitData.build(
        world, target="target", use_history=True, use_history_labels=True, history_labels_column="history_targets"
    )
    assert data.batches["train"]["history_labels"].unique().tolist() == [0.0, 0.25, 0.75]  # 0 is padding
    model = build(model_class, data.vocabulary.sizes(), objective="rating")
    data.fit(model, epochs=40, patience=10, learning_rate=1e-2, batch_size=128)
    trivial, targets = heuristics(world), data.targets["test"]
    of_mean = (targets - trivial["item_target"].to_torch()).square().mean().sqrt()
    ours = (targets - model.predict(data.batches["test"])).square().mean().sqrt()
    assert of_mean > 0.24
    assert ours < 0.15


def some_rows(**changes) -> dict[str, torch.Tensor]:
    batch = {
        "user": torch.tensor([1, 2, 0]),
        "item": torch.tensor([4, 5, 6]),
        "categories": torch.zeros(3, 0, dtype=torch.long),
        "features": torch.zeros(3, 0),
        "history": torch.tensor([[1, 2, 3, 7], [8, 3, 0, 0], [0, 0, 0, 0]]),
        "history_labels": torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]),
    }
    return {**batch, **changes}


def untrained(model_class, **options):
    """Eval mode, and parameters large enough that a difference shows."""
    model = build(model_class, {"num_users": 3, "num_items": 9}, **options)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


@models
def test_padding_changes_nothing(model_class):
    """At the end, in between (items that training never saw), and in other rows of the batch."""
    model = untrained(model_class)
    expected = model.predict(some_rows())
    history, labels = some_rows()["history"], some_rows()["history_labels"]
    for places in ([0, 1, 2, 3, -1, -1], [-1, 0, 1, -1, 2, 3]):
        spread = [tensor[:, places] * (torch.tensor(places) >= 0) for tensor in (history, labels)]
        given = model.predict(some_rows(history=spread[0], history_labels=spread[1]))
        torch.testing.assert_close(given, expected)
    torch.testing.assert_close(model.predict(some_rows(), batch_size=1), expected)
    meaningless = labels + 0.5 * (history == 0)
    torch.testing.assert_close(model.predict(some_rows(history_labels=meaningless)), expected)


@models
def test_order_and_reactions_and_items_matter(model_class):
    model = untrained(model_class)
    before = model.predict(some_rows())
    history, labels = some_rows()["history"], some_rows()["history_labels"]
    order = torch.tensor([[1, 0, 2, 3], [1, 0, 2, 3], [0, 1, 2, 3]])
    swapped = model.predict(some_rows(history=history.gather(1, order), history_labels=labels.gather(1, order)))
    if model_class is DIN:  # a sum over the history, in the paper too
        torch.testing.assert_close(swapped, before)
    else:
        assert ((swapped - before)[:2].abs() > 1e-5).all()
    flipped = model.predict(some_rows(history_labels=(1 - labels) * (history != 0)))
    assert ((flipped - before)[:2].abs() > 1e-5).all()
    other = model.predict(some_rows(history=(history % 8 + 1) * (history != 0)))
    assert ((other - before)[:2].abs() > 1e-5).all()
    for changed in (swapped, flipped, other):
        torch.testing.assert_close(changed[2], before[2])  # an empty history


@models
def test_the_newest_items_are_read(model_class):
    model = untrained(model_class, max_length=2)
    history, labels = some_rows()["history"], some_rows()["history_labels"]
    newest = torch.tensor([[2, 3], [0, 1], [0, 1]])
    short = some_rows(history=history.gather(1, newest), history_labels=labels.gather(1, newest))
    torch.testing.assert_close(model.predict(some_rows()), model.predict(short))


def test_a_batch_without_reactions_is_refused():
    batch = some_rows()
    del batch["history_labels"]
    with pytest.raises(ValueError, match=r"no \['history_labels'\], which DIN reads.*use_history_labels=True"):
        untrained(DIN).predict(batch)


def test_reactions_that_do_not_fit_are_refused():
    model = untrained(DIN)
    with pytest.raises(ValueError, match=r"'history_labels'\] has shape \(3, 2\), batch\['history'\] \(3, 4\)"):
        model.predict(some_rows(history_labels=torch.zeros(3, 2)))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], but row 1 has 4"):
        model.predict(some_rows(history_labels=4.0 * some_rows()["history_labels"] * torch.tensor([[0], [1], [0]])))
    with pytest.raises(ValueError, match="row 0 has nan"):
        model.predict(some_rows(history_labels=some_rows()["history_labels"] * torch.nan))


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="max_length is 0, expected at least 1"):
        DIN(3, 4, max_length=0)
