"""SIGKILL at named and at random points, then the same command again: what is left equals an uninterrupted run's.

The kills of whole runs take minutes: `python -m pytest -m slow tests/faults/test_kills.py -s` prints their tables.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def kill(program: str, folder: Path, kills: int) -> str:
    command = [sys.executable, str(Path(__file__).parent / "killing.py"), program, str(folder), "--kills", str(kills)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    return process.stdout


def test_a_stage_killed_and_resumed(tmp_path):
    printed = kill("stage", tmp_path, 2)
    assert printed.count("\nkill ") + printed.startswith("kill ") == 2
    assert " times: equal" in printed


@pytest.mark.slow
@pytest.mark.parametrize("program", ["expctr", "recpie"])
def test_a_run_killed_and_resumed(program, tmp_path):
    print(kill(program, tmp_path, 20))
