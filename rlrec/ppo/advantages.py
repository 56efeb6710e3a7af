"""From rewards of whole completions to advantages of tokens: pure functions of tensors.

ExpCTR ("Explainable CTR prediction via LLM reasoning"), eq. 7 (KL penalty in the reward) and eq. 10 (normalization);
Schulman et al., "High-dimensional continuous control using generalized advantage estimation" (2016), eq. 16.

Symbols: B completions, T tokens, N completions of all ranks, F reward functions. A mask is 1 where the policy chose
the token and the completion trains, 0 elsewhere (padding, tool output, completions without reward).

Departures: 1. eq. 10's std is the population's, so that one completion is no special case.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def weighted_rewards(rewards_per_function: Tensor, weights: Tensor) -> Tensor:
    """Sum of the rewards (N, F) times their weights (F,): (N,); NaN entries are left out, all-NaN rows stay NaN.

    >>> nan = float("nan")
    >>> weighted_rewards(torch.tensor([[1.0, 2.0], [nan, 2.0], [nan, nan]]), torch.tensor([1.0, 0.5]))
    tensor([2., 1., nan])
    """
    total = (rewards_per_function * weights).nansum(dim=1)
    return total.masked_fill(rewards_per_function.isnan().all(dim=1), torch.nan)


def normalize_rewards(rewards: Tensor) -> Tensor:
    """(R - mean) / std (ExpCTR eq. 10) over the completions (N,) that have a reward; NaN stays NaN, std 0 gives 0.

    >>> normalize_rewards(torch.tensor([1.0, 3.0, float("nan")])), normalize_rewards(torch.tensor([2.0, 2.0]))
    (tensor([-1., 1., nan]), tensor([0., 0.]))
    """
    scored = rewards[~rewards.isnan()]
    centered = rewards - scored.mean()
    std = scored.std(correction=0)
    # Rounding leaves a tiny deviation among equal rewards, which division would blow up to +-1
    constant = std <= 1e-6 * scored.abs().max().clamp(min=1e-6) if scored.numel() else True
    return torch.where(rewards.isnan(), rewards, torch.zeros_like(rewards)) if constant else centered / std


def subtract_group_mean(rewards: Tensor, group_size: int) -> Tensor:
    """Reward minus the mean reward of the same prompt's other completions (N,), groups adjacent; NaN is left out.

    A completion whose group holds no other reward gets 0: there is nothing to compare it with.

    >>> subtract_group_mean(torch.tensor([1.0, 2.0, 6.0, 5.0, float("nan"), float("nan")]), 3)
    tensor([-3.0000, -1.5000, 4.5000, 0.0000, nan, nan])
    """
    groups = rewards.view(-1, group_size)
    others = (~groups.isnan()).sum(dim=1, keepdim=True) - 1
    mean_of_others = (groups.nansum(dim=1, keepdim=True) - groups) / others.clamp(min=1)
    return torch.where(others > 0, groups - mean_of_others, groups * 0).view(-1)


def kl_shaped_rewards(rewards: Tensor, logps: Tensor, ref_logps: Tensor, mask: Tensor, beta: float):
    """Token rewards of ExpCTR's eq. 7: -beta * (log pi - log pi_init) for every token, plus R at the last one.

    Args:
        rewards: (B,) reward of each completion.
        logps, ref_logps: (B, T) log-probabilities of the sampled tokens under the rollout and reference policies.
        mask: (B, T).
        beta: KL coefficient.

    Returns:
        token_rewards (B, T), and the log ratio (B, T) whose sum over a completion estimates its KL (k1).
    """
    mask = mask.to(logps.dtype)
    log_ratio = (logps - ref_logps) * mask
    token_rewards = -beta * log_ratio
    positions = torch.arange(mask.size(1), device=mask.device)
    last = (mask * positions).argmax(dim=1, keepdim=True)  # 0 where the row is masked, which the mask below undoes
    return token_rewards.scatter_add(1, last, rewards[:, None].to(logps.dtype)) * mask, log_ratio


def generalized_advantages(token_rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float):
    """Advantages (GAE) and returns, both (B, T) and 0 where masked, from token_rewards, values and mask (B, T).

    delta_t = r_t + gamma V_{t+1} - V_t and A_t = delta_t + gamma lam A_{t+1}, where t + 1 is the next unmasked token;
    after the last one comes the end, whose value is 0.
    """
    mask = mask.bool()
    advantages = torch.zeros_like(values)
    next_value = next_advantage = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.size(1))):
        advantage = token_rewards[:, t] + gamma * next_value - values[:, t] + gamma * lam * next_advantage
        next_value = torch.where(mask[:, t], values[:, t], next_value)
        next_advantage = torch.where(mask[:, t], advantage, next_advantage)
        advantages[:, t] = advantage
    return advantages * mask, (advantages + values) * mask


def masked_moments(x: Tensor, mask: Tensor, sum_over_ranks: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and population variance of x (B, T) over the unmasked tokens of all ranks (scalars; 0 without tokens)."""
    mask = mask.to(x.dtype)
    total = sum_over_ranks(torch.stack([mask.sum(), (x * mask).sum()]))
    count = total[0].clamp(min=1)
    mean = total[1] / count
    return mean, sum_over_ranks(((x - mean) ** 2 * mask).sum()) / count


def whiten(x: Tensor, mask: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """(x - mean) / sqrt(variance + 1e-8), (B, T), 0 where masked.

    >>> x = torch.tensor([[1.0, 3.0, 9.0]])
    >>> whiten(x, torch.tensor([[1, 1, 0]]), torch.tensor(2.0), torch.tensor(1.0))
    tensor([[-1., 1., 0.]])
    """
    return (x - mean) * torch.rsqrt(variance + 1e-8) * mask
