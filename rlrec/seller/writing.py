"""Texts of one row of the table, written part by part into files, so that a killed run loses one part at most."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from rlrec.files import read_json
from rlrec.results import write_text_atomic


def write_in_parts(
    folder: str | Path, asked: Sequence, write: Callable[[slice], list[str]], part_size: int = 512
) -> list[str]:
    """One text for each of `asked`: read where it was written before, else from `write`.

    All ranks call `write`, and get all of its texts; the first keeps them. A part's file is named after a hash of what
    was asked in it; who writes is not in it: one folder per writer.

    Args:
        folder: of the parts, seen by all ranks.
        asked: N things that become JSON: prompts, or the ids of samples.
        write: a slice of `asked` -> its texts.
    """
    state, starts = PartialState(), range(0, len(asked), part_size)
    parts = [slice(start, start + part_size) for start in starts]
    files = [Path(folder) / f"texts-{part.start:08d}-{_digest(asked[part])}.json" for part in parts]
    missing = [[number for number, file in enumerate(files) if not file.is_file()]]
    broadcast_object_list(missing)  # a rank that looks later may see files that another has just written
    for number in missing[0]:
        texts = write(parts[number])
        if state.is_main_process:
            write_text_atomic(files[number], json.dumps(texts))
    state.wait_for_everyone()
    return [text for file in files for text in read_json(file)]


def _digest(asked: Sequence) -> str:
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
