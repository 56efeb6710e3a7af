"""The files a run leaves behind, written and read: results.json, predictions.parquet, users.parquet (rankings
and utility)
and logs/<stage>.json.

Reports read these files alone, so whatever a table or picture needs must be in them. Every file is written under a
temporary name in its own folder and then renamed: a killed run leaves the old file or the new one, never half of one.
What is read again has a checksum beside it (rlrec/files.py), and a damaged file is named.
JSON here is strict: a number that is not finite (the AUC of an empty group) is written as null.
"""

import datetime
import importlib.metadata
import json
import math
import os
import platform
import resource
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from rlrec.files import read_frame, read_json, replacing

SCHEMA = 1
REQUIRED = ("schema", "system", "dataset", "seed", "rows", "controls")
PACKAGES = ("rlrec", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "polars", "scikit-learn")
SAMPLE_COLUMNS = ("user_id", "item_id", "title", "label", "rating", "target", "review", "reasons", "history_titles",
                  "history_labels")  # fmt: skip
WINDOW_COLUMNS = ("window", "item_id", "title", "history", "popularity")  # of samples of a popularity window


def write_text_atomic(path: str | Path, text: str) -> Path:
    """Write `text` to `path` (its folder is made) so that no reader ever sees half of it; JSON with a checksum."""
    with replacing(path, checksum=Path(path).suffix == ".json") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def write_parquet_atomic(path: str | Path, frame: pl.DataFrame) -> Path:
    """Write `frame` to `path` (its folder is made) so that no reader ever sees half of it."""
    with replacing(path) as temporary:
        frame.write_parquet(temporary)
    return Path(path)


def to_json(value) -> str:
    """Strict, indented JSON: numpy numbers become plain ones, NaN and infinities become null.

    >>> print(to_json({"auc": float("nan"), "n": np.int64(3)}))
    {
      "auc": null,
      "n": 3
    }
    """
    return json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)


def _plain(value):
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple | set):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def write_results(
    output_dir: str | Path,
    *,
    system: str,
    dataset: str,
    seed: int,
    rows: Mapping[str, Mapping[str, float | None]],
    controls: Mapping[str, object] | None = None,
    details: Mapping[str, object] | None = None,
    wall_time: float | None = None,
) -> Path:
    """Write `output_dir`/results.json and return its path.

    Args:
        output_dir: the run's folder.
        system: "expctr", "recpie", ...
        dataset: "ml-100k", "simulated", ...; tables find the paper's values by "ml-20m", "book-crossing" and
            "amazon-books".
        seed: of the run; reports average over seeds of one system and dataset.
        rows: {row in snake case: {metric: value or None}}.
        controls: {control: value or {metric: value}}, such as {"shuffled_labels": {"auc": 0.501}}.
        details: free, for the model card: base_model, policy, encoder, dataset_license, hyperparameters, sizes ...
        wall_time: seconds of the whole run.

    The git revision ("-dirty" when tracked files differ from it), command line, package versions, hardware and peak
    memory of this process are added.
    """
    for row, metrics in rows.items():
        if not isinstance(metrics, Mapping):
            raise ValueError(f"Row '{row}' holds {metrics!r}; rows must be {{row: {{metric: number or None}}}}.")
        for metric, value in metrics.items():
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float | np.number)):
                raise ValueError(f"Row '{row}', metric '{metric}' is {value!r}; it must be a number or None.")
    record = {
        "schema": SCHEMA,
        "system": system,
        "dataset": dataset,
        "seed": seed,
        "rows": rows,
        "controls": controls or {},
        "details": details or {},
        "wall_time_s": wall_time,
        "peak_memory_bytes": peak_memory(),
        "git_revision": git_revision(),
        "command": shlex.join(sys.argv),
        "versions": versions(),
        "hardware": hardware(),
        "written": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }
    return write_text_atomic(Path(output_dir) / "results.json", to_json(record) + "\n")


def read_results(run_dir: str | Path) -> dict:
    """The results.json of a run folder (or of the path of the file itself).

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON, a key missing, or a schema this version does not know.
    """
    path = Path(run_dir)
    path = path / "results.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}; give the output folder of a finished run.")
    record = read_json(path)
    missing = [key for key in REQUIRED if key not in record] if isinstance(record, dict) else list(REQUIRED)
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}; it is not a results file of rlrec.")
    if record["schema"] != SCHEMA:
        raise ValueError(
            f"{path} has schema {record['schema']}, and this version reads {SCHEMA}; use a matching rlrec."
        )
    return record


def write_log_history(output_dir: str | Path, stage: str, log_history: Sequence[Mapping]) -> Path:
    """Write a trainer's `state.log_history` to `output_dir`/logs/<stage>.json, for the reward curves.

    Args:
        stage: "lc", "ic", "ic_2", "more_lc" ...; becomes the curve's title.
    """
    return write_text_atomic(Path(output_dir) / "logs" / f"{stage}.json", to_json(list(log_history)) + "\n")


def read_log_histories(run_dir: str | Path) -> dict[str, list[dict]]:
    """{stage: log history} of a run, LC stages first; empty when the run wrote none."""
    paths = sorted(
        Path(run_dir).glob("logs/*.json"), key=lambda path: ("lc" not in path.stem, len(path.stem), path.stem)
    )
    return {path.stem: read_json(path) for path in paths}


def write_predictions(
    output_dir: str | Path,
    samples: pl.DataFrame,
    scores: Mapping[str, Sequence[float]],
    explanations: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Write `output_dir`/predictions.parquet: one row per test sample, for paired tests and the case study.

    Args:
        samples: the test samples; of their columns those of `SAMPLE_COLUMNS` (target: the rating scaled to [0, 1]) or
            `WINDOW_COLUMNS` are kept.
        scores: {row of results.json: (N,) probabilities or scaled ratings}, stored as column score_<row>.
        explanations: {row: N texts (the first one where there are several)}, stored as column explanation_<row>.
    """
    columns = [pl.Series(f"score_{row}", np.asarray(values, dtype=float)) for row, values in scores.items()]
    columns += [pl.Series(f"explanation_{row}", list(texts)) for row, texts in (explanations or {}).items()]
    for column in columns:
        if len(column) != len(samples):
            raise ValueError(
                f"{column.name} has {len(column)} values for {len(samples)} samples; give one per sample."
            )
    wanted = WINDOW_COLUMNS if "window" in samples.columns else SAMPLE_COLUMNS
    kept = samples.select([column for column in wanted if column in samples.columns])
    return write_parquet_atomic(Path(output_dir) / "predictions.parquet", kept.with_columns(columns))


def read_predictions(run_dir: str | Path) -> pl.DataFrame | None:
    """The predictions.parquet of a run folder, or None when it wrote none."""
    return _read_parquet(Path(run_dir) / "predictions.parquet")


def read_users(run_dir: str | Path) -> pl.DataFrame | None:
    """The users.parquet of a run folder, or None when it wrote none.

    For paired tests, each user's own `<metric>_<row>`: of rankings one row per test window and user (window, user_id,
    items, "hr@10_trail" ...), of utility one per test sample (user_id, item_id, "recall@10_seller" ...).
    """
    return _read_parquet(Path(run_dir) / "users.parquet")


def _read_parquet(path: Path) -> pl.DataFrame | None:
    return read_frame(path) if path.is_file() else None


def git_revision() -> str | None:
    """Revision of the checkout this package runs from, with "-dirty" when tracked files differ; None outside one."""

    def git(*arguments: str) -> subprocess.CompletedProcess:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    try:
        # An installed copy may lie inside another project's repository, whose revision would mislead.
        if git("ls-files", "--error-unmatch", Path(__file__).name).returncode != 0:
            return None
        revision = git("rev-parse", "HEAD").stdout.strip()
        return revision + ("-dirty" if git("status", "--porcelain", "--untracked-files=no").stdout.strip() else "")
    except (FileNotFoundError, subprocess.TimeoutExpired):  # no git on this machine
        return None


def versions() -> dict[str, str]:
    """Python's version and those of the packages that decide the numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, object]:
    """Processor, cores this process may use, memory and GPUs."""
    import torch  # not needed to read results

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    record = {"machine": platform.machine(), "processor": _processor(), "cores": cores}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        record["memory_bytes"] = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    record["gpus"] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return record


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def peak_memory() -> dict[str, int]:
    """Largest resident memory of this process so far, and of torch on each GPU, in bytes."""
    import torch

    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, KiB on Linux
    record = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            record[f"gpu_{index}"] = torch.cuda.max_memory_allocated(index)
    return record
