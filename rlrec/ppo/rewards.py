"""Reward functions whose failure stops every rank with one sentence, instead of leaving the others waiting.

TRL gathers rewards over the ranks right after it has called the reward functions. A rank that raises before would
leave the others in that collective, so a failure is caught, carried through it as missing rewards, and raised by all.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import nn


class RewardFailure(RuntimeError):
    """A reward function raised, or returned something that is not one finite number or None per completion."""


class RewardGuard:
    """Wraps reward functions for one call of them and remembers what went wrong.

    >>> guard = RewardGuard()
    >>> reward = guard.wrap(lambda completions, **columns: [1.0], "short")
    >>> reward(prompts=["a", "b"], completions=["c", "d"]), guard.failure
    ([None, None], "Reward function 'short' returned 1 rewards for 2 completions; ...")
    """

    def __init__(self):
        self.failure: str | None = None
        self.cause: Exception | None = None

    def wrap(self, function: Callable, name: str) -> Callable:
        """The same function, answering None for every completion when it fails; reward models pass unchanged."""
        if isinstance(function, nn.Module):
            return function
        from trl.trainer.utils import is_async_callable  # takes seconds, and who reads `RewardFailure` needs it not

        if is_async_callable(function):

            @functools.wraps(function, updated=())
            async def guarded(*, completions, **columns):
                try:
                    return _checked(await function(completions=completions, **columns), len(completions), name)
                except Exception as cause:  # any failure must reach all ranks; it is raised again there
                    return self._fail(cause, len(completions), name)
        else:

            @functools.wraps(function, updated=())
            def guarded(*, completions, **columns):
                try:
                    return _checked(function(completions=completions, **columns), len(completions), name)
                except Exception as cause:  # any failure must reach all ranks; it is raised again there
                    return self._fail(cause, len(completions), name)

        return guarded

    def _fail(self, cause: Exception, count: int, name: str) -> list[None]:
        known = isinstance(cause, RewardFailure)
        self.failure = str(cause) if known else f"Reward function '{name}' raised {type(cause).__name__}: {cause}"
        self.cause = None if known else cause
        return [None] * count


def _checked(rewards, count: int, name: str) -> list[float]:
    """The rewards as floats, NaN for None.

    Raises:
        RewardFailure: wrong length, an infinite reward, or something that is no number.
    """
    if rewards is None or not hasattr(rewards, "__len__") or len(rewards) != count:
        returned = f"{len(rewards)} rewards" if hasattr(rewards, "__len__") else f"a {type(rewards).__name__}"
        raise RewardFailure(
            f"Reward function '{name}' returned {returned} for {count} completions; "
            "return a list with one number, or None, per completion."
        )
    checked = []
    for row, reward in enumerate(rewards):
        try:
            value = math.nan if reward is None else float(reward)
        except (TypeError, ValueError):
            raise RewardFailure(
                f"Reward function '{name}' returned {reward!r} for completion {row} of its batch; return a number or "
                "None."
            ) from None
        if math.isinf(value):
            raise RewardFailure(
                f"Reward function '{name}' returned {value} for completion {row} of its batch; a reward must be "
                "finite, or None to leave the completion out."
            )
        checked.append(value)
    return checked


def check_gathered(rewards_per_function: torch.Tensor, names: list[str]) -> None:
    """Raise RewardFailure when the completions of all ranks (N, F) hold an inf, or not one reward."""
    if rewards_per_function.isinf().any():
        row, column = rewards_per_function.isinf().nonzero()[0].tolist()
        raise RewardFailure(f"Reward model '{names[column]}' returned an infinite reward for completion {row}.")
    if rewards_per_function.isnan().all():
        raise RewardFailure(
            f"No reward function ({', '.join(names)}) gave a reward for any of the {len(rewards_per_function)} "
            "completions of this rollout (all None or NaN), so nothing can be learned: check the columns they read."
        )
