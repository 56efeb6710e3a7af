"""What a plan says before anything runs: a listing with times, and a script for a cluster."""

import os
import shlex
from collections import Counter
from collections.abc import Sequence

from rlrec.reproduction.plan import Job, Request
from rlrec.reproduction.tables import Cell


def listing(request: Request, cells: Sequence[Cell], jobs: Sequence[Job], workers: int | None = None) -> str:
    """What is done, what would run and how long, and which results cannot be used."""
    from rlrec.reproduction.execute import default_workers

    table = request.table
    kind = table.number if table.number.startswith("figure ") else f"table {table.number}"
    lines = [f"{table.system}, {kind}: {table.caption}", ""]
    for dataset in request.datasets:
        own = [cell for cell in cells if cell.dataset == dataset]
        counts = Counter(cell.status for cell in own)
        told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        lines.append(f"{dataset}: {len({cell.row for cell in own})} rows, {len(own)} cells: {told}")
        reasons = {cell.row: cell.reason for cell in own if cell.status == "not implemented"}
        for reason in dict.fromkeys(reasons.values()):
            lines.append(
                f"  not implemented: {', '.join(r for r, why in reasons.items() if why == reason)} ({reason})"
            )
    for reason in dict.fromkeys(cell.reason for cell in cells if cell.status == "missing" and cell.reason):
        lines.append(f"  to be made again: {reason}" if "rlrec.quality" not in reason else f"  {reason}")
    lines += ["  " + text for text in request.data_problems()]
    if not jobs:
        return "\n".join([*lines, "", "Nothing is left to run."])
    width = max(len(job.name) for job in jobs)
    lines += ["", f"{len(jobs)} runs, one process each:"]
    for job in jobs:
        time = f"about {job.minutes:3.0f} min" if job.minutes else "time unknown"
        lines.append(f"  {job.name:{width}}  {time}  {len(job.cells):2d} rows")
    workers = workers or default_workers(jobs)
    known = [job.minutes for job in jobs if job.minutes]
    told = f"about {max([sum(known) / workers, *known]):.0f} minutes" if known else "an unknown time"
    part = "" if len(known) == len(jobs) else f" for {len(known)} of them; nothing is known of the others"
    return "\n".join([*lines, "", f"{workers} at once: {told}{part}."])


def slurm_script(request: Request, jobs: Sequence[Job], launcher: Sequence[str]) -> str:
    """An array script with one task for each job; two tasks of one run cannot be in each other's way."""
    name = f"{request.table.system}-{request.table.number}".replace(" ", "-")
    lines = [f"  {shlex.quote(_locked(job, launcher))}" for job in jobs]
    return "\n".join(
        [
            "#!/bin/bash",
            f"#SBATCH --job-name={name}",
            f"#SBATCH --array=0-{len(jobs) - 1}",
            f"#SBATCH --output={shlex.quote(str(request.output_dir / 'slurm-%A_%a.log'))}",
            "#SBATCH --time=24:00:00",
            *(["#SBATCH --gres=gpu:1"] if any(job.pretrained for job in jobs) else []),
            "# Partition, account and environment are yours to add. Submitted again, a run that was killed goes on;",
            "# the same command without --slurm then writes the table.",
            "set -euo pipefail",
            f"cd {shlex.quote(os.getcwd())}",
            "commands=(",
            *lines,
            ")",
            'eval "${commands[$SLURM_ARRAY_TASK_ID]}"',
            "",
        ]
    )


def _locked(job: Job, launcher: Sequence[str]) -> str:
    folder = shlex.quote(str(job.folder))
    return f"mkdir -p {folder} && flock -n {folder}/run.lock {shlex.join(job.command(launcher))}"
