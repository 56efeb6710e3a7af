"""One command from data to a paper's table: makes the cells that are missing, then writes the table.

    python recipes/reproduce.py expctr --table 1 --datasets ml-100k --seeds 5 --data ml-100k=path/to/ml-100k
    python recipes/reproduce.py expctr --table 1 --list                # what it would run, and how long
    python recipes/reproduce.py trail --table 2 --datasets amazon-baby --data data --print_commands

What is finished is not made again: killed and started again, it goes on. docs/reproduction.md has every table.
"""

import argparse
import os
import shlex
import signal
import sys
from collections import Counter
from pathlib import Path

from rlrec.configs import check_known
from rlrec.reproduction.descriptions import SYSTEMS, load_tables, paper_table
from rlrec.reproduction.find_data import find_data
from rlrec.reproduction.plan import Request, pairs, recipe_options, reduced
from rlrec.reproduction.schedule import listing, slurm_script


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", metavar="SYSTEM", help=", ".join(SYSTEMS))
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--table", metavar="N", help="of the paper")
    which.add_argument("--figure", metavar="N", help="of the paper")
    parser.add_argument("--datasets", nargs="+", metavar="NAME", help="default: those whose data are here")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="default: all")
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seeds", type=int, default=5, metavar="N", help="0 to N - 1 (default 5)")
    seeds.add_argument("--seed_list", type=int, nargs="+", metavar="SEED")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/reproduce"))
    parser.add_argument("--data", nargs="+", default=[], metavar="DATASET=FOLDER",
                        help="raw files or prepared data; or one folder with subfolders of these names (default: "
                        "the environment's RLREC_DATA_DIR)")  # fmt: skip
    parser.add_argument("--configs", nargs="+", default=[], metavar="DATASET=CONFIG", help="instead of the usual one")
    parser.add_argument("--options", nargs="+", default=[], metavar="[RECIPE.]NAME=VALUE",
                        help="more options, such as baselines.fits=1; without RECIPE of the system's own")  # fmt: skip
    parser.add_argument("--workers", type=int, metavar="N", help="default: as many as cores and memory allow")
    parser.add_argument("--launcher", type=shlex.split, metavar="COMMAND",
                        help="before the recipe: 'accelerate launch --config_file ...'")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="say what would run, and how long")
    parser.add_argument("--print_commands", action="store_true", help="one line for each missing run")
    parser.add_argument("--slurm", type=Path, metavar="FILE", help="write an array script of the missing runs")
    parser.add_argument("--smoke", action="store_true", help="two steps of everything; the numbers mean nothing")
    return parser.parse_args()


def make_request(arguments: argparse.Namespace) -> Request:
    """What the command line asks for; ValueError where something in it is unknown."""
    number = f"table {arguments.table}" if arguments.table else f"figure {arguments.figure}"
    table = paper_table(arguments.system, number)
    for row in arguments.rows or ():
        check_known(row, [row.name for row in table.rows], f"row of {table.system}, {number}:")
    for dataset in arguments.datasets or ():
        check_known(dataset, table.datasets, f"dataset of {table.system}, {number}:")
    every = {dataset for each in load_tables(table.system).values() for dataset in each.datasets}
    here = [os.environ["RLREC_DATA_DIR"]] if os.environ.get("RLREC_DATA_DIR") else []
    seeds = arguments.seed_list or range(arguments.seeds)
    if not seeds or (arguments.workers is not None and arguments.workers < 1):
        raise ValueError("--seeds and --workers must be at least 1.")
    configs = pairs(arguments.configs)
    for dataset in configs:
        check_known(dataset, table.datasets, f"dataset of {table.system}, {number}:")
    request = Request(
        table=reduced(table, arguments.rows) if arguments.rows else table,
        datasets=tuple(arguments.datasets or table.datasets),
        seeds=tuple(dict.fromkeys(seeds)),
        output_dir=(arguments.output_dir / "smoke" if arguments.smoke else arguments.output_dir).resolve(),
        data=find_data([*here, *arguments.data], every),
        configs=configs,
        options=recipe_options(arguments.options, table),
        smoke=arguments.smoke,
    )
    return request if arguments.datasets else request.with_data_alone()


def main() -> int:
    arguments = parse()
    try:
        request = make_request(arguments)
        cells = request.cells()
        jobs = request.jobs(cells)
        if arguments.list:
            print(listing(request, cells, jobs, arguments.workers))
            return 0
        request.check_data()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    cluster = arguments.launcher or ["accelerate", "launch"]
    if arguments.print_commands:
        print("\n".join(shlex.join(job.command(cluster)) for job in jobs))
        return 0
    if arguments.slurm and not jobs:
        print("Nothing is left to run.")
        return 0
    if arguments.slurm:
        for folder in (request.output_dir, arguments.slurm.parent):  # Slurm makes none for its logs
            folder.mkdir(parents=True, exist_ok=True)
        arguments.slurm.write_text(slurm_script(request, jobs, cluster), encoding="utf-8")
        print(f"wrote {arguments.slurm}: {len(jobs)} runs; look at its first lines, then sbatch {arguments.slurm}")
        return 0

    from rlrec.reproduction.execute import default_workers, execute  # the rest needs more than planning does

    print(listing(request, cells, jobs, arguments.workers))
    for number in (signal.SIGINT, signal.SIGTERM):  # shells have what they start in the background ignore the first
        signal.signal(number, signal.default_int_handler)
    try:
        failed = execute(jobs, arguments.workers or default_workers(jobs), request.renew,
                         arguments.launcher or [sys.executable])  # fmt: skip
    except KeyboardInterrupt:
        print("\nStopped; the same command goes on from here.", file=sys.stderr)
        return 130
    except OSError as error:  # the launcher is not there, or the disk is full
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        return write(request, request.cells_after(failed))
    except ValueError as error:  # folders whose test samples differ
        print(f"error: {error}", file=sys.stderr)
        return 1


def write(request: Request, cells: list) -> int:
    """The table's files; 1 where cells are missing."""
    from rlrec.reproduction.output import write_table

    paths = write_table(request.table, cells, request.output_dir / "tables", len(request.seeds))
    for path in paths:
        if path.suffix == ".md":
            print("\n" + path.read_text(encoding="utf-8"))
    print("\n".join(f"wrote {path}" for path in paths))
    counts = Counter(cell.status for cell in cells)
    print(", ".join(f"{count} cells {status}" for status, count in counts.items()))
    return 1 if counts["failed"] or counts["missing"] else 0


if __name__ == "__main__":
    sys.exit(main())
