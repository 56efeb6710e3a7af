"""Where the datasets of a table lie on this machine."""

from collections.abc import Collection, Sequence
from pathlib import Path

from rlrec.configs import check_known


def find_data(given: Sequence[str], datasets: Collection[str]) -> dict[str, Path]:
    """{dataset: folder of its raw files, or one that recipes/prepare_data.py wrote}.

    Args:
        given: "ml-100k=path/to/it", or a folder whose subfolders are called like datasets (book_crossing is
            book-crossing); the former wins.
        datasets: known names.

    Raises:
        ValueError: an unknown dataset, or no such folder.
    """
    found, named = {}, {}
    for text in given:
        name, equals, path = text.partition("=")
        folder = Path(path if equals else text).resolve()
        if not folder.is_dir():
            raise ValueError(f"--data {text}: there is no folder {folder}.")
        if equals:
            check_known(name, datasets, "dataset")
            named[name] = folder
        else:
            below = {child.name.replace("_", "-"): child for child in sorted(folder.iterdir()) if child.is_dir()}
            found |= {name: child for name, child in below.items() if name in datasets}
    return found | named
