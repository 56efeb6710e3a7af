"""Files that a run leaves behind and reads again: written whole or not at all, and compared with their checksum.

A file comes under a temporary name into its own folder, is flushed to the disk and renamed; beside it lies
`.NAME.sha256`, in the format of `sha256sum`. A file without that (from another program) is read as it is.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch and polars take long to import, and commands that only plan need neither
    import polars as pl
    import torch

REMEDY = "put back a copy of it, or delete it and give the same command again, which makes anew what it can."
# The disk, the folder or the quota will not take what is written
STORAGE = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EIO)
TORCH_SAVE = ("PytorchStreamWriter", "iostream error", "unexpected pos")  # in its RuntimeErrors, which have no number


class DamagedFile(ValueError):
    """A file that was written whole is not what was written."""


def sha256(path: str | os.PathLike) -> str:
    """The checksum of a file, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def flush(path: str | os.PathLike) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def replacing(path: str | os.PathLike, checksum: bool = True) -> Iterator[Path]:
    """A temporary path in the folder of `path` (which is made), to be written in the block and renamed after it.

    The old checksum goes before the new file comes, and the new one comes last: a kill in between leaves a file
    without checksum, never one beside a checksum that is not its own.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with replacing(path) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> sorted(p.name for p in path.parent.iterdir())
    ['.a.txt.sha256', 'a.txt']
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        flush(temporary)
        if checksum:
            written = sha256(temporary)
            _checksum_file(path).unlink(missing_ok=True)
        os.replace(temporary, path)
        if checksum:
            temporary.write_text(f"{written}  {path.name}\n", encoding="utf-8")
            os.replace(temporary, _checksum_file(path))
        flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)  # a full disk is not made fuller


def noted_checksum(path: str | os.PathLike) -> str | None:
    """The checksum that was noted beside a file when it was written; None where there is none."""
    beside = _checksum_file(Path(path))
    return beside.read_text(encoding="utf-8").partition(" ")[0] if beside.is_file() else None


def check(path: str | os.PathLike) -> Path:
    """The path of a file that is what was written, as far as its checksum tells.

    Raises:
        DamagedFile: it is not.
    """
    path, before = Path(path), None
    while path.is_file() and (expected := noted_checksum(path)) is not None:
        if sha256(path) == expected:
            break
        if expected == before:  # not one that was replaced in between
            beside = _checksum_file(path).name
            raise DamagedFile(f"{path} is damaged: its checksum is not the one in {beside}; {REMEDY}")
        before = expected
    return path


def read_tensors(path: str | os.PathLike) -> "dict[str, torch.Tensor]":
    """The tensors of a safetensors file; `DamagedFile` where it is cut short or changed."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(check(path))
    except SafetensorError as error:
        raise DamagedFile(f"{path} is damaged ({error}); {REMEDY}") from error


def read_frame(path: str | os.PathLike) -> "pl.DataFrame":
    """The table of a Parquet file; `DamagedFile` where it is cut short or changed."""
    import polars as pl

    try:
        return pl.read_parquet(check(path))
    except pl.exceptions.PolarsError as error:
        raise DamagedFile(f"{path} is damaged ({_one_line(error)}); {REMEDY}") from error


def read_json(path: str | os.PathLike):
    """The content of a JSON file; `DamagedFile` where it is cut short or changed."""
    try:
        return json.loads(check(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamagedFile(f"{path} is damaged ({error}); {REMEDY}") from error


def storage_problem(error: BaseException) -> str | None:
    """One sentence on a disk or folder that cannot be written, whichever library says so; None for other errors.

    >>> storage_problem(OSError(28, "No space left on device", "runs/a"))
    'runs/a: No space left on device'
    >>> storage_problem(KeyError("a"))
    """
    if isinstance(error, OSError) and error.errno in STORAGE:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    code = re.search(r"os error (\d+)", str(error))  # polars and safetensors write it so
    if code and int(code[1]) in STORAGE:
        return _one_line(error)
    if isinstance(error, RuntimeError) and any(words in str(error) for words in TORCH_SAVE):
        return f"a file could not be written ({_one_line(error)})"
    return None


def _checksum_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.sha256")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
