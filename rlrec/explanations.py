"""The explanation store: the newest explanation of every (user, item, side), kept across rollouts, ranks and restarts.

ExpCTR (WSDM 2025), section 4.3.2: during stage 1 explanations are accumulated for each user-item pair, and stage 2
trains the CTR model on them. The paper keeps "fresh" ones; ruling: the newest per pair wins. `side` tells apart
several explanations of one pair (RecPIE writes a positive and a negative one); ExpCTR has one.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import polars as pl
import torch
from transformers import TrainerCallback

from rlrec.files import read_frame, replacing

SIDE = "explanation"
SCHEMA = {
    "user_id": pl.String,
    "item_id": pl.String,
    "side": pl.String,
    "text": pl.String,
    "round": pl.Int64,
    "step": pl.Int64,
    "reward": pl.Float64,
    "generated": pl.Int64,
}
PART_NAME = re.compile(r"explanations-rank(\d+)-of-(\d+)\.parquet")


class ExplanationStore:
    """(user_id, item_id, side) -> the newest text, with its round, step and reward, and how many were generated.

    Example:
        >>> store = ExplanationStore()
        >>> store.update([{"user_id": "u", "item_id": "i", "text": "They liked it.", "round": 0, "step": 1}])
        >>> store.update([{"user_id": "u", "item_id": "i", "text": "They will like it.", "round": 0, "step": 2}])
        >>> store.texts_for(pl.DataFrame({"user_id": ["u", "v"], "item_id": ["i", "i"]}))
        ['They will like it.', None]
        >>> len(store), store.generated
        (1, 2)
    """

    def __init__(self):
        self._rows: dict[tuple[str, str, str], dict] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def generated(self) -> int:
        """How many explanations were added in all, replaced ones included."""
        return sum(row["generated"] for row in self._rows.values())

    def update(self, rows: Iterable[Mapping]) -> None:
        """Adds explanations: mappings with user_id, item_id, text and optionally side, round, step, reward, generated.

        Newer is a higher (round, step), and of equal ones the later call; an older text only counts as generated.
        """
        for given in rows:
            row = {
                "user_id": given["user_id"],
                "item_id": given["item_id"],
                "side": given.get("side") or SIDE,
                "text": given["text"],
                "round": given.get("round") or 0,
                "step": given.get("step") or 0,
                "reward": given.get("reward"),
                "generated": given.get("generated", 1),
            }
            key = (row["user_id"], row["item_id"], row["side"])
            known = self._rows.get(key)
            newest = row if known is None or _age(row) >= _age(known) else known
            count = row["generated"] + (known["generated"] if known else 0)
            self._rows[key] = {**newest, "generated": count}

    def merge(self, other: "ExplanationStore") -> None:
        """Takes another store's explanations in (another rank's part, or a later stage's); the counts add up."""
        self.update(other._rows.values())

    def texts_for(self, samples: pl.DataFrame, side: str = SIDE) -> list[str | None]:
        """One text per row of `samples` (columns user_id, item_id); None where there is none yet."""
        keys = samples.select("user_id", "item_id").iter_rows()
        return [self._rows[(*key, side)]["text"] if (*key, side) in self._rows else None for key in keys]

    def embeddings_for(self, samples: pl.DataFrame, encoder, sides: Sequence[str] = (SIDE,)) -> torch.Tensor:
        """(N, len(sides), d) embeddings of the texts; zeros, "without explanation", where there is none."""
        out = torch.zeros(len(samples), len(sides), encoder.dimension)
        for slot, side in enumerate(sides):
            texts = self.texts_for(samples, side)
            rows = [i for i, text in enumerate(texts) if text is not None]
            if rows:
                out[rows, slot] = encoder.encode([texts[i] for i in rows])
        return out

    def to_frame(self) -> pl.DataFrame:
        """All rows, sorted by user, item and side, with the columns of `SCHEMA`."""
        return pl.DataFrame(list(self._rows.values()), schema=SCHEMA).sort("user_id", "item_id", "side")

    def save(self, path: str | os.PathLike) -> None:
        """Writes one Parquet file atomically."""
        with replacing(path) as temporary:
            self.to_frame().write_parquet(temporary)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "ExplanationStore":
        """Reads a file that `save` wrote.

        Raises:
            ValueError: the file has other columns.
        """
        frame = read_frame(path)
        if frame.schema != pl.Schema(SCHEMA):
            raise ValueError(f"{path} is no explanation store: its columns are {frame.columns}, not {list(SCHEMA)}.")
        store = cls()
        store.update(frame.iter_rows(named=True))
        return store

    @classmethod
    def load_parts(cls, directory: str | os.PathLike) -> "ExplanationStore":
        """Merges the parts that the ranks of one run wrote into `directory`.

        Raises:
            FileNotFoundError: there is none, or a rank's part is missing.
        """
        store = cls()
        for path in _parts(directory):
            store.merge(cls.load(path))
        return store


class ExplanationRecorder(TrainerCallback):
    """Keeps every explanation that a trainer generates, and makes the store part of its checkpoints.

    Each rank records its own completions; `store` holds what this rank generated in this run of the trainer. After
    training every rank writes its part into the output folder, where `ExplanationStore.load_parts` merges them.

    Args:
        round: number of the alternation, written to each row.

    Example:
        trainer = PPOTrainer(..., callbacks=[ExplanationRecorder(round=0)])
        trainer.resume()
    """

    def __init__(self, round: int = 0):
        self.round = round
        self.store = ExplanationStore()

    def on_rollout(self, args, state, control, inputs, completions, rewards, **kwargs):
        """Called by PPOTrainer: rows, texts, and (n, number of reward functions) rewards of this rank."""
        weights = torch.tensor(args.reward_weights or [1.0] * rewards.shape[1], device=rewards.device)
        totals = (rewards.nan_to_num(nan=0.0) * weights).sum(1).tolist()
        self.store.update(
            {**_keys(row), "text": text, "round": self.round, "step": state.global_step, "reward": total}
            for row, text, total in zip(inputs, completions, totals, strict=True)
        )

    def on_checkpoint(self, args, state, control, folder, **kwargs):
        self._write(Path(folder), args)

    def on_resume(self, args, folder, **kwargs):
        self.restore(folder, args.process_index, args.world_size)

    def on_train_end(self, args, state, control, **kwargs):
        self._write(Path(args.output_dir), args)

    def restore(self, checkpoint_dir: str | os.PathLike, process_index: int = 0, world_size: int = 1) -> None:
        """Makes `store` what it was when the checkpoint was written; with another number of ranks rank 0 gets all.

        Raises:
            FileNotFoundError: the checkpoint has no store, or a rank's part of it is missing.
        """
        parts = _parts(checkpoint_dir)
        if len(parts) == world_size:
            self.store = ExplanationStore.load(parts[process_index])
        else:
            self.store = ExplanationStore.load_parts(checkpoint_dir) if process_index == 0 else ExplanationStore()

    def _write(self, directory: Path, args) -> None:
        if args.process_index == 0:  # parts that an earlier run with another number of ranks left behind
            for (world_size, _), path in _part_files(directory).items():
                if world_size != args.world_size:
                    path.unlink()
        self.store.save(directory / f"explanations-rank{args.process_index}-of-{args.world_size}.parquet")


def _parts(directory: str | os.PathLike) -> list[Path]:
    files = _part_files(directory)
    if not _complete(files):
        raise FileNotFoundError(
            f"{directory} holds no complete explanation store, only {[path.name for path in files.values()]}: take "
            "another checkpoint."
        )
    return [files[key] for key in sorted(files)]


def _part_files(directory: str | os.PathLike) -> dict[tuple[int, int], Path]:
    """(world size, rank) -> file"""
    names = ((PART_NAME.fullmatch(path.name), path) for path in Path(directory).iterdir())
    return {(int(name[2]), int(name[1])): path for name, path in names if name}


def _complete(files: Mapping[tuple[int, int], Path]) -> bool:
    return bool(files) and set(files) == {(max(files)[0], rank) for rank in range(max(files)[0])}


def _keys(row: Mapping) -> dict:
    missing = [name for name in ("user_id", "item_id") if name not in row]
    if missing:
        raise ValueError(f"A training row has no column {missing[0]!r}: explanations are kept by user_id and item_id.")
    return {"user_id": row["user_id"], "item_id": row["item_id"], "side": row.get("side")}


def _age(row: Mapping) -> tuple[int, int]:
    return row["round"], row["step"]
