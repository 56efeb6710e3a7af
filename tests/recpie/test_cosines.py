"""Item pairs, their cosines while a model trains, and what is summed up of them."""

import polars as pl
import pytest
import torch

from rlrec.recommenders import SASRec, SelfAttentiveGRU, Vocabulary, fit, fit_sequences
from rlrec.recpie.cosines import CosineRecorder, choose_pairs, cosine_summary, cosine_tables, write_cosines


@pytest.fixture
def world():
    """Items a1, a2 (Bar), b1, b2 (Zoo), ab (both); a1-a2 and a1-b1 share one user, a2-b2 three, all others none."""
    baskets = [["a1", "a2"], ["a1", "b1"], *[["a2", "b2"]] * 3, ["ab"]]
    lines = [(f"u{user}", item, user) for user, basket in enumerate(baskets) for item in basket]
    interactions = pl.DataFrame(lines, schema=["user_id", "item_id", "timestamp"], orient="row")
    categories = {"a1": ["Bar"], "a2": ["Bar"], "b1": ["Zoo"], "b2": ["Zoo"], "ab": ["Zoo", "Bar"], "none": []}
    items = pl.DataFrame({"item_id": list(categories), "categories": list(categories.values())})
    return interactions, items


def test_pairs_are_matched_on_users_by_hand(world):
    """Together no user: similar b1-b2; related ab with each of four; unrelated a1-b2, a2-b1. One user: no related."""
    pairs = choose_pairs(*world)
    assert pairs["kind"].to_list() == ["similar", "related", "unrelated"]
    assert pairs["users"].to_list() == [0, 0, 0]
    similar, related, unrelated = (set(pair) for pair in pairs.select("first", "second").iter_rows())
    assert similar == {"b1", "b2"}
    assert "ab" in related
    assert unrelated in ({"a1", "b2"}, {"a2", "b1"})


def test_pairs_follow_the_seed_and_not_the_order(world):
    interactions, items = world
    chosen = [choose_pairs(interactions.sample(fraction=1, shuffle=True, seed=s), items, seed=7) for s in (1, 2)]
    assert chosen[0].equals(chosen[1])
    seeds = {tuple(choose_pairs(*world, seed=seed)["first"]) for seed in range(8)}
    assert len(seeds) > 1


def test_without_related_items_two_kinds_are_enough(world):
    interactions, items = world
    pairs = choose_pairs(interactions.filter(pl.col("item_id") != "ab"), items, per_kind=5)
    # None together: b1-b2 against one of two; one user: a1-a2 against a1-b1.
    assert sorted(zip(pairs["kind"], pairs["users"])) == [
        ("similar", 0), ("similar", 1), ("unrelated", 0), ("unrelated", 1),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="there are only similar pairs"):
        choose_pairs(interactions.filter(pl.col("item_id").is_in(["a1", "a2"])), items)


def test_recorded_while_both_kinds_of_model_train(tmp_path):
    vocabulary = Vocabulary(["u"], ["a1", "a2", "b1"], [], [], [], [], history=True)
    pairs = pl.DataFrame(
        {"first": ["a1", "a1"], "second": ["a2", "b1"], "kind": ["similar", "unrelated"], "users": [1, 1]}
    )
    recorder = CosineRecorder(pairs, vocabulary.items)
    torch.manual_seed(0)
    sasrec, gru = SASRec(4, dim=8), SelfAttentiveGRU(2, 4, objective="rating")
    recorder.on_epoch("SASRec")(0, sasrec)
    before = sasrec.item_table.weight.detach().clone()
    sequences = torch.tensor([[1, 2, 3], [2, 1, 0]])
    fit_sequences(sasrec, sequences, epochs=2, on_epoch=recorder.on_epoch("SASRec"))
    samples = pl.DataFrame({"user_id": ["u"] * 2, "item_id": ["a1", "b1"], "history": [["a2"], []]})
    batch = vocabulary.encode(samples)
    for offset in (0, 2):  # two rounds of two epochs
        fit(gru, batch, torch.tensor([0.0, 1.0]), epochs=2, on_epoch=recorder.on_epoch("RecPIE", offset=offset))
    frame = pl.read_parquet(write_cosines(tmp_path, recorder.frame()))
    assert frame.filter(model="SASRec")["epoch"].unique().sort().to_list() == [0, 1, 2]
    assert frame.filter(model="RecPIE")["epoch"].unique().sort().to_list() == [1, 2, 3, 4]
    first = frame.filter(model="SASRec", epoch=0, second="b1")["cosine"].item()
    dot = float(before[1] @ before[3] / before[1].norm() / before[3].norm())
    assert first == pytest.approx(dot, abs=1e-6)
    table = gru.inputs.product_table.weight.detach()
    last = frame.filter(model="RecPIE", epoch=4, second="a2")["cosine"].item()
    assert last == pytest.approx(float(torch.cosine_similarity(table[1], table[2], dim=0)), abs=1e-6)


def test_recorder_errors(tmp_path):
    pairs = pl.DataFrame({"first": ["a"], "second": ["z"], "kind": ["similar"]})
    with pytest.raises(ValueError, match="Item 'z' of the pairs is not in the vocabulary"):
        CosineRecorder(pairs, ["a"])
    with pytest.raises(ValueError, match="No epoch was recorded"):
        CosineRecorder(pairs, ["a", "z"]).frame()
    with pytest.raises(ValueError, match="no column \\['model', 'epoch', 'cosine'\\]"):
        write_cosines(tmp_path, pairs)


def test_summary_by_hand():
    lines = [
        ("M", 1, "a", "b", "similar", 0.8),
        ("M", 1, "c", "d", "similar", 0.4),
        ("M", 1, "a", "d", "unrelated", 0.1),
    ]
    columns = ["model", "epoch", "first", "second", "kind", "cosine"]
    frame = pl.DataFrame(lines, schema=columns, orient="row")
    summary = cosine_summary(
        [frame, frame.with_columns(pl.col("cosine") + 0.1)]
    )  # two seeds: pairs are averaged first
    rows = {line["kind"]: line for line in summary.iter_rows(named=True)}
    assert rows["similar"]["mean"] == pytest.approx(0.65)
    assert rows["similar"]["standard_error"] == pytest.approx(0.2)  # .4 / sqrt 2 between two pairs, over sqrt 2
    assert (rows["similar"]["pairs"], rows["unrelated"]["standard_error"]) == (2, None)
    assert rows["similar - unrelated"]["mean"] == pytest.approx(0.5)
    ((header, body),) = cosine_tables(summary).values()
    assert header == ["model and pairs", "epoch 1"]
    assert body[0] == ["M, similar", "0.65 ± 0.20"]
