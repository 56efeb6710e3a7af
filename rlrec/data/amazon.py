"""Amazon reviews of 2014, 2018 and 2023: JSON lines, plain or gzipped, one reviews file and one metadata file.

Sources: https://jmcauley.ucsd.edu/data/amazon/ (2014 and 2018), https://amazon-reviews-2023.github.io/. The years
are told apart by their field names. Lines of the 2014 metadata are Python dictionaries and not JSON; they are read
with `ast.literal_eval`, which evaluates literals and nothing else.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from rlrec.data.raw import Quarantine, find, read_lines
from rlrec.data.schema import (
    CATEGORIES,
    DESCRIPTION,
    DUPLICATE_ITEM,
    EMPTY_TITLE,
    ITEM_ID,
    MALFORMED,
    MISSING_ID,
    NOT_A_NUMBER,
    RATING,
    REVIEW,
    ROW,
    TIMESTAMP,
    TITLE,
    USER_ID,
    DataError,
    RawData,
    clean_text,
)

ADVICE = (
    "put a reviews file such as Books_5.json.gz and its metadata file such as meta_Books.json.gz there, "
    "or use --download with --category."
)
LICENCE = "Research use; cite the paper named on the dataset's page; the reviews remain their authors'."
MAX_CATEGORIES = 5
CHUNK_ROWS = 200_000

_SUFFIX = re.compile(r"\.jsonl?(\.gz)?$")
# The word prompts use, by the start of the category's name.
_DOMAINS = {
    "Books": "book",
    "Kindle": "book",
    "Movies": "film",
    "CDs": "album",
    "Digital_Music": "album",
    "Video_Games": "video game",
    "Gift_Cards": "gift card",
    "Magazine": "magazine",
    "Software": "program",
}


def read_amazon(
    raw_dir: str | Path | None, category: str | None = None, reviews: bool = True, progress=lambda message: None
) -> RawData:
    """Read one category's reviews and the metadata of the items they name.

    Ratings run from 1 to 5; the default threshold is 4 (ExpCTR, section 5.1.1, for Amazon Books).

    Args:
        raw_dir: the folder with the two files, or its parent.
        category: such as "Gift_Cards"; needed when the folder holds several.
        reviews: False leaves the review texts out (less memory).

    Raises:
        DataError: a file is missing, empty, ambiguous or a damaged archive.
    """
    reviews_path, meta_path, category = _locate(raw_dir, category)
    progress(f"reading {reviews_path.name}")
    interactions, bad_reviews = _reviews(reviews_path, reviews, progress)
    progress(f"reading {meta_path.name}")
    items, bad_items = _items(meta_path, set(interactions[ITEM_ID].unique()))
    return RawData(
        interactions=interactions,
        items=items,
        rejected=pl.concat([bad_reviews, bad_items]),
        interactions_file=reviews_path.name,
        rating_scale=(1.0, 5.0),
        default_threshold=4.0,
        domain=next((word for start, word in _DOMAINS.items() if category.startswith(start)), "product"),
        licence=LICENCE,
        raw_files=[reviews_path, meta_path],
        notes={"category": category},
    )


def _locate(raw_dir: str | Path | None, category: str | None) -> tuple[Path, Path, str]:
    # The check of raw_dir itself; a folder without any fitting file is reported below.
    find(raw_dir, (), ADVICE)
    raw_dir = Path(raw_dir)
    files = [path for path in sorted([*raw_dir.iterdir(), *raw_dir.glob("*/*")]) if _SUFFIX.search(path.name)]
    found = {"reviews": [], "metadata": []}
    for path in files:
        name = _SUFFIX.sub("", path.name)
        kind = "metadata" if name.startswith("meta_") else "reviews"
        name = name.removeprefix("meta_").removeprefix("reviews_").removesuffix("_5")
        if category is None or name == category:
            found[kind].append((path, name))
    for kind, candidates in found.items():
        of = f" of category {category}" if category else ""
        if not candidates:
            raise DataError(f"{raw_dir}: no {kind} file{of} found; {ADVICE}")
        if len(candidates) > 1:
            names = ", ".join(path.name for path, _ in candidates)
            raise DataError(
                f"{raw_dir}: several {kind} files found ({names}); name a --category, and keep one {kind} file of it."
            )
    (reviews_path, name), (meta_path, _) = found["reviews"][0], found["metadata"][0]
    return reviews_path, meta_path, name


def _objects(path: Path, quarantine: Quarantine) -> Iterator[tuple[int, dict]]:
    for number, line in read_lines(path, "utf-8", ADVICE):
        if not line.strip():
            continue
        record = _parse(line)
        if record is None:
            quarantine.add(number, "line", line, MALFORMED)
        else:
            yield number, record


def _parse(line: str) -> dict | None:
    """A JSON object or the literal of a Python dictionary; None for anything else."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        if not line.startswith("{'"):
            return None
        try:
            record = ast.literal_eval(line)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None
    return record if isinstance(record, dict) else None


def _reviews(path: Path, keep_text: bool, progress) -> tuple[pl.DataFrame, pl.DataFrame]:
    quarantine = Quarantine(path)
    schema = {ROW: pl.UInt32, USER_ID: pl.String, ITEM_ID: pl.String, RATING: pl.Float64, TIMESTAMP: pl.Int64}
    if keep_text:
        schema[REVIEW] = pl.String
    frames, rows = [], []
    for number, record in _objects(path, quarantine):
        is_2023 = "user_id" in record
        user = record.get("user_id" if is_2023 else "reviewerID")
        item = record.get("parent_asin") or record.get("asin")
        rating = _number(record.get("rating" if is_2023 else "overall"))
        time = _number(record.get("timestamp" if is_2023 else "unixReviewTime"))
        if not isinstance(user, str) or not user.strip():
            quarantine.add(number, USER_ID, user, MISSING_ID)
        elif not isinstance(item, str) or not item.strip():
            quarantine.add(number, ITEM_ID, item, MISSING_ID)
        elif rating is None:
            quarantine.add(number, RATING, record.get("rating" if is_2023 else "overall"), NOT_A_NUMBER)
        elif time is None or abs(time) > 1e15:
            quarantine.add(number, TIMESTAMP, record.get("timestamp" if is_2023 else "unixReviewTime"), NOT_A_NUMBER)
        else:
            row = (number, user.strip(), item.strip(), rating, int(time // 1000 if is_2023 else time))
            if keep_text:
                text = record.get("text" if is_2023 else "reviewText")
                row += (clean_text(text) if isinstance(text, str) else "",)
            rows.append(row)
            if len(rows) == CHUNK_ROWS:
                frames.append(pl.DataFrame(rows, schema=schema, orient="row"))
                rows = []
                progress(f"  {len(frames) * CHUNK_ROWS:,} reviews")
    frames.append(pl.DataFrame(rows, schema=schema, orient="row"))
    return pl.concat(frames), quarantine.frame()


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _items(path: Path, wanted: set[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The wanted items; others are passed over unread, since a metadata file covers far more than its reviews."""
    quarantine = Quarantine(path)
    rows: dict[str, tuple] = {}
    for number, record in _objects(path, quarantine):
        item = record.get("parent_asin") or record.get("asin")
        if not isinstance(item, str) or not item.strip():
            quarantine.add(number, ITEM_ID, item, MISSING_ID)
            continue
        item = item.strip()
        if item not in wanted:
            continue
        title = record.get("title")
        if item in rows:
            quarantine.add(number, ITEM_ID, item, DUPLICATE_ITEM)
        elif not isinstance(title, str) or not (cleaned := clean_text(title, 200)):
            quarantine.add(number, TITLE, title, EMPTY_TITLE)
        else:
            rows[item] = (
                item,
                cleaned,
                _categories(record),
                clean_text(" ".join(_strings(record.get("description")))),
            )
    schema = {ITEM_ID: pl.String, TITLE: pl.String, CATEGORIES: pl.List(pl.String), DESCRIPTION: pl.String}
    return pl.DataFrame(list(rows.values()), schema=schema, orient="row"), quarantine.frame()


def _categories(record: dict) -> list[str]:
    """The most specific names come last in Amazon's paths: the first is kept, then the last ones, without repeats."""
    names = _strings(record.get("category") or record.get("categories"))
    names = names or _strings(record.get("main_cat") or record.get("main_category"))
    names = list(dict.fromkeys(cleaned for name in names if (cleaned := clean_text(name, 60))))
    return names if len(names) <= MAX_CATEGORIES else [names[0], *names[1 - MAX_CATEGORIES :]]


def _strings(value: object) -> list[str]:
    """All strings in a value that may be a string, a list, or a list of lists."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, (list, tuple)):
        return [text for part in value for text in _strings(part)]
    return []
