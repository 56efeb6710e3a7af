"""Hand-worked numbers for the losses."""

import math

import torch

from rlrec.ppo.losses import approximate_kl, clipped_value_loss, masked_mean, recpie_loss


def test_masked_mean_of_nothing_is_zero():
    assert masked_mean(torch.ones(1, 2), torch.zeros(1, 2)).item() == 0


def test_value_loss_takes_the_larger_error_and_stops_its_gradient():
    values = torch.tensor([[1.0, 0.1, 5.0]], requires_grad=True)
    old_values, returns = torch.zeros(1, 3), torch.tensor([[2.0, 1.0, 0.0]])
    mask = torch.tensor([[1, 1, 0]])
    # token 0: clipped to 0.2, errors 1 and 1.8^2 = 3.24; token 1: not clipped, 0.81; token 2 is masked
    loss, clipfrac = clipped_value_loss(values, old_values, returns, mask, cliprange=0.2)
    loss.backward()
    assert math.isclose(loss.item(), 0.5 * (3.24 + 0.81) / 2, rel_tol=1e-6)
    assert clipfrac.item() == 0.5
    # d/dv of 0.5 * (0.1 - 1)^2 / 2 = -0.45
    torch.testing.assert_close(values.grad, torch.tensor([[0.0, -0.45, 0.0]]))


def test_approximate_kl():
    logps, old_logps = torch.tensor([[math.log(0.5), -7.0]]), torch.tensor([[math.log(0.25), 0.0]])
    # ratio 2: 2 - 1 - log 2
    kl = approximate_kl(logps, old_logps, torch.tensor([[1, 0]]))
    assert math.isclose(kl.item(), 1 - math.log(2), rel_tol=1e-6)


def test_recpie_loss_by_hand():
    # ratios 1.1, 2.0 (clipped to 1.2) and 0.5 (clipped to 0.8); the last token is padding
    logps = torch.tensor([[math.log(1.1), math.log(2.0)], [math.log(0.5), 3.0]], requires_grad=True)
    mask = torch.tensor([[1, 1], [1, 0]])
    loss, frac = recpie_loss(logps, torch.zeros(2, 2), torch.tensor([1.0, 0.5]), mask, low=0.2, high=0.2)
    loss.backward()
    assert math.isclose(loss.item(), -((1.1 + 1.2) / 2 + 0.8 * 0.5) / 2, rel_tol=1e-6)
    assert math.isclose(frac.item(), 2 / 3, rel_tol=1e-6)
    # only the unclipped token has a gradient: -(ratio * R / 2 tokens) / 2 completions
    torch.testing.assert_close(logps.grad, torch.tensor([[-1.1 / 4, 0.0], [0.0, 0.0]]))


def test_recpie_loss_leaves_masked_completions_out():
    zeros = torch.zeros(2, 1)
    loss, _ = recpie_loss(zeros, zeros, torch.tensor([1.0, 9.0]), torch.tensor([[1], [0]]), low=0.2, high=0.2)
    assert loss.item() == -1
