"""What the benchmarks beside this file share: rows for the suite's table, and a command's time and peak memory."""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROW = "ROW "  # before a row of the suite's table, so that it is found among what else a script prints


def tell(what: str, here: str, beside: str = "", ratio: str = "") -> None:
    """Print one row of the suite's table: what was measured, here, at the peer, and here / peer."""
    print(ROW + json.dumps([what, here, beside, ratio], ensure_ascii=False), flush=True)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median [min, max].

    >>> spread([3.0, 1.0, 2.0], 1)
    '2.0 [1.0, 3.0]'
    """
    median, low, high = (f"{f(values):,.{digits}f}" for f in (statistics.median, min, max))
    return f"{median} [{low}, {high}]" if len(values) > 1 else median


def ratios(ours: Sequence[float], theirs: Sequence[float], digits: int = 2) -> str:
    """`spread` of ours / theirs over the pairs of neighbouring runs."""
    return spread([mine / other for mine, other in zip(ours, theirs, strict=True)], digits)


class Shares:
    """What parts of a program take; the innermost part that is running gets it.

    Args:
        clock: what is taken: seconds, or a count of operations that grows.

    >>> now = iter([0.0, 1.0, 3.0, 10.0])
    >>> shares = Shares(clock=lambda: next(now))
    >>> inner = shares.watched("reward", lambda: None)
    >>> shares.watched("step", inner)()
    >>> shares.amounts
    Counter({'step': 8.0, 'reward': 2.0})
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self.clock = clock
        self.amounts: Counter = Counter()
        self._running: list[str] = []
        self._since = 0.0

    def _settle(self) -> None:
        now = self.clock()
        if self._running:
            self.amounts[self._running[-1]] += now - self._since
        self._since = now

    def watched(self, part: str, function: Callable) -> Callable:
        """The function, as a part."""

        def wrapped(*arguments, **keywords):
            self._settle()
            self._running.append(part)
            try:
                return function(*arguments, **keywords)
            finally:
                self._settle()
                self._running.pop()

        return wrapped

    def watch(self, methods: Mapping[tuple[type, str], str]) -> None:
        """From now on, methods of classes are parts: {(class, name): part}."""
        for (owner, name), part in methods.items():
            setattr(owner, name, self.watched(part, getattr(owner, name)))


def timed_command(command: Sequence[str], **options) -> dict[str, float]:
    """Run a command to its end: seconds, cpu_seconds and peak_gib of its process.

    Raises:
        SystemExit: it failed.
    """
    start = time.perf_counter()
    process = subprocess.Popen(command, **options)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        sys.exit(f"{' '.join(map(str, command))} failed.")
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gib": round(usage.ru_maxrss / 2**20, 2),  # Linux counts in KiB
    }


def generate_files(generate: Callable, folder: Path, *arguments) -> int:
    """Call `generate(folder, *arguments)`; the size of what it wrote, in MiB.

    In a process of its own, because a child's peak memory counts from what its parent held when it was started.
    """
    generator = multiprocessing.get_context("spawn").Process(target=generate, args=(folder, *arguments))
    generator.start()
    generator.join()
    if generator.exitcode:
        sys.exit("The files could not be generated.")
    return round(sum(path.stat().st_size for path in folder.iterdir()) / 2**20)


def prepare(folder: Path, dataset: str, options: Sequence[str] = ()) -> dict[str, float]:
    """The real prepare_data command on the files in `folder`: see `timed_command`."""
    command = [sys.executable, str(ROOT / "recipes" / "prepare_data.py"), "--dataset", dataset]
    return timed_command([*command, "--raw_dir", str(folder), "--output_dir", str(folder / "prepared"), *options])
