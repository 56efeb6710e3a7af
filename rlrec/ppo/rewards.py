"""Reward functions whose failure stops every rank with one sentence, instead of leaving the others waiting.

TRL gathers rewards over the ranks right after it has called the reward functions. A rank that raises before would
leave the others in that collective, so a failure is caught, carried through it as missing rewards, and then raised by
all, or counted by all (`on_reward_error="mask"`).
"""

import asyncio
import contextvars
import functools
import math
import threading
from collections.abc import Callable, Sequence

import torch
from torch import nn


class RewardFailure(RuntimeError):
    """A reward function raised, hung, or returned something that is not one finite number or None per completion."""


class RewardGuard:
    """Wraps reward functions for one call of them and remembers what went wrong.

    Args:
        timeout: seconds that one call may take; None: as long as it likes, without a thread. A function that hangs is
            left behind in its thread, which nothing can end: it dies with the process.

    Attributes:
        failure, cause: the first failure's sentence, and the exception behind it where there is one.
        failed: rows of this rank's completions without a usable reward.

    >>> guard = RewardGuard()
    >>> reward = guard.wrap(lambda completions, **columns: [1.0], "short")
    >>> reward(prompts=["a", "b"], completions=["c", "d"]), guard.failure
    ([None, None], "Reward function 'short' returned 1 rewards for 2 completions; ...")
    """

    def __init__(self, timeout: float | None = None):
        self.timeout = timeout
        self.failure: str | None = None
        self.cause: Exception | None = None
        self.failed: set[int] = set()

    def wrap(self, function: Callable, name: str) -> Callable:
        """The same function, answering None where it fails; reward models (nn.Module) pass unchanged."""
        if isinstance(function, nn.Module):
            return function
        from trl.trainer.utils import is_async_callable  # takes seconds, and who reads `RewardFailure` needs it not

        if is_async_callable(function):

            @functools.wraps(function, updated=())
            async def guarded(*, completions, **columns):
                try:
                    call = function(completions=completions, **columns)
                    try:
                        rewards = await (call if self.timeout is None else asyncio.wait_for(call, self.timeout))
                    except asyncio.TimeoutError:
                        raise _too_late(name, self.timeout) from None
                    return self._checked(rewards, len(completions), name)
                except Exception as cause:  # any failure must reach all ranks; it is raised again there
                    return self._fail(cause, len(completions), name)
        else:

            @functools.wraps(function, updated=())
            def guarded(*, completions, **columns):
                try:
                    call = functools.partial(function, completions=completions, **columns)
                    rewards = call() if self.timeout is None else _within(self.timeout, call, name)
                    return self._checked(rewards, len(completions), name)
                except Exception as cause:  # any failure must reach all ranks; it is raised again there
                    return self._fail(cause, len(completions), name)

        return guarded

    def _fail(self, cause: Exception, count: int, name: str) -> list[None]:
        if isinstance(cause, RewardFailure):
            self._note(str(cause))
        else:
            self._note(f"Reward function '{name}' raised {type(cause).__name__}: {cause}", cause)
        self.failed.update(range(count))
        return [None] * count

    def _note(self, sentence: str, cause: Exception | None = None) -> None:
        if self.failure is None:
            self.failure, self.cause = sentence, cause

    def _checked(self, rewards, count: int, name: str) -> list[float]:
        """The rewards as floats, NaN for None and for one that cannot be used, which is noted."""
        if rewards is None or not hasattr(rewards, "__len__") or len(rewards) != count:
            returned = f"{len(rewards)} rewards" if hasattr(rewards, "__len__") else f"a {type(rewards).__name__}"
            raise RewardFailure(
                f"Reward function '{name}' returned {returned} for {count} completions; "
                "return a list with one number, or None, per completion."
            )
        checked = []
        for row, reward in enumerate(rewards):
            value, problem = _as_number(reward)
            if problem:
                self._note(f"Reward function '{name}' returned {problem.format(f'completion {row} of its batch')}")
                self.failed.add(row)
            checked.append(value)
        return checked


def settle(
    rewards: torch.Tensor,
    reports: Sequence[tuple[str | None, set[int]]],
    names: Sequence[str],
    *,
    mask: bool = False,
    budget: float = 0.0,
) -> tuple[torch.Tensor, float]:
    """The rewards (N, F) of all ranks' completions to go on with, and the share of completions that failed.

    Args:
        rewards: gathered, NaN where there is none.
        reports: of each rank, its guard's `failure` and `failed`.
        names: of the F functions.
        mask: leave the completions that failed out (all their rewards become NaN) instead of raising.
        budget: with `mask`, the largest share of the completions that may fail.

    Raises:
        RewardFailure: on all ranks with the same sentence.
    """
    failures = [failure for failure, _ in reports if failure]
    if failures and not mask:
        raise RewardFailure(failures[0])
    per_rank = len(rewards) // len(reports)
    failed = rewards.isinf().any(dim=1)  # only reward models' own; functions have been checked
    for rank, (_, rows) in enumerate(reports):
        failed[[rank * per_rank + row for row in rows]] = True
    share = failed.float().mean().item()
    if mask and share > budget:
        first = failures[0] if failures else "A reward model returned an infinite reward."
        raise RewardFailure(
            f"{first} That leaves {int(failed.sum())} of {len(failed)} completions of this rollout without a reward, "
            f"more than reward_failure_budget ({budget:g}) allows."
        )
    if mask:
        rewards = rewards.masked_fill(failed[:, None], math.nan)
    check_gathered(rewards, list(names))
    return rewards, share


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


def _as_number(reward) -> tuple[float, str | None]:
    """The reward as a float, and what is wrong with it, to be filled in with which completion's it is."""
    try:
        if isinstance(reward, str | bytes):  # float("1") would pass
            raise TypeError
        value = math.nan if reward is None else float(reward)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several numbers, or without data
        shown = repr(reward).replace("{", "{{").replace("}", "}}")
        return math.nan, shown + " for {}; return a number or None."
    if math.isinf(value):
        return math.nan, f"{value} for {{}}; a reward must be finite, or None to leave the completion out."
    return value, None


def _within(seconds: float, call: Callable, name: str):
    """What `call` returns or raises, run in a thread that is left behind after `seconds`.

    Raises:
        RewardFailure: it took longer.
    """
    outcome = []
    device = torch.cuda.current_device() if torch.cuda.is_available() else None

    def run():
        try:
            if device is not None:  # CUDA counts it per thread, and a new one is at the first GPU on every rank
                torch.cuda.set_device(device)
            outcome.append((call(), None))
        except Exception as error:  # raised again by the thread that waits
            outcome.append((None, error))

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise _too_late(name, seconds)
    value, error = outcome[0]
    if error is not None:
        raise error
    return value


def _too_late(name: str, seconds: float) -> RewardFailure:
    return RewardFailure(f"Reward function '{name}' gave no reward within {seconds:g} seconds (reward_timeout).")
