"""TripAdvisor hotels as distributed with PETER (L. Li, Y. Zhang and L. Chen, Personalized Transformer, ACL 2021).

Source: https://github.com/lileipisces/PETER names the download. It is one pickle, reviews.pickle: a list of
dictionaries with user, item, rating and template = (feature, adjective, sentence, sentiment of 1 or -1). A pickle can
run any program when it is loaded, so it is never loaded here (see `plain_pickle`). It is converted once:

    python -m rlrec.data.tripadvisor convert reviews.pickle reviews.jsonl

What the data does not have: times (RecPIE's appendix F.1 speaks of them, this release has none), so that the order of
rows in the file stands for time, and a user's last interactions are the last ones in the file; and names of hotels.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import polars as pl

from rlrec.data.cleaning import clean_texts
from rlrec.data.json_lines import read_json_lines
from rlrec.data.plain_pickle import read_plain_pickle
from rlrec.data.raw import find
from rlrec.data.schema import (
    ADJECTIVE,
    CATEGORIES,
    DESCRIPTION,
    FEATURE,
    ITEM_ID,
    RATING,
    REVIEW,
    SENTIMENT,
    TIMESTAMP,
    TITLE,
    USER_ID,
    DataError,
    RawData,
    clean_title,
)

FILE = "reviews.jsonl"
SOURCE = "https://github.com/lileipisces/PETER"
ADVICE = (
    f"put {FILE} there, made by 'python -m rlrec.data.tripadvisor convert reviews.pickle {FILE}' from the "
    f"reviews.pickle of the TripAdvisor folder that {SOURCE} names."
)
LICENCE = "Research use; cite Li et al. (ACL 2021); the reviews remain their authors'."

_COLUMNS = {
    "user": (USER_ID, pl.String),
    "item": (ITEM_ID, pl.String),
    "rating": (RATING, pl.Float64),
    "feature": (FEATURE, pl.String),
    "adjective": (ADJECTIVE, pl.String),
    "sentence": (REVIEW, pl.String),
    "sentiment": (SENTIMENT, pl.Int64),
}
_TEXTS = (REVIEW, FEATURE, ADJECTIVE)


def read_tripadvisor(raw_dir: str | Path | None, progress=lambda message: None) -> RawData:
    """Read the converted reviews.

    Ratings run from 1 to 5. The sentence is the review; what it is about, the word that judges it and the sign come
    as feature, adjective and sentiment. A hotel's title is "Hotel" and its id.

    Args:
        raw_dir: the folder with reviews.jsonl, or its parent.

    Raises:
        DataError: the file is missing (or not converted yet) or empty.
    """
    folder = find(raw_dir, (FILE,), ADVICE)
    if folder is None:
        raise DataError(f"{raw_dir}: no {FILE} found; {ADVICE}")
    progress(f"reading {FILE}")
    frames, rejected = zip(*read_json_lines(folder / FILE, _COLUMNS, (*_TEXTS, SENTIMENT), ADVICE))
    interactions = pl.concat(frames)
    interactions = interactions.with_columns(
        *(clean_texts(interactions[column]) for column in _TEXTS), pl.lit(None, pl.Int64).alias(TIMESTAMP)
    )
    items = interactions.select(pl.col(ITEM_ID).unique(maintain_order=True))
    titles = [clean_title(f"Hotel {item}") for item in items[ITEM_ID]]
    items = items.with_columns(
        pl.Series(TITLE, titles, pl.String),
        pl.lit([], pl.List(pl.String)).alias(CATEGORIES),
        pl.lit("").alias(DESCRIPTION),
    )
    return RawData(
        interactions=interactions,
        items=items,
        rejected=pl.concat(rejected),
        interactions_file=FILE,
        rating_scale=(1.0, 5.0),
        default_threshold=4.0,
        domain="hotel",
        licence=LICENCE,
        raw_files=[folder / FILE],
    )


def convert(pickled: str | Path, lines: str | Path) -> int:
    """Write the records of a reviews.pickle as JSON lines, in their order; records that lack something too.

    Returns:
        The number of records.

    Raises:
        DataError: the file is missing or empty, no list of dictionaries, or holds anything but plain values.
    """
    pickled, lines = Path(pickled), Path(lines)
    records = read_plain_pickle(pickled, f"get it from {SOURCE}.")
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise DataError(f"{pickled}: is not a list of dictionaries; get reviews.pickle from {SOURCE}.")
    temporary = lines.with_name(lines.name + ".tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        for record in records:
            template = record.get("template")
            template = template if isinstance(template, tuple) and len(template) == 4 else (None,) * 4
            row = {name: record.get(name) for name in ("user", "item", "rating")}
            row |= dict(zip(("feature", "adjective", "sentence", "sentiment"), template))
            row = {name: value if isinstance(value, (str, int, float)) else None for name, value in row.items()}
            file.write(json.dumps(row) + "\n")
    os.replace(temporary, lines)
    return len(records)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Convert PETER's reviews.pickle to JSON lines, without loading it.")
    parser.add_argument("command", choices=("convert",))
    parser.add_argument("pickle", help="reviews.pickle")
    parser.add_argument("lines", help=f"the file to write, such as {FILE}")
    options = parser.parse_args(arguments)
    try:
        count = convert(options.pickle, options.lines)
    except DataError as error:
        sys.exit(f"error: {error}")
    print(f"{options.lines}: {count:,} records")


if __name__ == "__main__":
    main()
