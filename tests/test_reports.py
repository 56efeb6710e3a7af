"""Results files, tables, pictures, case study and model card, from files alone."""

import csv
import json
import math
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import yaml

from rlrec import reports, results, tables
from rlrec.case_study import case_study
from rlrec.comparisons import difference_table
from rlrec.model_card import model_card
from rlrec.paper_values import paper_values


def write_run(folder, seed, auc, dataset="ml-20m", **options):
    rows = {
        "like_rate_plus_item_mean": {"auc": 0.7, "log_loss": 0.6},
        "expctr_llm": {"auc": auc, "log_loss": 0.65, "log_loss_t1": 1.1, "malformed": 0.01, "cited_real": 0.98},
        "icl": {"auc": 0.5, "log_loss": 0.7, "malformed": 0.0, "cited_real": 0.99, "coverage": math.nan},
        "my_new_system": {"auc": 0.6},
    }
    controls = {"shuffled_labels": {"auc": 0.5 + seed / 100}}
    return results.write_results(
        folder, system="expctr", dataset=dataset, seed=seed, rows=rows, controls=controls, **options
    )


@pytest.fixture
def samples():
    return pl.DataFrame(
        {
            "user_id": [f"u{row // 2}" for row in range(8)],
            "item_id": [f"i{row}" for row in range(8)],
            "title": [f"Film | {row}" for row in range(8)],
            "label": [0, 1] * 4,
            "rating": [2.0, 5.0] * 4,
            "history_titles": [["Heat", "Alien"]] * 8,
            "history_labels": [[1, 0]] * 8,
            "prompt": ["not stored"] * 8,
        }
    )


def write_everything(folder, seed, samples):
    write_run(folder, seed, auc=0.66 + seed / 50, wall_time=12.5, details={"base_model": "tiny"})
    labels = samples["label"].to_numpy()
    scores = {"icl": np.full(8, 0.5), "expctr_llm": 0.2 + 0.6 * labels}
    explanations = {"icl": ["Before <b>\nthis"] * 8, "expctr_llm": ["After | that"] * 8}
    results.write_predictions(folder, samples, scores, explanations)
    curve = [{"step": step, "rewards/lc/mean": 0.5 + step / 100} for step in range(1, 31)]
    results.write_log_history(folder, "lc", [*curve, {"step": 30, "train_runtime": 3.0}])
    results.write_log_history(folder, "ic", [{"step": 1, "reward": math.nan}, {"step": 2, "reward": 0.4}])


def test_results_round_trip_and_record_where_they_come_from(tmp_path):
    path = write_run(tmp_path, seed=3, auc=np.float32(0.5), details={"n": np.int64(2)}, wall_time=1.5)
    text = path.read_text()
    assert "NaN" not in text
    record = results.read_results(tmp_path)
    assert record == json.loads(text)
    assert record["rows"]["icl"]["coverage"] is None
    assert record["rows"]["expctr_llm"]["auc"] == 0.5
    assert (record["schema"], record["seed"], record["details"]["n"], record["wall_time_s"]) == (1, 3, 2, 1.5)
    assert record["hardware"]["cores"] >= 1
    assert record["peak_memory_bytes"]["process"] > 10_000_000
    assert record["versions"]["python"].startswith("3.")
    assert record["command"]
    assert {entry.name for entry in tmp_path.iterdir()} == {
        "results.json",
        ".results.json.sha256",
    }  # no temporary file is left


def test_a_failed_write_leaves_the_old_file(tmp_path):
    write_run(tmp_path, seed=1, auc=0.6)
    with pytest.raises(TypeError):
        write_run(tmp_path, seed=2, auc=0.6, details={"unwritable": object()})
    assert results.read_results(tmp_path)["seed"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There is no .*results.json"),
        ("{", "results.json is damaged"),
        ('{"schema": 1}', "has no system, dataset, seed, rows, controls"),
        ("[1]", "not a results file"),
        ('{"schema": 9, "system": "x", "dataset": "y", "seed": 0, "rows": {}, "controls": {}}', "has schema 9"),
    ],
)
def test_unreadable_results(tmp_path, content, message):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        results.read_results(tmp_path)


def test_rows_must_hold_numbers(tmp_path):
    with pytest.raises(ValueError, match="Row 'icl', metric 'auc' is 'high'"):
        results.write_results(tmp_path, system="s", dataset="d", seed=0, rows={"icl": {"auc": "high"}})
    with pytest.raises(ValueError, match=r"Row 'icl' holds 0\.5"):
        results.write_results(tmp_path, system="s", dataset="d", seed=0, rows={"icl": 0.5})


def test_summary_over_seeds_by_hand(tmp_path):
    for seed, auc in enumerate((0.6, 0.7)):
        write_run(tmp_path / str(seed), seed, auc)
    summary = tables.summarise([results.read_results(run) for run in reports.find_runs([tmp_path])])
    line = summary.filter(pl.col("row") == "expctr_llm", pl.col("metric") == "auc").row(0, named=True)
    assert line["mean"] == pytest.approx(0.65)
    assert line["sd"] == pytest.approx(0.1 / math.sqrt(2))
    assert (line["seeds"], line["paper"]) == (2, 0.6707)  # ExpCTR, Table 1, ML-20M
    assert summary["row"].unique(maintain_order=True).to_list() == [
        "like_rate_plus_item_mean", "icl", "expctr_llm", "my_new_system"
    ]  # fmt: skip
    assert "coverage" not in summary["metric"].to_list()  # null in every seed


def test_markdown_by_hand(tmp_path):
    for seed, auc in enumerate((0.6, 0.7)):
        write_run(tmp_path / str(seed), seed, auc)
    text = reports.tables_markdown(reports.find_runs([tmp_path]))
    lines = text.splitlines()
    assert lines[0] == "## expctr on ml-20m (2 seeds, mean ± standard deviation)"
    llm = next(line for line in lines if line.startswith("| ExpCTR-LLM"))
    cells = [cell.strip() for cell in llm.strip("|").split("|")]
    assert cells == ["ExpCTR-LLM", "0.650 ± 0.071", "0.650 ± 0.000", "1.100 ± 0.000", "0.6707", "0.6428"]
    assert "| shuffled labels: AUC | 0.505 ± 0.007 |" in lines
    table = [line for line in lines[2:] if line.startswith("|")][:6]
    assert len({len(line) for line in table}) == 1  # aligned
    assert any("my new system" in line for line in lines)


def test_paper_table_is_the_printed_one():
    # Three values read off Table 1, one per dataset, and its size.
    assert paper_values("book-crossing")["gru4rec"]["log_loss"] == 1.3650
    assert paper_values("ml-20m")["din"]["mae"] == 0.4449
    assert paper_values("amazon-books")["expctr_aug"]["rmse"] == 0.4783
    assert [len(paper_values(name)) for name in ("book-crossing", "ml-20m", "amazon-books")] == [18] * 3
    assert paper_values("ml-100k") == {}


def test_groups_and_seeds_are_checked(tmp_path):
    first, other = write_run(tmp_path / "a", 0, 0.6), write_run(tmp_path / "b", 0, 0.6, dataset="ml-100k")
    records = [results.read_results(path) for path in (first, other)]
    with pytest.raises(ValueError, match="cannot share one table"):
        tables.summarise(records)
    with pytest.raises(ValueError, match=r"Seed 0 of \('expctr', 'ml-20m'\) is given twice"):
        tables.summarise([records[0], records[0]])
    with pytest.raises(ValueError, match="no results"):
        tables.summarise([])


def test_difference_by_users(samples, tmp_path):
    write_everything(tmp_path, 0, samples)
    header, body = difference_table({0: results.read_predictions(tmp_path)})
    assert header[2] == "AUC difference"
    # Scores that equal the label against a constant: 1.0 - 0.5 in every resample.
    assert body == [["ExpCTR-LLM against ICL", "0", "+0.500", "+0.500 to +0.500"]]


def test_predictions_keep_what_reports_need(samples, tmp_path):
    write_everything(tmp_path, 0, samples)
    stored = results.read_predictions(tmp_path)
    assert "prompt" not in stored.columns
    assert {"score_icl", "explanation_expctr_llm", "history_titles"} <= set(stored.columns)
    assert results.read_predictions(tmp_path / "nowhere") is None
    with pytest.raises(ValueError, match="score_icl has 2 values for 8 samples"):
        results.write_predictions(tmp_path, samples, {"icl": [0.1, 0.2]})


def test_case_study_alternates_and_escapes(samples, tmp_path):
    write_everything(tmp_path, 0, samples)
    text = case_study(results.read_predictions(tmp_path), count=4, seed=1)
    assert text.count("### ") == 4
    truths = [line for line in text.splitlines() if "**truth**" in line]
    assert truths == ["| **truth** | liked (rating 5) |", "| **truth** | disliked (rating 2) |"] * 2
    assert "| **history** | liked “Heat”; disliked “Alien” |" in text
    assert "| **ExpCTR-LLM (score 0.80)** | After \\| that |" in text
    assert "| **ICL (score 0.50)** | Before &lt;b> this |" in text
    assert text == case_study(results.read_predictions(tmp_path), count=4, seed=1)
    with pytest.raises(ValueError, match="no column explanation_other"):
        case_study(results.read_predictions(tmp_path), "other")


def test_model_card(tmp_path):
    details = {"base_model": "some-org/some-model", "license": "apache-2.0", "hyperparameters": {"beta": 0.05}}
    records = [results.read_results(write_run(tmp_path / str(seed), seed, 0.66, details=details)) for seed in (0, 1)]
    card = model_card(records)
    header = yaml.safe_load(card.split("---")[1])
    assert header["base_model"] == "some-org/some-model"
    assert header["license"] == "apache-2.0"
    assert "ExpCTR-LLM, AUC 0.660) is not above the best row that reads no text (like-rate + item mean" in card
    assert 'from_pretrained("some-org/some-model")' in card
    assert "| beta |  0.05 |" in card
    assert "## Limitations" in card
    local = results.read_results(write_run(tmp_path / "local", 0, 0.8, details={"base_model": "tiny"}))
    assert "base_model" not in yaml.safe_load(model_card([local]).split("---")[1])
    assert "is above the best row" in model_card([local])


def test_command_line_regenerates_everything(samples, tmp_path):
    pytest.importorskip("matplotlib")
    for seed in (0, 1):
        write_everything(tmp_path / "runs" / f"seed{seed}", seed, samples)
    command = [sys.executable, "-m", "rlrec.reports", str(tmp_path / "runs"), "--output_dir", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ExpCTR-LLM against ICL" in done.stdout
    names = sorted(path.name.removeprefix("expctr_ml-20m") for path in (tmp_path / "out").iterdir())
    assert names == [".csv", ".md", ".tex", "_auc.png", "_card.md", "_cases.md", "_rewards.png"]
    for picture in (tmp_path / "out").glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size > 10_000
    with open(tmp_path / "out" / "expctr_ml-20m.csv") as file:
        lines = {(line["row"], line["metric"]): line for line in csv.DictReader(file)}
    assert float(lines["expctr_llm", "auc"]["mean"]) == pytest.approx(0.67)
    latex = (tmp_path / "out" / "expctr_ml-20m.tex").read_text()
    assert r"ExpCTR-LLM & 0.670 $\pm$ 0.014 &" in latex
    assert latex.count("{") == latex.count("}")


def test_command_line_says_what_is_wrong(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "rlrec.reports", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert f"There is no results.json in {tmp_path}" in done.stderr
    assert "Traceback" not in done.stderr


def test_tables_need_no_matplotlib(samples, tmp_path):
    write_everything(tmp_path / "run", 0, samples)
    code = (
        "import sys; sys.modules['matplotlib'] = None; sys.modules['matplotlib.figure'] = None\n"
        "from rlrec.reports import main\n"
        f"main([{str(tmp_path / 'run')!r}, '--output_dir', {str(tmp_path / 'out')!r}] + sys.argv[1:])"
    )
    tables_only = subprocess.run([sys.executable, "-c", code, "--tables_only"], capture_output=True, text=True)
    assert tables_only.returncode == 0, tables_only.stderr
    with_pictures = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert with_pictures.returncode == 2
    assert "pip install 'rlrec[plot]'" in with_pictures.stderr


def test_curves_of_runs_without_rewards_are_no_picture(tmp_path):
    figures = pytest.importorskip("rlrec.figures")
    training_curves = pytest.importorskip("rlrec.training_curves")
    assert training_curves.reward_curves([{"lc": [{"step": 1, "loss": 0.1}]}], tmp_path / "x.png") is None
    assert figures.auc_bars(pl.DataFrame(schema={"row": pl.String, "metric": pl.String}), tmp_path / "x.png") is None
    assert list(tmp_path.iterdir()) == []


def test_one_seed_below_chance_is_drawn(tmp_path):
    figures = pytest.importorskip("rlrec.figures")
    record = results.read_results(write_run(tmp_path, 0, auc=0.41, dataset="simulated"))
    assert figures.auc_bars(tables.summarise([record]), tmp_path / "bars.png", "title").stat().st_size > 10_000
