import json

import polars as pl
import pytest

from rlrec.data.schema import DataError, PreparedDataset, RawData, assemble, k_core, no_rejected_rows


def raw_data(rows, items=("a", "b"), **changes):
    """Interactions from (user, item, rating, timestamp) rows, numbered from 1."""
    interactions = pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")
    interactions = interactions.with_columns(pl.col("rating").cast(pl.Float64), pl.col("timestamp").cast(pl.Int64))
    titles = pl.DataFrame(
        {
            "item_id": list(items),
            "title": [f"Title {item}" for item in items],
            "categories": [["x"]] * len(items),
            "description": [""] * len(items),
        }
    )
    return RawData(
        interactions=interactions.with_row_index("row", offset=1),
        items=titles,
        rejected=no_rejected_rows(),
        interactions_file="ratings.txt",
        rating_scale=(1.0, 5.0),
        default_threshold=3.0,
        domain="film",
        licence="none",
        **changes,
    )


def test_bad_rows_are_quarantined_with_row_and_reason():
    prepared = assemble(
        "test",
        raw_data(
            [
                ("u1", "a", 5, 20),
                ("u1", "b", 2, 10),
                ("u1", "a", 1, 20),  # duplicate of row 1, though the rating differs: the first one counts
                ("u1", "a", 5, 21),  # another time: kept
                ("u2", "c", 5, 1),  # no such item
                ("u2", "a", 5.5, 1),
                ("u2", "a", 0, 2),
                ("u2", "a", float("nan"), 3),
                ("u2", "a", float("inf"), 4),
            ]
        ),
    )
    assert prepared.interactions.rows() == [("u1", "b", 2.0, 10), ("u1", "a", 5.0, 20), ("u1", "a", 5.0, 21)]
    assert sorted(prepared.rejected.select("row", "field", "value").rows()) == [
        (3, "item_id", "a"),
        (5, "item_id", "c"),
        (6, "rating", "5.5"),
        (7, "rating", "0.0"),
        (8, "rating", "NaN"),
        (9, "rating", "inf"),
    ]
    assert set(prepared.rejected["file"]) == {"ratings.txt"}
    assert prepared.metadata["rejected"] == {
        "duplicate of an earlier row (same user, item and time)": 1,
        "item not among the usable items of the metadata": 1,
        "rating outside the scale": 4,
    }
    assert prepared.metadata["users"] == 1
    assert prepared.metadata["items"] == 2
    assert prepared.metadata["positive_rate"] == pytest.approx(2 / 3, abs=1e-6)


def test_without_timestamps_file_order_is_kept_and_a_second_rating_is_a_duplicate():
    rows = [("u1", "b", 1, None), ("u2", "a", 1, None), ("u1", "a", 5, None), ("u1", "b", 4, None)]
    prepared = assemble("test", raw_data(rows))
    assert prepared.interactions.select("user_id", "item_id", "rating").rows() == [
        ("u1", "b", 1.0),
        ("u1", "a", 5.0),
        ("u2", "a", 1.0),
    ]
    assert prepared.rejected["row"].to_list() == [4]
    assert prepared.metadata["has_timestamps"] is False


@pytest.mark.parametrize(("rule", "threshold", "rate"), [("gt", None, 0.25), ("ge", None, 0.5), ("gt", 2, 0.5)])
def test_label_rule_and_threshold(rule, threshold, rate):
    rows = [("u1", "a", 1, 1), ("u1", "a", 2, 2), ("u1", "a", 3, 3), ("u1", "a", 4, 4)]
    metadata = assemble("test", raw_data(rows), threshold=threshold, label_rule=rule).metadata
    assert metadata["positive_rate"] == rate
    assert metadata["default_threshold"] == 3.0
    assert metadata["threshold"] == (threshold or 3.0)
    assert metadata["label_rule"] == rule


def test_k_core_repeats_until_nothing_changes():
    # c has one user; without it u3 has one item left; without u3, b has two users and a has two: a 2-core.
    edges = [("u1", "a"), ("u1", "b"), ("u2", "a"), ("u2", "b"), ("u3", "b"), ("u3", "c")]
    frame = pl.DataFrame(edges, schema=["user_id", "item_id"], orient="row")
    assert k_core(frame, 2).rows() == edges[:4]
    assert k_core(frame, 1).rows() == edges
    assert k_core(frame, 3).height == 0


def test_nothing_left_says_why():
    with pytest.raises(DataError, match=r"ratings.txt: no usable interaction.*1 x rating outside the scale"):
        assemble("test", raw_data([("u1", "a", 9, 1)]))
    with pytest.raises(DataError, match="after taking the 5-core"):
        assemble("test", raw_data([("u1", "a", 4, 1)]), k_core_size=5)


def test_items_without_interactions_are_left_out_and_counted():
    prepared = assemble("test", raw_data([("u1", "a", 4, 1)], items=("a", "b", "c")))
    assert prepared.items["item_id"].to_list() == ["a"]
    assert prepared.metadata["items_without_interactions"] == 2


def test_write_and_load_round_trip(tmp_path):
    prepared = assemble("test", raw_data([("u1", "a", 4, 1), ("u1", "z", 4, 1)]))
    prepared.write(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == [
        "interactions.parquet",
        "items.parquet",
        "metadata.json",
        "rejected.parquet",
    ]
    loaded = PreparedDataset.load(tmp_path / "out")
    for name in ("interactions", "items", "rejected"):
        assert getattr(loaded, name).equals(getattr(prepared, name))
    assert loaded.metadata == prepared.metadata == json.loads((tmp_path / "out/metadata.json").read_text())


def test_load_of_something_else(tmp_path):
    with pytest.raises(DataError, match=r"no metadata.json.*prepare_data.py"):
        PreparedDataset.load(tmp_path)
    (tmp_path / "metadata.json").write_text("{}")
    (tmp_path / "interactions.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"cannot be read.*prepare_data.py again"):
        PreparedDataset.load(tmp_path)
