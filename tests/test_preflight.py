"""The preflight: its figures by hand, what it refuses, and that the run after it draws what it would have drawn."""

import json
import math
import random
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from stage_on_ranks import config, length, train

from rlrec import preflight as pf
from rlrec.ppo.rewards import RewardFailure

NAN = float("nan")
TEXTS = ["a", "b", "c", "d"]


def settings(tmp_path, **changes):
    made = config(tmp_path)
    for name, value in {"normalize_rewards": False, **changes}.items():
        setattr(made, name, value)
    return made


# -- figures by hand ------------------------------------------------------------------------------------------------


def test_described_by_hand():
    found = pf.described(torch.tensor([1.0, 3.0, NAN, 2.0]), [5, 1, 9, 3])
    assert found["mean"] == 2.0
    assert found["sd"] == pytest.approx((2 / 3) ** 0.5)
    assert (found["lowest"], found["highest"], found["missing"]) == (1.0, 3.0, 0.25)
    assert found["length_correlation"] == pytest.approx(-1.0)  # 5, 1, 3 fall as 1, 3, 2 rise


def test_no_correlation_without_spread():
    assert pf.described(torch.tensor([1.0, 1.0]), [1, 2])["length_correlation"] is None
    assert pf.described(torch.tensor([1.0, 2.0]), [2, 2])["length_correlation"] is None
    assert pf.described(torch.tensor([NAN, NAN]), [1, 2])["mean"] is None


@pytest.mark.parametrize(
    ("rewards", "group_size", "share"),
    [
        ([0.0, 0.0, 1.0, 2.0, 3.0, 3.0], 2, 2 / 3),
        ([0.0, 0.0, 1.0, 2.0, 3.0, 3.0], 1, 2 / 6),
        ([NAN, 2.0, 2.0, 1.0], 1, 2 / 3),  # of those that have a reward
        ([NAN, NAN, 1.0, 2.0], 2, 1 / 2),  # nothing to compare is nothing to learn
        ([0.1 + 0.2, 0.3], 2, 1.0),  # equal but for rounding
    ],
)
def test_equal_share(rewards, group_size, share):
    assert pf.equal_share(torch.tensor(rewards), group_size) == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "tokens", "found"), [(" ", 1, "empty"), ("", 9, "empty"), ("So", 9, "cut off"), ("So", 8, None)]
)
def test_faults(text, tokens, found):
    assert pf.fault(text, tokens, 9) == found


def test_rows_are_drawn_by_seed_and_pairs_stay_together():
    drawn = pf.chosen_rows(100, 10, 2, seed=1)
    assert len(drawn) == 10
    assert all(second == first + 1 and first % 2 == 0 for first, second in zip(drawn[::2], drawn[1::2]))
    assert drawn == pf.chosen_rows(100, 10, 2, seed=1) != pf.chosen_rows(100, 10, 2, seed=2)
    assert pf.chosen_rows(10, 1, 2, seed=0)[0] % 2 == 0  # one pair at least
    assert len(pf.chosen_rows(3, 64, 1, seed=0)) == 3


def test_rollouts_and_update_seconds(tmp_path):
    made = settings(tmp_path)  # 16 completions a rollout
    assert pf.rollouts(64, 2.0, made) == 8
    assert pf.rollouts(70, 1.0, made) == 4  # an incomplete rollout is dropped
    assert pf.rollouts(64, 0.1, made) == 1
    made.max_steps = 3
    assert pf.rollouts(64, 2.0, made) == 3
    made.num_iterations = 2
    # a mini-batch of 16: two passes of 0.8 s with gradients, one of 0.32 s through the reference
    assert pf.update_seconds(0.8, 0.32, made) == pytest.approx((1.6 + 0.32) / 16)


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "faults", "rewards", "changes", "reason"),
    [
        (TEXTS, [None] * 4, [[0.0], [1.0], [0.0], [1.0]], {}, None),
        (TEXTS, ["empty"] * 3 + ["cut off"], [[0.0]] * 4, {}, "all 4 completions are malformed (3 empty, 1 cut off)"),
        (TEXTS, ["empty"] * 3 + [None], [[0.0], [1.0], [0.0], [1.0]], {}, None),
        (["x"] * 4, [None] * 4, [[0.0], [1.0], [0.0], [1.0]], {}, "all 4 completions are the same text ('x')"),
        (TEXTS, [None] * 4, [[NAN]] * 4, {}, "all 4 rewards are None"),
        (TEXTS, [None] * 4, [[0.5]] * 4, {}, "all 4 rewards are equal (0.5)"),
        (TEXTS, [None] * 4, [[0.5], [NAN], [0.5], [NAN]], {}, "all 4 rewards are equal (0.5)"),
        (TEXTS, [None] * 4, [[0.5, 0.5], [0.3, 0.7], [0.1, 0.9], [0.9, 0.1]], {}, "all 4 rewards are equal (1)"),
        (TEXTS, [None] * 4, [[5.0], [7.0], [9.0], [8.0]], {"reward_clip": 1.0}, "reward_clip 1 makes all 4 rewards"),
        (TEXTS, [None] * 4, [[5.0], [7.0], [9.0], [8.0]], {"reward_clip": 1.0, "normalize_rewards": True}, None),
        (
            TEXTS,
            [None] * 4,
            [[5.0], [5.0], [9.0], [9.0]],
            {"baseline": "group", "num_generations": 2},
            "the 2 completions of each of 2 prompts have equal rewards",
        ),
        (TEXTS, [None] * 4, [[5.0], [5.0], [9.0], [9.0]], {"num_generations": 2}, None),  # the critic can compare
    ],
)
def test_hopeless_settings(tmp_path, texts, faults, rewards, changes, reason):
    rewards = torch.tensor(rewards)
    found = pf.hopeless(texts, faults, rewards, torch.ones(rewards.shape[1]), settings(tmp_path, **changes))
    assert (found is None) if reason is None else found.startswith(reason)
    assert found is None or "; " in found  # what to do about it


# -- rewards that fail ---------------------------------------------------------------------------------------------


def scored(tmp_path, reward, **changes):
    rows = [{"prompt": "a"}] * 4
    return pf.score([reward], rows, TEXTS, [[1]] * 4, settings(tmp_path, **changes))[0]


def test_rewards_that_fail_are_treated_as_in_training(tmp_path):
    def reward(completions, **columns):
        return [1.0, float("inf"), 3.0, "4"]

    with pytest.raises(RewardFailure, match="returned inf for completion 1"):
        scored(tmp_path, reward)
    mask = {"on_reward_error": "mask"}
    with pytest.raises(RewardFailure, match="returned inf for completion 1"):
        scored(tmp_path, reward, **mask, reward_failure_budget=0.25)
    found = scored(tmp_path, reward, **mask, reward_failure_budget=0.5)["reward"]
    assert [None if math.isnan(value) else value for value in found] == [1.0, None, 3.0, None]


def test_a_reward_that_hangs(tmp_path):
    """The limit is for a rollout's 16 completions, so it is that of the four as well."""
    released = threading.Event()
    with pytest.raises(RewardFailure, match=r"gave no reward within 0\.1 seconds"):
        scored(tmp_path, lambda completions, **columns: released.wait(60), reward_timeout=0.1)
    released.set()


# -- a stage ---------------------------------------------------------------------------------------------------------


def tried(tmp_path, policies, rows, reward=length, name="stage", count=8, **changes):
    from datasets import Dataset

    return pf.preflight(
        tmp_path / name,
        tmp_path / "preflight" / f"{name}.json",
        count,
        load_policy=policies.load,
        tokenizer=policies.tokenizer,
        dataset=lambda: Dataset.from_list(rows[:64]),
        make_rewards=lambda policy: [reward],
        config=settings(tmp_path / name, **changes),
        num_train_epochs=1,
    )


def test_a_stage_after_its_preflight_is_the_same_bit_for_bit(tmp_path, small_policies, small_world, capsys):
    rows = small_world.train_rows
    plain = train(tmp_path / "plain", small_policies, rows)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    report = tried(tmp_path, small_policies, rows)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]
    assert not (tmp_path / "stage").exists()
    again = train(tmp_path / "stage", small_policies, rows)
    first, second = (load_file(stage.adapter / "adapter_model.safetensors") for stage in (plain, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert plain.explanations().to_frame().equals(again.explanations().to_frame())

    assert (report["prompts"], report["completions"], report["rollouts"]) == (8, 8, 4)
    assert set(report["rewards"]) == {"length", "total"}
    assert report["rewards"]["length"]["sd"] > 0
    assert 0 < report["tokens"] <= 28
    assert report["tokens_per_second"] > 0
    assert report["stage_seconds"] == pytest.approx(64 * sum(report["seconds_per_completion"].values()))
    assert report["memory_bytes"] > 2**20
    kept = json.loads((tmp_path / "preflight" / "stage.json").read_text())
    assert kept["refused"] is None
    assert kept["rewards"] == report["rewards"]
    told = capsys.readouterr().out
    for words in (
        "Preflight of stage stage",
        "correlation with length",
        "completions at one reward",
        "tokens per second",
    ):
        assert words in told
    assert tried(tmp_path, small_policies, rows) is None  # the stage is done


def test_groups_of_several_completions(tmp_path, small_policies, small_world):
    seen = {}

    def spy(prompts, completions, completion_ids, label, log_metric, **columns):
        seen.update(prompts=prompts, completions=completions, ids=completion_ids)
        log_metric("spy/seen", len(completions))
        return [float(i) for i in range(len(completions))]

    report = tried(tmp_path, small_policies, small_world.train_rows, spy, count=3, num_generations=2)
    assert [seen["prompts"][i] == seen["prompts"][i + 1] for i in range(0, 6, 2)] == [True] * 3
    assert len(set(seen["prompts"])) == 3
    assert report["completions"] == 6
    assert report["metrics"] == {"spy/seen": 6}
    tokenizer = small_policies.tokenizer
    assert [tokenizer.decode(ids).strip() for ids in seen["ids"]] == seen["completions"]


def test_hopeless_stages_are_refused_with_their_report(tmp_path, small_policies, small_world):
    def nothing(completions, **columns):
        return [None] * len(completions)

    with pytest.raises(pf.HopelessSettings, match=r"^Preflight of stage stage: all 8 rewards are None"):
        tried(tmp_path, small_policies, small_world.train_rows, nothing)
    assert "all 8 rewards are None" in json.loads((tmp_path / "preflight" / "stage.json").read_text())["refused"]
    with pytest.raises(pf.HopelessSettings, match=r"all 8 completions are malformed \(8 cut off\); raise max_"):
        tried(tmp_path, small_policies, small_world.train_rows, max_completion_length=2)

    def short(completions, **columns):
        return [1.0]

    with pytest.raises(RewardFailure, match="Reward function 'short' returned 1 rewards for 8 completions"):
        tried(tmp_path, small_policies, small_world.train_rows, short)
