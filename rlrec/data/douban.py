"""Douban Movies: movies.csv and ratings.csv (or comments.csv) of the public dump by csuldw (140,000 films, 2019).

Source: https://github.com/csuldw/AntSpider, whose docs/index.md lists the columns. Quoted CSV in UTF-8, columns found
by name; users are called USER_MD5 in the dump and USER_ID in its description. TRAIL (Zhang et al., 2026, section
5.1.1) takes all interactions with films from 2010-01-01 to 2019-11-30 and describes a film by "its name, director,
brief introduction, and other relevant metadata".

Departures and readings:

1. The paper has 33,756 users, 3,393 films and 329,579 interactions and does not say how they were chosen. Here all
   within the period are kept; --k_core makes it smaller, but knows the future (see rlrec/data/popularity.py).
2. "Other relevant metadata" is genres, actors (the first five, as in the paper's Table 7), languages and release date.
   Douban's own score and votes, which the dump has too, are of the day it was collected and left out: they know how
   popular a film became. Review texts are left out, as in the paper.
3. Times name no time zone and are taken as UTC, although they are Beijing's: a window may begin 8 hours off.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import polars as pl

from rlrec.data.raw import Quarantine, collect_items, find, read_csv_records, read_lines
from rlrec.data.schema import (
    ITEM_ID,
    MALFORMED,
    MISSING_ID,
    NOT_A_DATE,
    NOT_A_NUMBER,
    RATING,
    ROW,
    TIMESTAMP,
    TITLE,
    USER_ID,
    WRONG_COLUMNS,
    DataError,
    RawData,
    clean_text,
    rejected_rows,
)

ADVICE = "put movies.csv and ratings.csv (or comments.csv) of https://github.com/csuldw/AntSpider there."
LICENCE = "Research use only, with the source named; no redistribution (https://github.com/csuldw/AntSpider)."
PERIOD = ("2010-01-01", "2019-11-30")  # TRAIL, section 5.1.1
MAX_CATEGORIES = MAX_ACTORS = 5
CHUNK_ROWS = 200_000

_ALIASES = {
    USER_ID: ("user_md5", "user_id"),
    ITEM_ID: ("movie_id",),
    RATING: ("rating",),
    TIMESTAMP: ("rating_time", "comment_time"),
    TITLE: ("name",),
}
_FACTS = ("genres", "directors", "actors", "languages", "release_date", "storyline")  # optional
_SEPARATOR = re.compile(r"\s*[/|]\s*")


def read_douban(
    raw_dir: str | Path | None, period: tuple[str, str] | None = PERIOD, progress=lambda message: None
) -> RawData:
    """Read films and ratings.

    Ratings run from 1 to 5; the default threshold is 4. Interactions outside the period are no rejected rows; the
    metadata count them (`outside_period`).

    Args:
        raw_dir: the folder with the two files, or its parent.
        period: first and last day to keep, both included, such as ("2010-01-01", "2019-11-30"); None keeps all.

    Raises:
        DataError: a file is missing or empty, lacks a column that is needed, or the period is not two dates in order.
    """
    bounds = None if period is None else _seconds(period)
    folder = find(raw_dir, ("movies.csv",), ADVICE)
    names = [name for name in ("ratings.csv", "comments.csv") if folder and (folder / name).is_file()]
    if not names:
        raise DataError(f"{folder or raw_dir}: no {'ratings.csv' if folder else 'movies.csv'} found; {ADVICE}")
    ratings, movies = folder / names[0], folder / "movies.csv"
    progress(f"reading {movies.name}")
    items, bad_items = _items(movies)
    progress(f"reading {ratings.name}")
    interactions, bad_ratings = _ratings(ratings, progress)
    notes = {}
    if bounds is not None:
        read = interactions.height
        interactions = interactions.filter(pl.col(TIMESTAMP).is_between(*bounds))
        notes = {"period": list(period), "outside_period": read - interactions.height}
    return RawData(
        interactions=interactions,
        items=items,
        rejected=pl.concat([bad_ratings, bad_items]),
        interactions_file=ratings.name,
        rating_scale=(1.0, 5.0),
        default_threshold=4.0,
        domain="movie",
        licence=LICENCE,
        raw_files=[ratings, movies],
        notes=notes,
    )


def _seconds(period: tuple[str, str]) -> tuple[int, int]:
    """First second of the first day and last second of the last."""
    try:
        first, last = (date.fromisoformat(day) for day in period)
    except (TypeError, ValueError) as error:
        raise DataError(f"period is {period!r}; give two days such as 2010-01-01 2019-11-30.") from error
    if first > last:
        raise DataError(f"period is {period!r}, and its first day comes after its last; exchange them.")
    epoch = date(1970, 1, 1)
    return (first - epoch).days * 86_400, (last - epoch).days * 86_400 + 86_399


def _records(path: Path, needed: tuple[str, ...], optional: tuple[str, ...] = ()) -> Iterator[tuple]:
    """(line, values of the columns, "" for an absent optional one), or (line, reason, raw text) for a bad line."""
    names = [name.strip().strip('"').lower() for name in next(read_lines(path, "utf-8-sig", ADVICE))[1].split(",")]
    positions = []
    for column in needed + optional:
        aliases = _ALIASES.get(column, (column,))
        position = next((names.index(name) for name in aliases if name in names), None)
        if position is None and column in needed:
            wanted = " or ".join(name.upper() for name in aliases)
            raise DataError(f"{path}: the header has no column {wanted} but {', '.join(names).upper()}; {ADVICE}")
        positions.append(position)
    for number, fields, raw in read_csv_records(path, ",", "utf-8-sig", ADVICE):
        if number == 1:
            continue
        if fields is None:
            yield number, MALFORMED, raw
        elif len(fields) != len(names):
            yield number, WRONG_COLUMNS, raw
        else:
            yield number, ["" if position is None else fields[position].strip() for position in positions]


def _ratings(path: Path, progress) -> tuple[pl.DataFrame, pl.DataFrame]:
    quarantine = Quarantine(path)
    columns = (USER_ID, ITEM_ID, RATING, TIMESTAMP)
    schema = {ROW: pl.UInt32, **dict.fromkeys(columns, pl.String)}
    frames, rows = [], []
    for number, fields, *raw in _records(path, columns):
        if raw:
            quarantine.add(number, "line", raw[0], fields)
        elif not fields[0] or not fields[1]:
            quarantine.add(number, ITEM_ID if fields[0] else USER_ID, "", MISSING_ID)
        else:
            rows.append((number, *fields))
        if len(rows) == CHUNK_ROWS:
            frames.append(_typed(pl.DataFrame(rows, schema=schema, orient="row"), path))
            rows = []
            progress(f"  {len(frames) * CHUNK_ROWS:,} ratings")
    frames.append(_typed(pl.DataFrame(rows, schema=schema, orient="row"), path))
    return pl.concat([frame for frame, _ in frames]), pl.concat([quarantine.frame(), *(bad for _, bad in frames)])


def _typed(frame: pl.DataFrame, path: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Ratings as numbers and times as seconds; rows where that fails."""
    time = pl.coalesce(
        pl.col(TIMESTAMP).str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False),
        pl.col(TIMESTAMP).str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")),
    )
    typed = {RATING: pl.col(RATING).cast(pl.Float64, strict=False), TIMESTAMP: time.dt.epoch("s")}
    rejected = []
    for column, reason in ((RATING, NOT_A_NUMBER), (TIMESTAMP, NOT_A_DATE)):
        bad = typed[column].is_null()
        rejected.append(rejected_rows(frame.filter(bad), path.name, column, reason))
        frame = frame.filter(~bad)
    return frame.with_columns(**typed), pl.concat(rejected)


def _items(path: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    quarantine = Quarantine(path)
    return collect_items(_item_records(path, quarantine), quarantine), quarantine.frame()


def _item_records(path: Path, quarantine: Quarantine) -> Iterator[tuple]:
    for number, fields, *raw in _records(path, (ITEM_ID, TITLE), _FACTS):
        if raw:
            quarantine.add(number, "line", raw[0], fields)
            continue
        item, title, genres, *facts = fields
        categories = _names(genres)[:MAX_CATEGORIES]
        yield number, item, title, categories, _description(title, categories, *facts)


def _names(text: str) -> list[str]:
    """The parts of "Drama/Romance" or "A|B", without repeats."""
    return list(dict.fromkeys(cleaned for name in _SEPARATOR.split(text) if (cleaned := clean_text(name, 60))))


def _description(
    title: str, genres: list[str], directors: str, actors: str, languages: str, release: str, storyline: str
) -> str:
    """What the paper calls a descriptive text, of the facts there are.

    >>> _description("Joker", ["Drama", "Thriller"], "Todd Phillips", "", "English", "2019-08-31", "A comic falls.")
    'Joker. Genres: Drama, Thriller. Directed by Todd Phillips. Language: English. Released 2019-08-31. A comic falls.'
    """
    facts = (
        ("", title),
        ("Genres: ", ", ".join(genres)),
        ("Directed by ", ", ".join(_names(directors))),
        ("With ", ", ".join(_names(actors)[:MAX_ACTORS])),
        ("Language: ", ", ".join(_names(languages))),
        ("Released ", release),
    )
    return clean_text(" ".join([*(f"{name}{value}." for name, value in facts if value), storyline]))
