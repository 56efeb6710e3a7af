"""Reports of runs that predict ratings: metrics, arrows, differences, printed values, training fractions."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rlrec import reports, results, tables
from rlrec.comparisons import difference_table
from rlrec.model_card import model_card
from rlrec.paper_values import paper_values


def write_run(folder, seed, rmse, dataset="yelp", fraction=None, with_predictions=False):
    def row(rmse, auc):
        return {"rmse": rmse, "mae": rmse / 2, "rmse_stars": 4 * rmse, "mae_stars": 2 * rmse, "auc": auc}

    rows = {
        "recpie": {**row(rmse, 0.66), "coverage": 0.5},
        "recpie_free": row(0.31, 0.6),
        "recpie_positive_only": row(0.28, 0.65),
        "gru": row(0.3, 0.6),
        "item_mean": {"rmse": 0.35, "mae": 0.2, "auc": 0.55},
    }
    details = {} if fraction is None else {"training_fraction": fraction}
    results.write_results(folder, system="recpie", dataset=dataset, seed=seed, rows=rows, details=details)
    if with_predictions:
        target = np.array([0.0, 0.25, 0.75, 1.0])
        samples = pl.DataFrame(
            {"user_id": list("uuvv"), "item_id": list("abab"), "label": [0, 0, 1, 1], "target": target}
        )
        scores = {"gru": target + 0.2, "recpie": target + 0.1, "recpie_positive_only": 1 - target}
        results.write_predictions(folder, samples, scores)
    return results.read_results(folder)


def test_rating_table_by_hand(tmp_path):
    for seed, rmse in enumerate((0.25, 0.27)):
        write_run(tmp_path / str(seed), seed, rmse)
    lines = reports.tables_markdown(reports.find_runs([tmp_path])).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert cells[0] == [
        "row", "RMSE ↓", "MAE ↓", "RMSE (stars) ↓", "MAE (stars) ↓", "AUC ↑", "paper RMSE", "paper MAE", "paper AUC",
    ]  # fmt: skip
    rows = ["item mean (heuristic)", "GRU, no text", "RecPIE, free parameters (ablation 1)", "RecPIE"]
    assert [line[0] for line in cells[2:7]] == [*rows, "RecPIE, positive only"]
    recpie = ["0.2600 ± 0.0141", "0.1300 ± 0.0071", "1.0400 ± 0.0566", "0.5200 ± 0.0283", "0.6600 ± 0.0000"]
    assert cells[5] == ["RecPIE", *recpie, "0.2020", "0.1620", "0.7350"]  # RecPIE, Table 10, Yelp
    assert cells[2][3:5] == ["–", "–"]
    assert "## Explanations" in lines


def test_differences_by_hand(tmp_path):
    write_run(tmp_path, 0, 0.25, with_predictions=True)
    text = reports.tables_markdown([tmp_path])
    header, body = difference_table({0: results.read_predictions(tmp_path)}, metric="rmse")
    assert header[2] == "RMSE difference (below 0: better)"
    # Every error is .2 and .1, so in every resample the RMSEs are too.
    assert body[0] == ["RecPIE against GRU, no text", "0", "-0.1000", "-0.1000 to -0.1000"]
    # A variant that no list names: errors 1, .5, .5, 1 have mean square .625, and user by user too.
    assert body[1][0] == "RecPIE against RecPIE, positive only"
    assert float(body[1][2]) == pytest.approx(0.1 - np.sqrt(0.625), abs=1e-4)
    assert body[1][3] == f"{body[1][2]} to {body[1][2]}"
    assert "## RMSE differences (same test samples, users resampled)" in text
    assert "## AUC differences (same test samples, users resampled)" in text
    # Scores ordered as the labels against scores ordered against them: 1 - 0.
    assert "+1.000 | +1.000 to +1.000" in text


def test_printed_tables():
    # Read off Tables 2, 6, 8, 9, 10, 12 and 15.
    google = paper_values("google-local", "recpie")
    assert (google["recpie"]["rmse"], google["llm4poi"]["auc"], google["bert4rec"]["mae"]) == (0.2976, 0.6488, 0.2054)
    assert (google["recpie_general"]["auc"], google["recpie_free"]["rmse"]) == (0.6398, 0.3075)
    assert google["recpie_llm_embeddings"]["auc"] == 0.6613
    assert paper_values("amazon-movies", "recpie")["recpie_ncf"] == {
        "rmse": 0.1690,
        "mae": 0.1203,
        "auc": 0.7470,
        "deviations": {"rmse": 0.0013, "mae": 0.0012, "auc": 0.0021},  # Table 15
    }
    assert paper_values("tripadvisor", "recpie")["peter"]["rmse"] == 0.1996
    assert paper_values("google-local", "recpie", 0.12)["recpie"]["mae"] == 0.2062
    assert google["recpie@training_fraction=0.12"] == paper_values("google-local", "recpie", 0.12)["recpie"]
    assert google["recpie@training_fraction=0.12"]["deviations"]["rmse"] == 0.0041
    assert (google["peter"]["bleurt"], google["peter"]["deviations"]["bleurt"]) == (0.3792, 0.0004)  # Table 4
    assert google["llm_direct"]["deviations"] == {"rmse": 0.0041, "mae": 0.0047, "auc": 0.0069}  # Table 7
    assert paper_values("yelp", "recpie", 0.3) == paper_values("yelp") == {}
    assert paper_values("ml-100k", "seller") == {}
    content = json.loads((Path(tables.__file__).parent / "recpie_tables.json").read_text())
    assert [len(rows) for rows in content["datasets"].values()] == [34, 33, 33, 33]  # LLM4POI on Google alone
    metrics = [tuple(row) for rows in content["datasets"].values() for row in rows.values()]
    assert set(metrics) == {("rmse", "mae", "auc")}


def test_training_fractions_are_groups_of_their_own(tmp_path):
    whole, part = write_run(tmp_path / "whole", 0, 0.25), write_run(tmp_path / "part", 0, 0.3, fraction=0.25)
    with pytest.raises(ValueError, match="Runs on 25%, 100% of the training data cannot share one table"):
        tables.summarise([whole, part])
    assert tables.summarise([part]).filter(row="recpie", metric="rmse")["paper"].item() == 0.2356  # Table 12, Yelp
    written = {path.name for path in reports.report([tmp_path], tmp_path / "out", pictures=False)}
    assert {"recpie_yelp.md", "recpie_yelp_25pct.md"} <= written
    title = (tmp_path / "out" / "recpie_yelp_25pct.md").read_text().splitlines()[0]
    assert title == "## recpie on yelp (seed 0, 25% of the training data)"


def test_temperature_at_its_bound(tmp_path):
    for seed, temperature in enumerate((1.5, 999.9993)):
        rows = {"icl": {"auc": 0.5, "temperature": temperature}, "expctr_llm": {"auc": 0.7, "temperature": 2.0}}
        results.write_results(tmp_path / str(seed), system="expctr", dataset="simulated", seed=seed, rows=rows)
    text = reports.tables_markdown(reports.find_runs([tmp_path]))
    assert "| ≥ 1000 in 1 of 2 seeds |" in text
    assert "| 2.000 ± 0.000 |" in " ".join(text.split())
    assert "≥ 1000 |" in reports.tables_markdown([tmp_path / "1"])
    assert tables.bound_note([0.01]) == "≤ 0.01"


def test_model_card_of_ratings(tmp_path):
    card = model_card([write_run(tmp_path, 0, 0.27)])
    assert "The RMSE of RecPIE (0.2700) is 10.0% below GRU, no text (0.3000), 22.9% below item mean" in card
    worse = model_card([write_run(tmp_path, 0, 0.33)])
    assert "is 10.0% above GRU, no text (0.3000)" in worse
    assert "RMSE ↓" in card


def test_command_line_draws_rmse_beside_auc(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    for seed, rmse in enumerate((0.25, 0.27)):
        write_run(tmp_path / "runs" / str(seed), seed, rmse, with_predictions=True)
    reports.main([str(tmp_path / "runs"), "--output_dir", str(tmp_path / "out")])
    assert "RMSE ↓" in capsys.readouterr().out
    names = sorted(path.name.removeprefix("recpie_yelp") for path in (tmp_path / "out").iterdir())
    assert names == [".csv", ".md", ".tex", "_accuracy.png", "_card.md"]
    assert (tmp_path / "out" / "recpie_yelp_accuracy.png").stat().st_size > 10_000
    assert r"RMSE $\downarrow$ &" in (tmp_path / "out" / "recpie_yelp.tex").read_text()


def test_bars_without_a_baseline_or_auc(tmp_path):
    figures = pytest.importorskip("rlrec.figures")
    rows = {"item_mean": {"rmse": 0.3, "rmse_stars": 1.2}}
    results.write_results(tmp_path, system="recpie", dataset="d", seed=0, rows=rows)
    summary = tables.summarise([results.read_results(tmp_path)])
    assert figures.accuracy_bars(summary, tmp_path / "bars.png", "one row").stat().st_size > 5_000
    assert figures.accuracy_bars(summary.filter(metric="auc"), tmp_path / "none.png") is None
