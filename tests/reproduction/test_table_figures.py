"""Pictures of reproduced tables, and the numbers they draw."""

import dataclasses
import math

import polars as pl
import pytest
from hand_made_runs import clicks_table, done

from rlrec import tables
from rlrec.reproduction.tables import Row

figures = pytest.importorskip("rlrec.reproduction.figures")


def test_settings_by_hand():
    names = {"expctr_aug@beta=0.01": 0.5, "expctr_aug@beta=0.5": 0.6, "expctr_aug@delta=1": 0.7, "expctr_aug": 0.8,
             "recpie@training_fraction=0.25": 0.4, "recpie": 0.9}  # fmt: skip
    records = [{"system": "s", "dataset": "d", "seed": seed, "rows": {name: {"auc": value + seed / 10} for name, value
                in names.items()}} for seed in range(2)]  # fmt: skip
    found = figures.parameter_values(tables.summarise(records), "auc").sort("parameter", "value")
    assert found.select("parameter", "value", "line", "seeds").rows() == [
        ("KL penalty β", 0.01, "ExpCTR-Aug", 2), ("KL penalty β", 0.5, "ExpCTR-Aug", 2),
        ("reward bound δ", 1.0, "ExpCTR-Aug", 2),
        ("share of the training data", 0.25, "RecPIE", 2), ("share of the training data", 1.0, "RecPIE", 2),
    ]  # fmt: skip
    assert found["mean"].to_list() == pytest.approx([0.55, 0.65, 0.75, 0.45, 0.95])
    assert found["sd"].to_list() == pytest.approx([0.1 / math.sqrt(2)] * 5)


def test_a_seed_without_the_whole_system(tmp_path):
    """The run on all samples failed with seed 1, so that its first record is of half of them."""
    half = "recpie@training_fraction=0.5"
    table = clicks_table(system="recpie", rows=(Row("recpie", "r"), Row(half, "h")), reference="recpie")
    cells = [done(tmp_path / "whole", "recpie", 0, {"auc": 0.75}, system="recpie", details={"training_fraction": 1.0})]
    for seed in (0, 1):
        folder, details = tmp_path / f"half{seed}", {"training_fraction": 0.5}
        made = done(folder, "recpie", seed, {"auc": 0.5}, system="recpie", details=details)
        cells.append(dataclasses.replace(made, row=half))
    summary = tables.summarise(figures.merged_results(table, cells))
    assert summary.select("row", "mean", "seeds").sort("row").rows() == [("recpie", 0.75, 1), (half, 0.5, 2)]


def test_ranks_by_hand():
    record = {"rows": {"trail_rank4": {"hr@10": 0.3}, "trail_rank16": {"hr@10": 0.2}, "trail": {"hr@10": 0.4}}}
    record["details"] = {"hyperparameters": {"lora_r": 8}}
    found = figures.rank_values([record])
    assert found.sort("value").select("value", "mean").rows() == [(4.0, 0.3), (8.0, 0.4), (16.0, 0.2)]
    assert figures.rank_values([{"rows": {"trail": {"hr@10": 0.4}}}]).is_empty()


def test_lines_and_bars_as_png_and_pdf(tmp_path):
    lines = pl.DataFrame(
        [("KL penalty β", 0.01 * step, name, 0.6 + 0.01 * step, 0.01, 3) for step in (1, 5) for name in ("A", "B")],
        schema=figures.PARAMETER_SCHEMA, orient="row",
    )  # fmt: skip
    (drawn,) = figures.draw(lambda path: figures.parameter_lines(lines, path, "AUC ↑"), tmp_path / "a.b", "caption")
    assert [path.name for path in drawn.paths] == ["a.b.png", "a.b.pdf"]
    rows = {"seller": {"recall@10": 0.5, "ndcg@10": 0.3}, "seller_without_be": {"recall@10": 0.4, "ndcg@10": 0.2}}
    records = [{"system": "seller", "dataset": "d", "seed": seed, "rows": rows} for seed in range(2)]
    summary = tables.summarise(records)
    (bars,) = figures.draw(lambda path: figures.ablation_bars(summary, path), tmp_path / "bars", "caption")
    for png, pdf in (drawn.paths, bars.paths):
        assert png.read_bytes().startswith(b"\x89PNG")
        assert pdf.read_bytes().startswith(b"%PDF")
    assert figures.draw(lambda path: figures.parameter_lines(lines.clear(), path), tmp_path / "none", "") == []
    only = summary.filter(pl.col("row") == "seller")
    assert figures.draw(lambda path: figures.ablation_bars(only, path), tmp_path / "none", "") == []
    assert not list(tmp_path.glob("none*"))
