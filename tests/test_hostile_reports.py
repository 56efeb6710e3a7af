"""What data and results bring into reports stays text: Markdown, LaTeX, CSV, file names."""

import csv
import re

import polars as pl
import pytest
from hostile import BIDI, EVERYTHING, FORMULAS, MARKUP, PATHS

from rlrec.case_study import case_study, shortened
from rlrec.data.schema import PreparedDataset
from rlrec.data.simulated import simulate
from rlrec.explanations import ExplanationStore
from rlrec.model_card import model_card
from rlrec.reports import report
from rlrec.results import write_predictions, write_results
from rlrec.tables import defused, latex_escape, latex_table, markdown_table, spreadsheet_safe

ACTIVE = re.compile(r"<[A-Za-z/!?]|\]\(")  # HTML, and a link or picture


def cells(line: str) -> int:
    """Cells of a line of a Markdown table, as GitHub's parser takes backslashes."""
    return len(re.findall(r"(?:\\.|[^|\\])+", line.strip().strip("|")))


@pytest.mark.parametrize("text", EVERYTHING)
def test_one_cell_of_plain_text(text):
    for made in (defused(f"x {text} y"), shortened(f"x {text} y")):
        assert not ACTIVE.search(made)
        assert "\n" not in made
        assert not set(made) & set(BIDI)
        assert "\x1b" not in made
        assert cells(f"| {made} | b |") == 2


def test_a_backslash_before_a_bar_does_not_open_a_cell():
    assert defused("a\\|b") == "a\\\\\\|b"  # an escaped backslash, then an escaped bar
    assert defused("a|b") == "a\\|b"
    assert defused("p < 0.001 [95 %]") == "p < 0.001 [95 %]"  # what tables say themselves stays as it is


@pytest.mark.parametrize("text", MARKUP)
def test_latex_prints_it(text):
    made = latex_escape(text)
    commands = re.findall(r"\\[A-Za-z]+", made)
    assert set(commands) <= {rf"\text{name}" for name in ("backslash", "asciitilde", "asciicircum", "less", "greater")}
    assert not re.search(r"(?<!\\)[&%$#_]", made.replace(r"\textbackslash{}", ""))
    assert "\n" not in made


def test_a_cell_cannot_end_a_latex_table():
    table = latex_table(["row", "AUC"], [[r"a \\ \end{tabular} \input{x}", "0.5"]], "50 % of $x$")
    assert table.count(r"\end{tabular}") == 1
    assert r"\input" not in table


@pytest.mark.parametrize("formula", FORMULAS)
def test_spreadsheets_get_no_formula(formula):
    frame = pl.DataFrame({"row": [formula, "icl"], "mean": [-0.5, 1.0]})
    first, second = list(csv.DictReader(spreadsheet_safe(frame).write_csv().splitlines(True)))
    assert first["row"].startswith("'")
    assert float(first["mean"]) == -0.5  # numbers stay numbers
    assert second["row"] == "icl"


def hostile_predictions() -> pl.DataFrame:
    """As many samples as there are hostile texts, each as title, history, review and explanation of one."""
    rows = len(EVERYTHING)
    return pl.DataFrame(
        {
            "user_id": (PATHS * rows)[:rows],
            "item_id": EVERYTHING,
            "title": EVERYTHING,
            "label": [i % 2 for i in range(rows)],
            "review": EVERYTHING,
            "history_titles": [[text] for text in EVERYTHING],
            "history_labels": [[1]] * rows,
        }
    )


def test_reports_of_a_hostile_run(tmp_path):
    samples, folder = hostile_predictions(), tmp_path / "run"
    rows = {name: {"auc": 0.6, "log_loss": 0.6} for name in ("icl", "expctr_llm", *MARKUP, *FORMULAS)}
    write_predictions(folder, samples, {"icl": [0.5] * len(samples)}, dict.fromkeys(("icl", "expctr_llm"), EVERYTHING))
    details = {"dataset_license": MARKUP[0], "hyperparameters": dict.fromkeys(MARKUP, MARKUP[5])}
    details["how_to_load"] = "print()\n```\n<script>alert(1)</script>"
    write_results(
        folder,
        system="expctr",
        dataset="../../<b>x\u202e",
        seed=0,
        rows=rows,
        controls={MARKUP[0]: 0.5},
        details=details,
    )
    written = report([folder], tmp_path / "report", pictures=False)
    assert {path.parent for path in written} == {tmp_path / "report"}
    assert {path.name for path in tmp_path.iterdir()} == {"run", "report"}
    for path in written:
        text = path.read_text(encoding="utf-8")
        assert not set(text) & set(BIDI), path.name
        if path.suffix == ".md":
            outside = re.sub(r"```.*?```|`[^`]*`|^---\n.*?^---\n", "", text, flags=re.DOTALL | re.MULTILINE)
            assert not ACTIVE.search(outside), path.name
        if path.suffix == ".csv":
            for line in csv.reader(text.splitlines(True)):
                assert not any(re.match(r"[=+@\t\r]|-[^\d.]", field) for field in line), line


def test_every_case_is_one_table(tmp_path):
    samples = hostile_predictions().with_columns(explanation_icl="title", explanation_expctr_llm="review")
    text = case_study(samples, count=len(samples))
    assert not ACTIVE.search(text)
    for line in text.splitlines():
        if line.startswith("| **"):
            assert cells(line) == 2, line


def test_a_card_without_much():
    card = model_card(
        [{"system": "x", "dataset": "![a](b)", "seed": 0, "rows": {"icl": {"auc": 0.5}}, "controls": {}}]
    )
    assert "![a](b)" not in card
    assert markdown_table(["a"], [["![a](b)"]]).count("](") == 0


def test_ids_name_no_file(tmp_path):
    """Datasets, stores and predictions with path characters in their ids write the files they always write."""
    prepared = simulate(num_users=len(PATHS), num_items=20, interactions_per_user=4)
    names = dict(zip(prepared.interactions["user_id"].unique().sort(), PATHS))
    renamed = prepared.interactions.with_columns(pl.col("user_id").replace_strict(names))
    items = dict.fromkeys(prepared.items["item_id"]) | dict(zip(prepared.items["item_id"], PATHS))
    renamed = renamed.with_columns(pl.col("item_id").replace({k: v for k, v in items.items() if v}))
    PreparedDataset(renamed, prepared.items, prepared.metadata).write(tmp_path / "a" / "data")
    store = ExplanationStore()
    store.update(
        {"user_id": u, "item_id": i, "text": "x"} for u, i in renamed.select("user_id", "item_id").iter_rows()
    )
    store.save(tmp_path / "a" / "store.parquet")
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("[!.]*") if path.is_file())
    files = ("interactions.parquet", "items.parquet", "metadata.json", "rejected.parquet")
    assert written == [*(f"a/data/{name}" for name in files), "a/store.parquet"]
    assert PreparedDataset.load(tmp_path / "a" / "data").interactions.equals(renamed)
    assert set(ExplanationStore.load(tmp_path / "a" / "store.parquet").to_frame()["user_id"]) == set(
        renamed["user_id"]
    )
