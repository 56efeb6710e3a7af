"""The Yelp academic dataset (Yelp Open Dataset): reviews and businesses as JSON lines.

Source: https://business.yelp.com/data/resources/open-dataset/, after agreeing to its terms. Unpack the archive, and
put yelp_academic_dataset_review.json and yelp_academic_dataset_business.json (gzipped or not) into one folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from rlrec.data.cleaning import clean_texts
from rlrec.data.json_lines import as_number, read_json_lines, read_objects
from rlrec.data.raw import Quarantine, collect_items, find
from rlrec.data.schema import (
    ITEM_ID,
    NOT_A_DATE,
    RATING,
    REVIEW,
    TIMESTAMP,
    USER_ID,
    DataError,
    RawData,
    clean_text,
    rejected_rows,
)

ADVICE = (
    "put yelp_academic_dataset_review.json and yelp_academic_dataset_business.json there; the archive is at "
    "https://business.yelp.com/data/resources/open-dataset/, where its terms are to be agreed to."
)
LICENCE = "Yelp Open Dataset terms: academic use only, no redistribution, no commercial use."
MAX_CATEGORIES = 5

_REVIEWS, _BUSINESSES = ("yelp_academic_dataset_review.json", "yelp_academic_dataset_business.json")
# Names that hold the separator themselves come first.
_CATEGORY = re.compile(
    r"\s*(Beer, Wine & Spirits|Books, Mags, Music & Video|Used, Vintage & Consignment|Wills, Trusts, & Probates|[^,]+)"
)
_PYTHON_TEXT = re.compile(r"(?<!\w)u?'([^']*)'(?!\w)")
_COLUMNS = {
    "user_id": (USER_ID, pl.String),
    "business_id": (ITEM_ID, pl.String),
    "stars": (RATING, pl.Float64),
    "date": (TIMESTAMP, pl.String),
}


def read_yelp(
    raw_dir: str | Path | None, reviews: bool = True, item_details: bool = False, progress=lambda message: None
) -> RawData:
    """Read reviews and businesses.

    Stars run from 1 to 5. Dates name no time zone and are taken as UTC. The description of a business is its city and
    state.

    Args:
        raw_dir: the folder with the two files, or its parent.
        reviews: False leaves the review texts out (less memory).
        item_details: describe a business by the fields of SELLER's Figure 3. Name and categories, which have columns
            of their own, are left out. Its stars and whether it is open are those of the release, so a model that
            predicts ratings from them knows the future.

    Raises:
        DataError: a file is missing, empty or a damaged archive.
    """
    folder = find(raw_dir, (_REVIEWS, f"{_REVIEWS}.gz"), ADVICE)
    if folder is None:
        raise DataError(f"{raw_dir}: no {_REVIEWS} found; {ADVICE}")
    reviews_path, business_path = (
        folder / (f"{name}.gz" if (folder / f"{name}.gz").is_file() else name) for name in (_REVIEWS, _BUSINESSES)
    )
    progress(f"reading {business_path.name}")
    items, bad_items = _items(business_path, item_details)
    progress(f"reading {reviews_path.name}")
    interactions, bad_reviews = _reviews(reviews_path, reviews, progress)
    return RawData(
        interactions=interactions,
        items=items,
        rejected=pl.concat([bad_reviews, bad_items]),
        interactions_file=reviews_path.name,
        rating_scale=(1.0, 5.0),
        default_threshold=4.0,
        domain="business",
        licence=LICENCE,
        raw_files=[reviews_path, business_path],
    )


def _reviews(path: Path, keep_text: bool, progress) -> tuple[pl.DataFrame, pl.DataFrame]:
    columns = {**_COLUMNS, **({"text": (REVIEW, pl.String)} if keep_text else {})}
    date = pl.col(TIMESTAMP).str.strip_chars()
    # Releases before 2018 have days without a time.
    time = pl.coalesce(
        date.str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False),
        date.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")),
    )
    frames, refused, read = [], [], 0
    # A missing date is no date, and not a missing id.
    for frame, rejected in read_json_lines(path, columns, (REVIEW, TIMESTAMP), ADVICE):
        timed = frame.with_columns(time.dt.epoch("s").alias("seconds"))
        bad = rejected_rows(timed.filter(pl.col("seconds").is_null()), path.name, TIMESTAMP, NOT_A_DATE)
        refused += [rejected, bad]
        timed = timed.drop(TIMESTAMP).rename({"seconds": TIMESTAMP}).drop_nulls(TIMESTAMP)
        frames.append(timed.with_columns(clean_texts(timed[REVIEW])) if keep_text else timed)
        read += frame.height
        progress(f"  {read:,} reviews")
    return pl.concat(frames), pl.concat(refused)


def _items(path: Path, details: bool) -> tuple[pl.DataFrame, pl.DataFrame]:
    quarantine = Quarantine(path)
    return collect_items(_item_records(path, details, quarantine), quarantine), quarantine.frame()


def _item_records(path: Path, details: bool, quarantine: Quarantine) -> Iterator[tuple]:
    for number, record in read_objects(path, quarantine, ADVICE):
        names = record.get("categories")
        names = _CATEGORY.findall(names) if isinstance(names, str) else names  # the first releases have a list
        names = [clean_text(name, 60) for name in names if isinstance(name, str)] if isinstance(names, list) else []
        categories = list(dict.fromkeys(filter(None, names)))[:MAX_CATEGORIES]
        description = _details(record) if details else _joined(record.get("city"), record.get("state"))
        yield number, record.get("business_id"), record.get("name"), categories, clean_text(description)


def _joined(*parts: object) -> str:
    return ", ".join(part for part in parts if isinstance(part, str) and part)


def _details(record: dict) -> str:
    """Figure 3's fields but name and categories, those that are there, in its order.

    The release has no `stars_range`; in the figure, 3.0 stars have the range 2.5-3.5.
    """
    place = _joined(record.get("address"), record.get("city"), record.get("state"))
    told = [f"Address: {place}"] if place else []
    if (stars := as_number(record.get("stars"))) is not None:
        told.append(f"Stars: {stars:.1f} (range {max(1.0, stars - 0.5):.1f}-{min(5.0, stars + 0.5):.1f})")
    for name in ("attributes", "hours"):
        if isinstance(values := record.get(name), dict):
            # A value is often Python's spelling of one, such as "u'free'" or "{'garage': False}".
            texts = {key: _PYTHON_TEXT.sub(r"\1", str(value)) for key, value in values.items() if value is not None}
            pairs = [f"{key} {text}" for key, text in texts.items()]
            told += [f"{name.capitalize()}: {', '.join(pairs)}"] if pairs else []
    if record.get("is_open") in (0, 1):
        told.append("Open" if record["is_open"] else "Closed for good")
    return "".join(f"{part}. " for part in told)
