"""Tables from run folders made by hand: marks, paper's values, gains, what is missing, escaping, the page."""

import csv
import re
from html.parser import HTMLParser

import pytest
from hand_made_runs import clicks_table, done, samples

from rlrec.controls import write_controls
from rlrec.reproduction.output import make_sheet, places, sheet_latex, sheet_markdown, write_table
from rlrec.reproduction.tables import Cell, Row

HOSTILE = "<script>alert('x')</script> | **bold** [a](http://evil.example) \\input{x} $1_a"


@pytest.fixture
def cells(tmp_path):
    """Book-Crossing, two of three seeds of FM, none of them better than DeepFM at the printed digits."""
    made = []
    for seed in range(3):
        test = samples([0, 1] * 4, users=[f"u{row // 2}" for row in range(8)])
        good, bad = [0.1, 0.9] * 4, [0.9, 0.1] * 4
        made.append(done(tmp_path / f"aug{seed}", "expctr_aug", seed, {"auc": 0.6, "log_loss": 0.5}, test, good))
        made.append(done(tmp_path / f"deep{seed}", "deepfm", seed, {"auc": 0.5, "log_loss": 0.6}, test, bad))
        if seed < 2:
            made.append(done(tmp_path / f"fm{seed}", "fm", seed, {"auc": 0.50001, "log_loss": 0.625}, test, good))
    return [*made, Cell("fm", "book-crossing", 2, "failed", {}, None, f"exit status 1: {HOSTILE}")]


def table_lines(text):
    """Cells of the Markdown tables of a text."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_markdown_by_hand(cells):
    sheet = make_sheet(clicks_table(), cells, "book-crossing", seeds=3)
    lines = table_lines(sheet_markdown(sheet))
    assert lines[0] == ["row", "AUC ↑", "paper", "LogLoss ↓", "paper"]
    # ExpCTR's Table 1: FM .5176 and .695, DeepFM .5222 and .6924, DIEN .5231 and .7353, ExpCTR-Aug .6173 and .6715.
    assert lines[2] == ["FM", "<u>0.5000 ± 0.0000</u> (n=2)", "0.5176", "0.6250 ± 0.0000 (n=2)", "0.6950"]
    deepfm = ["<u>0.5000 ± 0.0000</u> ▼", "0.5222", "<u>0.6000 ± 0.0000</u> ▼", "<u>0.6924</u>"]
    assert lines[3] == ["DeepFM", *deepfm]
    assert lines[4][1:] == ["not implemented", "<u>0.5231</u>", "–", "0.7353"]
    assert lines[5][1:] == ["**0.6000 ± 0.0000**", "**0.6173**", "**0.5000 ± 0.0000**", "**0.6715**"]
    assert lines[6] == ["ExpCTR-Aug over DeepFM", "AUC", "LogLoss"]
    assert lines[8] == ["here", "+20.0 ± 0.0 %", "+16.7 ± 0.0 %"]
    assert lines[9] == ["the paper", "+18.2 %", "+3.0 %"]


def test_what_is_missing_is_told(cells):
    sheet = make_sheet(
        clicks_table(), [*cells, Cell("fm", "book-crossing", 3, "missing", {}, None)], "book-crossing", 3
    )
    notes = "\n".join(sheet.notes)
    assert "Not implemented: DIEN (no <weights> | *here*)." in notes
    assert "Failed, seed 2: FM (exit status 1: <script>" in notes
    assert "Missing, seed 3: FM." in notes
    assert "fewer than the 3 asked for" in notes
    assert sheet.notes[-1] == "Grid: learning rate 1e-3 & 1e-2."
    alone = make_sheet(
        clicks_table(), [Cell("fm", "book-crossing", 0, "failed", {}, None, "killed")], "book-crossing", 1
    )
    assert [entries[0].text for _, entries in alone.body] == ["failed", "missing", "not implemented", "missing"]


def test_marks_follow_the_metrics_direction(tmp_path):
    """DeepFM is better than the reference by AUC (higher) and log loss (lower); FM has nothing to be tested with."""
    made, test = [], samples([0, 1] * 4, users=[f"u{row // 2}" for row in range(8)])
    for row, scores in (("expctr_aug", [0.9, 0.1] * 4), ("deepfm", [0.1, 0.9] * 4), ("fm", None)):
        auc = 0.0 if row == "expctr_aug" else 1.0
        values = {"auc": auc, "log_loss": 2.0 - auc}
        made.append(done(tmp_path / row, row, 0, values, None if scores is None else test, scores))
    sheet = make_sheet(clicks_table(), made, "book-crossing", seeds=1)
    # of each metric ours, then the paper's
    assert [sheet.body[1][1][column].mark for column in (0, 2)] == ["▲", "▲"]
    assert [sheet.body[0][1][column].mark for column in (0, 2)] == ["", ""]
    told = "Not tested, since they have no finite values on the test samples of ExpCTR-Aug: FM."
    assert told in sheet.notes
    sheet = make_sheet(clicks_table(), made[1:], "book-crossing", seeds=1)
    assert "Not tested, since ExpCTR-Aug has no value: AUC, LogLoss." in sheet.notes


def test_ties_share_a_place():
    # .51234 and .51231 print as .5123; .5 is the next value, whoever has it
    assert places({"a": 0.51234, "b": 0.51231, "c": 0.5, "d": 0.5, "e": 0}, "auc") == {"a": 1, "b": 1, "c": 2, "d": 2}
    assert places({"a": 0.3, "b": 0.1, "c": 0.2}, "log_loss") == {"b": 1, "c": 2}
    assert places({"a": 0.3, "b": 0.3}, "auc") == {"a": 1, "b": 1}
    assert places({"trail": 0.3, "pare": 0.2, "upper_bound": 0.9}, "hr@10") == {"trail": 1, "pare": 2}


def test_latex_is_escaped(cells):
    text = sheet_latex(make_sheet(clicks_table(caption=HOSTILE), cells, "book-crossing", seeds=3))
    assert r"FM & \underline{0.5000 $\pm$ 0.0000} (n=2) & 0.5176 &" in text
    assert r"\textbf{0.6000 $\pm$ 0.0000}" in text
    assert r"\underline{0.5000 $\pm$ 0.0000} $^{\bigtriangledown}$" in text
    assert r"1e-3 \& 1e-2" in text
    assert r"\input" not in text
    assert r"\textbackslash{}input\{x\} \$1\_a" in text
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_markdown_is_escaped(cells):
    text = sheet_markdown(make_sheet(clicks_table(caption=HOSTILE), cells, "book-crossing", seeds=3))
    assert "<script>" not in text.replace(r"\<", "")
    assert r"\*\*bold\*\* \[a\](http://evil.example)" in text


class Page(HTMLParser):
    """Tags, what they point to, and all text of a page."""

    def __init__(self, text):
        super().__init__()
        self.opened, self.links, self.text, self.stack = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.opened.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_files_and_page(cells, tmp_path):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "aug0"
    test = samples([0, 1] * 4, [f"u{row // 2}" for row in range(8)], title=[HOSTILE] * 8,
                   history_titles=[[HOSTILE]] * 8, history_labels=[[1]] * 8)  # fmt: skip
    from rlrec import results

    scores = {"expctr_aug": [0.1, 0.9] * 4}
    texts = {"icl": ["Before."] * 8, "expctr_llm": [f"After. {HOSTILE}"] * 8}
    results.write_predictions(folder, test, scores, texts)
    written = write_table(clicks_table(caption=HOSTILE), cells, tmp_path / "out", seeds=3)
    names = [path.relative_to(tmp_path / "out").as_posix() for path in written]
    pictures = [f"figures/expctr_table_1_book-crossing_auc.{ending}" for ending in ("png", "pdf")]
    assert names == [
        *(f"expctr_table_1.{ending}" for ending in ("md", "csv", "tex")),
        *pictures,
        "expctr_table_1.html",
    ]
    assert written[3].read_bytes().startswith(b"\x89PNG")
    assert written[4].read_bytes().startswith(b"%PDF")
    page = Page(written[-1].read_text())
    assert page.stack == []
    assert "script" not in page.opened
    assert page.opened.count("img") == 1
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    text = " ".join("".join(page.text).split())
    assert text.count(f"After. {HOSTILE}") == 4
    assert "ExpCTR-Aug over DeepFM" in text
    assert "Not implemented: DIEN (no <weights> | *here*)." in text
    with open(written[1]) as file:
        lines = {(line["row"], line["metric"]): line for line in csv.DictReader(file)}
    assert (lines["dien", "auc"]["status"], lines["dien", "auc"]["paper"]) == ("not implemented", "0.5231")
    assert float(lines["deepfm", "auc"]["difference"]) == -1.0
    assert lines["fm", "auc"]["seeds"] == "2"


def test_the_page_shows_the_runs_controls(cells, tmp_path):
    """Of three runs one has been asked, one has not, and of one the answer is damaged."""
    row = {"control": "verdict masked", "reader": HOSTILE, "way": "refitted", "metrics": {
        "auc": {"value": 0.625, "low": 0.5, "high": 0.75, "difference": -0.125, "difference_low": -0.25,
                "difference_high": 0.0}}}  # fmt: skip
    shuffled = {"control": "shuffled labels", "reader": "DeepFM", "way": "refitted", "metrics": {
        "auc": {"value": 0.75, "low": 0.625, "high": 0.875}}}  # fmt: skip
    write_controls(tmp_path / "aug0", [row, shuffled], notes=[])
    (tmp_path / "aug2" / "controls.json").write_text('{"rows": [')
    page = Page(write_table(clicks_table(), cells, tmp_path / "out", 3, pictures=False)[-1].read_text())
    text = " ".join("".join(page.text).split())
    assert page.stack == []
    assert "script" not in page.opened
    assert f"verdict masked{HOSTILE}refitted *0.625 [0.500, 0.750]-0.125 [-0.250, +0.000]" in text
    assert "Not at chance: shuffled labels (DeepFM, refitted): AUC 0.750 [0.625, 0.875] should be 0.5." in text
    assert f"Not made yet: python recipes/controls.py {tmp_path / 'aug1'}" in text
    assert "controls.json is damaged" in text


def test_a_table_without_any_run(tmp_path):
    written = write_table(clicks_table(), [Cell("fm", "ml-100k", 0, "missing", {}, None)], tmp_path, 1, pictures=False)
    assert [path.suffix for path in written] == [".md", ".csv", ".tex", ".html"]
    assert "No run is finished." in written[-1].read_text()
    header, _, line = table_lines(written[0].read_text())[:3]  # the paper has no ML-100K, and Book-Crossing
    assert header == ["row", "AUC ↑", "paper, book-crossing", "LogLoss ↓", "paper, book-crossing"]
    assert line == ["FM", "missing", "0.5176", "–", "0.6950"]


def test_rows_are_looked_up_by_the_papers_name(tmp_path):
    table = clicks_table(rows=(Row("my_factorisation", "b", paper="fm"), Row("expctr_aug", "b")))
    sheet = make_sheet(table, [Cell("expctr_aug", "book-crossing", 0, "missing", {}, None)], "book-crossing", 1)
    assert sheet.body[0][1][1].text == "0.5176"


def test_figures_and_rows_that_one_dataset_lacks(tmp_path):
    cells = [
        Cell("fm", "ml-20m", 0, "not implemented", {}, None, "needs weights"),
        Cell("deepfm", "ml-20m", 0, "missing", {}, None),
    ]
    sheet = make_sheet(clicks_table(number="figure 4"), cells, "ml-20m", 1)
    assert sheet.title.startswith("ExpCTR, Figure 4, on ml-20m")
    assert sheet.body[0][1][0].text == "not implemented"
    assert "Not implemented: FM (needs weights)." in sheet.notes
    written = write_table(clicks_table(number="figure 4"), cells, tmp_path, 1, pictures=False)
    assert written[0].name == "expctr_figure_4.md"
