"""The order in which rows are sampled: the same (seed, epoch) gives the same order, whatever came before."""

from collections.abc import Callable, Iterator

import torch
from torch.utils.data import Sampler


class RolloutSampler(Sampler):
    """Row indices, rollout by rollout: each rollout's rows `repeat_rows` times, and the whole rollout `repeat` times.

    TRL's own sampler draws each epoch's order from one generator, so a run resumed in its second epoch would see the
    first epoch's order again; here the order depends on seed and epoch alone.

    Args:
        num_rows: rows of the dataset.
        rows_per_rollout: different rows in one rollout over all ranks; an incomplete last rollout is dropped.
        repeat_rows: completions of each row (num_generations).
        repeat: times the rollout is handed out again (num_iterations * steps_per_generation).
        unit: rows shuffled together: 1, or 2 for pairs stored in adjacent rows.
        shuffle, seed: of the units.
        epoch: called at the start of each epoch.

    Raises:
        ValueError: when the dataset does not fill one rollout.

    >>> sampler = RolloutSampler(5, 2, repeat_rows=2, repeat=1, unit=1, shuffle=False, seed=0, epoch=lambda: 0)
    >>> list(sampler), len(sampler)
    ([0, 0, 1, 1, 2, 2, 3, 3], 8)
    """

    def __init__(
        self,
        num_rows: int,
        rows_per_rollout: int,
        *,
        repeat_rows: int,
        repeat: int,
        unit: int,
        shuffle: bool,
        seed: int,
        epoch: Callable[[], int],
    ):
        if num_rows < rows_per_rollout:
            raise ValueError(
                f"The dataset has {num_rows} rows, but one rollout samples completions for {rows_per_rollout}: add "
                "rows, or lower per_device_train_batch_size or steps_per_generation."
            )
        self.num_rows, self.rows_per_rollout = num_rows, rows_per_rollout
        self.repeat_rows, self.repeat, self.unit = repeat_rows, repeat, unit
        self.shuffle, self.seed, self.epoch = shuffle, seed, epoch

    def __iter__(self) -> Iterator[int]:
        units = torch.arange(self.num_rows // self.unit)
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch())
            units = units[torch.randperm(len(units), generator=generator)]
        rows = [unit * self.unit + offset for unit in units.tolist() for offset in range(self.unit)]
        for start in range(0, len(rows) - self.rows_per_rollout + 1, self.rows_per_rollout):
            rollout = rows[start : start + self.rows_per_rollout]
            for _ in range(self.repeat):
                yield from (row for row in rollout for _ in range(self.repeat_rows))

    def __len__(self) -> int:
        rollouts = self.num_rows // self.rows_per_rollout
        return rollouts * self.rows_per_rollout * self.repeat_rows * self.repeat


def check_pairs(pair_ids: list, rows_per_rank: int, num_generations: int) -> None:
    """Raise ValueError unless rows 2k and 2k + 1 share a pair_id and no rank's rollout splits a pair.

    Args:
        pair_ids: the dataset's pair_id column.
        rows_per_rank: completions of one rank's rollout (per_device_train_batch_size * steps_per_generation).
    """
    if len(pair_ids) % 2:
        raise ValueError(f"The dataset has a pair_id column but {len(pair_ids)} rows: pairs need an even number.")
    for row in range(0, len(pair_ids), 2):
        if pair_ids[row] != pair_ids[row + 1]:
            raise ValueError(
                f"Rows {row} and {row + 1} must be a pair, but their pair_id is {pair_ids[row]!r} and "
                f"{pair_ids[row + 1]!r}: store the two rows of each pair one after the other."
            )
    if rows_per_rank % (2 * num_generations):
        raise ValueError(
            f"A rank samples {rows_per_rank} completions per rollout (per_device_train_batch_size * "
            f"steps_per_generation), which splits a pair: make it a multiple of {2 * num_generations} "
            "(2 * num_generations)."
        )
