"""Files of millions of JSON lines, plain or gzipped, read by blocks at polars' speed.

A line that lacks a value, or has one of another type, is read again on its own. A block in which a line is no JSON, or
blank, is parsed again in pieces, the irregular pieces in smaller ones, and what is small then line by line. So a bad
line costs a quarantined row, and little of the speed.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl

from rlrec.data.raw import LONGEST_LINE, Quarantine, read_lines, require, too_long
from rlrec.data.schema import MALFORMED, MISSING_ID, NOT_A_NUMBER, ROW, DataError, rejected_rows

BLOCK_BYTES = 32 * 1024 * 1024
PIECES = 16
FEW_LINES = 256  # not worth another attempt at polars' speed


def read_json_lines(
    path: Path, columns: dict[str, tuple[str, pl.DataType]], optional: tuple[str, ...], advice: str
) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """The rows of a file of JSON objects, block by block.

    Numbers may be written as strings. A value of another type than its column's is taken for its JSON text where a
    string is wanted; where a number is, the row is refused, or the value counts as missing in an optional column.

    Args:
        path: the file; `.gz` in its name means gzipped.
        columns: by name in the file: name in the table and type, one of String, Int64 and Float64.
        optional: columns (names in the table) that may be missing or null; a row that lacks another one is refused,
            as is a string of nothing but white space there.
        advice: what to do about a file that cannot be used.

    Returns:
        Frames of the columns and `row` (1-based line number), and the rejected rows of each.

    Raises:
        DataError: the file is missing, empty or a damaged gzip archive.
    """
    for frame, rejected in _frames(path, columns, optional, advice):
        rejected = [rejected]
        for name, kind in columns.values():
            if name in optional:
                continue
            column = pl.col(name)
            if kind == pl.String:
                frame, reason = frame.with_columns(column.str.strip_chars()), MISSING_ID
                bad = column.is_null() | (column == "")
            else:
                reason, bad = NOT_A_NUMBER, column.is_null() | ~column.cast(pl.Float64).is_finite()
            if (found := frame.filter(bad)).height:
                rejected.append(rejected_rows(found, path.name, name, reason))
                frame = frame.filter(~bad)
        yield frame, pl.concat(rejected)


def read_objects(path: Path, quarantine: Quarantine, advice: str, parse=None) -> Iterator[tuple[int, dict]]:
    """(line number, object) of a smaller file of JSON lines, one by one; lines that are no objects are quarantined."""
    for number, line in read_lines(path, "utf-8", advice):
        if not line.strip():
            continue
        record = (parse or _object)(line)
        if record is None:
            quarantine.add(number, "line", line, MALFORMED)
        else:
            yield number, record


def as_number(value: object) -> float | None:
    """A finite number, also from a string; None for anything else.

    >>> as_number("4.5"), as_number(True), as_number("nan")
    (4.5, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _frames(path: Path, columns: dict, optional: tuple, advice: str) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """The file in pieces; the next one is unpacked and parsed while one is worked on."""
    require(path, advice)
    rows_before = 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file, ThreadPoolExecutor(1) as pool:

            def read() -> tuple[pl.DataFrame, pl.DataFrame] | None:
                nonlocal rows_before
                block = file.read(BLOCK_BYTES)
                if not block.endswith(b"\n"):
                    block += (rest := file.readline(LONGEST_LINE))
                    if len(rest) == LONGEST_LINE:
                        raise too_long(path)
                if not block:
                    return None
                quarantine = Quarantine(path)
                frame = _parse(block, columns, optional, rows_before, quarantine)
                rows_before += _count_lines(block)
                return frame, quarantine.frame()

            waiting = pool.submit(read)
            while piece := waiting.result():
                waiting = pool.submit(read)
                yield piece
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: the gzip archive is damaged ({error}); {advice}") from error


def _count_lines(block: bytes) -> int:
    return block.count(b"\n") + (not block.endswith(b"\n"))


def _parse(block: bytes, columns: dict, optional: tuple, rows_before: int, quarantine: Quarantine) -> pl.DataFrame:
    lines = _count_lines(block)
    try:
        schema = {name: kind for name, (_, kind) in columns.items()}
        # Ignored are values of a wrong type only, which become null, and lines that are no object: all null.
        frame = pl.read_ndjson(io.BytesIO(block), schema=schema, ignore_errors=True)
    except pl.exceptions.PolarsError:
        frame = None
    if frame is not None and frame.height == lines:  # blank lines are not counted
        rows = pl.int_range(rows_before + 1, rows_before + lines + 1, dtype=pl.UInt32, eager=True)
        frame = frame.rename({name: ours for name, (ours, _) in columns.items()}).with_columns(rows.alias(ROW))
        lacking = pl.any_horizontal(pl.col(name).is_null() for name, _ in columns.values() if name not in optional)
        if not (numbers := frame.filter(lacking)[ROW].to_list()):
            return frame
        all_lines = block.split(b"\n")
        again = ((number, all_lines[number - rows_before - 1]) for number in numbers)
        return pl.concat([frame.filter(~lacking), _parse_lines(again, columns, optional, quarantine)]).sort(ROW)
    if lines <= FEW_LINES:
        return _parse_lines(enumerate(block.split(b"\n"), rows_before + 1), columns, optional, quarantine)
    frames, start, size = [], 0, len(block) // PIECES
    while start < len(block):
        end = block.find(b"\n", start + size) + 1 or len(block)
        if end - start == len(block):  # the last line is longer than all others together
            end = block.rfind(b"\n", 0, size) + 1
        frames.append(_parse(block[start:end], columns, optional, rows_before, quarantine))
        rows_before, start = rows_before + _count_lines(block[start:end]), end
    return pl.concat(frames, rechunk=True)


def _parse_lines(
    lines: Iterable[tuple[int, bytes]], columns: dict, optional: tuple, quarantine: Quarantine
) -> pl.DataFrame:
    rows = []
    for number, line in lines:
        line = line.decode("utf-8", "replace")
        if not line.strip():
            continue
        if (record := _object(line)) is None:
            quarantine.add(number, "line", line, MALFORMED)
            continue
        row = {name: _typed(record.get(key), kind) for key, (name, kind) in columns.items()}
        wrong = [
            (name, record[key])
            for key, (name, _) in columns.items()
            if row[name] is None and record.get(key) is not None and name not in optional
        ]
        if wrong:
            quarantine.add(number, *wrong[0], NOT_A_NUMBER)
        else:
            rows.append({**row, ROW: number})
    return pl.DataFrame(rows, schema={**dict(columns.values()), ROW: pl.UInt32})


def _object(line: str) -> dict | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _typed(value: object, kind: pl.DataType) -> str | int | float | None:
    if value is None:
        return None
    if kind != pl.String:
        number = as_number(value)
        return number if number is None or kind == pl.Float64 else int(number) if abs(number) < 2**63 else None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "ignore").decode()  # without lone surrogates
