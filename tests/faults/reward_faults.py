"""Rewards that fail on the last of two ranks, one after the other, raised and masked; each rank writes what it saw.

`torchrun --nproc_per_node 2 reward_faults.py FOLDER`, as tests/faults/test_reward_faults.py runs it.
"""

import asyncio
import json
import math
import os
import sys
import time
from pathlib import Path

sys.path.extend([str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "ppo")])

import tiny_training as tiny
import torch
from two_ranks import leave_together

from rlrec.ppo.rewards import RewardFailure

TIMEOUT = 0.5


def wrong(reward):
    """A function that makes the second of its rewards `reward`."""

    def function(completions, **columns):
        rewards = tiny.share_of_e(completions)
        return [rewards[0], reward, *rewards[2:]]

    return function


def raises(completions, **columns):
    raise KeyError("title")


def hangs(completions, **columns):
    time.sleep(3600)


async def hangs_asynchronously(completions, **columns):
    await asyncio.sleep(3600)


FAULTS = {
    "raises": raises,
    "hangs": hangs,
    "hangs (async)": hangs_asynchronously,
    "wrong length": lambda completions, **columns: [0.5],
    "one number": lambda completions, **columns: 0.5,
    "nothing": lambda completions, **columns: None,
    "inf": wrong(math.inf),
    "-inf": wrong(-math.inf),
    "a string": wrong("0.5"),
    "a list": wrong([0.5, 0.5]),
    "a tensor on a device without data": wrong(torch.empty((), device="meta")),
}
USABLE = {"NaN": wrong(math.nan), "None": wrong(None), "a tensor": wrong(torch.tensor(0.5))}


def on_last_rank(function, name: str):
    """`function` on the last rank, and a reward that works on the others."""
    rank = int(os.environ.get("RANK", 0))
    if asyncio.iscoroutinefunction(function):

        async def reward(completions, **columns):
            return await function(completions) if rank else tiny.share_of_e(completions)
    else:

        def reward(completions, **columns):
            return function(completions) if rank else tiny.share_of_e(completions)

    reward.__name__ = name
    return reward


def outcome(folder: Path, name: str, function, **policy) -> dict:
    trainer = tiny.trainer(
        folder,
        on_last_rank(function, name),
        per_device_train_batch_size=4,
        num_iterations=1,
        max_steps=1,
        reward_timeout=TIMEOUT if "hangs" in name else None,
        **policy,
    )
    began = time.monotonic()
    try:
        trainer.train()
    except RewardFailure as failure:
        return {"message": str(failure), "seconds": time.monotonic() - began}
    logged = trainer.state.log_history[0]
    return {"failed": logged.get("reward/failed"), "reward": logged["reward"], "loss": logged["loss"]}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    seen = {}
    for name, function in {**FAULTS, **USABLE}.items():
        seen[name] = {
            "raise": outcome(folder, name, function),
            "mask": outcome(folder, name, function, on_reward_error="mask", reward_failure_budget=0.5),
        }
    budget = {"on_reward_error": "mask", "reward_failure_budget": 0.1}
    seen["over budget"] = {"mask": outcome(folder, "inf", FAULTS["inf"], **budget)}
    (folder / f"rank{os.environ['RANK']}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave_together()
