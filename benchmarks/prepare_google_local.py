"""Time and peak memory of the real prepare_data command on files of Google Local's shape.

    python benchmarks/prepare_google_local.py
    python benchmarks/prepare_google_local.py --plain --bad_rows 1000

Generates review-California.json.gz and meta-California.json.gz with the counts that RecPIE gives for Mountain View
(47,377 users, 133,599 businesses, 7,546,912 reviews; activity and popularity skewed) in a temporary folder, runs
``recipes/prepare_data.py --dataset google-local --zip_codes 94035-94043`` on them as a child process, and prints one
line of JSON. Two fifths of the reviews have no text; of the texts, a sixth has emoji or typographic quotes, and a
fifth line breaks or straight quotes. A hundredth of the businesses, with their reviews, lies in other zip codes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from measured import generate_files, prepare, tell

USERS, BUSINESSES, REVIEWS = 47_377, 133_599, 7_546_912
CHUNK_ROWS = 500_000
BUDGET_SECONDS, BUDGET_GIB = 60.0, 4.0
WORDS = (
    "the a and was is very great good food service staff friendly place nice clean parking coffee lunch waiting time "
    "price love best never again always recommend close far busy quiet small large order table fresh cold hot slow"
)


def generate(folder: Path, reviews: int, bad_rows: int, plain: bool, seed: int = 0) -> None:
    """Write both files; users and businesses scale with the number of reviews."""
    rng = np.random.default_rng(seed)
    users, businesses = (max(10, round(count * reviews / REVIEWS)) for count in (USERS, BUSINESSES))
    ids = [f"0x{a:016x}:0x{b:016x}" for a, b in rng.integers(2**62, size=(businesses, 2))]
    elsewhere = rng.random(businesses) < 0.01
    meta = pl.DataFrame(
        {
            "name": [f"Business & Sons, Number {number}" for number in range(businesses)],
            "address": [
                f"Business {number}, {number} Castro St, Mountain View, CA {95014 if away else 94035 + number % 9}"
                for number, away in enumerate(elsewhere)
            ],
            "gmap_id": ids,
            "description": [
                None if number % 4 else "Casual spot for coffee and lunch." for number in range(businesses)
            ],
            "latitude": rng.normal(37.39, 0.02, businesses),
            "longitude": rng.normal(-122.08, 0.02, businesses),
            "category": [["Restaurant", "Cafe"] if number % 3 else None for number in range(businesses)],
            "avg_rating": rng.integers(10, 51, businesses) / 10,
            "num_of_reviews": rng.integers(1, 9999, businesses),
        }
    )
    opener = open if plain else gzip.open
    suffix = ".json" if plain else ".json.gz"
    with opener(folder / f"meta-California{suffix}", "wb") as file:
        file.write(meta.write_ndjson().encode())

    texts = [
        " ".join(rng.choice(WORDS.split(), size))
        for size in np.minimum(rng.lognormal(2.7, 0.9, 50_000).astype(int) + 1, 400)
    ]
    for number, kind in enumerate(rng.random(len(texts))):
        ending = " It’s great 👍" if kind < 1 / 6 else '\n"Great"\nreally .' if kind < 1 / 6 + 1 / 5 else "!"
        texts[number] += ending
    texts = pl.Series(texts)
    activity = np.minimum(rng.lognormal(0.0, 1.1, users), 60.0)
    popularity = rng.lognormal(0.0, 1.5, businesses)
    user_ids = pl.Series([f"1{number:020}" for number in rng.integers(10**18, size=users)])
    names = pl.Series([f"Given Family{number % 5000}" for number in range(users)])
    spoiled = set(rng.choice(reviews, bad_rows, replace=False).tolist())
    with opener(folder / f"review-California{suffix}", "wb") as file:
        for start in range(0, reviews, CHUNK_ROWS):
            size = min(CHUNK_ROWS, reviews - start)
            user = rng.choice(users, size, p=activity / activity.sum())
            answered = rng.random(size) < 0.1
            chunk = pl.DataFrame(
                {
                    "user_id": user_ids.gather(user),
                    "name": names.gather(user),
                    "time": rng.integers(1_300_000_000_000, 1_631_000_000_000, size),
                    "rating": rng.integers(1, 6, size, dtype=np.int8),
                    "text": texts.gather(rng.integers(len(texts), size=size)),
                    "pics": pl.Series([None], dtype=pl.String).gather(np.zeros(size, dtype=int)),
                    "answer": texts.gather(rng.integers(len(texts), size=size)),
                    "gmap_id": pl.Series(ids).gather(rng.choice(businesses, size, p=popularity / popularity.sum())),
                }
            ).with_columns(
                text=pl.when(pl.Series(rng.random(size) >= 0.4)).then("text"),
                resp=pl.when(pl.Series(answered)).then(pl.struct(time="time", text="answer")),
            )
            chunk = chunk.select("user_id", "name", "time", "rating", "text", "pics", "resp", "gmap_id")
            lines = chunk.write_ndjson()
            if here := [row - start for row in spoiled if start <= row < start + size]:
                lines = lines.splitlines(keepends=True)
                for row in here:
                    lines[row] = lines[row].replace('"rating":', '"rating":"bad","was":')
                lines = "".join(lines)
            file.write(lines.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", type=int, default=REVIEWS)
    parser.add_argument("--bad_rows", type=int, default=0)
    parser.add_argument("--plain", action="store_true", help="files that are not gzipped")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        size = generate_files(generate, Path(name), options.reviews, options.bad_rows, options.plain)
        measured = prepare(Path(name), "google-local", ["--zip_codes", "94035-94043"])
    budget = {"seconds": BUDGET_SECONDS, "gib": BUDGET_GIB}
    print(json.dumps({**vars(options), "file_mib": size, **measured, "cores": os.cpu_count(), "budget": budget}))
    tell(
        f"prepare_data, {options.reviews:,} reviews of Google Local's shape, {size:,} MiB",
        f"{measured['seconds']} s, {measured['peak_gib']} GiB",
        f"budget {BUDGET_SECONDS:.0f} s, {BUDGET_GIB:.0f} GiB",
    )


if __name__ == "__main__":
    main()
