"""Reading raw files by blocks and lines, so that one bad row costs a quarantined row and never the whole file."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl

from rlrec.data.schema import (
    CATEGORIES,
    DESCRIPTION,
    DUPLICATE_ITEM,
    EMPTY_TITLE,
    ITEM_ID,
    MAX_TITLE_LENGTH,
    MISSING_ID,
    NOT_A_NUMBER,
    REJECTED_SCHEMA,
    ROW,
    TITLE,
    USER_ID,
    WRONG_COLUMNS,
    DataError,
    clean_text,
    rejected_rows,
)

BLOCK_BYTES = 64 * 1024 * 1024
LONGEST_LINE = 64 * 1024 * 1024  # characters: a gigabyte of one letter is a few bytes of gzip, and no record
MAX_QUOTED_LINES = 20  # a quoted field that spans more lines than this is taken for a broken quote


def require(path: Path, advice: str) -> Path:
    """The path itself, if it is a file with content; else a `DataError` that ends in the advice."""
    if not path.is_file():
        raise DataError(f"{path}: file not found; {advice}")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: file is empty; {advice}")
    return path


def find(raw_dir: str | Path | None, names: tuple[str, ...], advice: str) -> Path | None:
    """The folder, `raw_dir` or one directly below it, that holds a file of one of these names; None when none does.

    Raises:
        DataError: there is no such folder as `raw_dir`.
    """
    if raw_dir is None:
        raise DataError(f"raw_dir is not given; {advice}")
    raw_dir = Path(raw_dir)
    if not raw_dir.is_dir():
        raise DataError(f"{raw_dir}: folder not found; {advice}")
    folders = [raw_dir, *sorted(path for path in raw_dir.iterdir() if path.is_dir())]
    return next((folder for folder in folders if any((folder / name).is_file() for name in names)), None)


def find_pair(
    raw_dir: str | Path | None, reviews: re.Pattern, metadata: re.Pattern, category: str | None, advice: str
) -> tuple[Path, Path, str]:
    """The one reviews file and the one metadata file in `raw_dir` or directly below it, and their category.

    Args:
        reviews, metadata: what the whole of a file's name matches; the first group is the category.
        category: take only files of this one.

    Raises:
        DataError: there is no such folder, or not exactly one file of each kind.
    """
    find(raw_dir, (), advice)  # the check of raw_dir itself
    raw_dir = Path(raw_dir)
    found = {"reviews": [], "metadata": []}
    for path in sorted([*raw_dir.iterdir(), *raw_dir.glob("*/*")]):
        for kind, pattern in (("reviews", reviews), ("metadata", metadata)):
            match = pattern.fullmatch(path.name)
            if match and category in (None, match.group(1)):
                found[kind].append((path, match.group(1)))
    for kind, candidates in found.items():
        of = f" of category {category}" if category else ""
        if not candidates:
            raise DataError(f"{raw_dir}: no {kind} file{of} found; {advice}")
        if len(candidates) > 1:
            names = ", ".join(path.name for path, _ in candidates)
            raise DataError(
                f"{raw_dir}: several {kind} files found ({names}); name a --category, and keep one {kind} file of it."
            )
    (reviews_path, name), (metadata_path, _) = found["reviews"][0], found["metadata"][0]
    return reviews_path, metadata_path, name


def checksum(path: Path) -> dict:
    """Name, size in bytes and sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def read_numbers(
    path: Path,
    columns: dict[str, pl.DataType | None],
    *,
    separator: str = ",",
    header: tuple[str, ...] | None = None,
    header_lines: int = 0,
    advice: str = "download it again.",
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read an unquoted table of ids and numbers at polars' speed, quarantining the rows that do not fit.

    The file is read in blocks of 64 MiB. A block in which polars finds nothing wrong is done; any other is read again
    line by line.

    Args:
        path: the file.
        columns: name and type of every column of the file, in order; columns of type None are dropped.
        separator: one or more characters.
        header: expected names in the first line (case does not matter); None: no check.
        header_lines: lines to skip, of which `header` is the first.

    Returns:
        The rows with these columns and `row`, the 1-based line number; and the rejected rows.

    Raises:
        DataError: the file is missing or empty, or its header is another one.
    """
    require(path, advice)
    rows_before = 0
    frames, rejected = [], [pl.DataFrame(schema=REJECTED_SCHEMA)]
    wanted = [name for name, kind in columns.items() if kind is not None]
    for block in _blocks(path):
        lines = block.count(b"\n") + (not block.endswith(b"\n"))
        skip = header_lines if rows_before == 0 else 0
        if skip and header is not None:
            first = block.split(b"\n", 1)[0].decode("utf-8-sig", "replace").strip()
            if [name.strip().lower() for name in first.split(separator)] != [name.lower() for name in header]:
                raise DataError(f"{path}: the first line is {first[:100]!r}, not {separator.join(header)!r}; {advice}")
        frame = _parse_fast(block, columns, separator, skip, lines)
        if frame is None:
            frame, bad = _parse_lines(block, columns, separator, skip, rows_before, path.name)
            rejected.append(bad)
        else:
            rows = pl.int_range(rows_before + skip + 1, rows_before + lines + 1, dtype=pl.UInt32, eager=True)
            frame = frame.with_columns(rows.alias(ROW))
        frames.append(frame.select(*wanted, ROW))
        rows_before += lines
    return pl.concat(frames), pl.concat(rejected)


def _blocks(path: Path) -> Iterator[bytes]:
    """The file in pieces that end at line ends."""
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block + (b"" if block.endswith(b"\n") else file.readline())


def _parse_fast(block: bytes, columns: dict, separator: str, skip: int, lines: int) -> pl.DataFrame | None:
    """The block as typed columns, or None if anything at all is irregular in it."""
    if len(separator) > 1:
        block, separator = block.replace(separator.encode(), b"\t"), "\t"
    try:
        frame = pl.read_csv(
            block,
            separator=separator,
            has_header=False,
            skip_rows=skip,
            quote_char=None,
            schema={name: kind or pl.String for name, kind in columns.items()},
        )
    except pl.exceptions.PolarsError:
        return None
    if frame.height != lines - skip or any(frame.null_count().row(0)):
        return None
    return frame


def _parse_lines(block: bytes, columns: dict, separator: str, skip: int, rows_before: int, file: str):
    text = block.decode("utf-8", "replace").removesuffix("\n").split("\n")
    frame = pl.DataFrame({"line": text}).with_columns(
        (pl.int_range(pl.len(), dtype=pl.UInt32) + rows_before + 1).alias(ROW)
    )
    frame = frame.slice(skip).filter(pl.col("line").str.strip_chars() != "")
    frame = frame.with_columns(parts=pl.col("line").str.strip_chars_end("\r").str.split(separator))
    fits = pl.col("parts").list.len() == len(columns)
    rejected = [rejected_rows(frame.filter(~fits), file, "line", WRONG_COLUMNS)]
    frame = frame.filter(fits).select(
        ROW, *(pl.col("parts").list.get(k).str.strip_chars().alias(name) for k, name in enumerate(columns))
    )
    for name, kind in columns.items():
        if kind is None:
            continue
        typed = pl.col(name).cast(kind, strict=False)
        bad = typed.is_null() if kind != pl.String else pl.col(name) == ""
        reason = MISSING_ID if kind == pl.String and name in (USER_ID, ITEM_ID) else NOT_A_NUMBER
        rejected.append(rejected_rows(frame.filter(bad), file, name, reason))
        frame = frame.filter(~bad).with_columns(typed)
    return frame, pl.concat(rejected)


def read_lines(path: Path, encoding: str, advice: str) -> Iterator[tuple[int, str]]:
    """(line number, line without its end) of a small or gzipped text file; bytes that do not decode become U+FFFD.

    Raises:
        DataError: the file is missing, empty, or a damaged gzip archive.
    """
    require(path, advice)
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        # newline="\n": a carriage return or a Unicode line separator inside a field is not a line end.
        with opener(path, "rt", encoding=encoding, errors="replace", newline="\n") as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), ""), 1):
                if len(line) == LONGEST_LINE and not line.endswith("\n"):
                    raise too_long(path, number)
                yield number, line.rstrip("\r\n")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: the gzip archive is damaged ({error}); {advice}") from error


def too_long(path: Path, number: int | None = None) -> DataError:
    """The error of a line that no honest file has."""
    where = "" if number is None else f"line {number} "
    return DataError(f"{path}: {where}is longer than {LONGEST_LINE:,} characters, which no record is; do not use it.")


def read_csv_records(
    path: Path, delimiter: str, encoding: str, advice: str
) -> Iterator[tuple[int, list[str] | None, str]]:
    """(line number, fields, raw text) of a quoted CSV file.

    A field in quotes may span lines. A quote that is never closed costs the line it stands in and not the rest of the
    file: such a line comes out with fields None.
    """
    waiting: list[tuple[int, str]] = []
    for number, line in read_lines(path, encoding, advice):
        waiting.append((number, line.replace("\0", "")))
        yield from _flush(waiting, delimiter, final=False)
    yield from _flush(waiting, delimiter, final=True)


def _flush(waiting: list[tuple[int, str]], delimiter: str, final: bool):
    """Emit the records that are complete, or known to be broken, from the front of the waiting lines."""
    while waiting:
        size = quotes = 0
        while size < len(waiting) and (size == 0 or quotes % 2):
            quotes += waiting[size][1].count('"')
            size += 1
        balanced = quotes % 2 == 0
        if not balanced and not final and len(waiting) < MAX_QUOTED_LINES:
            return
        number = waiting[0][0]
        if not balanced:
            size = 1
        text = "\n".join(line for _, line in waiting[:size])
        del waiting[:size]
        if text.strip():
            yield number, _fields(text, delimiter) if balanced else None, text


def _fields(text: str, delimiter: str) -> list[str] | None:
    try:
        records = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error:  # a field above 131,072 characters
        return None
    return records[0] if len(records) == 1 else None


class Quarantine:
    """Collects rejected rows one by one, for readers that go line by line."""

    def __init__(self, path: Path):
        self.file = path.name
        self.rows: list[tuple] = []

    def add(self, row: int | None, field: str, value: object, reason: str) -> None:
        value = value if isinstance(value, str) else repr(value)
        self.rows.append((self.file, row, field, value[:200], reason))

    def frame(self) -> pl.DataFrame:
        return pl.DataFrame(self.rows, schema=REJECTED_SCHEMA, orient="row")


def collect_items(
    records: Iterable[tuple[int, object, object, list[str], str]], quarantine: Quarantine
) -> pl.DataFrame:
    """The items table of (line number, id, title, categories, description), the first of each id.

    Ids and titles are as they stand in the file; a title is cleaned here, the rest has been.
    """
    rows: dict[str, tuple] = {}
    for number, item, title, categories, description in records:
        if not isinstance(item, str) or not item.strip():
            quarantine.add(number, ITEM_ID, item, MISSING_ID)
        elif item.strip() in rows:
            quarantine.add(number, ITEM_ID, item, DUPLICATE_ITEM)
        elif not isinstance(title, str) or not (cleaned := clean_text(title, MAX_TITLE_LENGTH)):
            quarantine.add(number, TITLE, title, EMPTY_TITLE)
        else:
            rows[item.strip()] = (item.strip(), cleaned, categories, description)
    schema = {ITEM_ID: pl.String, TITLE: pl.String, CATEGORIES: pl.List(pl.String), DESCRIPTION: pl.String}
    return pl.DataFrame(list(rows.values()), schema=schema, orient="row")
