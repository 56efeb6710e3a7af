"""Hand-worked numbers for the path from rewards to advantages."""

import torch

from rlrec.ppo.advantages import (
    generalized_advantages,
    kl_shaped_rewards,
    masked_moments,
    normalize_rewards,
    subtract_group_mean,
    weighted_rewards,
    whiten,
)

NAN = float("nan")


def close(actual, expected):
    torch.testing.assert_close(actual, torch.tensor(expected), equal_nan=True, rtol=1e-5, atol=1e-6)


def test_weights_are_applied_and_missing_rewards_left_out():
    rewards = torch.tensor([[1.0, 4.0], [NAN, 4.0], [3.0, NAN], [NAN, NAN]])
    close(weighted_rewards(rewards, torch.tensor([2.0, 0.5])), [4.0, 2.0, 6.0, NAN])


def test_normalization_uses_population_deviation_of_scored_rows():
    # mean 3, deviations -2, 0, 2: variance 8/3, std 1.632993
    close(normalize_rewards(torch.tensor([1.0, 3.0, NAN, 5.0])), [-1.2247449, 0.0, NAN, 1.2247449])


def test_equal_rewards_normalize_to_zero():
    close(normalize_rewards(torch.full((7,), 0.1)), [0.0] * 7)
    close(normalize_rewards(torch.tensor([NAN, 0.3])), [NAN, 0.0])


def test_small_but_real_differences_survive_normalization():
    close(normalize_rewards(torch.tensor([0.5, 0.5 + 2**-12])), [-1.0, 1.0])


def test_group_baseline_is_the_mean_of_the_others():
    close(subtract_group_mean(torch.tensor([0.0, 1.0, 2.0, 5.0]), 2), [-1.0, 1.0, -3.0, 3.0])
    close(subtract_group_mean(torch.tensor([3.0, NAN, 1.0]), 3), [2.0, NAN, -2.0])


def test_kl_shaping_charges_each_token_and_pays_the_last_one():
    logps = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, -1.0, -9.0]])
    ref_logps = torch.tensor([[-1.5, -1.0, -3.0], [-1.0, -3.0, -1.0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    token_rewards, log_ratio = kl_shaped_rewards(torch.tensor([1.0, -1.0]), logps, ref_logps, mask, beta=0.1)
    close(log_ratio, [[0.5, -1.0, 0.0], [0.0, 2.0, 0.0]])
    close(token_rewards, [[-0.05, 0.1, 1.0], [0.0, -1.2, 0.0]])


def test_kl_shaping_of_a_masked_completion_is_zero():
    zeros = torch.zeros(1, 2)
    token_rewards, _ = kl_shaped_rewards(torch.tensor([5.0]), zeros, zeros, zeros, beta=0.1)
    close(token_rewards, [[0.0, 0.0]])


def test_gae_by_hand():
    # gamma 0.9, lam 0.5. t=2: 1 - 0.3 = 0.7; t=1: 0 + 0.27 - 0.2 + 0.45 * 0.7 = 0.385;
    # t=0: 0 + 0.18 - 0.1 + 0.45 * 0.385 = 0.25325
    advantages, returns = generalized_advantages(
        torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.1, 0.2, 0.3]]), torch.ones(1, 3), gamma=0.9, lam=0.5
    )
    close(advantages, [[0.25325, 0.385, 0.7]])
    close(returns, [[0.35325, 0.585, 1.0]])


def test_gae_ignores_padding_and_steps_over_tool_output():
    values = torch.tensor([[0.1, 7.0, 0.3, 9.0]])
    rewards = torch.tensor([[0.0, 5.0, 1.0, 4.0]])
    advantages, returns = generalized_advantages(rewards, values, torch.tensor([[1, 0, 1, 0]]), gamma=1.0, lam=0.5)
    # t=2 is the last: 1 - 0.3 = 0.7; t=0 is followed by t=2: 0.3 - 0.1 + 0.5 * 0.7 = 0.55
    close(advantages, [[0.55, 0.0, 0.7, 0.0]])
    close(returns, [[0.65, 0.0, 1.0, 0.0]])


def test_whitening_over_two_ranks():
    # unmasked tokens 1, 3 on one rank and 5 on the other: mean 3, variance 8/3
    ranks = [torch.tensor([[1.0, 3.0]]), torch.tensor([[5.0, 100.0]])]
    masks = [torch.tensor([[1, 1]]), torch.tensor([[1, 0]])]
    total = [torch.tensor([3.0, 9.0]), torch.tensor(8.0)]
    for x, mask, expected in zip(ranks, masks, ([[-1.2247449, 0.0]], [[1.2247449, 0.0]])):
        sums = iter(total)
        mean, variance = masked_moments(x, mask, lambda local, sums=sums: next(sums))
        close(whiten(x, mask, mean, variance), expected)


def test_moments_of_one_rank_and_of_nothing():
    mean, variance = masked_moments(torch.tensor([[1.0, 3.0, 50.0]]), torch.tensor([[1, 1, 0]]), lambda x: x)
    close(torch.stack([mean, variance]), [2.0, 1.0])
    mean, variance = masked_moments(torch.ones(1, 2), torch.zeros(1, 2), lambda x: x)
    close(torch.stack([mean, variance]), [0.0, 0.0])
