"""PPO on TRL's GRPOTrainer: one backbone is policy, reference and critic; any TRL reward function trains it."""

from rlrec.ppo.config import PPOConfig
from rlrec.ppo.rewards import RewardFailure
from rlrec.ppo.trainer import PPOTrainer

__all__ = ["PPOConfig", "PPOTrainer", "RewardFailure"]
