"""Losses that TRL's GRPOTrainer does not have: the clipped value loss of PPO and the loss RecPIE prints.

Schulman et al., "Proximal policy optimization algorithms" (2017); RecPIE, eqs. 5-7.

Departures from RecPIE's printed loss: 1. the mean over completions replaces the sum over the two of a pair (a factor
of 2 that the learning rate absorbs). 2. a completion without reward is left out.
"""

import torch
from torch import Tensor


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x (B, T) where mask (B, T) is 1; 0 when it is nowhere 1."""
    return (x * mask).sum() / mask.sum().clamp(min=1)


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, cliprange: float):
    """0.5 * mean over tokens of max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2); all arguments (B, T).

    Returns:
        The loss (scalar), and the share of tokens whose clipped error is the larger one, which then get no gradient.
    """
    clipped = torch.clamp(values, old_values - cliprange, old_values + cliprange)
    error, clipped_error = (values - returns) ** 2, (clipped - returns) ** 2
    loss = 0.5 * masked_mean(torch.maximum(error, clipped_error), mask)
    return loss, masked_mean((clipped_error > error).to(loss.dtype), mask).detach()


def approximate_kl(logps: Tensor, old_logps: Tensor, mask: Tensor) -> Tensor:
    """Mean over tokens (B, T) of r - 1 - log r with r = pi / pi_old: the KL from the rollout policy (k3, >= 0)."""
    log_ratio = logps - old_logps
    return masked_mean(log_ratio.exp() - 1 - log_ratio, mask)


def recpie_loss(logps: Tensor, ref_logps: Tensor, rewards: Tensor, mask: Tensor, low: float, high: float):
    """RecPIE's eqs. 5-7: - mean over completions of mean_t clip(pi / pi_ref, 1 - low, 1 + high) * R.

    Args:
        logps, ref_logps, mask: (B, T).
        rewards: (B,), the same R for every token.
        low, high: clip range (epsilon, and epsilon_high if it is set).

    Returns:
        The loss (scalar), and the share of tokens outside the clip range, which get no gradient whatever their reward.
    """
    ratio = torch.exp(logps - ref_logps)
    clipped = ratio.clamp(1 - low, 1 + high)
    trained = mask.sum(dim=1)
    objective = (clipped * rewards[:, None] * mask).sum(dim=1) / trained.clamp(min=1)
    outside = ((ratio < 1 - low) | (ratio > 1 + high)).to(logps.dtype)
    return -objective.sum() / (trained > 0).sum().clamp(min=1), masked_mean(outside, mask).detach()
