"""All benchmarks, one after another, and one table of what they found.

    RLREC_DATA_DIR=/path/to/data OMP_NUM_THREADS=1 python benchmarks                 # quick settings
    RLREC_DATA_DIR=/path/to/data OMP_NUM_THREADS=1 python benchmarks --full --output table.md
    python benchmarks --only dtw cold_start

Quick settings show that everything runs and what the ratios are about; docs/performance.md says which of its numbers
were measured with which command. A benchmark that fails, or whose data or library is not there, gets a row that says
so, and the exit code is 1. deepfm_user_disjoint.py and ic_variants.py measure accuracy alone and are not among these.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import torch
from measured import ROOT, ROW

from rlrec.tables import markdown_table

SUITE = {  # script -> its quick and its full settings
    "ppo_vs_trl": ("--episodes 64 --repeats 1", "--repeats 3"),
    "two_ranks": ("--episodes 64 --repeats 1", "--repeats 3"),
    "step_shares": ("--config expctr/smoke --max_steps 4", ""),
    "generation": ("--prompts 64 --repeats 1", ""),
    "ctr_models": ("--models deepfm dcn --seeds 1 --epochs 1", "--seeds 3 --epochs 2"),
    "sequence_models": ("--models din gru4rec --seeds 1 --epochs 1", "--seeds 3 --epochs 2"),
    "eer": ("--items 2000 --batch_size 64 --steps 3", ""),
    "dtw": ("--pairs 20000 --oracle_pairs 5000", "--samples 50000"),
    "prepare_data": ("--ratings 1000000", "--repeats 3"),
    "prepare_google_local": ("--reviews 200000", ""),
    "cold_start": ("--repeats 1", "--repeats 5"),
}
HEADER = ("what", "here", "beside it", "here / beside", "load", "command")


def run(name: str, settings: str) -> tuple[list[list[str]], bool]:
    """The rows of one benchmark, and whether it succeeded; what it prints besides goes through."""
    command = [f"benchmarks/{name}.py", *shlex.split(settings)]
    shown = " ".join(["python", *command])
    print(f"\n$ {shown}", flush=True)
    rows, last, load = [], "", os.getloadavg()[0]
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for line in process.stdout:
        if line.startswith(ROW):
            rows.append(json.loads(line.removeprefix(ROW)))
        elif line.strip():
            print(line, end="", flush=True)
            last = line.strip()
    if failed := process.wait() != 0:
        rows.append([name, f"failed: {last}"[:200], "", ""])
    return [[*row, f"{load:.1f}", f"`{shown}`"] for row in rows], not failed


def hardware() -> str:
    """One line: processor, cores, threads, GPU, versions, day."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    parts = [
        names[0] if names else platform.machine(),
        f"{os.cpu_count()} cores",
        f"{torch.get_num_threads()} threads",
    ]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join([*parts, f"Python {platform.python_version()}", f"torch {torch.__version__}", str(date.today())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the settings of the numbers in the docs: hours")
    parser.add_argument("--only", nargs="+", choices=list(SUITE), default=list(SUITE))
    parser.add_argument("--output", type=Path, help="Markdown file for the table")
    arguments = parser.parse_args()
    start, rows, well = time.monotonic(), [], True
    for name in arguments.only:
        found, succeeded = run(name, SUITE[name][arguments.full])
        rows, well = rows + found, well and succeeded
    text = f"{hardware()}; load: running processes on average, when the benchmark started.\n\n"
    text += markdown_table(HEADER, rows) + "\n"
    print(f"\n{text}\n{time.monotonic() - start:.0f} s")
    if arguments.output:
        arguments.output.write_text(text, encoding="utf-8")
    sys.exit(not well)


if __name__ == "__main__":
    main()
