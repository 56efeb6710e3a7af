"""RecBole's atomic files (https://recbole.io/atomic_files.html): NAME.inter and NAME.item.

Tab-separated, with a typed header such as ``user_id:token  item_id:token  rating:float  timestamp:float``. Whatever
has no reader of its own here can come in this way: write the two files and name the dataset "recbole".
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from rlrec.data.raw import Quarantine, find, read_lines, read_numbers, require
from rlrec.data.schema import (
    CATEGORIES,
    DESCRIPTION,
    DUPLICATE_ITEM,
    EMPTY_TITLE,
    ITEM_ID,
    MISSING_ID,
    RATING,
    TIMESTAMP,
    TITLE,
    USER_ID,
    WRONG_COLUMNS,
    DataError,
    RawData,
    clean_text,
    clean_title,
)

ADVICE = (
    "put NAME.inter (user_id:token, item_id:token, rating:float, optionally timestamp:float) and NAME.item "
    "(item_id:token, title:token_seq, optionally categories:token_seq and description:token_seq) there."
)
LICENCE = "Not known; see the source of the files."

_TITLES = ("title", "name", "item_name", "movie_title", "book_title", "item_title", "track_name", "entity_name")
_CATEGORIES = ("categories", "category", "genre", "genres", "class", "tags")
_DESCRIPTIONS = ("description", "text", "summary")


def read_recbole(
    raw_dir: str | Path | None,
    domain: str = "item",
    rating_scale: tuple[float, float] | None = None,
    progress=lambda message: None,
) -> RawData:
    """Read the one pair of atomic files in `raw_dir`.

    Args:
        domain: the word prompts use for an item.
        rating_scale: smallest and largest valid rating; default: those that occur.

    The default threshold is the median rating, or the next lower one where the median is the largest.

    Raises:
        DataError: a file is missing or empty, or has no user_id, item_id, rating or title column.
    """
    find(raw_dir, (), ADVICE)
    found = sorted([*Path(raw_dir).glob("*.inter"), *Path(raw_dir).glob("*/*.inter")])
    if len(found) != 1:
        raise DataError(f"{raw_dir}: {len(found)} .inter files found where one is needed; {ADVICE}")
    path = found[0]
    item_path = require(path.with_suffix(".item"), ADVICE)
    progress(f"reading {path.name} and {item_path.name}")
    names = _header(path, (USER_ID, ITEM_ID, RATING))
    kinds = {USER_ID: pl.String, ITEM_ID: pl.String, RATING: pl.Float64, TIMESTAMP: pl.Float64}
    columns = {name: kinds.get(name) for name in names}
    interactions, rejected = read_numbers(path, columns, separator="\t", header_lines=1, advice=ADVICE)
    if TIMESTAMP in names:
        interactions = interactions.with_columns(pl.col(TIMESTAMP).cast(pl.Int64, strict=False))
    else:
        interactions = interactions.with_columns(pl.lit(None, pl.Int64).alias(TIMESTAMP))
    items, bad_items = _items(item_path)
    ratings = interactions[RATING].filter(interactions[RATING].is_finite())
    if not ratings.len():
        raise DataError(f"{path}: no row has a rating; {ADVICE}")
    low, high = rating_scale or (ratings.min(), ratings.max())
    inside = ratings.filter(ratings.is_between(low, high))
    lower = inside.filter(inside < high)
    threshold = min(inside.median() or low, lower.max() if lower.len() else low)
    return RawData(
        interactions=interactions,
        items=items,
        rejected=pl.concat([rejected, bad_items]),
        interactions_file=path.name,
        rating_scale=(low, high),
        default_threshold=threshold,
        domain=domain,
        licence=LICENCE,
        raw_files=[path, item_path],
        notes={"source": path.stem},
    )


def _header(path: Path, needed: tuple[str, ...]) -> list[str]:
    """The column names without their types."""
    line = next(read_lines(path, "utf-8-sig", ADVICE))[1]
    names = [field.partition(":")[0].strip() for field in line.split("\t")]
    if ":" not in line or any(name not in names for name in needed):
        raise DataError(f"{path}: the first line is {line[:100]!r}, which lacks {', '.join(needed)}; {ADVICE}")
    if len(set(names)) != len(names):
        raise DataError(f"{path}: a column name stands twice in the first line; {ADVICE}")
    return names


def _items(path: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    names = _header(path, (ITEM_ID,))
    title_name, category_name, description_name = (
        next((name for name in candidates if name in names), None)
        for candidates in (_TITLES, _CATEGORIES, _DESCRIPTIONS)
    )
    if title_name is None:
        raise DataError(f"{path}: no title column (one of {', '.join(_TITLES)}); {ADVICE}")
    quarantine = Quarantine(path)
    rows: dict[str, tuple] = {}
    for number, line in read_lines(path, "utf-8", ADVICE):
        if number == 1 or not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) != len(names):
            quarantine.add(number, "line", line, WRONG_COLUMNS)
            continue
        record = dict(zip(names, fields))
        item = record[ITEM_ID].strip()
        if not item:
            quarantine.add(number, ITEM_ID, item, MISSING_ID)
        elif item in rows:
            quarantine.add(number, ITEM_ID, item, DUPLICATE_ITEM)
        elif not (title := clean_title(record[title_name])):
            quarantine.add(number, TITLE, record[title_name], EMPTY_TITLE)
        else:
            categories = _categories(record.get(category_name, ""))
            rows[item] = (item, title, categories, clean_text(record.get(description_name, "")))
    schema = {ITEM_ID: pl.String, TITLE: pl.String, CATEGORIES: pl.List(pl.String), DESCRIPTION: pl.String}
    return pl.DataFrame(list(rows.values()), schema=schema, orient="row"), quarantine.frame()


def _categories(text: str) -> list[str]:
    """A token_seq is parted by spaces; some published files hold a comma-separated list in it instead."""
    parts = text.strip("[] ").split(",") if "," in text else text.strip("[] ").split(" ")
    return list(dict.fromkeys(cleaned for part in parts if (cleaned := clean_title(part.strip(" '\""), 60))))
