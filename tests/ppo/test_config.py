"""PPOConfig: defaults, the rollout cycle, and one clear sentence for each wrong value."""

import dataclasses

import pytest
from transformers import HfArgumentParser

from rlrec.ppo import PPOConfig
from rlrec.ppo.config import check_save_steps


def config(**changes):
    return PPOConfig("out", report_to=[], use_cpu=True, **changes)


def test_defaults_are_the_papers():
    args = config()
    assert (args.num_generations, args.beta, args.lam, args.gamma, args.epsilon) == (1, 0.05, 0.95, 1.0, 0.2)
    assert type(args.num_generations) is int


def test_every_own_field_explains_itself():
    own = set(PPOConfig.__annotations__)
    assert all(field.metadata.get("help") for field in dataclasses.fields(PPOConfig) if field.name in own)


def test_command_line():
    parser = HfArgumentParser(PPOConfig)
    (args,) = parser.parse_args_into_dataclasses(
        ["--output_dir", "out", "--use_cpu", "--logprobs_from_generation", "false", "--reward_clip", "1.0"]
    )
    assert args.logprobs_from_generation is False
    assert args.reward_clip == 1.0


@pytest.mark.parametrize(
    ("changes", "cycle"),
    [
        ({"num_iterations": 2}, 2),
        ({"num_iterations": 2, "gradient_accumulation_steps": 4}, 2),  # 8 micro-steps, 4 a step
        ({"steps_per_generation": 4, "gradient_accumulation_steps": 8}, 1),  # two rollouts a step
        (
            {"steps_per_generation": 3, "num_iterations": 2, "gradient_accumulation_steps": 4},
            3,
        ),  # 6 micro-steps, 4 a step
    ],
)
def test_rollout_cycle(changes, cycle):
    assert config(save_strategy="no", **changes).rollout_cycle == cycle


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"gamma": 1.5}, "gamma is 1.5, but must lie between 0 and 1."),
        ({"reward_clip": 0.0}, "reward_clip is 0.0, but must be above 0."),
        ({"vf_coef": -1.0}, "must not be negative"),
        ({"baseline": "mean"}, "baseline is 'mean', but must be one of critic, group."),
        ({"ref_policy": "old"}, "ref_policy is 'old', but must be one of initial, base."),
        ({"loss_type": "vespo"}, "loss_type is 'vespo', but must be one of bnpo, grpo, dr_grpo, dapo, recpie."),
        ({"scale_rewards": "none"}, "scale_rewards shapes GRPO's group-relative advantages"),
        ({"baseline": "group"}, "set num_generations to 2 or more"),
        ({"loss_type": "recpie", "beta": 0.0}, "set beta above 0"),
        ({"save_steps": 3, "num_iterations": 2}, "set save_steps to 2 or 4."),
    ],
)
def test_wrong_values(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        config(**changes)


def test_nearest_save_steps():
    check_save_steps(12, 4)
    with pytest.raises(ValueError, match=r"save_steps is 3, .* cycle of 4 .*: set save_steps to 4\.$"):
        check_save_steps(3, 4)
