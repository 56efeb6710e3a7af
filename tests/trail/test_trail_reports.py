"""Reports of TRAIL runs: tables, differences over users, the paper's values, pictures, case study, model card."""

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from peft import get_peft_model
from tiny_trail import LORA, language_model, tokenizer
from trail_run import HIT_RATES, users, write_trail_run

from rlrec import reports, results, tables
from rlrec.case_study import case_study
from rlrec.comparisons import difference_table
from rlrec.model_card import model_card
from rlrec.paper_values import paper_values
from rlrec.row_names import sorted_rows
from rlrec.trail.markers import add_markers, train_markers


def cells(lines, row):
    found = next(line for line in lines if line.startswith(f"| {row} "))
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_tables_by_hand(tmp_path):
    for seed in (0, 1):
        write_trail_run(tmp_path / str(seed), seed, "douban-movies")
    sections = reports.tables_markdown(reports.find_runs([tmp_path])).split("## ")[1:]
    predictions, explanations, groups, *_ = [section.splitlines() for section in sections]
    assert predictions[0] == "trail on douban-movies (2 seeds, mean ± standard deviation)"
    header = [cell.strip() for cell in predictions[2].strip("|").split("|")]
    assert header[:7] == ["row", "HR@5 ↑", "HR@10 ↑", "NDCG@5 ↑", "NDCG@10 ↑", "Jaccard@5 ↑", "Jaccard@10 ↑"]
    assert header[7:] == [f"paper {name}@{k}" for name in ("HR", "NDCG", "Jaccard") for k in (5, 10)]
    trail = cells(predictions, "TRAIL")
    # 0.40 and 0.41: mean 0.405, deviation 0.01 / sqrt(2); the paper's HR@10, Table 2
    assert (trail[2], trail[8]) == ("0.4050 ± 0.0071", "0.4163")
    assert cells(predictions, "last window (heuristic)")[7:] == ["–"] * 6
    assert cells(predictions, "upper bound (true popularity)")[7:] == [
        "0.5211",
        "0.6254",
        "0.2552",
        "0.2856",
        "–",
        "–",
    ]
    assert "| malformed ↓ | repaired ↓ | trend accuracy ↑ |" in re.sub(" +", " ", explanations[2])
    assert explanations[2].rstrip(" |").endswith("with trend claims")  # neither direction is better
    assert not any("window" in line or "hr@10" in line for line in explanations)
    assert groups[0] == "HR@10 by group of items (compare rows, not groups)"
    assert re.findall(r"\w+", groups[2]) == [
        "row", "cold", "warm", "increasing", "decreasing", "fluctuating", "unknown"
    ]  # fmt: skip
    assert cells(groups, "TRAIL")[1:3] == ["0.0810 ± 0.0014", "0.4050 ± 0.0071"]  # 0.2 of it, and all of it


def test_order_of_rows():
    given = ["upper_bound", "trail_rank16", "pare", "trail", "random", "llm", "last_window", "trail_without_sup"]
    expected = ["random", "last_window", "pare", "llm", "trail_rank16", "trail", "trail_without_sup", "upper_bound"]
    assert sorted_rows(given) == expected


def test_differences_are_paired_by_user(tmp_path):
    write_trail_run(tmp_path)
    header, body = difference_table({0: results.read_users(tmp_path)}, metric="ndcg@10")
    assert header == ["comparison", "seed", "NDCG@10 difference", "95 % interval"]
    rows = ["last window (heuristic)", "PARE", "untuned LLM", "TRAIL without L_sup", "TRAIL without L_con"]
    assert [line[0] for line in body] == [f"TRAIL against {row}" for row in rows]
    # 0.125 less in every case, hence in every resample
    assert body[2][1:] == ["0", "-0.1250", "-0.1250 to -0.1250"]
    _, body = difference_table({0: results.read_users(tmp_path)}, metric="hr@10")
    assert body[0][2] == "+0.0667"  # 6 hits against 5, of 15
    # One case of user u5 alone differs: the share of hits rises with how often u5 is drawn, and never falls.
    low, high = map(float, body[0][3].split(" to "))
    assert low == 0
    assert high > 0.1


def test_users_of_two_windows_are_drawn_whole(tmp_path):
    frame = users().select("window", "user_id").with_columns(
        pl.lit(0.0).alias("hr@10_last_window"), (pl.col("window") == 8).cast(pl.Float64).alias("hr@10_trail")
    )  # fmt: skip
    frame = frame.filter(pl.col("user_id") == "u0")
    _, body = difference_table({3: frame}, metric="hr@10")
    assert body == [["TRAIL against last window (heuristic)", "3", "+0.5000", "+0.5000 to +0.5000"]]


def test_printed_tables():
    # Read off Tables 2 and 3 and section 5.2.1.
    douban, baby, beauty = (paper_values(name, "trail") for name in ("douban-movies", "amazon-baby", "amazon-beauty"))
    assert douban["sasrec"] == {"hr@5": 0.0346, "hr@10": 0.0568, "ndcg@5": 0.0123, "ndcg@10": 0.0161}
    assert douban["pare"]["jaccard@10"] == 0.0526
    assert douban["upper_bound"] == {"hr@5": 0.5211, "hr@10": 0.6254, "ndcg@5": 0.2552, "ndcg@10": 0.2856}
    assert douban["gpt_4o_mini_few_shot"] == {"hr@5": 0.2121, "hr@10": 0.2858}
    assert (baby["userknn"]["ndcg@10"], baby["hgn"]["hr@5"], baby["trail"]["jaccard@10"]) == (0.0024, 0.0311, 0.3968)
    assert baby["trail_without_sup"]["jaccard@5"] == 0.1111
    assert baby["trail_without_con"]["ndcg@10"] == 0.0115
    assert (beauty["bpr"]["ndcg@5"], beauty["pare"]["ndcg@10"], beauty["trail"]["hr@10"]) == (0.0006, 0.0121, 0.0594)
    assert [len(rows) for rows in (douban, baby, beauty)] == [17, 16, 13]
    assert paper_values("ml-100k", "trail") == {}
    content = json.loads((Path(tables.__file__).parent / "trail_tables.json").read_text())
    assert {metric for rows in content["datasets"].values() for row in rows.values() for metric in row} == set(
        tables.RANKINGS.metrics
    )


def test_cases_are_chosen_by_what_happened(tmp_path):
    write_trail_run(tmp_path)
    text = case_study(results.read_predictions(tmp_path), "llm", "trail")
    titles = [line.split(". ", 1)[1] for line in text.splitlines() if line.startswith("### ")]
    assert titles == [
        "Cold: New (window 7)",  # 6 users, Newer has 2
        "Increasing: Rising \\| &lt;b> (window 7)",  # 14 users, 12 in window 8
        "Decreasing: Falling (window 8)",  # 2 users, 1 in window 7
        "Failure: Odd (window 7)",  # 11 for 3
    ]
    lines = text.splitlines()
    assert "| **history** | none |" in lines
    assert "| **truth** | 6 users, place 2 of 5 |" in lines
    assert "| **untuned LLM (no score)** | no explanation that could be read |" in lines
    assert "| **TRAIL (score 4, place 3)** | [Trend]: of New \\| &lt;i>. |" in lines
    assert "| **history** | 9, 6, 2, 1 (users per window, newest last) |" in lines
    assert "| **TRAIL (score 1.5, place 4)** | [Trend]: of Falling \\| &lt;i>. |" in lines
    assert text == case_study(
        results.read_predictions(tmp_path).sample(fraction=1, shuffle=True, seed=1), "llm", "trail"
    )


def test_cases_that_do_not_occur_are_left_out(tmp_path):
    write_trail_run(tmp_path)
    predictions = results.read_predictions(tmp_path)
    text = case_study(predictions.filter(pl.col("title") == "Newer"), "llm", "trail")
    assert [line for line in text.splitlines() if line.startswith("### ")] == [
        "### 1. Cold: Newer (window 7)", "### 2. Failure: Newer (window 8)"
    ]  # fmt: skip
    long = predictions.with_columns(pl.lit(list(range(20)), dtype=pl.List(pl.Int32)).alias("history"))
    assert "| … 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19 (users" in case_study(long, "llm", "trail")
    with pytest.raises(ValueError, match="no column score_trail"):
        case_study(predictions.drop("score_trail"), "llm", "trail")


def test_model_card(tmp_path):
    card = model_card([write_trail_run(tmp_path)])
    header = yaml.safe_load(card.split("---")[1])
    assert header["tags"][2:5] == ["popularity-prediction", "sft", "contrastive-learning"]
    assert header["metrics"] == ["hit_rate", "ndcg", "jaccard"]
    assert header["base_model"] == "some-org/some-model"
    assert "- **popularity windows**: 8 of 30 days from 2013-01-01\n- **test windows**: 7, 8\n" in card
    assert "- **training answers**: samples 30, kept 28, cut off 2\n" in card
    # 0.4 / 0.32, 0.4 / 0.35, 0.4 / 0.3 and 0.4 / 0.5
    assert "The HR@10 of TRAIL (0.4000) is 25.0% above last window (heuristic) (0.3200), 14.3% above PARE" in card
    assert "33.3% above untuned LLM (0.3000), and 80% of the upper bound (0.5000)." in card
    assert "### HR@10 by group of items" in card
    assert "Everybody gets the same list" in card
    assert "rewarded" not in card
    assert "figures say nothing about people" in card


def test_the_card_tells_how_to_load(tmp_path):
    record = write_trail_run(tmp_path / "run")
    record["details"]["base_model"] = "embedded"
    code = re.search(r"```python\n(.*?)```", model_card([record]), re.DOTALL)[1]
    base, words = language_model(), tokenizer()
    base.save_pretrained(tmp_path / "base")
    words.save_pretrained(tmp_path / "base")
    add_markers(base, words)
    trained = get_peft_model(base, train_markers(LORA, base, words)).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.1)
    trained.save_pretrained(tmp_path / "adapter")
    code = code.replace("FOLDER_OF_THE_BASE_MODEL", str(tmp_path / "base"))
    loaded = {}
    exec(code.replace("FOLDER_OF_THE_ADAPTER", str(tmp_path / "adapter")), loaded)
    batch = loaded["tokenizer"]("12 <exp_start> up <exp_end>", return_tensors="pt", add_special_tokens=False)
    assert batch["input_ids"].max() == 260  # both markers are tokens
    with torch.no_grad():
        torch.testing.assert_close(loaded["policy"].eval()(**batch).logits, trained(**batch).logits)


def test_command_line_writes_everything(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    for seed in (0, 1):
        write_trail_run(tmp_path / "runs" / str(seed), seed, "amazon-baby")
    reports.main([str(tmp_path / "runs"), "--output_dir", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "## NDCG@10 differences (same users of the test windows, users resampled)" in printed
    assert "AUC" not in printed
    names = sorted(path.name.removeprefix("trail_amazon-baby") for path in (tmp_path / "out").iterdir())
    assert names == [
        ".csv", ".md", ".tex", "_accuracy.png", "_card.md", "_cases.md", "_groups.png", "_losses.png"
    ]  # fmt: skip
    for picture in (tmp_path / "out").glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size > 10_000
    latex = (tmp_path / "out" / "trail_amazon-baby.tex").read_text()
    assert r"TRAIL without L\_sup & 0.2040 $\pm$ 0.0057 & 0.2550 $\pm$ 0.0071 &" in latex


def test_a_run_of_results_alone(tmp_path):
    figures = pytest.importorskip("rlrec.figures")
    rows = {"trail": {"hr@10": 0.2, "ndcg@10": 0.1}, "total_popularity": {"hr@10": 0.0, "ndcg@10": 0.0}}
    results.write_results(tmp_path / "run", system="trail", dataset="ml-100k", seed=0, rows=rows)
    written = [path.name for path in reports.report([tmp_path / "run"], tmp_path / "out")]
    endings = [".md", ".csv", ".tex", "_card.md", "_accuracy.png"]
    assert written == [f"trail_ml-100k{ending}" for ending in endings]
    assert "differences" not in (tmp_path / "out" / "trail_ml-100k.md").read_text()
    summary = tables.summarise([results.read_results(tmp_path / "run")])
    assert figures.group_bars(summary, tmp_path / "none.png") is None


def test_losses(tmp_path):
    curves = pytest.importorskip("rlrec.training_curves")
    steps, mean = curves.mean_curve(
        [(np.array([1.0, 2, 3]), np.array([1.0, 1, 1])), (np.array([1.0, 2]), np.array([3.0, 5]))]
    )
    assert (steps.tolist(), mean.tolist()) == ([1, 2], [2, 3])  # as far as both go
    assert curves.loss_curves([{"trail": [{"step": 1, "loss": 0.1}]}], tmp_path / "none.png") is None
    only_evaluated = [{"trail": [{"step": 1, "eval_loss_sup": 0.5}, {"step": 2, "eval_loss_sup": 0.4}]}]
    assert curves.loss_curves(only_evaluated, tmp_path / "losses.png").stat().st_size > 5_000
    assert curves.stage_or_row("trail_without_con") == "TRAIL without L_con"
    assert curves.stage_or_row("ic_2") == "IC alignment, round 2"


def test_every_row_has_a_kind():
    figures = pytest.importorskip("rlrec.figures")
    kinds = {row: figures.row_kind(row) for row in HIT_RATES if row != "upper_bound"}
    assert "other" not in kinds.values()
    assert kinds["trail_without_sup"] == kinds["trail_rank4"] == "fine-tuned LLM"
    assert kinds["llm_few_shot"] == "untuned LLM"
    assert figures.row_kind("llm_direct") == "other"
