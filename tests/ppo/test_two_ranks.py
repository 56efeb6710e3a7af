"""Two real processes (gloo): equal parameters, rollout-wide statistics, and a failure that stops both."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_training as tiny
import torch


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    process = subprocess.run(
        [*command, str(Path(tiny.__file__)), str(folder), "ranks"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    tensors = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    return tensors, [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


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
