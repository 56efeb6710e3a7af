"""Differences between rows on the same test data, with intervals over users."""

from collections.abc import Iterable, Mapping, Sequence

import polars as pl

from rlrec.evaluation.significance import auc_difference, mean_difference, rmse_difference
from rlrec.row_names import row_label
from rlrec.tables import LOWER_IS_BETTER, Table, metric_label

# Known pairs worth an interval: (what one would have without it, the system). RecPIE's variants are added as found.
COMPARISONS = (
    ("gru", "recpie"),
    ("gru", "recpie_bootstrap"),
    ("gru", "recpie_free"),
    ("gru_like_rate_item_mean", "recpie"),
    ("item_mean", "recpie"),
    ("ncf", "recpie_ncf"),
    ("recpie_bootstrap", "recpie"),
    ("recpie_free", "recpie"),
    ("icl", "expctr_llm"),
    ("icl_mean4", "expctr_llm_mean4"),
    ("deepfm", "expctr_aug"),
    ("deepfm", "expctr_aug_mean4"),
    ("deepfm_like_rate_item_mean", "expctr_aug_like_rate_item_mean"),
    ("like_rate_plus_item_mean", "expctr_llm_mean4"),
    ("like_rate_plus_item_mean", "expctr_aug_mean4"),
    ("expctr_llm_more_lc_mean4", "expctr_llm_mean4"),
    ("expctr_aug_more_lc", "expctr_aug"),
    ("expctr_aug_more_lc_mean4", "expctr_aug_mean4"),
    ("last_window", "trail"),
    ("pare", "trail"),
    ("llm", "trail"),
    ("trail_without_sup", "trail"),
    ("trail_without_con", "trail"),
    ("random", "seller"),
    ("llm", "seller"),
    ("xrec", "seller"),
    ("seller", "ground_truth"),
    ("seller_without_be", "seller"),
    ("seller_without_se", "seller"),
    ("seller_without_ct", "seller"),
    ("seller_without_de", "seller"),
)
# How a metric is computed from predictions: function, column of the truth, start of the columns of the rows.
COMPUTED = {
    "auc": (auc_difference, ["label"], "score"),
    "rmse": (rmse_difference, ["target"], "score"),
}


def difference_table(
    frames: Mapping[int, pl.DataFrame], comparisons: Sequence[tuple[str, str]] | None = None, metric: str = "auc"
) -> Table:
    """Header and cells of differences on the same test data, users resampled (95 % bootstrap interval).

    Args:
        frames: {seed: predictions.parquet of that run, or its users.parquet}.
        comparisons: (row without, row with); pairs whose values are not in the file are left out. None: COMPARISONS,
            and every other variant of RecPIE against RecPIE.
        metric: "auc" or "rmse", computed from predictions.parquet (the latter where it has the scaled rating as
            `target`), or one that users.parquet has for each user, such as "hr@10".
    """
    differ, truth, prefix = COMPUTED.get(metric, (mean_difference, [], metric))
    digits = 3 if metric == "auc" else 4
    body = []
    if comparisons is None:
        comparisons = _comparisons(column for frame in frames.values() for column in frame.columns)
    for without, with_it in comparisons:
        for seed, frame in frames.items():
            columns = [*truth, f"{prefix}_{without}", f"{prefix}_{with_it}"]
            if not set(columns) <= set(frame.columns):
                continue
            known = frame.drop_nulls(columns)
            found = differ(*(known[column] for column in columns), users=known["user_id"])
            interval = f"{found['low']:+.{digits}f} to {found['high']:+.{digits}f}"
            difference = f"{found['difference']:+.{digits}f}"
            body.append([f"{row_label(with_it)} against {row_label(without)}", str(seed), difference, interval])
    better = " (below 0: better)" if metric in LOWER_IS_BETTER else ""
    return ["comparison", "seed", f"{metric_label(metric)} difference{better}", "95 % interval"], body


def _comparisons(columns: Iterable[str]) -> list[tuple[str, str]]:
    variants = [
        column.removeprefix("score_") for column in dict.fromkeys(columns) if column.startswith("score_recpie_")
    ]
    known = {row for pair in COMPARISONS for row in pair}
    return [*COMPARISONS, *((row, "recpie") for row in variants if row not in known)]
