"""Turn a dataset's official raw files into the tables every recipe starts from.

    python recipes/prepare_data.py --dataset ml-100k --raw_dir raw/ml-100k --output_dir data/ml-100k
    python recipes/prepare_data.py --dataset ml-20m --raw_dir raw --download --output_dir data/ml-20m
    python recipes/prepare_data.py --dataset amazon --category Gift_Cards --raw_dir raw/gift --output_dir data/gift
    python recipes/prepare_data.py --dataset google-local --category California --zip_codes 94035-94043 \\
        --raw_dir raw/google --output_dir data/google-local
    python recipes/prepare_data.py --dataset simulated --output_dir data/simulated

Writes interactions.parquet, items.parquet, rejected.parquet (rows refused, with file, line and reason) and
metadata.json (counts, label rule, positive rate, sha256 of the raw files). Raw files are only read. docs/data.md
describes the datasets, the formats and what is refused.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rlrec.data import DATASETS, DataError, PreparedDataset, prepare
from rlrec.data.douban import PERIOD
from rlrec.data.download import AMAZON_URLS, download
from rlrec.data.kuairec import LIKED
from rlrec.files import storage_problem


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--dataset", required=True, metavar="NAME", help=f"one of {', '.join(DATASETS)}")
    parser.add_argument("--output_dir", required=True, help="folder for the four files; made if it does not exist")
    parser.add_argument("--raw_dir", help="folder with the official raw files, or its parent")
    label = parser.add_argument_group("label")
    label.add_argument(
        "--threshold",
        type=float,
        help="rating threshold; default: 4, for Book-Crossing 5 (both ExpCTR's), for simulated 3",
    )
    label.add_argument(
        "--label_rule",
        choices=("gt", "ge"),
        default="gt",
        help="gt: rating above the threshold is positive, as in the paper (default); ge: at least the threshold",
    )
    choice = parser.add_argument_group("what to keep")
    choice.add_argument(
        "--k_core", type=int, default=0, help="keep users and items with at least so many interactions (default: all)"
    )
    choice.add_argument("--category", help="amazon: such as Gift_Cards; google-local: a state, such as California")
    choice.add_argument(
        "--zip_codes",
        help="google-local: keep businesses with these zip codes, such as 94035-94043,95014 (default: all)",
    )
    choice.add_argument(
        "--period",
        nargs=2,
        metavar=("FIRST", "LAST"),
        default=PERIOD,
        help="douban-movies: days to keep (default: 2010-01-01 2019-11-30, TRAIL's)",
    )
    choice.add_argument(
        "--no_reviews", action="store_true", help="amazon, google-local, yelp: leave the review texts out"
    )
    choice.add_argument("--matrix", choices=("big", "small"), default="big", help="kuairec (default: big)")
    choice.add_argument(
        "--min_watch_ratio",
        type=float,
        default=LIKED,
        help=f"kuairec: keep what was watched for more than so many times its length (default: {LIKED:g}, a like)",
    )
    choice.add_argument(
        "--item_details",
        action="store_true",
        help="yelp: describe a business by address, stars, attributes, hours and status (SELLER's Figure 3), not by "
        "its place alone; kuairec: a video by its caption and topics",
    )
    choice.add_argument(
        "--domain", help="the word prompts use for an item (default: the dataset's own, such as movie)"
    )
    choice.add_argument(
        "--rating_scale",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="recbole: smallest and largest valid rating (default: those that occur)",
    )
    get = parser.add_argument_group("download")
    get.add_argument(
        "--download",
        action="store_true",
        help="first fetch the official files into --raw_dir (MovieLens, md5 checked; amazon; google-local)",
    )
    get.add_argument("--amazon_year", type=int, choices=sorted(AMAZON_URLS), default=2018, help="release to fetch")
    get.add_argument("--mirror", metavar="URL", help="fetch the same file names from this folder instead")
    world = parser.add_argument_group("the simulated worlds")
    world.add_argument("--num_users", type=int, default=1000, help="default: 1000")
    world.add_argument("--num_items", type=int, default=300, help="default: 300")
    world.add_argument("--interactions_per_user", type=int, default=30, help="default: 30")
    world.add_argument("--seed", type=int, default=0, help="default: 0")
    return parser.parse_args(arguments)


def summary(prepared: PreparedDataset) -> str:
    """The counts a reader wants to check, as an aligned table."""
    about = prepared.metadata
    sign = ">" if about["label_rule"] == "gt" else ">="
    low, high = about["rating_scale"]
    rows = [
        ("dataset", about["name"]),
        ("users", f"{about['users']:,}"),
        ("items", f"{about['items']:,}"),
        ("interactions", f"{about['interactions']:,}"),
        ("ratings", f"{low:g} to {high:g}"),
        ("positive", f"{about['positive_rate']:.1%} (rating {sign} {about['threshold']:g})"),
        ("timestamps", "yes" if about["has_timestamps"] else "no"),
        ("rejected rows", f"{prepared.rejected.height:,}"),
        *((f"  {reason}", f"{count:,}") for reason, count in about["rejected"].items()),
        ("licence", about["licence"]),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    start = time.monotonic()

    def progress(message: str) -> None:
        print(f"[{time.monotonic() - start:6.1f} s] {message}", flush=True)

    try:
        if Path(options.output_dir).is_file():
            raise DataError(f"--output_dir {options.output_dir} is a file; give a folder.")
        if options.download:
            if options.raw_dir is None:
                raise DataError("--download needs --raw_dir, the folder to download into.")
            download(
                options.dataset,
                options.raw_dir,
                category=options.category,
                year=options.amazon_year,
                mirror=options.mirror,
                progress=progress,
            )
        prepared = prepare(
            options.dataset,
            options.raw_dir,
            threshold=options.threshold,
            label_rule=options.label_rule,
            k_core=options.k_core,
            category=options.category,
            zip_codes=options.zip_codes,
            period=tuple(options.period),
            reviews=not options.no_reviews,
            matrix=options.matrix,
            min_watch_ratio=options.min_watch_ratio,
            item_details=options.item_details,
            domain=options.domain,
            rating_scale=tuple(options.rating_scale) if options.rating_scale else None,
            num_users=options.num_users,
            num_items=options.num_items,
            interactions_per_user=options.interactions_per_user,
            seed=options.seed,
            progress=progress,
        )
        progress(f"writing {options.output_dir}")
        prepared.write(options.output_dir)
    except Exception as error:
        told = error if isinstance(error, DataError) else storage_problem(error)
        if told is None:
            raise
        sys.exit(f"error: {told}")
    progress("done")
    print(summary(prepared))


if __name__ == "__main__":
    main()
