"""Time and peak memory of the real prepare_data command on a file of ML-20M's shape.

    python benchmarks/prepare_data.py
    python benchmarks/prepare_data.py --ratings 1000000 --bad_rows 100

Generates ratings.csv and movies.csv with the counts of ML-20M (138,493 users, 27,278 movies, 20,000,263 half-star
ratings, sorted by user and movie, popularity and activity skewed) in a temporary folder, runs
``recipes/prepare_data.py --dataset ml-20m`` on it as a child process, and prints one line of JSON. With --bad_rows
some ratings are spoiled, so that blocks are read line by line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
from measured import prepare_generated

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratings", type=int, default=RATINGS)
    parser.add_argument("--bad_rows", type=int, default=0)
    parser.add_argument("--k_core", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        arguments = (options.ratings, options.bad_rows)
        measured = prepare_generated(generate, arguments, Path(name), "ml-20m", ["--k_core", str(options.k_core)])
    budget = {"seconds": BUDGET_SECONDS, "gib": BUDGET_GIB}
    result = {**vars(options), **measured, "budget": budget}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
