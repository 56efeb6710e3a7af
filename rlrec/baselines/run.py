"""The rows of one command: made on the samples of a system's own run, each in a folder of its own.

    DIR/<row>/results.json, predictions.parquet (users.parquet)     as soon as that row is finished
    DIR/results.json, predictions.parquet (users.parquet)           all finished rows together

results.json is a row's last file: a folder that has it, whole and with what belongs to it, is not made again.
"""

import difflib
import functools
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
from transformers import TrainingArguments

from rlrec.arguments import DataArguments, PolicyArguments
from rlrec.baselines.arguments import BaselineArguments
from rlrec.baselines.tallrec import tallrec_fit
from rlrec.baselines.tuning import TableRow, tune
from rlrec.data import PreparedDataset
from rlrec.experiment import Run
from rlrec.recommenders.split_data import SPLITS
from rlrec.results import (
    read_predictions,
    read_results,
    read_users,
    write_parquet_atomic,
    write_predictions,
    write_results,
)

EMBEDDED_RATES = [2e-3, 8e-3]
PAPER_RATES = [1e-4]
USER_KEYS = ("window", "user_id", "items")


class Baselines(Run):
    """Loads a system's samples, makes rows, and writes each one when it is finished.

    A subclass has `system`, `names` and `make_row`; its constructor calls this one, sets `prepared` and `samples`, and
    then calls `begin`.

    Args:
        baselines: rows, grid and fits.
        arguments, data, policy, config: the system's own, as its recipe parses them.
        make_scorer: (model, tokenizer, template, batch_size=...) -> LC scorer, for TALLRec.

    Attributes:
        names: rows that the system has here.
        prepared, samples: the dataset, and the system's samples by split.
        questions: where TALLRec is among the rows: (the policies, sample -> prompt to be answered by Yes or No).

    Raises:
        ValueError: an unknown row (the nearest name is suggested), or settings that do not fit those with which the
            folder was begun.
    """

    names: tuple[str, ...] = ()
    evaluation = ("system", "rows", "workers", "tallrec_device_batch")
    system_settings: tuple[str, ...] = ()  # of the system's, those that samples or rows depend on
    prepared: PreparedDataset
    samples: dict[str, pl.DataFrame]

    def __init__(
        self,
        baselines: BaselineArguments,
        arguments,
        data: DataArguments,
        policy: PolicyArguments,
        config: TrainingArguments,
        make_scorer: Callable,
    ):
        super().__init__(arguments, data, policy, config)
        self.baselines, self.make_scorer, self.questions = baselines, make_scorer, None
        for row in baselines.rows:
            if row not in self.names:
                near = difflib.get_close_matches(row, self.names, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self.names)}."
                raise ValueError(f"{self.system} has no baseline {row!r}; {hint}")

    @property
    def hyperparameters(self) -> dict:
        """What rows in one folder must have in common."""
        shared = {name: getattr(self.arguments, name) for name in self.system_settings}
        return shared | asdict(self.baselines) | asdict(self.policy_arguments)

    @property
    def compared_settings(self) -> dict:
        """As above; of the trainer's settings no row reads more than TALLRec's precision."""
        return self.hyperparameters | {name: getattr(self.config, name) for name in ("bf16", "fp16")}

    def begin(self) -> None:
        """Claim the folder, and find out which rows it lacks."""
        self.claim_folder()
        wanted = self.baselines.rows or self.names
        self.unfinished = [row for row in dict.fromkeys(wanted) if not self._is_finished(row, "it is made anew")]
        self.state.wait_for_everyone()  # all ranks have looked before the first row is written

    def make_row(self, row: str) -> TableRow:
        """A row of `names`."""
        raise NotImplementedError(f"{type(self).__name__} must define make_row(row)")

    def write_row(self, row: str) -> None:
        """Make a row, and leave it in a folder of its own."""
        started = time.time()
        self.state.print(f"{self.system} on {self.prepared.metadata['name']}: {row}")
        made = self.make_row(row)
        if self.state.is_main_process:
            self._write(self.output / row, {row: made}, {"tuning": made.details}, time.time() - started)
        self.state.wait_for_everyone()

    def finish(self) -> None:
        """Write what all finished rows say together, those of earlier commands among them, and print the table."""
        if not self.state.is_main_process:
            return
        from rlrec.reports import tables_markdown

        finished = [row for row in self.names if self._is_finished(row, "it is left out")]
        if not finished:
            return
        records = {row: read_results(self.output / row) for row in finished}
        rows = {row: _read_row(self.output / row, row) for row in finished}
        tuning = {row: record["details"]["tuning"] for row, record in records.items()}
        self._write(self.output, rows, {"tuning": tuning}, sum(r["wall_time_s"] for r in records.values()))
        print("\n" + tables_markdown([self.output]))
        print(f"wrote {self.output / 'results.json'}")

    def _write(self, folder: Path, rows: dict[str, TableRow], details: dict, wall_time: float) -> None:
        scores = {row: made.predictions for row, made in rows.items() if made.predictions is not None}
        if scores:
            write_predictions(folder, self.samples["test"], scores)
        users = [made.users for made in rows.values() if made.users is not None]
        if users:
            joined = functools.reduce(lambda left, right: left.join(right, on=USER_KEYS, maintain_order="left"), users)
            write_parquet_atomic(folder / "users.parquet", joined)
        write_results(
            folder,
            system=self.system,
            dataset=self.prepared.metadata["name"],
            seed=self.seed,
            rows={row: made.metrics for row, made in rows.items()},
            details={
                **details,
                "base_model": self.policy_arguments.model_name_or_path if "tallrec" in rows else None,
                "dataset_license": self.prepared.metadata["licence"],
                "dataset_size": {split: len(part) for split, part in self.samples.items()},
                "hyperparameters": self.hyperparameters,
            },
            wall_time=wall_time,
        )

    def _is_finished(self, row: str, otherwise: str) -> bool:
        """Whether the row's folder is whole; what is wrong with one that is not is said, and what follows from it."""
        folder = self.output / row
        if not (folder / "results.json").is_file():
            return False
        try:
            read = _read_row(folder, row)
            record = read_results(folder)
            if (record["system"], record["seed"]) != (self.system, self.seed):
                raise ValueError(f"it is of {record['system']} with seed {record['seed']}")
            if read.predictions is not None and len(read.predictions) != len(self.samples["test"]):
                raise ValueError(f"{len(read.predictions)} predictions for {len(self.samples['test'])} test samples")
        except (ValueError, KeyError, OSError, pl.exceptions.PolarsError) as error:
            self.state.print(f"The row in {folder} cannot be used ({_first_line(error)}): {otherwise}.")
            return False
        return True

    # -- what both clicks and ratings have ------------------------------------------------------------------------
    def tallrec_row(self, metrics: Callable[[np.ndarray], dict], to_predictions: Callable) -> TableRow:
        """TALLRec; `to_predictions` makes test predictions of P(Yes) of the validation and the test samples."""
        policies, question = self.questions
        embedded = self.policy_arguments.model_name_or_path == "tiny"
        rates = self.baselines.tallrec_learning_rates or (EMBEDDED_RATES if embedded else PAPER_RATES)
        fit_once = functools.partial(
            tallrec_fit,
            folder=self.output / "tallrec",
            policies=policies,
            samples=self.samples,
            question=question,
            make_scorer=functools.partial(self.make_scorer, batch_size=self.arguments.scoring_batch),
            to_predictions=to_predictions,
            config=self.config,
            epochs=self.baselines.tallrec_epochs,
            batch_size=self.baselines.tallrec_batch,
            device_batch=self.baselines.tallrec_batch if embedded else self.baselines.tallrec_device_batch,
        )
        return tune(fit_once, [{"learning_rate": rate} for rate in rates], metrics, fits=1, seed=self.seed)


def _read_row(folder: Path, row: str) -> TableRow:
    """A row from its folder.

    Raises:
        ValueError, KeyError, OSError, PolarsError: a file is missing or damaged.
    """
    metrics = read_results(folder)["rows"][row]
    predictions, users = read_predictions(folder), read_users(folder)
    if predictions is None and users is None:
        raise ValueError("there is neither predictions.parquet nor users.parquet")
    scores = None if predictions is None else predictions[f"score_{row}"].to_numpy()
    return TableRow(metrics, scores, users=users)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def by_split(samples: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """{split: its samples}."""
    return {split: samples.filter(pl.col("split") == split) for split in SPLITS}
