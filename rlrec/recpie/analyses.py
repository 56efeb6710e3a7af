"""RecPIE's analyses from the files of finished runs: attention, embeddings, hard examples, fractions, rewards.

    python -m rlrec.recpie.analyses RUN_DIR [LABEL=RUN_DIR ...] --output_dir reports

| file of a run | what is made of it | where |
| --- | --- | --- |
| analyses/attention.parquet | attention on explanations of liked and disliked items (Figure 9) | `attention` |
| analyses/cosines.parquet | cosines of item pairs over epochs (Figure 7) | `cosines` |
| analyses/uncertainty.parquet | gain against prediction uncertainty (Figure 8) | `uncertainty` |
| results.json with details.training_fraction | the learning curve (Table 6) | `curves` |
| logs/*.json | rewards over steps; runs of one label are averaged, labels share one picture | `curves` |

A RUN_DIR may also be a folder of such folders, one per seed. Runs without a label get `details.loss_type`. Runs of
several training fractions meet in the learning curve alone; all else is drawn for the largest fraction.
"""

import argparse
import glob
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlrec.files import read_frame
from rlrec.recpie.attention import ATTENTION, attention_summary, attention_tables, write_attention
from rlrec.recpie.cosines import COSINES, CosineRecorder, choose_pairs, cosine_summary, cosine_tables, write_cosines
from rlrec.recpie.curves import learning_curve, learning_differences, learning_table, reward_runs, reward_table
from rlrec.recpie.uncertainty import UNCERTAINTY, gain_summary, gain_tables, write_uncertainty
from rlrec.results import read_results, write_text_atomic
from rlrec.tables import Table, markdown_table, training_fraction

__all__ = [
    "CosineRecorder",
    "analyse",
    "choose_pairs",
    "learning_curve",
    "reward_runs",
    "write_attention",
    "write_cosines",
    "write_uncertainty",
]


def find_runs(arguments: Sequence[str]) -> dict[str, list[Path]]:
    """{label: run folders} from arguments FOLDER or LABEL=FOLDER, where FOLDER is a run or holds runs.

    The shell does not expand a pattern behind "LABEL=", so it is expanded here.

    Raises:
        FileNotFoundError: a folder that neither is a run nor holds one.
    """
    groups: dict[str, list[Path]] = {}
    for argument in arguments:
        label, equals, folder = argument.partition("=")
        if not equals or Path(argument).exists():
            label, folder = "", argument
        folders = [Path(path) for path in sorted(glob.glob(folder))]
        found = [
            run for path in folders for run in ([path] if _is_run(path) else filter(_is_run, sorted(path.glob("*"))))
        ]
        if not found:
            raise FileNotFoundError(
                f"{folder} has no results.json, logs or analyses, and no folder in it has; give finished runs."
            )
        for run in found:
            runs = groups.setdefault(label or _own_label(run), [])
            runs += [run] if run not in runs else []
    return groups


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("results.json", "logs", "analyses"))


def _own_label(run: Path) -> str:
    record = read_results(run) if (run / "results.json").is_file() else {}
    return str(record.get("details", {}).get("loss_type") or record.get("system") or "runs")


def analyse(
    arguments: Sequence[str],
    output_dir: str | Path,
    baseline: str = "gru",
    system: str = "recpie",
    pictures: bool = True,
) -> tuple[str, list[Path]]:
    """Draw and tabulate whatever the run folders have.

    Args:
        arguments: as for `find_runs`.
        output_dir: made when missing.
        baseline, system: the rows of the learning curve; the baseline at 100 % is its horizontal line.
        pictures: draw PNGs (needs the `plot` extra).

    Returns:
        The tables as Markdown, followed by a sentence per run folder without any analysis; and the files written.
    """
    groups = find_runs(arguments)
    prefix = _prefix([run for runs in groups.values() for run in runs])
    output_dir, written, sections, used = Path(output_dir), [], [], set()

    def add(name: str, tables: Mapping[str, Table], drawing: str, *values) -> None:
        sections.extend(f"## {title}\n\n{markdown_table(*table)}" for title, table in tables.items())
        if pictures:
            from rlrec.recpie import figures  # the `plot` extra

            written.append(getattr(figures, drawing)(*values, output_dir / f"{prefix}_{name}.png"))

    for label, runs in groups.items():
        slug = re.sub(r"[^\w.-]+", "_", label)
        ending, told = (f"_{slug}", f", {label}") if len(groups) > 1 else ("", "")
        whole = _largest_fraction(runs)
        for path, name, summarised, tables, drawing in (
            (ATTENTION, "attention", attention_summary, attention_tables, "attention_bars"),
            (COSINES, "cosines", cosine_summary, cosine_tables, "cosine_curves"),
            (UNCERTAINTY, "uncertainty", gain_summary, gain_tables, "gain_by_uncertainty"),
        ):
            having = [run for run in whole if (run / path).is_file()]
            if having:
                used.update(having)
                summary = summarised([read_frame(run / path) for run in having])
                seeds = f" ({len(having)} runs{told})" if len(having) > 1 else told
                tables_told = {f"{title}{seeds}": table for title, table in tables(summary).items()}
                add(f"{name}{ending}", tables_told, drawing, summary)
        finished = [run for run in runs if (run / "results.json").is_file()]
        results = [read_results(run) for run in finished]
        if len({training_fraction(record) for record in results}) > 1:
            used.update(finished)
            curve = learning_curve(results, (baseline, system))
            table = learning_table(curve, learning_differences(finished, (baseline, system), baseline))
            add(
                f"learning_curve{ending}",
                {f"Training fractions (Table 6){told}": table},
                "learning_curves",
                curve,
                baseline,
            )
    rewards = {label: reward_runs(_largest_fraction(runs)) for label, runs in groups.items()}
    rewards = {label: series for label, series in rewards.items() if series}
    if rewards:
        used.update(run for label in rewards for run in groups[label] if reward_runs([run]))
        add("reward_curves", {"Reward per step": reward_table(rewards)}, "reward_bands", rewards)
    idle = [run for runs in groups.values() for run in runs if run not in used]
    if sections:
        written.append(write_text_atomic(output_dir / f"{prefix}_analyses.md", "\n\n".join(sections) + "\n"))
    sections += [
        f"{run} has nothing to analyse: no rewards in logs, no {ATTENTION}, {COSINES} or {UNCERTAINTY}, and no second "
        "training fraction beside it."
        for run in idle
    ]
    return "\n\n".join(sections), written


def _largest_fraction(runs: Sequence[Path]) -> list[Path]:
    """The runs trained on the most data, because fractions must not be averaged over."""
    fractions = {
        run: training_fraction(read_results(run)) if (run / "results.json").is_file() else 1.0 for run in runs
    }
    return [run for run in runs if fractions[run] == max(fractions.values())]


def _prefix(runs: Sequence[Path]) -> str:
    records = [read_results(run) for run in runs if (run / "results.json").is_file()]
    groups = sorted({f"{record['system']}_{record['dataset']}" for record in records})
    if len(groups) > 1:
        raise ValueError(f"Runs of {', '.join(groups)} cannot share a picture; give those of one system and dataset.")
    return groups[0].replace("/", "_") if groups else "recpie"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m rlrec.recpie.analyses", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "run_dirs", nargs="+", metavar="[LABEL=]RUN_DIR", help="run folders, or folders that hold such"
    )
    parser.add_argument("--output_dir", default="reports", help="where tables and pictures are written (%(default)s)")
    parser.add_argument("--baseline", default="gru", help="row whose value at 100 %% is the line (%(default)s)")
    parser.add_argument("--system", default="recpie", help="row whose learning curve is drawn (%(default)s)")
    parser.add_argument("--tables_only", action="store_true", help="no pictures, hence no matplotlib")
    options = parser.parse_args(arguments)
    try:
        text, written = analyse(
            options.run_dirs, options.output_dir, options.baseline, options.system, pictures=not options.tables_only
        )
    except (FileNotFoundError, ValueError, ImportError) as error:
        parser.error(str(error))
    print(text, *(f"wrote {path}" for path in written), sep="\n")


if __name__ == "__main__":
    main()
