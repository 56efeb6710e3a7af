"""Settings of `PPOTrainer`: TRL's `GRPOConfig` plus what a critic, GAE and KL-shaped rewards need."""

import math
from dataclasses import dataclass, field

import torch
from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments
from trl import GRPOConfig

CHOICES = {
    "loss_type": ("bnpo", "grpo", "dr_grpo", "dapo", "recpie"),
    "baseline": ("critic", "group"),
    "ref_policy": ("initial", "base"),
    "on_reward_error": ("raise", "mask"),
}
WITHOUT_EFFECT = {"scale_rewards": "group", "multi_objective_aggregation": "sum_then_normalize"}


class _OneGeneration(int):
    """The number 1, as `GRPOConfig` sees it: it refuses `num_generations < 2`, since a group of one has no relative
    advantage. A critic needs no group."""

    def __lt__(self, other):
        return False


@dataclass
class PPOConfig(GRPOConfig):
    """Configuration of `PPOTrainer`. Every field of TRL's `GRPOConfig` keeps its meaning unless it is listed here.

    One rollout (`generation_batch_size` completions) is used for `num_iterations` epochs of `steps_per_generation`
    mini-batches of `per_device_train_batch_size` completions a rank.

    Raises:
        ValueError: when a value is out of its range, or `save_steps` lies inside a rollout cycle.

    >>> config = PPOConfig(output_dir="out", report_to=[], num_iterations=2, save_steps=4)
    >>> config.num_generations, config.beta, config.rollout_cycle
    (1, 0.05, 2)
    """

    # Parameters whose default differs from GRPOConfig
    num_generations: int | None = field(
        default=1,
        metadata={"help": "Completions sampled for each prompt. 1 is enough: the critic is the baseline."},
    )
    beta: float = field(
        default=0.05,
        metadata={"help": "Coefficient of the per-token KL penalty in the reward (ExpCTR eq. 7; its beta, 0.05)."},
    )
    loss_type: str = field(
        default="bnpo",
        metadata={
            "help": "How the clipped PPO objective is averaged: 'bnpo' (over the mini-batch's tokens, as in TRL's "
            "former PPO), 'grpo', 'dr_grpo' or 'dapo' as in GRPOConfig; 'recpie' is the loss RecPIE prints (eqs. 5-7)."
        },
    )
    disable_dropout: bool = field(
        default=True,
        metadata={"help": "Switch dropout off: with it, the same policy gives different log-probabilities each pass."},
    )

    # Parameters that control the critic
    gamma: float = field(default=1.0, metadata={"help": "Discount factor (1.0: TRL's former PPO; ExpCTR is silent)."})
    lam: float = field(default=0.95, metadata={"help": "Lambda of GAE (Schulman et al., 2016)."})
    vf_coef: float = field(default=0.1, metadata={"help": "Weight of the value loss (0.1: TRL's former PPO)."})
    cliprange_value: float = field(
        default=0.2, metadata={"help": "Values are clipped to this distance from the rollout's values in their loss."}
    )
    value_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the value head; None: the policy's `learning_rate`."}
    )
    whiten_advantages: bool = field(
        default=True, metadata={"help": "Shift and scale advantages to mean 0, deviation 1 over all ranks' tokens."}
    )

    # Parameters that control the reward
    normalize_rewards: bool = field(
        default=False,
        metadata={"help": "(R - mean) / std over the completions of all ranks (ExpCTR eq. 10; std 0 gives 0)."},
    )
    reward_clip: float | None = field(
        default=None,
        metadata={"help": "Clip the (normalized) reward to [-reward_clip, reward_clip]: delta, 1.0 in ExpCTR."},
    )
    baseline: str = field(
        default="critic",
        metadata={
            "help": "'critic', or 'group': also subtract the mean reward of the prompt's other completions (leave one "
            "out) before KL shaping. 'group' needs num_generations > 1."
        },
    )
    ref_policy: str = field(
        default="initial",
        metadata={
            "help": "The KL reference. 'initial': the policy as handed in (a PeftModel's adapter is copied). 'base': "
            "the base model without adapter, pi_init of ExpCTR, also when a trained adapter is continued; for full "
            "fine-tuning, the weights at the model's own path."
        },
    )

    # Parameters that control reward functions that fail
    on_reward_error: str = field(
        default="raise",
        metadata={
            "help": "When a reward function raises, takes too long or returns something that is no finite number: "
            "'raise' stops all ranks with one sentence; 'mask' leaves those completions out of the rollout and logs "
            "their share as `reward/failed`."
        },
    )
    reward_failure_budget: float = field(
        default=0.1,
        metadata={"help": "With 'mask': the largest share of a rollout's completions (all ranks) that may fail."},
    )
    reward_timeout: float | None = field(
        default=None,
        metadata={
            "help": "Seconds that a reward function may take for a rank's share of a rollout; None: no limit. A "
            "Python function that hangs cannot be ended: its thread is left behind."
        },
    )

    # Parameters that control the rollout
    logprobs_from_generation: bool | None = field(
        default=None,
        metadata={
            "help": "Take old log-probabilities and values from the generation pass and save a forward pass. None: "
            "only in float32 without dropout, where they equal a teacher-forced pass to about 1e-5; decoding in "
            "lower precision rounds otherwise than training."
        },
    )
    sanitize_control_tokens: bool = field(
        default=True,
        metadata={
            "help": "Tokenize control tokens in the prompt's text, such as '<|eot_id|>' in an item title, as plain "
            "text. Turn off only if your plain-text prompts hold a rendered chat template."
        },
    )

    def __post_init__(self):
        if self.bf16 is None and not torch.accelerator.is_available():
            self.bf16 = False  # TRL's default is bf16 everywhere, which CPUs emulate slowly
        single = self.num_generations == 1
        if single:
            self.num_generations = _OneGeneration(1)
        super().__post_init__()
        if single:
            self.num_generations = 1
        self._check()

    @property
    def rollout_cycle(self) -> int:
        """Optimizer steps between two moments at which a rollout is used up and the next not yet sampled."""
        micro_steps = self.steps_per_generation * self.num_iterations
        return micro_steps // math.gcd(micro_steps, self.gradient_accumulation_steps)

    @property
    def splits_weights(self) -> bool:
        """Whether DeepSpeed or FSDP may split the policy's weights over processes."""
        return self.deepspeed_plugin is not None or uses_fsdp(self)

    def _check(self) -> None:
        for name in ("gamma", "lam", "reward_failure_budget"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must lie between 0 and 1.")
        for name in ("reward_clip", "cliprange_value", "value_learning_rate", "reward_timeout"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}, but must be above 0.")
        if self.vf_coef < 0 or self.beta < 0:
            raise ValueError(f"vf_coef ({self.vf_coef}) and beta ({self.beta}) must not be negative.")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is '{getattr(self, name)}', but must be one of {', '.join(choices)}.")
        for name, default in WITHOUT_EFFECT.items():
            if getattr(self, name) != default:
                raise ValueError(
                    f"{name} shapes GRPO's group-relative advantages, which PPO does not use: leave it out and see "
                    "normalize_rewards, reward_clip, reward_weights and baseline."
                )
        if self.baseline == "group" and self.num_generations < 2:
            raise ValueError(
                "baseline='group' compares the completions of a prompt: set num_generations to 2 or more."
            )
        if self.loss_type == "recpie" and self.beta == 0:
            raise ValueError("loss_type='recpie' needs the reference's log-probabilities: set beta above 0.")
        if self.loss_type == "recpie" and self.use_vllm and self.vllm_importance_sampling_correction:
            raise ValueError(
                "loss_type='recpie' has no place for vLLM's importance sampling: set "
                "vllm_importance_sampling_correction to False, or take PPO's loss."
            )
        if self.save_strategy == "steps" and self.save_steps >= 1:
            check_save_steps(int(self.save_steps), self.rollout_cycle)


def uses_fsdp(args: TrainingArguments) -> bool:
    """Whether FSDP is asked for, by these settings or by `accelerate launch`."""
    return bool(args.fsdp or parse_flag_from_env("ACCELERATE_USE_FSDP"))


def check_save_steps(save_steps: int, cycle: int) -> None:
    """Raise ValueError unless checkpoints fall between rollouts: inside one, resuming could not be exact."""
    if save_steps % cycle:
        below = save_steps // cycle * cycle
        nearest = " or ".join(str(steps) for steps in (below, below + cycle) if steps)
        raise ValueError(
            f"save_steps is {save_steps}, which would save inside a rollout cycle of {cycle} optimizer steps "
            f"(steps_per_generation * num_iterations / gradient_accumulation_steps): set save_steps to {nearest}."
        )
