"""A disk that is full (a limit on the size of files, as `ulimit -f` sets), and a folder that cannot be written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_lines import assert_refused

from rlrec.files import storage_problem

REMEDY = "; what was finished before is kept: make room or give access, and give the same command again."


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """The folder of tests/faults/full_disk.py, open to other users, and what it saw."""
    folder = tmp_path_factory.mktemp("disk")
    for path in (folder, folder.parent, folder.parent.parent):
        path.chmod(0o755)
    program = [sys.executable, str(Path(__file__).parent / "full_disk.py"), str(folder)]
    process = subprocess.run(program, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    return folder, json.loads(process.stdout.splitlines()[-1])


def test_a_checkpoint_that_does_not_fit(outcome):
    """One sentence, not half of a checkpoint; with room again the same command ends with the same weights."""
    folder, seen = outcome
    code, error = seen["full"]
    assert code == 2
    assert error.startswith("error: ")
    assert error.endswith(REMEDY)
    assert seen["left"] == []
    assert seen["whole"][0] == seen["again"][0] == 0
    weights = [(folder / name / "adapter/adapter_model.safetensors").read_bytes() for name in ("whole", "run")]
    assert weights[0] == weights[1]


def test_every_library_says_it_in_its_own_words(outcome):
    """safetensors, torch, polars and Python."""
    assert outcome[1]["recognised"] == [True] * 4


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_a_read_only_folder(outcome):
    code, error = outcome[1]["read-only"]
    assert code == 2
    assert error.endswith("Permission denied" + REMEDY)


def test_a_file_where_the_folder_should_be(tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").write_text("")
    error = assert_refused(monkeypatch, capsys, "--config", "expctr/smoke", "--output_dir", tmp_path / "runs" / "a")
    assert error.endswith(REMEDY)
    assert str(tmp_path / "runs") in error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device", "a"), "a: No space left on device"),
        (OSError(30, "Read-only file system"), "Read-only file system"),
        (
            RuntimeError("[enforce fail at inline_container.cc:668] . PytorchStreamWriter failed\nwriting"),
            "a file could",
        ),
        (RuntimeError("basic_ios::clear: iostream error"), "a file could not be written (basic_ios"),
        (RuntimeError("shape mismatch"), None),
        (FileNotFoundError(2, "No such file or directory", "a"), None),
    ],
)
def test_what_counts_as_a_disk_that_is_full(error, told):
    found = storage_problem(error)
    assert found is None if told is None else found.startswith(told)
