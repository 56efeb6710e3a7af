"""Controls of a finished run: is it the explanations that do it, and what in them?

    python recipes/controls.py RUN_DIR
    python recipes/controls.py RUN_DIR --raw_dir path/to/ml-100k     # where the data have moved

Labels shuffled, explanations exchanged between users, verdicts masked, the target's title masked, the sentiment alone,
and a recommender that has never seen a text of the trained policy; for runs of ExpCTR and RecPIE. Prints a table with
95 % intervals and writes controls.json and controls.md into RUN_DIR. docs/controls.md says what each control tells.
"""

import argparse
from pathlib import Path

from reward_models import FirstTokenScorer
from rlrec.arguments import one_sentence, quiet_libraries
from rlrec.controls import reader_controls, write_controls
from rlrec.results import read_results

NOT_READ = {
    "trail": "TRAIL's ranking comes from the number it predicts and no model reads its explanations, so there is "
    "nothing to control; that they are true is checked by rule (trend accuracy, in the run's report).",
    "seller": "SELLER's explanations are read by the recommender that measures their utility, which was trained on "
    "the ground truth alone: its controls are rows of the run's own table (random, empty, and every row with the "
    "target's title masked; python -m rlrec.utility makes them of any texts).",
}


def controls(run_dir: Path, fits: int = 3, permutations: int = 5, **changes) -> Path:
    """Write RUN_DIR/controls.json and return its path.

    Raises:
        ValueError, OSError: no finished run, other data, or a system whose explanations nothing reads.
    """
    system = read_results(run_dir)["system"]
    if system == "expctr":
        from rlrec.expctr.controls import ReopenedExpCTR

        run = ReopenedExpCTR(run_dir, FirstTokenScorer, **changes)
        rows, notes = run.scorer_controls()
    elif system == "recpie":
        from rlrec.recpie.controls import ReopenedRecPIE

        run, rows, notes = ReopenedRecPIE(run_dir, **changes), [], []
    else:
        raise ValueError(NOT_READ.get(system, f"There are no controls for the system {system!r}."))
    more, told = reader_controls(run.reader(fits), permutations, progress=lambda step: print(f"  {step}", flush=True))
    return write_controls(run_dir, [*rows, *more], [*notes, *told])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, help="folder of a finished run of ExpCTR or RecPIE")
    parser.add_argument("--fits", type=int, default=3, help="fits of each recommender; their mean prediction counts")
    parser.add_argument("--permutations", type=int, default=5, help="of the labels, each with a fit of its own")
    parser.add_argument("--raw_dir", help="the dataset's raw files, where they have moved")
    parser.add_argument("--data_dir", help="the prepared dataset, where it has moved")
    parsed = parser.parse_args(arguments)
    quiet_libraries()
    moved = {name: getattr(parsed, name) for name in ("raw_dir", "data_dir") if getattr(parsed, name)}
    with one_sentence(ValueError, OSError):
        path = controls(parsed.run_dir, parsed.fits, parsed.permutations, **moved)
    print((path.parent / "controls.md").read_text(encoding="utf-8"))
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
