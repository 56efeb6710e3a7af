"""Rewards that raise, hang or return nonsense, on one of two ranks: all stop alike, or rows are counted."""

import json
import math
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "ppo"))
import reward_faults as program
import tiny_training as tiny
from two_ranks import on_two_ranks

from rlrec.ppo.rewards import RewardFailure, RewardGuard, settle

ROW = ("inf", "-inf", "a string", "a list", "a tensor on a device without data")  # one completion of eight


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rewards")
    on_two_ranks(program.__file__, folder)
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", program.FAULTS)
def test_all_ranks_stop_with_one_sentence(ranks, name):
    first, second = (rank[name]["raise"]["message"] for rank in ranks)
    assert first == second
    assert first.startswith(f"Reward function '{name}' ")
    assert "\n" not in first
    assert all(rank[name]["raise"]["seconds"] < 30 for rank in ranks)


@pytest.mark.parametrize("name", program.FAULTS)
def test_or_the_completions_are_left_out_and_counted(ranks, name):
    """Four of eight where the function itself failed, one where a single reward was no number."""
    first, second = (rank[name]["mask"] for rank in ranks)
    assert first == second
    assert first["failed"] == (0.125 if name in ROW else 0.5)
    assert math.isfinite(first["reward"])
    assert math.isfinite(first["loss"])


@pytest.mark.parametrize("name", program.USABLE)
def test_what_is_no_failure(ranks, name):
    for rank in ranks:
        assert rank[name]["raise"]["failed"] is None
        assert rank[name]["mask"]["failed"] == 0
        assert rank[name]["mask"]["reward"] == rank[name]["raise"]["reward"]


def test_more_than_the_budget_stops_all_ranks(ranks):
    first, second = (rank["over budget"]["mask"]["message"] for rank in ranks)
    assert first == second
    assert first.startswith("Reward function 'inf' returned inf for completion 1 of its batch")
    assert first.endswith(
        "leaves 1 of 8 completions of this rollout without a reward, more than reward_failure_budget (0.1) allows."
    )


def test_masked_completions_lose_all_their_rewards():
    """Row 1 failed on the first rank, row 0 on the second: rows 1 and 2 of four."""
    rewards = torch.tensor([[1.0, 2.0], [3.0, math.nan], [5.0, 6.0], [7.0, 8.0]])
    settled, share = settle(rewards, [("a", {1}), ("b", {0})], ["x", "y"], mask=True, budget=0.5)
    assert settled[[0, 3]].tolist() == [[1.0, 2.0], [7.0, 8.0]]
    assert settled[1:3].isnan().all()
    assert share == 0.5
    with pytest.raises(RewardFailure, match=r"^a$"):
        settle(rewards, [("a", {1}), ("b", {0})], ["x", "y"])


def test_a_reward_models_inf_is_masked_too():
    rewards = torch.tensor([[1.0], [math.inf]])
    settled, share = settle(rewards, [(None, set())], ["model"], mask=True, budget=0.5)
    assert settled[0].item() == 1.0
    assert settled[1].isnan()
    assert share == 0.5


def test_a_function_that_hangs_is_left_behind():
    guard, done = RewardGuard(timeout=0.1), threading.Event()
    began = time.monotonic()
    reward = guard.wrap(lambda completions, **columns: done.wait(60), "slow")
    assert reward(completions=["a", "b"]) == [None, None]
    assert time.monotonic() - began < 10
    assert guard.failure == "Reward function 'slow' gave no reward within 0.1 seconds (reward_timeout)."
    done.set()


def test_a_limit_changes_nothing_where_it_is_kept():
    guard = RewardGuard(timeout=30)
    assert guard.wrap(lambda completions, **columns: [1, 2.5], "fast")(completions=["a", "b"]) == [1.0, 2.5]

    def late(completions, **columns):
        raise TimeoutError("the server's own")

    assert guard.wrap(late, "late")(completions=["a"]) == [None]
    assert guard.failure == "Reward function 'late' raised TimeoutError: the server's own"


def test_without_a_limit_no_thread_is_started(monkeypatch):
    monkeypatch.setattr(threading, "Thread", None)
    assert RewardGuard().wrap(lambda completions, **columns: [1.0], "plain")(completions=["a"]) == [1.0]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"on_reward_error": "ignore"}, "on_reward_error is 'ignore', but must be one of raise, mask"),
        ({"reward_failure_budget": 1.5}, "reward_failure_budget is 1.5, but must lie between 0 and 1"),
        ({"reward_timeout": 0.0}, "reward_timeout is 0.0, but must be above 0"),
    ],
)
def test_settings_out_of_range(settings, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        tiny.config(tmp_path, **settings)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_rewards_on_a_gpu():
    rewards = RewardGuard().wrap(lambda completions, **columns: torch.tensor([0.5, 1.0]).cuda(), "gpu")
    assert rewards(completions=["a", "b"]) == [0.5, 1.0]
