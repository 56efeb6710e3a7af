"""A real table, small, made at once and with kills in between: the same files, and no finished cell made twice."""

import contextlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
KILLS = 6
TABLE = ("expctr", "--table", "1", "--datasets", "simulated", "--seeds", "2", "--smoke", "--rows",
         "deepfm", "fm", "din", "tallrec", "icl", "expctr_llm", "expctr_aug")  # fmt: skip


def start(folder: Path, cache: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RLREC_CACHE_DIR": str(cache)}
    environment.pop("RLREC_DATA_DIR", None)
    command = [sys.executable, "recipes/reproduce.py", *TABLE, "--output_dir", str(folder)]
    with open(folder.with_suffix(".log"), "ab") as log:  # a group of its own: a kill takes the runs along
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True, text=True
        )


def finished(folder: Path) -> dict[Path, int]:
    """Result files and when each was written, in nanoseconds."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("results.json")}


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "smoke" / "tables").glob("expctr_table_1.*")
            if path.suffix in (".md", ".csv", ".tex")}  # fmt: skip


def kill(process: subprocess.Popen) -> None:
    """The harness and the runs, which have groups of their own."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    runs = [int(child) for child in children.read_text().split()]
    os.killpg(process.pid, signal.SIGKILL)
    for run in runs:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run, signal.SIGKILL)
    process.wait()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the runs in /proc")
def test_killed_at_random_moments(tmp_path):
    whole, broken, cache = tmp_path / "whole", tmp_path / "broken", tmp_path / "cache"
    assert start(whole, cache).wait() == 0
    draw, kept, kills = random.Random(0), {}, 0
    while kills < KILLS:
        running = start(broken, cache)
        try:
            running.wait(timeout=draw.uniform(5, 60))
            break  # done before all kills
        except subprocess.TimeoutExpired:
            kill(running)
            kills += 1
        kept |= {path: when for path, when in finished(broken).items() if path not in kept}
    else:
        assert start(broken, cache).wait() == 0
    assert kills >= 2
    assert kept
    # A run that is continued for rows it lacks rewrites its own record; here every run has all of its rows at once.
    assert {path: when for path, when in finished(broken).items() if path in kept} == kept
    assert tables(broken) == tables(whole)
    assert len(tables(whole)) == 3
