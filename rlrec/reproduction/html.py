"""One page about a reproduced table that needs nothing else: no network, no scripts, pictures inside.

What comes from data (titles, explanations, reasons of failures, commands) is escaped by jinja2, which PyTorch brings.
"""

import base64
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import polars as pl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from rlrec.case_study import chosen_cases, cut
from rlrec.controls import control_lines, read_controls
from rlrec.reports import CASE_STUDY_ROWS
from rlrec.reproduction.output import Entry, Sheet, heading
from rlrec.reproduction.tables import Cell, PaperTable
from rlrec.results import read_predictions, read_results, write_text_atomic
from rlrec.row_names import row_label
from rlrec.tables import cell, control_table, metric_label, p_text

TEMPLATE = "report.html.jinja"
CASES = 4
CONTROLLED = ("expctr", "recpie")  # systems that recipes/controls.py can ask


def write_report_html(
    table: PaperTable, cells: Sequence[Cell], sheets: Sequence[Sheet], figures: Sequence, path: Path
) -> Path:
    """Write the page and return its path.

    Args:
        table, cells: as for `rlrec.reproduction.output.write_table`.
        sheets: the table of each dataset.
        figures: `rlrec.reproduction.figures.Drawn` of all datasets.
        path: of the page.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    records = {
        entry.folder: read_results(entry.folder)
        for entry in cells
        if entry.status == "done" and entry.folder is not None and (entry.folder / "results.json").is_file()
    }
    page = environment.get_template(TEMPLATE).render(
        title=heading(table),
        caption=table.caption,
        reference=row_label(table.reference),
        sections=[_section(table, cells, sheet, records) for sheet in sheets],
        figures=[{"caption": drawn.caption, "source": data_uri(drawn.paths[0])} for drawn in figures],
        facts=_facts(records),
        runs=_runs(cells, records),
    )
    return write_text_atomic(path, page.strip() + "\n")


def data_uri(path: Path) -> str:
    """A PNG as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _section(
    table: PaperTable, cells: Sequence[Cell], sheet: Sheet, records: Mapping[Path, Mapping]
) -> dict[str, object]:
    """What the page tells of one dataset."""
    render = partial(Entry.rendered, escape=lambda text: str(escape(text)), best="<b>{}</b>", second="<u>{}</u>")
    names = [row.name for row in table.rows]
    kinds = {row.name: "own" if row.name == table.reference else "" if row.run else "absent" for row in table.rows}
    rows = [
        {"kind": kinds[name], "label": label, "entries": [Markup(render(entry)) for entry in entries]}
        for name, (label, entries) in zip(names, sheet.body)
    ]
    own = [
        entry.folder
        for entry in cells
        if entry.row == table.reference and entry.dataset == sheet.dataset and entry.folder in records
    ]
    return {
        "dataset": sheet.dataset,
        "header": sheet.header,
        "rows": rows,
        "gains": sheet.gains,
        "notes": sheet.notes,
        "tests": [test for metric in table.metrics if (test := _tests(sheet.statistics, metric))["rows"]],
        "cases": _cases(own),
        "recorded": control_table([records[folder] for folder in dict.fromkeys(own)]),
        "controls": [_controls(folder) for folder in dict.fromkeys(own) if records[folder]["system"] in CONTROLLED],
    }


def _controls(folder: Path) -> dict[str, object]:
    """What recipes/controls.py found of a run; without `lines` where it has not been asked, or its file is damaged."""
    try:
        told = read_controls(folder)
    except ValueError as error:
        return {"lines": None, "why": f"{error}"}
    if told is None:
        return {"lines": None, "why": f"Not made yet: python recipes/controls.py {shlex.quote(str(folder))}"}
    return {"seed": told["seed"], "lines": control_lines(told["rows"]), "failures": told["failures"]}


def _tests(found: pl.DataFrame, metric: str) -> dict[str, object]:
    """The tests of one metric: its name and, of each row, cells of text."""
    rows = []
    for line in found.filter(pl.col("metric") == metric, pl.col("p_value").is_not_null()).iter_rows(named=True):
        wilcoxon, effect = line["wilcoxon_p_holm"], line["effect_size"]
        interval = f"{line['low']:+.4f} to {line['high']:+.4f}"
        rows.append([
            row_label(line["row"]), f"{line['difference']:+.4f}".replace("-", "−"), interval.replace("-", "−"),
            p_text(line["p_holm"]), "–" if wilcoxon is None else p_text(wilcoxon),
            "–" if effect is None else f"{effect:+.2f}".replace("-", "−"), str(line["tested_seeds"]),
        ])  # fmt: skip
    return {"metric": metric_label(metric, arrow=True), "rows": rows}


def _cases(folders: Sequence[Path]) -> dict[str, object] | None:
    """Texts of a few test samples side by side, from the first run that has some."""
    for folder in folders:
        predictions = read_predictions(folder)
        for pair in CASE_STUDY_ROWS:
            if predictions is not None and {f"explanation_{row}" for row in pair} <= set(predictions.columns):
                intro, cases = chosen_cases(predictions, *pair, count=CASES)
                told = [(cut(title), [(name, cut(text)) for name, text in lines]) for title, lines in cases]
                return {"intro": intro, "cases": told}
    return None


# -- how it was made --------------------------------------------------------------------------------------------------
def _facts(records: Mapping[Path, Mapping]) -> list[tuple[str, str]]:
    """What is the same for many runs, once each."""
    if not records:
        return []

    def distinct(told) -> str:
        return "; ".join(dict.fromkeys(filter(None, map(told, records.values()))))

    seeds = sorted({record["seed"] for record in records.values()})
    minutes = sum(record.get("wall_time_s") or 0 for record in records.values()) / 60
    return [
        ("seeds", ", ".join(map(str, seeds))),
        ("runs", f"{len(records)}, together {minutes:.0f} minutes of wall time"),
        ("hardware", distinct(_hardware)),
        ("versions", distinct(lambda record: ", ".join(f"{k} {v}" for k, v in record.get("versions", {}).items()))),
        ("revision", distinct(lambda record: record.get("git_revision") or "")),
    ]


def _hardware(record: Mapping) -> str:
    hardware = record.get("hardware", {})
    parts = [hardware.get("processor") or hardware.get("machine") or ""]
    parts += [f"{hardware['cores']} cores"] if hardware.get("cores") else []
    parts += [f"{hardware['memory_bytes'] / 2**30:.0f} GiB"] if hardware.get("memory_bytes") else []
    return ", ".join(filter(None, [*parts, *hardware.get("gpus", [])]))


def _runs(cells: Sequence[Cell], records: Mapping[Path, Mapping]) -> list[list[str]]:
    """Of each run folder: its rows, dataset, seed, minutes, memory and command."""
    lines = []
    for folder, record in records.items():
        rows = dict.fromkeys(row_label(entry.row) for entry in cells if entry.folder == folder)
        seconds = record.get("wall_time_s")
        memory = record.get("peak_memory_bytes", {}).get("process")
        lines.append([
            "; ".join(rows), record["dataset"], str(record["seed"]),
            "–" if seconds is None else cell(seconds / 60, None, 1),
            "–" if memory is None else f"{memory / 2**30:.1f} GiB", record.get("command", "–"),
        ])  # fmt: skip
    return lines
