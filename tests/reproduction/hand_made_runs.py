"""Run folders made by hand, and the description of a table that they fill."""

import polars as pl

from rlrec import results
from rlrec.reproduction.tables import Cell, PaperTable, Row, Run


def clicks_table(**changes) -> PaperTable:
    run = Run("baselines", "baselines", {}, {}, None, {}, True)
    settings = {
        "system": "expctr",
        "number": "1",
        "caption": "CTR prediction",
        "metrics": ("auc", "log_loss"),
        "rows": (
            Row("fm", "baselines"),
            Row("deepfm", "baselines"),
            Row("dien", None, "no <weights> | *here*"),
            Row("expctr_aug", "expctr"),
        ),
        "runs": {"baselines": run, "expctr": run},
        "datasets": ("book-crossing",),
        "reference": "expctr_aug",
        "gain": ("deepfm", "expctr_aug"),
        "footnotes": ("Grid: learning rate 1e-3 & 1e-2.",),
    }
    return PaperTable(**settings | changes)


def samples(labels, users=None, **columns) -> pl.DataFrame:
    users = [f"u{row}" for row in range(len(labels))] if users is None else users
    return pl.DataFrame(
        {"user_id": users, "item_id": [f"i{row}" for row in range(len(labels))], "label": labels, **columns}
    )


def done(folder, row, seed, values, test=None, scores=None, dataset="book-crossing", system="expctr", **written):
    """A finished cell and its run folder; `written` goes into results.json."""
    results.write_results(folder, system=system, dataset=dataset, seed=seed, rows={row: values}, **written)
    if test is not None:
        results.write_predictions(folder, test, {row: scores})
    return Cell(row, dataset, seed, "done", values, folder)
