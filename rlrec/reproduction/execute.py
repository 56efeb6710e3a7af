"""Jobs in parallel processes: one lock per run folder, a log for each, a progress line; others go on where one fails.

The lock of a run folder is flock's on its file `run.lock`. It is handed to the job's process, so that it is held until
that process has ended, even where the harness was killed before: a second harness then waits for it, or makes other
cells meanwhile. filelock's locks cannot be handed on; hence the standard library's.
"""

import contextlib
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from tqdm import tqdm

from rlrec.reproduction.plan import Job

LOCK, LOG = "run.lock", "output.log"
TOLD_LINES = 10  # of the log of a job that failed
POLL_SECONDS = 0.3
STOP_SECONDS = 10  # between the request to end and the end


def default_workers(jobs: Sequence[Job]) -> int:
    """As many as cores and memory allow; 1 where a language model wants the GPU for itself."""
    if any(job.pretrained for job in jobs):
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    largest = max((job.memory for job in jobs), default=1)
    return max(1, min(cores, psutil.virtual_memory().available // largest))


@dataclass
class Started:
    """A job that runs."""

    job: Job
    process: subprocess.Popen
    lock: int
    since: float

    def stop(self, number: int) -> None:
        """Send a signal to the job's process and all that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def cells_done(self) -> int:
        """Of its cells, those whose results have been written since."""
        files = {cell.folder: cell.folder / "results.json" for cell in self.job.cells}
        new = {at for at, file in files.items() if file.is_file() and file.stat().st_mtime >= self.since}
        return sum(cell.folder in new for cell in self.job.cells)


def execute(
    jobs: Iterable[Job],
    workers: int,
    renew: Callable[[Job], Job | None],
    launcher: Sequence[str] = (sys.executable,),
) -> dict[Path, str]:
    """Run jobs, `workers` at once; {folder: reason} of those that failed.

    Args:
        renew: called when a job's lock is held, and after it has ended: the job that is left to do, or None.
        launcher: before the recipe's path.

    A KeyboardInterrupt ends all that runs and is raised again.
    """
    waiting, running, failed = deque(jobs), [], {}
    rates = [job.minutes for job in waiting if job.minutes]
    usual = sum(rates) / len(rates) if rates else None  # of a job about which nothing is known
    with _bar(sum(len(job.cells) for job in waiting)) as bar:
        finished = 0
        try:
            while waiting or running:
                for _ in range(len(waiting)):
                    if len(running) == workers:
                        break
                    job = waiting.popleft()
                    lock = take_lock(job.folder)
                    if lock is None:  # another harness makes it: look again when the others have been started
                        waiting.append(job)
                        continue
                    left = renew(job)
                    if left is None:
                        os.close(lock)
                        finished += len(job.cells)
                    else:
                        finished += len(job.cells) - len(left.cells)
                        running.append(start(left, lock, launcher))
                for started in [each for each in running if each.process.poll() is not None]:
                    running.remove(started)
                    os.close(started.lock)
                    finished += len(started.job.cells)
                    reason = why_failed(started, renew)
                    if reason:
                        failed[started.job.folder] = reason
                    bar.write(_told(started, reason), file=sys.stderr)
                bar.n = finished + sum(started.cells_done() for started in running)
                bar.set_postfix_str(_status(running, waiting, workers, usual))
                time.sleep(POLL_SECONDS)
        finally:
            stop_all(running)
    return failed


def start(job: Job, lock: int, launcher: Sequence[str]) -> Started:
    """Start a job in a process group of its own, its output behind that of earlier attempts in its log."""
    environment = {"TOKENIZERS_PARALLELISM": "false", **({} if job.pretrained else {"OMP_NUM_THREADS": "1"})}
    command = job.command(launcher)
    with open(job.folder / LOG, "ab") as log:
        log.write(f"\n$ {shlex.join(command)}\n".encode())
        log.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**environment, **os.environ},
            start_new_session=True,
            pass_fds=[lock],
        )
    return Started(job, process, lock, time.time())


def take_lock(folder: Path) -> int | None:
    """The lock of a run folder (made if need be) as an open file; None while another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def why_failed(started: Started, renew: Callable[[Job], Job | None]) -> str | None:
    """Why a job that has ended did not make its cells; None where it did."""
    code, log = started.process.returncode, started.job.folder / LOG
    if code:
        how = f"ended with status {code}" if code > 0 else f"was ended by {signal.Signals(-code).name}"
        hint = "; the machine may have run out of memory" if code == -signal.SIGKILL else ""
        return f"{how}{hint}; last lines of {log}:\n" + "\n".join(last_lines(log))
    left = renew(started.job)
    if left is None:
        return None
    return f"ended without the rows {', '.join(cell.row for cell in left.cells)}; see {log}"


def last_lines(log: Path, count: int = TOLD_LINES) -> list[str]:
    """The last lines of a log; of a progress bar that was drawn over and over its last state."""
    text = log.read_bytes()[-20_000:].decode("utf-8", errors="replace")
    lines = [line.rsplit("\r", 1)[-1].rstrip() for line in text.split("\n")]
    return [line for line in lines if line][-count:]


def stop_all(running: Sequence[Started]) -> None:
    """End jobs: ask, wait, and then make sure."""
    for started in running:
        started.stop(signal.SIGTERM)
    for started in running:
        try:
            started.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            started.stop(signal.SIGKILL)
            started.process.wait()
        os.close(started.lock)


@contextlib.contextmanager
def _bar(total: int) -> Iterator[tqdm]:
    form = "{n_fmt}/{total_fmt} cells [{elapsed}] {postfix}"
    with tqdm(total=total, bar_format=form, disable=None, dynamic_ncols=True) as bar:  # None: not into files
        yield bar


def _told(started: Started, reason: str | None) -> str:
    minutes = (time.time() - started.since) / 60
    if reason:
        return f"failed {started.job.name} after {minutes:.1f} min: it {reason}"
    return f"made   {started.job.name} in {minutes:.1f} min"


def _status(running: Sequence[Started], waiting: Iterable[Job], workers: int, usual: float | None) -> str:
    """What runs, and about how long all will take."""
    names = ", ".join(f"{each.job.name} ({(time.time() - each.since) / 60:.0f} min)" for each in running)
    left = [job.minutes or usual for job in waiting]
    left += [each.job.minutes or usual for each in running]
    if not left or None in left:
        return names or "waiting for another process"
    spent = sum((time.time() - each.since) / 60 for each in running)
    return f"{names or 'waiting for another process'}; about {max(0.0, sum(left) - spent) / workers:.0f} min left"
