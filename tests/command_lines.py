"""Recipes on their command lines, as users run them: in a process of their own, or by their `main` in this one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recipes import expctr

ROOT = Path(__file__).parents[1]

KILL_SWITCH = '''
import os

calls = 0


def watch(prompts, completions, **columns):
    """Worth nothing; ends its process as the operating system would, at the call that KILL_AT names."""
    global calls
    calls += 1
    if calls == int(os.environ.get("KILL_AT", 0)):
        os.kill(os.getpid(), 9)
    return [0.0] * len(completions)
'''


def launch(*arguments, **environment) -> subprocess.CompletedProcess:
    """Run a command with this interpreter, as a user would."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300
    )


def recipe(monkeypatch, *arguments, module=expctr) -> None:
    """The recipe's own `main` on a command line, in this process: for what needs no process of its own."""
    monkeypatch.setattr(sys, "argv", [module.__file__, *map(str, arguments)])
    module.main()


def assert_refused(monkeypatch, capsys, *arguments, module=expctr) -> str:
    """The recipe ends with exit code 2 and one line on stderr, which is returned."""
    with pytest.raises(SystemExit) as exit_:
        recipe(monkeypatch, *arguments, module=module)
    error = capsys.readouterr().err.splitlines()[-1]
    assert exit_.value.code == 2
    assert error.startswith("error: ")
    assert "\n" not in error
    return error
