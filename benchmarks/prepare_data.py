"""Time and peak memory of the real prepare_data command on a file of ML-20M's shape, beside the same in pandas.

    python benchmarks/prepare_data.py
    python benchmarks/prepare_data.py --ratings 1000000 --bad_rows 100 --repeats 3

Generates ratings.csv and movies.csv with the counts of ML-20M (138,493 users, 27,278 movies, 20,000,263 half-star
ratings, sorted by user and movie, popularity and activity skewed) in a temporary folder, runs
``recipes/prepare_data.py --dataset ml-20m`` on it as a child process, then the same work in plain pandas in another,
`--repeats` times in turn. With --bad_rows some ratings are spoiled, so that blocks are read line by line.

pandas reads (pyarrow's parser, or pandas' own where values are spoiled), drops what is no number, out of range, of an
unknown movie or twice there, sorts, takes the k-core and the files' checksums, and writes the same columns as Parquet.
What it leaves out: refused rows with line and reason, cleaned titles. The two must agree in their counts.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from measured import generate_files, prepare, ratios, spread, tell, timed_command

from rlrec.data.raw import checksum

USERS, MOVIES, RATINGS = 138_493, 27_278, 20_000_263
BUDGET_SECONDS, BUDGET_GIB = 60.0, 4.0


def generate(folder: Path, ratings: int, bad_rows: int, seed: int = 0) -> None:
    """Write ratings.csv and movies.csv; users scale with the number of ratings."""
    rng = np.random.default_rng(seed)
    users = max(10, round(USERS * ratings / RATINGS))
    activity = np.minimum(rng.lognormal(0.0, 1.1, users), 60.0)
    user = np.sort(rng.choice(users, ratings, p=activity / activity.sum()).astype(np.int32))
    popularity = rng.lognormal(0.0, 2.0, MOVIES)
    movie = rng.choice(MOVIES, ratings, p=popularity / popularity.sum()).astype(np.int32)
    frame = pl.DataFrame(
        {
            "userId": user + 1,
            "movieId": movie + 1,
            "rating": rng.integers(1, 11, ratings, dtype=np.int8) / 2,
            "timestamp": rng.integers(800_000_000, 1_420_000_000, ratings),
        }
    ).sort("userId", "movieId")
    if bad_rows:
        spoiled = pl.Series(np.isin(np.arange(ratings), rng.choice(ratings, bad_rows, replace=False)))
        rating = pl.when(spoiled).then(pl.lit("bad")).otherwise(pl.col("rating").cast(pl.String))
        frame = frame.with_columns(rating.alias("rating"))
    frame.write_csv(folder / "ratings.csv")
    names = np.arange(1, MOVIES + 1)
    movies = {"movieId": names, "title": [f"Movie, Number {n} (1999)" for n in names], "genres": "Drama|Comedy"}
    pl.DataFrame(movies).write_csv(folder / "movies.csv")


def prepare_with_pandas(folder: Path, k_core: int, bad_rows: int) -> None:
    """What prepare_data does, as one would write it in pandas."""
    import pandas as pd

    options = {} if bad_rows else {"engine": "pyarrow"}
    ratings = pd.read_csv(folder / "ratings.csv", **options)
    items = pd.read_csv(folder / "movies.csv")
    ratings["rating"] = pd.to_numeric(ratings["rating"], errors="coerce")
    ratings = ratings[ratings["rating"].between(0.5, 5) & ratings["movieId"].isin(items["movieId"])]
    ratings = ratings.sort_values(["userId", "timestamp", "movieId"])
    ratings = ratings.drop_duplicates(["userId", "timestamp", "movieId"])
    while k_core:
        sizes = [ratings.groupby(column)[column].transform("size") for column in ("userId", "movieId")]
        keep = (sizes[0] >= k_core) & (sizes[1] >= k_core)
        if keep.all():
            break
        ratings = ratings[keep]
    positive_rate = (ratings["rating"] > 4).mean()
    ratings = ratings.rename(columns={"userId": "user_id", "movieId": "item_id"})
    ratings = ratings.astype({"user_id": "str", "item_id": "str"})
    items = items.rename(columns={"movieId": "item_id", "genres": "categories"})
    items = items.assign(item_id=items["item_id"].astype("str"), categories=items["categories"].str.split("|"))
    items["description"] = ""
    checksums = [checksum(folder / name) for name in ("ratings.csv", "movies.csv")]
    output = folder / "pandas"
    output.mkdir(exist_ok=True)
    ratings.to_parquet(output / "interactions.parquet", index=False)
    items[items["item_id"].isin(ratings["item_id"])].to_parquet(output / "items.parquet", index=False)
    counts = {"interactions": len(ratings), "users": ratings["user_id"].nunique(), "positive_rate": positive_rate}
    (output / "metadata.json").write_text(json.dumps({**counts, "raw_files": checksums}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratings", type=int, default=RATINGS)
    parser.add_argument("--bad_rows", type=int, default=0)
    parser.add_argument("--k_core", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=1, help="runs of each side")
    parser.add_argument("--pandas_in", type=Path, help=argparse.SUPPRESS)  # the child: pandas on this folder's files
    options = parser.parse_args()
    if options.pandas_in:
        prepare_with_pandas(options.pandas_in, options.k_core, options.bad_rows)
        return
    core = ["--k_core", str(options.k_core)]
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as name:
        size = generate_files(generate, Path(name), options.ratings, options.bad_rows)
        child = [sys.executable, __file__, "--pandas_in", name, "--bad_rows", str(options.bad_rows), *core]
        for _ in range(options.repeats):
            ours.append(prepare(Path(name), "ml-20m", core))
            theirs.append(timed_command(child))
        rows = [json.loads((Path(name) / side / "metadata.json").read_text()) for side in ("prepared", "pandas")]
    for key in ("interactions", "users", "positive_rate"):  # the same work: the same result
        if abs(rows[0][key] - rows[1][key]) > 1e-6:
            sys.exit(f"{key} is {rows[0][key]} here and {rows[1][key]} with pandas.")
    settings = {name: value for name, value in vars(options).items() if name != "pandas_in"}
    budget = {"seconds": BUDGET_SECONDS, "gib": BUDGET_GIB}
    found = {"file_mib": size, "rlrec": ours, "pandas": theirs, "cores": os.cpu_count(), "budget": budget}
    print(json.dumps({**settings, **found}))
    for key, unit, digits in (("seconds", "s", 1), ("cpu_seconds", "s of processor time", 1), ("peak_gib", "GiB", 2)):
        mine, other = ([run[key] for run in side] for side in (ours, theirs))
        what = f"prepare_data, {options.ratings:,} ratings ({size:,} MiB), {unit}"
        tell(what, spread(mine, digits), f"{spread(other, digits)} (pandas)", ratios(mine, other))


if __name__ == "__main__":
    main()
