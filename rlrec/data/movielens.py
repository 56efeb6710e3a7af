"""MovieLens: 100K (u.data), 1M (ratings.dat), and 20M, 25M, 32M and latest-small (ratings.csv).

Source: https://grouplens.org/datasets/movielens/ (F. M. Harper and J. A. Konstan, The MovieLens Datasets, ACM TiiS
2015). The format is recognised by the files present.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from rlrec.data.raw import Quarantine, find, read_csv_records, read_lines, read_numbers
from rlrec.data.schema import (
    CATEGORIES,
    DESCRIPTION,
    DUPLICATE_ITEM,
    EMPTY_TITLE,
    ITEM_ID,
    MALFORMED,
    NOT_A_NUMBER,
    RATING,
    TIMESTAMP,
    TITLE,
    USER_ID,
    WRONG_COLUMNS,
    DataError,
    RawData,
    clean_title,
)

ADVICE = "unpack the official archive from https://grouplens.org/datasets/movielens/ there, or use --download."
LICENCE = (
    "GroupLens: research use with acknowledgement (Harper and Konstan 2015); no redistribution and no commercial use "
    "without permission; see the README of the archive."
)
_COLUMNS = {USER_ID: pl.Int32, ITEM_ID: pl.Int32, RATING: pl.Float64, TIMESTAMP: pl.Int64}
_NO_GENRES = ("unknown", "(no genres listed)", "")
# Smallest rating, by the format's ratings file: whole stars in 100K and 1M, half stars later.
_LOWEST_RATING = {"u.data": 1.0, "ratings.dat": 1.0, "ratings.csv": 0.5}


def read_movielens(raw_dir: str | Path | None, progress=lambda message: None) -> RawData:
    """Read whichever MovieLens release lies in `raw_dir` or in a folder directly below it.

    The default threshold is 4 (ExpCTR, section 5.1.1, for ML-20M).

    Raises:
        DataError: a file is missing, empty or not in the official format.
    """
    folder = find(raw_dir, tuple(_LOWEST_RATING), ADVICE)
    if folder is None:
        raise DataError(f"{raw_dir}: none of {', '.join(_LOWEST_RATING)} found; {ADVICE}")
    ratings = next(folder / name for name in _LOWEST_RATING if (folder / name).is_file())
    progress(f"reading {ratings.name} ({ratings.stat().st_size / 2**20:,.0f} MiB)")
    if ratings.name == "u.data":
        interactions, rejected = read_numbers(ratings, _COLUMNS, separator="\t", advice=ADVICE)
        files = [folder / "u.item", folder / "u.genre"]
        items, bad_items = _items(files[0], _u_item_records(*files))
    elif ratings.name == "ratings.dat":
        interactions, rejected = read_numbers(ratings, _COLUMNS, separator="::", advice=ADVICE)
        files = [folder / "movies.dat"]
        items, bad_items = _items(files[0], _dat_records(files[0]))
    else:
        header = ("userId", "movieId", "rating", "timestamp")
        interactions, rejected = read_numbers(ratings, _COLUMNS, header=header, header_lines=1, advice=ADVICE)
        files = [folder / "movies.csv"]
        items, bad_items = _items(files[0], _csv_records(files[0]))
    return RawData(
        interactions=interactions,
        items=items,
        rejected=pl.concat([rejected, bad_items]),
        interactions_file=ratings.name,
        rating_scale=(_LOWEST_RATING[ratings.name], 5.0),
        default_threshold=4.0,
        domain="movie",
        licence=LICENCE,
        raw_files=[ratings, *files],
    )


def _u_item_records(path: Path, genre_path: Path):
    """(line, id, title, genres) or (line, None, raw text, reason): 5 columns and one flag per line of u.genre."""
    genres = [line.split("|")[0] for _, line in read_lines(genre_path, "latin-1", ADVICE) if line]
    for number, line in read_lines(path, "latin-1", ADVICE):
        fields = line.split("|")
        if len(fields) != 5 + len(genres):
            yield number, None, line, WRONG_COLUMNS
        else:
            yield number, fields[0], fields[1], [name for name, flag in zip(genres, fields[5:]) if flag == "1"]


def _dat_records(path: Path):
    for number, line in read_lines(path, "latin-1", ADVICE):
        fields = line.split("::")
        if len(fields) != 3:
            yield number, None, line, WRONG_COLUMNS
        else:
            yield number, fields[0], fields[1], fields[2].split("|")


def _csv_records(path: Path):
    for number, fields, raw in read_csv_records(path, ",", "utf-8-sig", ADVICE):
        if number == 1:
            if fields is None or [name.lower() for name in fields] != ["movieid", "title", "genres"]:
                raise DataError(f"{path}: the first line is {raw[:100]!r}, not 'movieId,title,genres'; {ADVICE}")
        elif fields is None:
            yield number, None, raw, MALFORMED
        elif len(fields) != 3:
            yield number, None, raw, WRONG_COLUMNS
        else:
            yield number, fields[0], fields[1], fields[2].split("|")


def _items(path: Path, records) -> tuple[pl.DataFrame, pl.DataFrame]:
    quarantine = Quarantine(path)
    rows: dict[int, tuple] = {}
    for number, item, title, genres in records:
        if item is None:
            quarantine.add(number, "line", title, genres)
        elif not item.strip().isdecimal() or len(item.strip()) > 10 or int(item) > 2**31 - 1:
            quarantine.add(number, ITEM_ID, item, NOT_A_NUMBER)
        elif int(item) in rows:
            quarantine.add(number, ITEM_ID, item, DUPLICATE_ITEM)
        elif not (cleaned := clean_title(title)):
            quarantine.add(number, TITLE, title, EMPTY_TITLE)
        else:
            categories = [clean_title(name, 60) for name in genres if name.strip() not in _NO_GENRES]
            rows[int(item)] = (int(item), cleaned, categories, "")
    schema = {ITEM_ID: pl.Int32, TITLE: pl.String, CATEGORIES: pl.List(pl.String), DESCRIPTION: pl.String}
    return pl.DataFrame(list(rows.values()), schema=schema, orient="row"), quarantine.frame()
