"""Configuration files that ship with the recipes, by name (`expctr/ml-100k`), and suggestions for misspelt names.

Nothing here imports torch, so that commands which only plan answer at once.
"""

import difflib
import importlib.resources
import os
from collections.abc import Iterable
from pathlib import Path

import yaml


def load_config(name: str) -> dict:
    """The key-value pairs of a packaged configuration ("expctr/ml-100k") or of a YAML file.

    Raises:
        ValueError: no such configuration (the nearest name is suggested), or the file is no mapping.
    """
    folder = importlib.resources.files("recipes") / "configs"
    path = folder / f"{name}.yaml"
    path = Path(name) if name.endswith((".yaml", ".yml")) else path
    if not path.is_file():
        check_known(name, packaged_configs(), "configuration")
    return load_yaml(path)


def load_yaml(path) -> dict:
    """The key-value pairs of a YAML file.

    Raises:
        ValueError: no valid YAML, or no mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no valid YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold 'key: value' lines.")
    return values


def packaged_configs() -> list[str]:
    """Names of the configurations that ship with the recipes."""
    folder = Path(str(importlib.resources.files("recipes") / "configs"))
    return sorted(
        str(path.relative_to(folder))[: -len(".yaml")].replace(os.sep, "/") for path in folder.rglob("*.yaml")
    )


def check_known(name: str, known: Iterable[str], what: str) -> None:
    """Raise ValueError unless `name` is known; the nearest known name is suggested, or all of them told.

    >>> check_known("expctrr", ["expctr", "recpie"], "system")
    Traceback (most recent call last):
    ValueError: There is no system 'expctrr'; did you mean 'expctr'?
    """
    known = list(known)
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}."
        raise ValueError(f"There is no {what} {name!r}; {hint}")
