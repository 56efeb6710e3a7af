"""A disk that is full (a limit on the size of files, as `ulimit -f` sets), and a folder that cannot be written."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from command_lines import assert_refused

from rlrec.checkpoints import newest_checkpoint
from rlrec.files import storage_problem

REMEDY = "make room or give access, and give the same command again."
PROGRAM = Path(__file__).parent / "full_disk.py"


def run(folder: Path, bytes_: int | None) -> subprocess.CompletedProcess:
    """A small stage in a process whose files may not grow beyond `bytes_`; Python itself ignores SIGXFSZ."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))

    return subprocess.run(
        [sys.executable, str(PROGRAM), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=limit if bytes_ else None,
        capture_output=True,
        text=True,
    )


def test_a_checkpoint_that_does_not_fit(tmp_path):
    """The optimizer's state, which grows in the first step, is the largest file; then there is room again."""
    assert run(tmp_path / "whole", None).returncode == 0
    size = max(path.stat().st_size for path in (tmp_path / "whole").glob("checkpoint-*/optimizer.pt"))
    full = run(tmp_path / "run", size - 1)
    assert full.returncode == 2, full.stderr
    error = full.stderr.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert error.endswith("; what was finished before is kept: " + REMEDY)
    assert "Traceback" not in full.stderr
    assert newest_checkpoint(tmp_path / "run") is None
    assert not list((tmp_path / "run").glob("*checkpoint*"))  # nor half of one
    again = run(tmp_path / "run", None)
    assert again.returncode == 0, again.stderr
    weights = [(tmp_path / name / "adapter/adapter_model.safetensors").read_bytes() for name in ("whole", "run")]
    assert weights[0] == weights[1]


def test_a_file_where_the_folder_should_be(tmp_path, monkeypatch, capsys):
    (tmp_path / "runs").write_text("")
    error = assert_refused(monkeypatch, capsys, "--config", "expctr/smoke", "--output_dir", tmp_path / "runs" / "a")
    assert error.endswith(REMEDY)
    assert str(tmp_path / "runs") in error


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_a_read_only_folder(tmp_path):
    """As a user who may not write there, since root may write everywhere."""
    (tmp_path / "run").mkdir(mode=0o555)
    os.chmod(tmp_path, 0o755)
    program = (
        "import os, sys; from rlrec.arguments import one_sentence; from rlrec.experiment import claim_folder\n"
        "os.setuid(65534)\n"
        "from pathlib import Path\n"
        "with one_sentence(ValueError, OSError): claim_folder(Path(sys.argv[1]), {'beta': 1})"
    )
    where = [path for path in (tmp_path, *tmp_path.parents) if not os.stat(path).st_mode & 0o005]
    modes = {path: os.stat(path).st_mode for path in where}
    for path in where:  # pytest's folders are the user's own
        os.chmod(path, modes[path] | 0o005)
    try:
        process = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "run")], capture_output=True, text=True
        )
    finally:
        for path in where:
            os.chmod(path, modes[path])
    assert process.returncode == 2, process.stderr
    assert ": Permission denied; what was finished before is kept: " in process.stderr
    assert "Traceback" not in process.stderr


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


def test_safetensors_and_polars_say_it_in_their_own_words(tmp_path):
    """What these libraries raise when a write fails is recognised."""
    script = (
        "import resource, sys, polars, torch; from safetensors.torch import save_file\n"
        "from rlrec.files import storage_problem\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "frame = polars.DataFrame({'a': torch.rand(9999).numpy()})\n"
        "state = {'a': torch.rand(9999)}\n"
        "writers = [lambda: save_file(state, 'a'), lambda: torch.save(state, 'b'), lambda: frame.write_parquet('c')]\n"
        "writers.append(lambda: open('d', 'w').write('x' * 9999))\n"
        "for write in writers:\n"
        "    try:\n"
        "        write()\n"
        "    except BaseException as error:\n"
        "        print('yes' if storage_problem(error) else repr(error))\n"
    )
    process = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert process.stdout.split("\n")[:-1] == ["yes"] * 4, json.dumps([process.stdout, process.stderr[-2000:]])
