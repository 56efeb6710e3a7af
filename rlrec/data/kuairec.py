"""KuaiRec 2.0: what users of a short-video app watched, and for how long.

Source: https://kuairec.com (C. Gao et al., KuaiRec, CIKM 2022): big_matrix.csv or small_matrix.csv,
item_categories.csv, and kuairec_caption_category.csv, which is offered beside the archive.

Ruling: a rating is the watch ratio (time watched / length of the video), and an interaction is what was watched for
more than twice its length. The dataset's authors suggest this ratio for a "like"; SELLER (section 4.1) names no rule,
but its 342,700 interactions are far fewer than the 12,530,806 rows of the big matrix, in nearly all of which the app
chose what to show. `min_watch_ratio=0` takes all that was watched at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from rlrec.data.raw import Quarantine, find, read_csv_records, read_numbers
from rlrec.data.schema import (
    CATEGORIES,
    DESCRIPTION,
    DUPLICATE_ITEM,
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
    clean_text,
    rejected_rows,
)

ADVICE = (
    "put big_matrix.csv or small_matrix.csv, item_categories.csv and kuairec_caption_category.csv there; "
    "https://kuairec.com says where to get them."
)
LICENCE = "CC BY-SA 4.0; cite Gao et al. (CIKM 2022)."
LIKED = 2.0  # watch ratio

_TAGS, _CAPTIONS = "item_categories.csv", "kuairec_caption_category.csv"
_MATRIX = {
    USER_ID: pl.Int32,
    ITEM_ID: pl.Int32,
    "play_duration": None,
    "video_duration": None,
    "time": None,
    "date": None,
    TIMESTAMP: pl.Float64,
    RATING: pl.Float64,
}
_MATRIX_HEADER = ("user_id", "video_id", *list(_MATRIX)[2:-1], "watch_ratio")
_LEVELS = ("first", "second", "third")
_CAPTIONS_HEADER = (
    *("video_id", "manual_cover_text", "caption", "topic_tag"),
    *(f"{level}_level_category_{what}" for level in _LEVELS for what in ("id", "name")),
)
_UNKNOWN = ("", "UNKNOWN", "nan")


def read_kuairec(
    raw_dir: str | Path | None,
    matrix: str = "big",
    min_watch_ratio: float = LIKED,
    item_details: bool = False,
    progress=lambda message: None,
) -> RawData:
    """Read one of the two matrices, and the videos.

    A video has the names of its three levels of category. Without kuairec_caption_category.csv, or where it says
    nothing of a video, its tags stand for them, of which only the numbers are published ("tag 27"). Videos have no
    titles: a title is "Video" and the id.

    Args:
        raw_dir: the folder with the files, or its parent.
        matrix: "big" (7,176 users, of what the app recommended) or "small" (1,411 users who saw nearly all of 3,327
            videos; rows without a time are refused).
        min_watch_ratio: keep what was watched for more than this multiple of its length; the rest is counted in the
            metadata and is no rejected row.
        item_details: describe a video by its caption, cover text and topics; else the categories are all its text, as
            in SELLER (A.1.1).

    Raises:
        DataError: a file is missing, empty or has another header, or the matrix is neither of the two.
    """
    if matrix not in ("big", "small"):
        raise DataError(f"matrix is {matrix!r}, but must be 'big' or 'small'.")
    name = f"{matrix}_matrix.csv"
    folder = find(raw_dir, (name,), ADVICE)
    if folder is None:
        raise DataError(f"{raw_dir}: no {name} found; {ADVICE}")
    items, bad_items = _items(folder, item_details, progress)
    progress(f"reading {name}")
    watched, rejected = read_numbers(folder / name, _MATRIX, header=_MATRIX_HEADER, header_lines=1, advice=ADVICE)
    bad = [rejected]
    for column in (TIMESTAMP, RATING):
        finite = pl.col(column).is_finite()
        bad.append(rejected_rows(watched.filter(~finite), name, column, NOT_A_NUMBER))
        watched = watched.filter(finite)
    watched = watched.with_columns(pl.col(TIMESTAMP).floor().cast(pl.Int64))
    interactions = watched.filter(pl.col(RATING) > min_watch_ratio)
    return RawData(
        interactions=interactions,
        items=items,
        rejected=pl.concat([*bad, bad_items]),
        interactions_file=name,
        rating_scale=(0.0, max(LIKED, interactions[RATING].max() or 0.0)),
        default_threshold=LIKED,
        domain="video",
        licence=LICENCE,
        raw_files=[folder / file for file in (name, _TAGS, _CAPTIONS) if (folder / file).is_file()],
        notes={
            "matrix": matrix,
            "min_watch_ratio": min_watch_ratio,
            "watched_less": watched.height - interactions.height,
        },
    )


def _items(folder: Path, details: bool, progress) -> tuple[pl.DataFrame, pl.DataFrame]:
    progress(f"reading {_TAGS}")
    quarantine = Quarantine(folder / _TAGS)
    videos = {}
    for video, (tags,) in _records(folder / _TAGS, ("video_id", "feat"), quarantine):
        videos[video] = ([f"tag {number}" for number in re.findall(r"\d+", tags)], "")
    refused = [quarantine.frame()]
    if (folder / _CAPTIONS).is_file():
        progress(f"reading {_CAPTIONS}")
        quarantine = Quarantine(folder / _CAPTIONS)
        for video, fields in _records(folder / _CAPTIONS, _CAPTIONS_HEADER, quarantine):
            names = [clean_text(name, 60) for name in fields[-5::2] if name.strip() not in _UNKNOWN]
            tags, _ = videos.get(video, ([], ""))
            videos[video] = (list(dict.fromkeys(names)) or tags, _description(*fields[:3]) if details else "")
        refused.append(quarantine.frame())
    else:
        progress(f"{_CAPTIONS} is not there: categories are the numbers of {_TAGS}")
    schema = {ITEM_ID: pl.Int32, TITLE: pl.String, CATEGORIES: pl.List(pl.String), DESCRIPTION: pl.String}
    rows = [(video, f"Video {video}", *about) for video, about in videos.items()]
    return pl.DataFrame(rows, schema=schema, orient="row"), pl.concat(refused)


def _description(cover: str, caption: str, topics: str) -> str:
    known = [text.strip() for text in (caption, cover) if text.strip() not in _UNKNOWN]
    if topics := ", ".join(filter(None, (topic.strip() for topic in topics.strip("[] ").split(",")))):
        known.append(f"Topics: {topics}")
    return clean_text(". ".join(known))


def _records(path: Path, header: tuple[str, ...], quarantine: Quarantine) -> Iterator[tuple[int, list[str]]]:
    """(video, the other fields) of the first record of each video."""
    seen = set()
    for number, fields, raw in read_csv_records(path, ",", "utf-8-sig", ADVICE):
        if number == 1:
            if fields is None or tuple(fields) != header:
                raise DataError(f"{path}: the first line is {raw[:100]!r}, not {','.join(header)!r}; {ADVICE}")
        elif fields is None:
            quarantine.add(number, "line", raw, MALFORMED)
        elif len(fields) != len(header):
            quarantine.add(number, "line", raw, WRONG_COLUMNS)
        elif not fields[0].strip().isdecimal() or int(fields[0]) > 2**31 - 1:
            quarantine.add(number, ITEM_ID, fields[0], NOT_A_NUMBER)
        elif int(fields[0]) in seen:
            quarantine.add(number, ITEM_ID, fields[0], DUPLICATE_ITEM)
        else:
            seen.add(int(fields[0]))
            yield int(fields[0]), fields[1:]
