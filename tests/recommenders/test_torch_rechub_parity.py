"""Whole models of torch-rechub with our weights: equal predictions within 1e-5."""

import pytest
import torch
from torch import nn

from rlrec.recommenders import DCN, DSSM, AutoInt, DCNv2, DeepFM, Recommender
from rlrec.recommenders.fm import interactions
from rlrec.recommenders.xdeepfm import CIN

layers = pytest.importorskip("torch_rechub.basic.layers")
features = pytest.importorskip("torch_rechub.basic.features")
matching = pytest.importorskip("torch_rechub.models.matching")
ranking = pytest.importorskip("torch_rechub.models.ranking")

USERS, ITEMS, DIM, HIDDEN = 7, 5, 8, (6, 4)
MLP = {"dims": list(HIDDEN), "dropout": 0.0, "activation": "relu"}


def build(model_class, **arguments) -> Recommender:
    """Our model with random weights of a size that shows differences; biases of crosses are 0, see below."""
    torch.manual_seed(0)
    model = model_class(USERS, ITEMS, embedding_dim=DIM, hidden_dims=HIDDEN, **arguments).eval()
    nn.init.normal_(model.table.weight)
    if model_class is DCN:
        for cross in model.crosses:
            nn.init.normal_(cross.bias)
    if model_class is DCNv2:
        for cross in model.crosses:
            nn.init.zeros_(cross.bias)  # torch-rechub adds the bias after the product with x_0, the paper before
    return model


def their_fields() -> list:
    return [features.SparseFeature("user", USERS, DIM), features.SparseFeature("item", ITEMS, DIM)]


def copy(source: torch.Tensor, target: torch.Tensor) -> None:
    with torch.no_grad():
        target.copy_(source.reshape(target.shape))


def copy_table(ours: Recommender, embedding: nn.Module) -> None:
    copy(ours.table.weight[:USERS, :DIM], embedding.embed_dict["user"].weight)
    copy(ours.table.weight[USERS:, :DIM], embedding.embed_dict["item"].weight)


def copy_linear(ours: nn.Sequential, theirs: nn.Sequential) -> None:
    """Our linear layers into theirs, whose batch normalisation becomes the identity in eval mode."""
    linear = [module for module in theirs.modules() if isinstance(module, nn.Linear)]
    for source, target in zip((module for module in ours if isinstance(module, nn.Linear)), linear):
        copy(source.weight, target.weight)
        copy(source.bias, target.bias)
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eps = 0.0


def zero(*modules: nn.Module) -> None:
    for module in modules:
        for parameter in module.parameters():
            nn.init.zeros_(parameter)


def deepfm() -> tuple[Recommender, nn.Module]:
    ours, theirs = build(DeepFM), ranking.DeepFM(their_fields(), their_fields(), MLP)
    nn.init.zeros_(ours.table.weight[:, DIM:].data)  # their first-order term is linear in the vectors
    zero(theirs.linear)
    copy_linear(nn.Sequential(*ours.mlp, ours.head), theirs.mlp)
    return ours, theirs


def dssm() -> tuple[Recommender, nn.Module]:
    user, item = their_fields()
    tower = {**MLP, "activation": nn.Tanh}
    ours, theirs = build(DSSM), matching.DSSM([user], [item], tower, tower)
    nn.init.ones_(ours.gamma)
    copy_linear(ours.user_tower, theirs.user_mlp)
    copy_linear(ours.item_tower, theirs.item_mlp)
    return ours, theirs


def autoint() -> tuple[Recommender, nn.Module]:
    ours = build(AutoInt, num_layers=2, num_heads=2)
    theirs = ranking.AutoInt(their_fields(), [], num_layers=2, num_heads=2, mlp_params=MLP)
    for source, target in zip(ours.interacting, theirs.interacting_layers):
        matrices = (target.W_Q, target.W_K, target.W_V, target.W_Res)
        for part, matrix in zip(source.projections.weight.chunk(4), matrices):
            copy(part, matrix.weight)
    zero(theirs.linear, theirs.mlp.mlp[-1])
    copy_linear(ours.mlp, theirs.mlp)
    copy(ours.head.weight[:, : 2 * DIM], theirs.attn_linear.weight)
    copy(ours.head.weight[:, 2 * DIM :], theirs.mlp.mlp[-1].weight)
    copy(ours.head.bias, theirs.attn_linear.bias)
    return ours, theirs


def dcn() -> tuple[Recommender, nn.Module]:
    ours, theirs = build(DCN), ranking.DCN(their_fields(), 3, MLP)
    for cross, weight, bias in zip(ours.crosses, theirs.cn.w, theirs.cn.b):
        copy(cross.weight, weight.weight)
        copy(cross.bias, bias)
    copy_linear(ours.mlp, theirs.mlp)
    copy_linear([ours.head], theirs.linear)
    return ours, theirs


def dcnv2() -> tuple[Recommender, nn.Module]:
    ours, theirs = build(DCNv2), ranking.DCNv2(their_fields(), 3, MLP, use_low_rank_mixture=False)
    for cross, weight in zip(ours.crosses, theirs.crossnet.w):
        copy(cross.weight, weight.weight)
    copy_linear(ours.mlp, theirs.parallel_dnn)
    copy_linear([ours.head], theirs.linear)
    return ours, theirs


@pytest.mark.parametrize("pair", [deepfm, dssm, autoint, dcn, dcnv2])
def test_predictions_are_equal(pair):
    ours, theirs = pair()
    copy_table(ours, theirs.embedding if hasattr(theirs, "embedding") else theirs.sparse_embedding)
    pairs = torch.cartesian_prod(torch.arange(USERS), torch.arange(ITEMS))
    batch = {"user": pairs[:, 0], "item": pairs[:, 1]}
    with torch.no_grad():
        predictions = torch.sigmoid(ours(batch))
        assert predictions.std() > 0.02  # something to compare
        torch.testing.assert_close(predictions, theirs.eval()(batch), atol=1e-5, rtol=0)


def test_interactions_of_fm():
    vectors = torch.randn(10, 4, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(interactions(vectors), layers.FM(reduce_sum=False)(vectors), atol=1e-5, rtol=0)


def test_cin():
    """Theirs has a ReLU in each layer, which leaves positive maps as they are."""
    torch.manual_seed(0)
    ours, theirs = CIN(4, (3, 2)), layers.CIN(4, [3, 2], split_half=False)
    zero(theirs)
    for source, target in zip(ours.layers, theirs.conv_layers):
        nn.init.uniform_(source.weight)
        # Ours counts the maps before the fields, theirs the fields before the maps.
        copy(source.weight.unflatten(1, (-1, 4)).transpose(1, 2), target.weight)
    vectors = torch.rand(10, 4, 5)
    for column in range(5):  # theirs ends in a linear map, which reads out one pooled map after the other
        nn.init.zeros_(theirs.fc.weight)
        theirs.fc.weight.data[0, column] = 1
        torch.testing.assert_close(ours(vectors)[:, column], theirs(vectors)[:, 0], atol=1e-5, rtol=1e-5)
