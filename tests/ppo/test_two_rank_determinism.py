"""What the same seed gives on two ranks: the tolerances that docs/security.md states."""

import pytest
import same_seed_training
import tiny_training as tiny
from safetensors.torch import load_file
from two_ranks import on_two_ranks

pytestmark = pytest.mark.slow


def largest_difference(first: dict, second: dict) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def moved(weights: dict) -> float:
    return largest_difference(tiny.parameters(tiny.trainer("unused", lora=True).model), weights)


def test_two_ranks_started_twice(tmp_path):
    files = [tmp_path / f"{name}.safetensors" for name in ("first", "second")]
    for file in files:
        on_two_ranks(same_seed_training.__file__, file)
    first, second = map(load_file, files)
    assert moved(first) > 1e-3
    assert largest_difference(first, second) <= 1e-6


def test_two_ranks_and_one_where_sampling_leaves_no_choice(tmp_path):
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    same_seed_training.train(str(one), greedy=True)
    on_two_ranks(same_seed_training.__file__, two, "greedy")
    assert moved(load_file(one)) > 1e-3
    assert largest_difference(load_file(one), load_file(two)) <= 1e-4
