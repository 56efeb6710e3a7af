"""A GRU whose update gate may be scaled by attention, with its backward pass written out.

Papers: DIEN (Zhou et al., AAAI 2019), eqs. 2 to 5, and its AUGRU, whose update gate u' = a u:

    u = sigmoid(W_u x + b_u + U_u h),  r = sigmoid(W_r x + b_r + U_r h),  c = tanh(W_c x + b_c + r * U_c h)
    h <- (1 - a u) * h + a u * c

With a = 1 it is torch.nn.GRU without the biases of the state (whose update gate is 1 - u). On the CPU that one, and
the equations under autograd, spend most of a small batch's time on the bookkeeping of many small steps. Here the
backward pass needs few operations per step: the factors of the gradients are made for all steps at once, and so is the
gradient of U.
"""

import torch
from torch import nn
from torch.autograd.function import once_differentiable


class GatedStates(torch.autograd.Function):
    """The recurrence: W x + b (L, B, 3 d) in the order u, r, c, U (3 d, d), a (L, B, 1) or None -> h (L, B, d)."""

    @staticmethod
    def forward(ctx, inputs: torch.Tensor, weight: torch.Tensor, attention: torch.Tensor | None) -> torch.Tensor:
        length, rows, dim = *inputs.shape[:2], weight.shape[1]
        states = inputs.new_zeros(length + 1, rows, dim)
        gates, candidates, of_states = (inputs.new_empty(length, rows, n * dim) for n in (2, 1, 3))
        of_gates, of_candidates = inputs.split((2 * dim, dim), dim=-1)
        products = of_states[..., 2 * dim :]
        for t in range(length):
            torch.mm(states[t], weight.T, out=of_states[t])
            torch.sigmoid(of_gates[t] + of_states[t, :, : 2 * dim], out=gates[t])
            update, reset = gates[t].chunk(2, dim=-1)
            torch.tanh(torch.addcmul(of_candidates[t], reset, products[t]), out=candidates[t])
            scaled = update if attention is None else attention[t] * update
            torch.lerp(states[t], candidates[t], scaled, out=states[t + 1])
        ctx.save_for_backward(weight, attention, states, gates, candidates, products)
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx, of_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        weight, attention, states, gates, candidates, products = ctx.saved_tensors
        update, reset = gates.chunk(2, dim=-1)
        scaled, change = update if attention is None else attention * update, candidates - states[:-1]
        # What the gradient of a state is multiplied by, for the arguments of the two gates and of tanh.
        to_update = change * scaled * (1 - update)
        to_candidate = scaled * (1 - candidates * candidates)
        to_reset = to_candidate * products * reset * (1 - reset)
        to_products = torch.stack((to_update, to_reset, to_candidate * reset), dim=2)  # (L, B, 3, d)
        kept = 1 - scaled
        total, of_products = torch.empty_like(states[1:]), torch.empty_like(to_products)
        later = torch.zeros_like(states[0])
        for t in reversed(range(len(total))):
            torch.add(of_states[t], later, out=total[t])
            torch.mul(total[t].unsqueeze(1), to_products[t], out=of_products[t])
            later = torch.addmm(total[t] * kept[t], of_products[t].flatten(1), weight)
        of_inputs = torch.cat((of_products[:, :, :2].flatten(2), total * to_candidate), dim=-1)
        of_weight = of_products.flatten(2).flatten(0, 1).T @ states[:-1].flatten(0, 1)
        of_attention = None if attention is None else (total * change * update).sum(-1, keepdim=True)
        return of_inputs, of_weight, of_attention


class GRU(nn.Module):
    """The equations above.

    Args:
        dim: size of inputs and states.

    >>> GRU(4)(torch.randn(2, 5, 4)).shape
    torch.Size([2, 5, 4])
    """

    def __init__(self, dim: int):
        super().__init__()
        self.input = nn.Linear(dim, 3 * dim)  # W and b of update, reset and candidate, in this order
        self.state = nn.Linear(dim, 3 * dim, bias=False)  # U of the same

    def forward(self, x: torch.Tensor, attention: torch.Tensor | None = None) -> torch.Tensor:
        """Inputs (B, L, d), and attention (B, L) or None for ones, -> states (B, L, d), from a state of zeros.

        A step with attention 0 leaves the state as it is.
        """
        inputs = self.input(x.transpose(0, 1))  # (L, B, 3 d)
        attention = None if attention is None else attention.T.unsqueeze(-1)
        return GatedStates.apply(inputs, self.state.weight, attention).transpose(0, 1)
