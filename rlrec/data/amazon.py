"""Amazon reviews of 2014, 2018 and 2023: JSON lines, plain or gzipped, one reviews file and one metadata file.

Sources: https://jmcauley.ucsd.edu/data/amazon/ (2014 and 2018), https://amazon-reviews-2023.github.io/. The years
are told apart by their field names. Lines of the 2014 metadata are Python dictionaries and not JSON; they are read
with `ast.literal_eval`, which evaluates literals and nothing else.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from rlrec.data.json_lines import as_number, read_objects
from rlrec.data.raw import Quarantine, collect_items, find_pair
from rlrec.data.schema import (
    ITEM_ID,
    MISSING_ID,
    NOT_A_NUMBER,
    RATING,
    REVIEW,
    ROW,
    TIMESTAMP,
    USER_ID,
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

_REVIEWS = re.compile(r"(?!meta_)(?:reviews_)?(.+?)(?:_5)?\.jsonl?(?:\.gz)?")
_METADATA = re.compile(r"meta_(.+?)(?:_5)?\.jsonl?(?:\.gz)?")
# The word prompts use, by the start of the category's name.
_DOMAINS = {
    "Books": "book",
    "Kindle": "book",
    "Movies": "movie",
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
    reviews_path, meta_path, category = find_pair(raw_dir, _REVIEWS, _METADATA, category, ADVICE)
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


def _parse(line: str) -> dict | None:
    """A JSON object or the literal of a Python dictionary; None for anything else."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        if not line.startswith("{'"):
            return None
        try:
            record = ast.literal_eval(line)  # the metadata of 2014; literals alone, no code is run
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None
    return record if isinstance(record, dict) else None


def _reviews(path: Path, keep_text: bool, progress) -> tuple[pl.DataFrame, pl.DataFrame]:
    quarantine = Quarantine(path)
    schema = {ROW: pl.UInt32, USER_ID: pl.String, ITEM_ID: pl.String, RATING: pl.Float64, TIMESTAMP: pl.Int64}
    if keep_text:
        schema[REVIEW] = pl.String
    frames, rows = [], []
    for number, record in read_objects(path, quarantine, ADVICE, _parse):
        is_2023 = "user_id" in record
        user = record.get("user_id" if is_2023 else "reviewerID")
        item = record.get("parent_asin") or record.get("asin")
        rating = as_number(record.get("rating" if is_2023 else "overall"))
        time = as_number(record.get("timestamp" if is_2023 else "unixReviewTime"))
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


def _items(path: Path, wanted: set[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The wanted items; others are passed over unread, since a metadata file covers far more than its reviews."""
    quarantine = Quarantine(path)
    items = collect_items(_item_records(path, wanted, quarantine), quarantine)
    return items, quarantine.frame()


def _item_records(path: Path, wanted: set[str], quarantine: Quarantine) -> Iterator[tuple]:
    for number, record in read_objects(path, quarantine, ADVICE, _parse):
        item = record.get("parent_asin") or record.get("asin")
        if not isinstance(item, str) or not item.strip() or item.strip() in wanted:
            description = clean_text(" ".join(_strings(record.get("description"))))
            yield number, item, record.get("title"), _categories(record), description


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
