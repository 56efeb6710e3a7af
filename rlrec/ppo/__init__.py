"""PPO on TRL's GRPOTrainer: one backbone is policy, reference and critic; any TRL reward function trains it."""

from rlrec.ppo.config import PPOConfig
from rlrec.ppo.rewards import RewardFailure

__all__ = ["PPOConfig", "PPOTrainer", "RewardFailure"]


def __getattr__(name: str):
    if name != "PPOTrainer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rlrec.ppo.trainer import PPOTrainer  # takes seconds, which a command line with a wrong flag need not wait for

    return PPOTrainer
