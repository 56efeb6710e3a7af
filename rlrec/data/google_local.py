"""Google Local 2021: reviews of businesses in one state of the USA, and the businesses, as JSON lines.

Source: https://mcauleylab.ucsd.edu/public_datasets/gdrive/googlelocal/ (J. Li, J. Shang and J. McAuley, UCTopic, ACL
2022; A. Yan et al., Personalized Showcases, SIGIR 2023). RecPIE, section 5.1, takes the businesses of California whose
zip code is one of 94035 to 94043.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from rlrec.data.cleaning import clean_texts
from rlrec.data.json_lines import read_json_lines, read_objects
from rlrec.data.raw import Quarantine, collect_items, find_pair
from rlrec.data.schema import (
    ITEM_ID,
    NOT_A_NUMBER,
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
    "put a reviews file such as review-California.json.gz and its metadata file meta-California.json.gz there, or use "
    "--download with --category California."
)
LICENCE = "Research use; cite Li et al. (ACL 2022) and Yan et al. (SIGIR 2023); the reviews remain their authors'."
MAX_CATEGORIES = 5
MAX_MILLISECONDS = 1e15

_REVIEWS = re.compile(r"review-(.+?)(?:_10)?\.json(?:\.gz)?")
_METADATA = re.compile(r"meta-(.+?)\.json(?:\.gz)?")
_ZIP_CODE = re.compile(r"\b[A-Z]{2} (\d{5})(?:-\d{4})?\b")
_COLUMNS = {
    "user_id": (USER_ID, pl.String),
    "gmap_id": (ITEM_ID, pl.String),
    "rating": (RATING, pl.Float64),
    "time": (TIMESTAMP, pl.Int64),
}


def read_google_local(
    raw_dir: str | Path | None,
    state: str | None = None,
    zip_codes: str | None = None,
    reviews: bool = True,
    progress=lambda message: None,
) -> RawData:
    """Read one state's reviews and businesses.

    Ratings run from 1 to 5. A business's description is its own, or its address where it has none.

    Args:
        raw_dir: the folder with the two files, or its parent.
        state: such as "California"; needed when the folder holds several.
        zip_codes: keep the businesses whose address has one of these, such as "94035-94043,95014"; default: all.
            Reviews of other businesses are counted in the metadata and are not rejected rows.
        reviews: False leaves the review texts out (less memory).

    Raises:
        DataError: a file is missing, empty, ambiguous or a damaged archive; zip_codes cannot be read or fit nothing.
    """
    wanted = None if zip_codes is None else parse_zip_codes(zip_codes)
    reviews_path, meta_path, state = find_pair(raw_dir, _REVIEWS, _METADATA, state, ADVICE)
    progress(f"reading {meta_path.name}")
    items, elsewhere, bad_items = _items(meta_path, wanted)
    if wanted is not None and items.is_empty():
        raise DataError(f"{meta_path}: no address has one of the zip codes {zip_codes}; check --zip_codes.")
    progress(f"reading {reviews_path.name}")
    interactions, left_out, bad_reviews = _reviews(reviews_path, elsewhere, reviews, progress)
    notes = {"category": state}
    if wanted is not None:
        notes |= {"zip_codes": zip_codes, "businesses_elsewhere": elsewhere.len(), "reviews_elsewhere": left_out}
    return RawData(
        interactions=interactions,
        items=items,
        rejected=pl.concat([bad_reviews, bad_items]),
        interactions_file=reviews_path.name,
        rating_scale=(1.0, 5.0),
        default_threshold=4.0,
        domain="business",
        licence=LICENCE,
        raw_files=[reviews_path, meta_path],
        notes=notes,
    )


def parse_zip_codes(text: str) -> set[str]:
    """Zip codes from numbers and ranges.

    >>> sorted(parse_zip_codes("94041-94043,95014"))
    ['94041', '94042', '94043', '95014']

    Raises:
        DataError: a part is neither five digits nor a rising range of them.
    """
    codes = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d{5})(?:-(\d{5}))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise DataError(f"--zip_codes has {part.strip()!r}; write five digits, or a range such as 94035-94043.")
        codes |= {f"{code:05}" for code in range(first, last + 1)}
    return codes


def _reviews(path: Path, elsewhere: pl.Series, keep_text: bool, progress) -> tuple[pl.DataFrame, int, pl.DataFrame]:
    columns = {**_COLUMNS, **({"text": (REVIEW, pl.String)} if keep_text else {})}
    frames, refused, read, left_out = [], [], 0, 0
    for frame, rejected in read_json_lines(path, columns, (REVIEW,), ADVICE):
        here = frame.filter(~pl.col(ITEM_ID).is_in(elsewhere.implode())) if elsewhere.len() else frame
        read, left_out = read + frame.height, left_out + frame.height - here.height
        bad_time = pl.col(TIMESTAMP).abs() > MAX_MILLISECONDS
        refused += [rejected, rejected_rows(here.filter(bad_time), path.name, TIMESTAMP, NOT_A_NUMBER)]
        here = here.filter(~bad_time).with_columns(pl.col(TIMESTAMP) // 1000)
        frames.append(here.with_columns(clean_texts(here[REVIEW])) if keep_text else here)
        progress(f"  {read:,} reviews")
    return pl.concat(frames), left_out, pl.concat(refused)


def _items(path: Path, zip_codes: set[str] | None) -> tuple[pl.DataFrame, pl.Series, pl.DataFrame]:
    """The businesses in the zip codes, the ids of all others, and the rejected rows."""
    quarantine = Quarantine(path)
    elsewhere: set[str] = set()
    items = collect_items(_item_records(path, zip_codes, elsewhere, quarantine), quarantine)
    others = pl.Series(sorted(elsewhere - set(items[ITEM_ID])), dtype=pl.String)
    return items, others, quarantine.frame()


def _item_records(
    path: Path, zip_codes: set[str] | None, elsewhere: set[str], quarantine: Quarantine
) -> Iterator[tuple]:
    for number, record in read_objects(path, quarantine, ADVICE):
        item, names, address = (record.get(key) for key in ("gmap_id", "category", "address"))
        if zip_codes is not None and isinstance(item, str) and _zip_code(address) not in zip_codes:
            elsewhere.add(item.strip())
            continue
        names = [clean_text(name, 60) for name in names if isinstance(name, str)] if isinstance(names, list) else []
        texts = [clean_text(text) for text in (record.get("description"), address) if isinstance(text, str)]
        categories = list(dict.fromkeys(filter(None, names)))[:MAX_CATEGORIES]
        yield number, item, record.get("name"), categories, next(filter(None, texts), "")


def _zip_code(address: object) -> str | None:
    """The last zip code behind a state's two letters: house numbers have five digits as well."""
    codes = _ZIP_CODE.findall(address) if isinstance(address, str) else []
    return codes[-1] if codes else None
