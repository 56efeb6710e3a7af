"""Explicit downloads of official raw files; nothing else in the package opens a connection for data."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from rlrec.data.prepare import MOVIELENS
from rlrec.data.schema import DataError

MOVIELENS_URL = "https://files.grouplens.org/datasets/movielens"
# Reviews and metadata of one category, by year of the release.
AMAZON_URLS = {
    2014: (
        "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/reviews_{}_5.json.gz",
        "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/meta_{}.json.gz",
    ),
    2018: (
        "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2/categoryFilesSmall/{}_5.json.gz",
        "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2/metaFiles2/meta_{}.json.gz",
    ),
    2023: (
        "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw/review_categories/{}.jsonl.gz",
        "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw/meta_categories/meta_{}.jsonl.gz",
    ),
}
# Reviews and metadata of one state.
GOOGLE_LOCAL_URLS = (
    "https://mcauleylab.ucsd.edu/public_datasets/gdrive/googlelocal/review-{}.json.gz",
    "https://mcauleylab.ucsd.edu/public_datasets/gdrive/googlelocal/meta-{}.json.gz",
)
TIMEOUT_SECONDS = 60
MAX_RATIO, MIN_BOMB = 100, 100 * 2**20  # ratings pack 4 to 10 times; deflate can reach 1,030


def download(
    dataset: str,
    raw_dir: str | Path,
    *,
    category: str | None = None,
    year: int = 2018,
    mirror: str | None = None,
    progress=lambda message: None,
) -> None:
    """Fetch a dataset's official files into `raw_dir`; files already there are kept.

    MovieLens archives are checked against the md5 that GroupLens publishes beside them and unpacked.

    Args:
        dataset: a MovieLens release, "amazon" or "google-local".
        raw_dir: made if it does not exist.
        category: amazon: such as "Gift_Cards"; google-local: a state, such as "California".
        year: amazon: 2014, 2018 (5-core) or 2023.
        mirror: a folder's URL (http, https or file) to fetch the same file names from.

    Raises:
        DataError: the dataset has no official download, the server does not answer, or the checksum differs.
    """
    raw_dir = Path(raw_dir)
    raw_dir.mkdir(parents=True, exist_ok=True)
    if dataset in MOVIELENS:
        if (raw_dir / dataset / MOVIELENS[dataset]).is_file():
            progress(f"{raw_dir / dataset} is there already")
            return
        url = f"{mirror or MOVIELENS_URL}/{dataset}.zip"
        archive = raw_dir / f"{dataset}.zip"
        expected = _published_md5(url, progress)
        _fetch(url, archive, expected, progress)
        progress(f"unpacking {archive.name}")
        _unpack(archive, raw_dir)
    elif dataset in ("amazon", "google-local"):
        if not category or not re.fullmatch(r"\w+", category) or year not in AMAZON_URLS:
            raise DataError(
                "--download of amazon needs --category such as Gift_Cards and year 2014, 2018 or 2023, and of "
                "google-local --category such as California."
            )
        for template in AMAZON_URLS[year] if dataset == "amazon" else GOOGLE_LOCAL_URLS:
            url = template.format(category)
            name = url.rpartition("/")[2]
            if (raw_dir / name).is_file():
                progress(f"{raw_dir / name} is there already")
            else:
                _fetch(f"{mirror}/{name}" if mirror else url, raw_dir / name, None, progress)
    else:
        raise DataError(
            f"{dataset} has no official download; put its files into --raw_dir (docs/data.md says where from)."
        )


def _open(url: str):
    if url.partition("://")[0] not in ("http", "https", "file"):
        raise DataError(f"{url}: not an http, https or file URL; give --mirror such a one.")
    return urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS)


def _published_md5(url: str, progress) -> str | None:
    try:
        with _open(url + ".md5") as response:
            text = response.read(10_000).decode("ascii", "replace")
    except (urllib.error.URLError, TimeoutError) as error:
        missing = getattr(error, "code", None) == 404 or isinstance(error.reason, FileNotFoundError)
        if not missing:
            raise DataError(f"{url}.md5: cannot be downloaded ({error}); check the connection.") from error
        progress("no md5 is published for it; the sha256 in metadata.json tells which file was used")
        return None
    found = re.search(r"\b[0-9a-f]{32}\b", text.lower())
    if not found:
        raise DataError(f"{url}.md5: holds no md5 sum but {text[:60]!r}; check the URL.")
    return found.group()


def _fetch(url: str, path: Path, md5: str | None, progress) -> None:
    progress(f"downloading {url}")
    partial = path.with_name(path.name + ".part")
    digest = hashlib.md5(usedforsecurity=False)
    done = reported = 0
    try:
        with _open(url) as response, partial.open("wb") as file:
            while block := response.read(1 << 20):
                file.write(block)
                digest.update(block)
                done += len(block)
                if done - reported >= 50 * 2**20:
                    reported = done
                    progress(f"  {done / 2**20:,.0f} MiB")
    except (OSError, urllib.error.URLError) as error:  # time-outs and broken connections are OSErrors
        partial.unlink(missing_ok=True)
        raise DataError(f"{url}: cannot be downloaded ({error}); check the connection, or try --mirror.") from error
    if md5 is not None and digest.hexdigest() != md5:
        partial.unlink()
        raise DataError(f"{url}: md5 is {digest.hexdigest()} but {md5} is published; download it again.")
    os.replace(partial, path)


def _check_size(archive: Path, content: zipfile.ZipFile) -> None:
    """Refuse a bomb. The sizes in the directory bind: `zipfile` reads no more of a member than it says there."""
    size = sum(member.file_size for member in content.infolist())
    if size > MAX_RATIO * archive.stat().st_size and size > MIN_BOMB:
        raise DataError(
            f"{archive}: its {archive.stat().st_size:,} bytes would unpack to {size:,}, as no dataset does; "
            "do not use it."
        )
    if size > (free := shutil.disk_usage(archive.parent).free):
        raise DataError(f"{archive}: needs {size:,} bytes unpacked, and {free:,} are free; make room.")


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack next to the goal, then move into place; members that would land elsewhere are refused."""
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".unpacking-"))
    try:
        with zipfile.ZipFile(archive) as content:
            for name in content.namelist():
                if not (temporary / name).resolve().is_relative_to(temporary.resolve()):
                    raise DataError(f"{archive}: member {name!r} would be written outside the folder; do not use it.")
            _check_size(archive, content)
            content.extractall(temporary)
        for path in sorted(temporary.iterdir()):
            if (folder / path.name).is_dir():
                shutil.rmtree(folder / path.name)
            os.replace(path, folder / path.name)
    except zipfile.BadZipFile as error:
        raise DataError(f"{archive}: not a valid zip archive ({error}); delete it and download it again.") from error
    finally:
        shutil.rmtree(temporary)
