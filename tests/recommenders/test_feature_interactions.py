"""What each model of feature interactions computes, by hand: user 1 has the vector (1, 2), item 1 has (3, 4)."""

import math

import pytest
import torch

from rlrec.recommenders import DCN, DSSM, FM, PNN, AutoInt, DCNv2, FiGNN, XDeepFM
from rlrec.recommenders.autoint import InteractingLayer
from rlrec.recommenders.fignn import FieldGraph
from rlrec.recommenders.xdeepfm import CIN

BATCH = {"user": torch.tensor([1]), "item": torch.tensor([1])}


def build(model_class, **arguments):
    """A model of two users and two items whose parameters are 0, but for the two vectors."""
    model = model_class(2, 2, embedding_dim=2, **arguments).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    set_to(model.table.weight[1, :2], [1, 2])
    set_to(model.table.weight[3, :2], [3, 4])
    return model


def set_to(parameter: torch.Tensor, values) -> None:
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(values, dtype=torch.float32))


def test_fm():
    model = build(FM)
    set_to(model.bias, 0.5)
    set_to(model.table.weight[1, 2], 10)
    set_to(model.table.weight[3, 2], 20)
    assert model(BATCH).item() == 0.5 + 30 + 11


def test_fm_adds_what_the_head_makes_of_its_interactions():
    model = build(FM, explanation_slots=1, explanation_dim=1, explanation_projection=1)
    set_to(model.explanation_input.projection.weight, [[1]])
    set_to(model.head[0].weight, [[1, 2, 100], [0, 0, 0]])  # of 3, 8 and z
    set_to(model.head[3].weight, [[3, 0]])
    assert model(BATCH).item() == 11 + 3 * 19
    assert model(BATCH, torch.full((1, 1, 1), 2.0)).item() == 11 + 3 * 219


def test_dssm():
    model = build(DSSM, hidden_dims=(4,))
    set_to(model.user_tower[0].weight, torch.full((4, 2), 100.0))  # tanh gives (1, 1, 1, 1)
    set_to(model.item_tower[0].weight, [[100, 100], [100, 100], [100, 100], [-100, -100]])  # (1, 1, 1, -1)
    set_to(model.gamma, 5)
    set_to(model.bias, 0.25)
    assert model(BATCH).item() == pytest.approx(5 * 0.5 + 0.25)


def test_interacting_layer():
    layer = InteractingLayer(1, heads=1)
    set_to(layer.projections.weight, [[math.log(3)], [1], [1], [-1]])
    # Field 1 looks at fields 0 and 1 with weights 1 : 3, field 0 with 1 : 1; W_res takes their own values away.
    assert layer(torch.tensor([[[0.0], [1.0]]])).flatten().tolist() == [0.5, 0.0]
    set_to(layer.projections.weight, [[math.log(3)], [1], [1], [1]])
    torch.testing.assert_close(layer(torch.tensor([[[0.0], [1.0]]])).flatten(), torch.tensor([0.5, 1.75]))


def test_interacting_layer_refuses_heads_that_do_not_divide():
    with pytest.raises(ValueError, match="size 4 cannot be shared by 3 heads"):
        InteractingLayer(4, heads=3)


def test_autoint_has_no_mlp_without_hidden_layers():
    model = build(AutoInt, num_layers=1, hidden_dims=())
    set_to(model.interacting[0].projections.weight[4:6], torch.eye(2))  # values; equal attention: both fields (2, 3)
    set_to(model.head.weight, [[1, 10, 100, 1000]])
    assert model(BATCH).item() == 3232
    assert model.mlp is None


def test_pnn():
    model = build(PNN, hidden_dims=(1,))
    set_to(model.mlp[0].weight, [[1, 1, 1, 1, 10, 100, 1000, 10000]])  # 10; then 5, 11, 11 and 25
    set_to(model.head.weight, [[2]])
    assert model(BATCH).item() == 2 * (10 + 50 + 1100 + 11000 + 250000)


def test_cin():
    cin = CIN(num_fields=2, dims=(1, 1))
    set_to(cin.layers[0].weight, [[1, 1, 1, 1]])  # X^1 = (1 + 3, 2 + 4) squared = (16, 36)
    set_to(cin.layers[1].weight, [[1, 2]])  # X^2 = X^1 * (1 + 2 * 3, 2 + 2 * 4) = (112, 360)
    assert cin(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])).tolist() == [[52, 472]]


def test_cin_agrees_with_equation_6_in_loops():
    torch.manual_seed(0)
    fields, dims, vectors = 3, (4, 2, 5), torch.randn(2, 3, 6)
    cin = CIN(fields, dims)
    maps, pooled = vectors, []
    for layer, dim in zip(cin.layers, dims):
        weight = layer.weight.view(dim, maps.shape[1], fields)
        following = torch.zeros(2, dim, 6)
        for h in range(dim):
            for i in range(maps.shape[1]):
                for j in range(fields):
                    following[:, h] += weight[h, i, j] * maps[:, i] * vectors[:, j]
        maps = following
        pooled.append(maps.sum(2))
    torch.testing.assert_close(cin(vectors), torch.cat(pooled, dim=1), atol=1e-5, rtol=1e-5)


def test_xdeepfm():
    model = build(XDeepFM, cin_dims=(1,), hidden_dims=(1,))
    set_to(model.table.weight[1, 2], 1000)
    set_to(model.cin.layers[0].weight, [[1, 1, 1, 1]])  # 52
    set_to(model.mlp[0].weight, [[1, 1, 1, 1]])  # 10
    set_to(model.head.weight, [[1, 2]])
    assert model(BATCH).item() == 1000 + 52 + 20


def test_edges_of_the_graph():
    graph = FieldGraph(num_fields=3, dim=1)
    states = torch.tensor([[[0.0], [1.0], [2.0]]])
    set_to(graph.edges.weight, [[0], [math.log(2)]])  # 1 : 2 : 4 by the node that an edge comes from
    expected = [[[0, 1 / 3, 2 / 3], [1 / 5, 0, 4 / 5], [1 / 3, 2 / 3, 0]]]
    torch.testing.assert_close(graph.weights(states), torch.tensor(expected))
    set_to(graph.edges.weight, [[math.log(2)], [-math.log(2)]])  # 2^(own - other), where negative to the 1/100
    below = 2**-0.01
    expected = torch.tensor([[[0, below, below**2], [2, 0, below], [4, 2, 0]]])
    torch.testing.assert_close(graph.weights(states), expected / expected.sum(2, keepdim=True))


def test_messages_of_the_graph():
    graph = FieldGraph(num_fields=3, dim=1)
    set_to(graph.outward, [[[1]], [[2]], [[3]]])  # sent: 1, 4, 9
    set_to(graph.inward, [[[1]], [[10]], [[100]]])
    set_to(graph.bias, [1])
    weights = torch.tensor([[[0, 0.5, 0.5], [1, 0, 0], [0.25, 0.75, 0]]])  # taken: 6.5, 1, 3.25
    messages = graph.messages(weights, torch.tensor([[[1.0], [2.0], [3.0]]]))
    assert messages.flatten().tolist() == [7.5, 11, 326]


def test_fignn():
    model = build(FiGNN, num_heads=1, num_steps=1)
    set_to(model.attention.projections.weight[4:], torch.eye(2))  # both nodes start as the mean, (2, 3)
    set_to(model.graph.outward, torch.stack((torch.eye(2), torch.eye(2))))
    set_to(model.graph.inward, torch.stack((torch.eye(2), -torch.eye(2))))  # messages (2, 3) and (-2, -3)
    set_to(model.gru.bias_ih[2:4], [-100, -100])  # the update gate is closed: h = tanh(100 a) = 1 and -1
    set_to(model.gru.weight_ih[4:], 100 * torch.eye(2))  # and first states again: (3, 4), (1, 2)
    set_to(model.node_score.weight, [[1, 1]])  # 7, 3
    set_to(model.node_weight.weight, [[1, 0, 0, 0], [0, 0, 0, 1]])  # 3, 2
    assert model(BATCH).item() == pytest.approx(3 * 7 + 2 * 3)


def test_dcn():
    model = build(DCN, num_crosses=2, hidden_dims=(1,))
    set_to(model.crosses[0].weight, [1, 0, 0, 0])
    set_to(model.crosses[0].bias, [0, 0, 0, 1])  # (1, 2, 3, 4) * 1 + b + itself = (2, 4, 6, 9)
    set_to(model.crosses[1].weight, [0, 0, 0, 1])  # (1, 2, 3, 4) * 9 + (2, 4, 6, 9) = (11, 22, 33, 45)
    set_to(model.mlp[0].bias, [2])
    set_to(model.head.weight, [[1, 1, 1, 1, 10]])
    assert model(BATCH).item() == 111 + 20


def test_dcnv2():
    model = build(DCNv2, num_crosses=1, hidden_dims=(1,))
    set_to(model.crosses[0].weight, torch.eye(4).flip(0))  # (4, 3, 2, 1)
    set_to(model.crosses[0].bias, [1, 1, 1, 1])  # (1, 2, 3, 4) * (5, 4, 3, 2) + itself = (6, 10, 12, 12)
    set_to(model.head.weight, [[1, 1, 1, 1, 0]])
    assert model(BATCH).item() == 40


@pytest.mark.parametrize("model_class", [FM, DSSM, FiGNN, DCN])
def test_models_without_slots_refuse_explanations(model_class):
    with pytest.raises(ValueError, match=f"this {model_class.__name__} was built without explanation slots"):
        model_class(2, 2)(BATCH, torch.zeros(1, 1, 8))
