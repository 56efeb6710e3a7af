"""Tables, pictures, case study and model card, regenerated from the files of finished runs alone.

    python -m rlrec.reports RUN_DIR [RUN_DIR ...] --output_dir reports

A RUN_DIR holds results.json (and predictions.parquet, users.parquet and logs/, where the run wrote them), or holds
such folders, one per seed. Runs of one system and dataset become one table with mean and standard deviation over
seeds. For each such group the output folder gets, named <system>_<dataset>:

    .md            tables of predictions, explanations, groups of items, controls and differences between rows
    .csv           every number in long form (row, metric, mean, sd, seeds, paper)
    .tex           the table of predictions
    _auc.png       AUC of all rows (else _accuracy.png: RMSE beside AUC, HR@10 or Recall@10 beside NDCG@10)
    _groups.png    HR@10 within groups of items (rankings)
    _rewards.png   rewards over steps, per stage (where there are none: _losses.png)
    _cases.md      explanations before and after, side by side
    _card.md       a model card

Runs on a share of the training data are a group of their own, named <system>_<dataset>_<share>pct.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from rlrec.case_study import case_study
from rlrec.comparisons import difference_table
from rlrec.model_card import model_card
from rlrec.results import read_log_histories, read_predictions, read_results, read_users, write_text_atomic
from rlrec.tables import (
    CLICKS,
    RANKINGS,
    UTILITY,
    control_table,
    defused,
    explanation_table,
    group_table,
    latex_table,
    markdown_table,
    masked_table,
    metric_label,
    prediction_table,
    spreadsheet_safe,
    summarise,
    task_of,
    time_table,
    training_fraction,
)

# Before and after; of SELLER another system's beside its own
CASE_STUDY_ROWS = (("icl", "expctr_llm"), ("recpie_bootstrap", "recpie"), ("llm", "trail"), ("xrec", "seller"))


def find_runs(folders: Sequence[str | Path]) -> list[Path]:
    """The run folders among `folders` and, where one has no results.json itself, right below it.

    Raises:
        FileNotFoundError: a folder without any results.json.
    """
    runs = []
    for folder in map(Path, folders):
        found = (
            [folder]
            if (folder / "results.json").is_file()
            else sorted(p.parent for p in folder.glob("*/results.json"))
        )
        if not found:
            raise FileNotFoundError(f"There is no results.json in {folder} or one folder below; give finished runs.")
        runs += [run for run in found if run not in runs]
    return runs


def tables_markdown(runs: Sequence[Path]) -> str:
    """All tables of runs of one system and dataset as Markdown."""
    results = [read_results(run) for run in runs]
    summary = summarise(results)
    task = task_of(summary)
    read = read_users if task in (RANKINGS, UTILITY) else read_predictions
    same = "users of the test windows" if task is RANKINGS else "test samples"
    frames = {record["seed"]: read(run) for record, run in zip(results, runs)}
    frames = {seed: frame for seed, frame in frames.items() if frame is not None}
    told = f"{len(runs)} seeds, mean ± standard deviation" if len(runs) > 1 else f"seed {results[0]['seed']}"
    fraction = training_fraction(results[0])
    told += f", {fraction:.0%} of the training data" if fraction < 1 else ""
    tables = {
        f"{results[0]['system']} on {results[0]['dataset']} ({told})": prediction_table(summary),
        "With the target's title masked": masked_table(summary),
        "Explanations": explanation_table(summary),
        "Time per sample, relative to XRec's": time_table(results),
        "HR@10 by group of items (compare rows, not groups)": group_table(summary),
        "Controls": control_table(results),
    }
    for metric in task.headline:
        title = f"{metric_label(metric)} differences (same {same}, users resampled)"
        tables[title] = difference_table(frames, metric=metric)
    return (
        "\n\n".join(f"## {defused(title)}\n\n{markdown_table(*table)}" for title, table in tables.items() if table[1])
        + "\n"
    )


def report(folders: Sequence[str | Path], output_dir: str | Path, pictures: bool = True) -> list[Path]:
    """Write the files of this module's docstring and return their paths.

    Args:
        folders: run folders, or folders of run folders.
        output_dir: made when missing.
        pictures: draw PNGs (needs the `plot` extra).
    """
    groups: dict[tuple[str, str, float], list[Path]] = {}
    for run in find_runs(folders):
        record = read_results(run)
        groups.setdefault((record["system"], record["dataset"], training_fraction(record)), []).append(run)
    written = []
    for runs in groups.values():
        written += _report_group(runs, Path(output_dir), pictures)
    return written


def _report_group(runs: Sequence[Path], output_dir: Path, pictures: bool) -> list[Path]:
    results = [read_results(run) for run in runs]
    system, dataset, fraction = results[0]["system"], results[0]["dataset"], training_fraction(results[0])
    name = re.sub(r"[^\w.+-]", "_", f"{system}_{dataset}") + (f"_{100 * fraction:g}pct" if fraction < 1 else "")
    dataset += f", {fraction:.0%} of the training data" if fraction < 1 else ""
    summary = summarise(results)
    texts = {
        ".md": tables_markdown(runs),
        ".csv": spreadsheet_safe(summary).write_csv(),
        ".tex": latex_table(*prediction_table(summary), caption=f"{system} on {dataset}") + "\n",
        "_card.md": model_card(results),
    }
    predictions = read_predictions(runs[0])
    for rows in CASE_STUDY_ROWS:
        if predictions is not None and {f"explanation_{row}" for row in rows} <= set(predictions.columns):
            texts["_cases.md"] = case_study(predictions, *rows)
    written = [write_text_atomic(output_dir / f"{name}{ending}", text) for ending, text in texts.items()]
    if pictures:
        from rlrec.figures import accuracy_bars, auc_bars, group_bars  # the `plot` extra
        from rlrec.training_curves import EXPLANATION_LOSS, LOSSES, loss_curves, reward_curves

        task = task_of(summary)
        if task is CLICKS:
            drawn = [auc_bars(summary, output_dir / f"{name}_auc.png", f"AUC on {dataset}")]
        else:
            title = f"{' and '.join(map(metric_label, task.headline))} on {dataset}"
            drawn = [accuracy_bars(summary, output_dir / f"{name}_accuracy.png", title, task.headline)]
            drawn += [group_bars(summary, output_dir / f"{name}_groups.png", f"HR@10 by group of items on {dataset}")]
        histories = [read_log_histories(run) for run in runs]
        drawn.append(
            reward_curves(histories, output_dir / f"{name}_rewards.png", f"Rewards during training on {dataset}")
            or loss_curves(
                histories,
                output_dir / f"{name}_losses.png",
                f"Losses during training on {dataset}",
                EXPLANATION_LOSS if task is UTILITY else LOSSES,
            )
        )
        written += [path for path in drawn if path is not None]
    return written


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m rlrec.reports", description=__doc__.partition("\n")[0])
    parser.add_argument("run_dirs", nargs="+", help="folders of finished runs, or folders that hold such folders")
    parser.add_argument("--output_dir", default="reports", help="where tables and pictures are written (%(default)s)")
    parser.add_argument("--tables_only", action="store_true", help="no pictures, hence no matplotlib")
    options = parser.parse_args(arguments)
    try:
        written = report(options.run_dirs, options.output_dir, pictures=not options.tables_only)
    except (FileNotFoundError, ValueError, ImportError) as error:
        parser.error(str(error))
    for path in written:
        if path.suffix == ".md" and not path.stem.endswith(("_cases", "_card")):
            print(path.read_text(encoding="utf-8"))
    print("\n".join(f"wrote {path}" for path in written))


if __name__ == "__main__":
    main()
