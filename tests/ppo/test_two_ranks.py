"""Two real processes (gloo): equal parameters, rollout-wide statistics, whole pairs, and a failure that stops both."""

import json

import pytest
import soft_prompt_training
import tiny_training as tiny
import torch
from two_ranks import on_two_ranks

from rlrec.policies.soft_prompt import soft_prompt_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    on_two_ranks(tiny.__file__, folder, "ranks")
    return folder


@pytest.fixture(scope="module")
def ranks(folder):
    return read(folder, "rank")


def read(folder, name):
    """What each rank wrote: [tensors, tensors], [JSON, JSON]."""
    tensors = [torch.load(folder / f"{name}{rank}.pt", weights_only=True) for rank in range(2)]
    return tensors, [json.loads((folder / f"{name}{rank}.json").read_text()) for rank in range(2)]


def test_parameters_are_identical(ranks):
    (first, second), _ = ranks
    start = tiny.parameters(tiny.trainer("unused", lora=True).model)
    for name, parameter in first["parameters"].items():
        assert torch.equal(parameter, second["parameters"][name]), name
    assert any(not torch.equal(start[name], parameter) for name, parameter in first["parameters"].items())


def test_statistics_span_both_ranks(ranks):
    (first, second), _ = ranks
    assert len(first["advantages"]) == 3
    for rollout in range(3):
        scores = torch.cat([first["scores"][rollout], second["scores"][rollout]])
        if scores.any():
            torch.testing.assert_close(scores.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
            torch.testing.assert_close(scores.std(correction=0), torch.tensor(1.0))
        tokens = torch.cat([side["advantages"][rollout][side["advantages"][rollout] != 0] for side in (first, second)])
        torch.testing.assert_close(tokens.mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
        torch.testing.assert_close(tokens.std(correction=0), torch.tensor(1.0), atol=1e-3, rtol=0)


def test_a_failure_on_one_rank_is_raised_by_both(ranks):
    _, messages = ranks
    assert messages == ["Reward function 'fails_on_last_rank' raised KeyError: 'title'"] * 2


def test_a_soft_prompt_and_its_consumers_stay_as_they_were(folder):
    (first, second), _ = read(folder, "pairs")
    for name, values in first["parameters"].items():
        assert torch.equal(values, second["parameters"][name]), name
    assert any("lora_B" in name and values.any() for name, values in first["parameters"].items())
    soft_prompt = soft_prompt_of(soft_prompt_training.policy())
    for side in (first, second):
        assert torch.equal(side["table"], soft_prompt.consumer_table.weight)
    soft_prompt.check(folder / "final")


def test_both_rows_of_a_pair_are_in_one_reward_call(folder):
    _, calls = read(folder, "pairs")
    assert [len(own) for own in calls] == [3, 3]
    for rollout in zip(*calls):
        pairs = []
        for rows in rollout:
            assert [side for _, side, _ in rows] == ["positive", "negative"] * 2
            assert all(first[0] == second[0] and first[2] == second[2] for first, second in zip(rows[::2], rows[1::2]))
            pairs += [pair for pair, _, _ in rows[::2]]
        assert len(set(pairs)) == 4  # no pair is on both ranks
