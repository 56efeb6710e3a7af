"""Time and peak memory of the real prepare_data command on generated files, for the benchmarks beside this one."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path


def prepare_generated(
    generate: Callable, arguments: tuple, folder: Path, dataset: str, options: Sequence[str] = ()
) -> dict:
    """Call `generate(folder, *arguments)`, then prepare what it wrote.

    Returns:
        file_mib (of the generated files), and of the command: seconds, cpu_seconds, peak_gib; and cores.
    """
    # In a process of its own, because a child's peak memory counts from what its parent held when it was started.
    generator = multiprocessing.get_context("spawn").Process(target=generate, args=(folder, *arguments))
    generator.start()
    generator.join()
    if generator.exitcode:
        sys.exit("The files could not be generated.")
    size = sum(path.stat().st_size for path in folder.iterdir())
    command = [sys.executable, str(Path(__file__).parents[1] / "recipes" / "prepare_data.py")]
    command += ["--dataset", dataset, "--raw_dir", str(folder), "--output_dir", str(folder / "prepared"), *options]
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        sys.exit("prepare_data failed.")
    return {
        "file_mib": round(size / 2**20),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gib": round(usage.ru_maxrss / 2**20, 2),  # Linux counts in KiB
        "cores": os.cpu_count(),
    }
