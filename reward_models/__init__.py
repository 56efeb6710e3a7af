"""Reward functions for recommendation explanations, in TRL's own signature: usable with PPO, GRPO and RLOO alike."""

from reward_models.alignment import FirstTokenScorer, ICReward, LCReward
from reward_models.groundedness import GatedReward, GroundednessReward, gated
from reward_models.recpie import RecPIEReward
from reward_models.resolution import RewardContext, find_reward, resolve_reward

__all__ = [
    "FirstTokenScorer",
    "GatedReward",
    "GroundednessReward",
    "ICReward",
    "LCReward",
    "RecPIEReward",
    "RewardContext",
    "find_reward",
    "gated",
    "resolve_reward",
]
