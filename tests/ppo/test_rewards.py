"""What reward functions may return, and the sentence for everything else."""

import asyncio

import pytest
import torch

from rlrec.ppo.rewards import RewardFailure, RewardGuard, check_gathered

TWO = {"prompts": ["a", "b"], "completions": ["c", "d"]}


def call(function):
    guard = RewardGuard()
    return guard.wrap(function, "mine")(**TWO), guard


def test_numbers_none_and_tensors_pass():
    rewards, guard = call(lambda completions, **columns: [1, None])
    assert rewards[0] == 1.0
    assert rewards[1] != rewards[1]
    assert guard.failure is None
    assert call(lambda completions, **columns: torch.tensor([0.5, 2.0]))[0] == [0.5, 2.0]


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        ([1.0], "Reward function 'mine' returned 1 rewards for 2 completions"),
        (3.0, "returned a float for 2 completions"),
        (None, "returned a NoneType for 2 completions"),
        ([1.0, float("inf")], "returned inf for completion 1 of its batch; a reward must be finite"),
        ([-float("inf"), 1.0], "returned -inf for completion 0"),
        ([1.0, "good"], "returned 'good' for completion 1 of its batch; return a number or None"),
    ],
)
def test_wrong_rewards_become_one_sentence(returned, sentence):
    _, guard = call(lambda completions, **columns: returned)
    assert guard.failed
    assert sentence in guard.failure


def test_an_exception_is_kept_with_its_cause():
    def broken(completions, **columns):
        raise KeyError("title")

    rewards, guard = call(broken)
    assert rewards == [None, None]
    assert guard.failure == "Reward function 'mine' raised KeyError: 'title'"
    assert isinstance(guard.cause, KeyError)


def test_asynchronous_functions_are_guarded_too():
    async def broken(completions, **columns):
        return [1.0]

    guard = RewardGuard()
    assert asyncio.run(guard.wrap(broken, "late")(**TWO)) == [None, None]
    assert "'late' returned 1 rewards for 2 completions" in guard.failure


def test_reward_models_pass_unchanged():
    model = torch.nn.Linear(1, 1)
    assert RewardGuard().wrap(model, "model") is model


def test_gathered_rewards():
    nan = float("nan")
    check_gathered(torch.tensor([[nan, 1.0], [nan, nan]]), ["a", "b"])
    with pytest.raises(RewardFailure, match=r"No reward function \(a, b\) gave a reward for any of the 2 completions"):
        check_gathered(torch.full((2, 2), nan), ["a", "b"])
    with pytest.raises(RewardFailure, match="Reward model 'b' returned an infinite reward for completion 0"):
        check_gathered(torch.tensor([[1.0, float("inf")]]), ["a", "b"])
