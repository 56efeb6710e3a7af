"""What tests/faults/test_full_disk.py tries, in a process of its own: a stage on a disk that is full and then is not,
each library's failure to write, and a folder of another user's. Prints JSON: {what: [exit code, last line]}."""

import contextlib
import io
import json
import os
import resource
import sys
from pathlib import Path

sys.path.extend([str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "ppo")])

import polars as pl
import tiny_training as tiny
import torch
from safetensors.torch import save_file

from rlrec.alternating import PolicyStage, finish_stage
from rlrec.arguments import one_sentence
from rlrec.experiment import claim_folder
from rlrec.files import storage_problem


@one_sentence()
def train(folder: Path) -> None:
    """A stage of two rollouts, with a checkpoint after each."""
    trainer = tiny.trainer(folder, lora=True, save_strategy="steps", save_steps=2, max_steps=4)
    finish_stage(PolicyStage(folder), trainer)


@contextlib.contextmanager
def files_below(size: int):
    """No file may grow beyond `size` bytes, as `ulimit -f` sets it; Python itself ignores SIGXFSZ."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def told(function, *arguments) -> list:
    """The exit code with which `function` ends the program, 0 if it does not, and the last line that it prints."""
    error, code = io.StringIO(), 0
    with contextlib.redirect_stderr(error):
        try:
            function(*arguments)
        except SystemExit as exit_:
            code = exit_.code
    return [code, (error.getvalue().strip().splitlines() or [""])[-1]]


def recognised(folder: Path) -> list[bool]:
    """Whether a failure to write is seen as one, by library."""
    frame, tensors = pl.DataFrame({"a": torch.rand(9999).numpy()}), {"a": torch.rand(9999)}
    writers = {
        "safetensors": lambda path: save_file(tensors, path),
        "torch": lambda path: torch.save(tensors, path),
        "polars": lambda path: frame.write_parquet(path),
        "python": lambda path: path.write_text("x" * 9999),
    }
    found = []
    for name, write in writers.items():
        try:
            write(folder / name)
        except Exception as error:  # of any library
            found.append(storage_problem(error) is not None)
    return found


def as_another_user(folder: Path) -> list:
    """What a user who may not write there is told; root may write everywhere."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.setuid(65534)
        refused = one_sentence(OSError)(claim_folder)
        os.write(write, json.dumps(told(refused, folder, {"beta": 1})).encode())
        os._exit(0)
    os.wait()
    return json.loads(os.read(read, 10_000))


def main(folder: Path) -> None:
    seen = {"whole": told(train, folder / "whole")}
    size = max(path.stat().st_size for path in (folder / "whole").glob("checkpoint-*/optimizer.pt"))
    with files_below(size - 1):  # the optimizer's state is the largest file
        seen["full"] = told(train, folder / "run")
    seen["left"] = sorted(path.name for path in (folder / "run").glob("*checkpoint*"))
    seen["again"] = told(train, folder / "run")
    with files_below(1000):
        seen["recognised"] = recognised(folder)
    if os.getuid() == 0:
        (folder / "run").chmod(0o555)
        seen["read-only"] = as_another_user(folder / "run")
    print(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
