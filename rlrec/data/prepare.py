"""One call from raw files, by the dataset's name, to a prepared dataset."""

from __future__ import annotations

import difflib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rlrec.data.amazon import read_amazon
from rlrec.data.book_crossing import read_book_crossing
from rlrec.data.douban import PERIOD, read_douban
from rlrec.data.google_local import read_google_local
from rlrec.data.kuairec import LIKED, read_kuairec
from rlrec.data.movielens import read_movielens
from rlrec.data.raw import checksum
from rlrec.data.recbole import read_recbole
from rlrec.data.schema import DataError, PreparedDataset, assemble
from rlrec.data.simulated import simulate
from rlrec.data.simulated_sequences import simulate_sequences
from rlrec.data.simulated_trends import simulate_trends
from rlrec.data.tripadvisor import read_tripadvisor
from rlrec.data.yelp import read_yelp

# Ratings file by which each MovieLens release is told from the others.
MOVIELENS = {
    "ml-100k": "u.data",
    "ml-1m": "ratings.dat",
    "ml-20m": "ratings.csv",
    "ml-25m": "ratings.csv",
    "ml-32m": "ratings.csv",
    "ml-latest-small": "ratings.csv",
}
DATASETS = (
    *MOVIELENS,
    "book-crossing",
    "amazon",
    "douban-movies",
    "google-local",
    "yelp",
    "tripadvisor",
    "kuairec",
    "recbole",
    "simulated",
    "simulated-hard",
    "simulated-trends",
    "simulated-sequences",
)


def prepare(
    dataset: str,
    raw_dir: str | Path | None = None,
    *,
    threshold: float | None = None,
    label_rule: str = "gt",
    k_core: int = 0,
    category: str | None = None,
    zip_codes: str | None = None,
    period: tuple[str, str] | None = PERIOD,
    reviews: bool = True,
    matrix: str = "big",
    min_watch_ratio: float = LIKED,
    item_details: bool = False,
    domain: str | None = None,
    rating_scale: tuple[float, float] | None = None,
    num_users: int = 1000,
    num_items: int = 300,
    interactions_per_user: int = 30,
    seed: int = 0,
    progress=lambda message: None,
) -> PreparedDataset:
    """Read, check and describe a dataset; nothing is downloaded or written.

    Args:
        dataset: one of `DATASETS`.
        raw_dir: folder with the official raw files (or its parent); not used by the simulated worlds.
        threshold: rating threshold of the label; default: the dataset's own (ExpCTR, section 5.1.1).
        label_rule: "gt" (rating above the threshold, the paper's letter) or "ge".
        k_core: keep users and items with at least so many interactions; 0 keeps all.
        category: amazon: which category, google-local: which state, where the folder holds several.
        zip_codes: google-local: keep the businesses with these zip codes, such as "94035-94043" (RecPIE, section 5.1).
        period: douban-movies: first and last day kept, such as ("2010-01-01", "2019-11-30") (TRAIL, section 5.1.1; the
            default); None keeps all.
        reviews: amazon, google-local and yelp: keep the review texts.
        matrix: kuairec: "big" or "small".
        min_watch_ratio: kuairec: keep what was watched for more than this multiple of its length; the default is a
            "like".
        item_details: yelp and kuairec: describe an item by all that is told about it (yelp: SELLER, Figure 3).
        domain: the word prompts use for an item; default: the dataset's own.
        rating_scale: recbole: smallest and largest valid rating; default: those that occur.
        num_users, num_items, interactions_per_user, seed: size and seed of a simulated world.
        progress: called with a message at every step.

    Raises:
        DataError: a file as a whole cannot be used, or nothing usable is in it.

    >>> prepare("simulated-hard", num_users=40, num_items=30, interactions_per_user=10).metadata["name"]
    'simulated-hard'
    """
    if dataset not in DATASETS:
        near = difflib.get_close_matches(dataset, DATASETS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(DATASETS)}."
        raise DataError(f"There is no dataset {dataset!r}; {hint}")
    if dataset.startswith("simulated"):
        progress(f"simulating {num_users:,} users with {interactions_per_user} ratings of {num_items:,} films")
        if dataset == "simulated-trends":
            return simulate_trends(num_users, num_items, interactions_per_user, seed, threshold, label_rule)
        if dataset == "simulated-sequences":
            return simulate_sequences(num_users, num_items, interactions_per_user, seed, threshold, label_rule)
        return simulate(
            num_users,
            num_items,
            interactions_per_user,
            seed,
            bias=dataset == "simulated",
            threshold=threshold,
            label_rule=label_rule,
        )
    if dataset in MOVIELENS:
        raw = read_movielens(raw_dir, progress=progress)
        if raw.interactions_file != MOVIELENS[dataset]:
            raise DataError(
                f"{raw_dir}: found {raw.interactions_file}, but {dataset} comes as {MOVIELENS[dataset]}; "
                "name the dataset whose files these are."
            )
    elif dataset == "book-crossing":
        raw = read_book_crossing(raw_dir, progress=progress)
    elif dataset == "amazon":
        raw = read_amazon(raw_dir, category, reviews, progress=progress)
    elif dataset == "douban-movies":
        raw = read_douban(raw_dir, period, progress=progress)
    elif dataset == "google-local":
        raw = read_google_local(raw_dir, category, zip_codes, reviews, progress=progress)
    elif dataset == "yelp":
        raw = read_yelp(raw_dir, reviews, item_details, progress=progress)
    elif dataset == "tripadvisor":
        raw = read_tripadvisor(raw_dir, progress=progress)
    elif dataset == "kuairec":
        raw = read_kuairec(raw_dir, matrix, min_watch_ratio, item_details, progress=progress)
    else:
        raw = read_recbole(raw_dir, rating_scale=rating_scale, progress=progress)
    raw.domain = domain or raw.domain
    with ThreadPoolExecutor(1) as pool:  # hashing leaves Python's lock alone, so it costs no time of its own
        checksums = pool.map(checksum, raw.raw_files)
        prepared = assemble(
            dataset, raw, threshold=threshold, label_rule=label_rule, k_core_size=k_core, progress=progress
        )
        prepared.metadata["raw_files"] = list(checksums)
    return prepared
