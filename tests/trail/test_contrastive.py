"""Eqs. 7 and 8 by hand, and where their gradients go."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rlrec.trail.contrastive import (
    ProjectionHead,
    contrastive_accuracy,
    explanation_embeddings,
    explanation_mask,
    info_nce,
    positives,
)

START, END = 8, 9


def test_only_the_explanation_is_averaged_and_gets_gradients():
    ids = torch.tensor([[1, START, 5, 6, END, 2, 0], [START, 3, END, START, 7, END, 0]])
    hidden = torch.arange(28.0).reshape(2, 7, 2).requires_grad_()
    embeddings = explanation_embeddings(hidden, ids, START, END)
    assert embeddings.tolist() == [[5.0, 6.0], [22.0, 23.0]]  # means of rows 2 and 3; row 4 of the second
    embeddings.sum().backward()
    expected = torch.zeros(2, 7)
    expected[0, 2:4], expected[1, 4] = 0.5, 1.0
    assert torch.equal(hidden.grad, expected[..., None].expand(2, 7, 2))


@pytest.mark.parametrize("ids", [[1, 5, END], [START, 5, 6], [1, START, END], [END, 5, START]])
def test_a_row_without_explanation_is_refused(ids):
    good = [START, 5, END]
    assert not explanation_mask(torch.tensor([ids]), START, END).any()
    with pytest.raises(ValueError, match="Row 1 of the batch has no explanation"):
        explanation_embeddings(torch.ones(2, 3, 4), torch.tensor([good, ids]), START, END)


def test_hidden_states_outside_may_be_infinite():
    hidden = torch.tensor([[[math.inf], [2.0], [math.nan]]])
    assert explanation_embeddings(hidden, torch.tensor([[START, 5, END]]), START, END).item() == 2


def test_projection_by_hand():
    head = ProjectionHead(2, 2, 2, dropout=0.0)
    with torch.no_grad():
        head.first.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
        head.first.bias.copy_(torch.tensor([1.0, 1.0]))
        head.second.weight.copy_(torch.tensor([[1.0, 1.0], [2.0, 0.0]]))
    # W1 e + b1 = (3, -4), relu (3, 0), W2 (3, 6), LayerNorm (-1, 1)
    torch.testing.assert_close(head(torch.tensor([[2.0, 5.0]])), torch.tensor([[-1.0, 1.0]]))
    assert [name for name, _ in head.named_parameters()] == [
        "first.weight",
        "first.bias",
        "second.weight",
        "norm.weight",
        "norm.bias",
    ]


def test_dropout_is_of_the_hidden_layer_and_of_training():
    head = ProjectionHead(8, 64, 16, dropout=0.5)
    x = torch.randn(4, 8)
    assert not torch.equal(head(x), head(x))
    assert torch.equal(head.eval()(x), head(x))
    assert [type(module) for module in head.children()] == [nn.Linear, nn.Dropout, nn.Linear, nn.LayerNorm]


def test_positives_are_the_most_similar_others():
    similarity = torch.tensor(
        [[1.0, 0.1, 0.5, 0.5], [0.1, 1.0, 0.3, 0.2], [0.5, 0.3, 1.0, 0.9], [0.5, 0.2, 0.9, 1.0]], dtype=torch.float64
    )
    assert positives(similarity, 1).int().tolist() == [[0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 1, 0]]
    assert positives(similarity, 9).sum().item() == 12  # all others
    same = torch.tensor([0, 1, 2, 2])
    others = same[:, None] != same[None, :]  # the last two rows are one sample
    assert positives(similarity, 1, others).int().tolist() == [
        [0, 0, 1, 0],
        [0, 0, 1, 0],
        [1, 0, 0, 0],
        [1, 0, 0, 0],
    ]


def test_info_nce_by_hand():
    e = torch.tensor([[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0], [5.0, 0.0]])
    positive = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]]).bool()
    # cosines: of row 0: 0, -1, 1; of row 1: 0, 0, 0. Row 2 has no positive, row 3 no negative.
    z = math.exp(2)  # tau = 0.5
    first = -math.log((1 + z) / (1 + z + 1 / z))
    second = -math.log(1 / 3)
    assert info_nce(e, positive, 0.5).item() == pytest.approx((first + second) / 2, rel=1e-6)
    # dot products, tau = 5: row 0: 0, -3, 15
    first = -math.log((1 + math.exp(3)) / (1 + math.exp(3) + math.exp(-0.6)))
    assert info_nce(e, positive, 5.0, cosine=False).item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_a_pair_of_one_sample_is_in_neither_sum():
    e = F.normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    twice = torch.cat([e, e[:1]])
    rows = torch.tensor([0, 1, 2, 3, 0])
    others = rows[:, None] != rows[None, :]
    positive = torch.zeros(5, 5, dtype=torch.bool)
    positive[0, 1] = positive[4, 1] = True
    expected = info_nce(e, positive[:4, :4], 0.1)
    torch.testing.assert_close(info_nce(twice, positive, 0.1, others), expected)


def test_info_nce_is_finite_where_exponentials_are_not():
    e = torch.tensor([[100.0, 0.0], [-100.0, 0.0], [100.0, 1.0]], requires_grad=True)
    positive = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 1, 0]]).bool()
    loss = info_nce(e, positive, 0.1, cosine=False)
    # row 0: positive -1e5, negative 1e5, so 2e5; row 1: the two are equal, log 2; row 2 as row 0
    assert loss.item() == pytest.approx((2e5 + math.log(2) + 2e5) / 3, rel=1e-6)
    loss.backward()
    assert torch.isfinite(e.grad).all()


def test_without_anchors_the_loss_is_a_differentiable_zero():
    e = torch.randn(3, 4, requires_grad=True)
    loss = info_nce(e, torch.zeros(3, 3, dtype=torch.bool), 0.1)
    loss.backward()
    assert loss.item() == 0
    assert not e.grad.any()
    assert contrastive_accuracy(e, torch.zeros(3, 3, dtype=torch.bool)).isnan()


def test_accuracy_counts_anchors_only():
    e = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    positive = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 0]]).bool()
    assert contrastive_accuracy(e, positive).item() == 0.5  # rows 0 (right) and 1 (wrong)
