"""The sequence encoders against torch-rechub, transformers, a plain reference and the papers' equations by hand."""

import math

import numpy as np
import pytest
import torch
from reference_sasrec import reference_scores

from rlrec.recommenders import (
    DIEN,
    DIN,
    BERT4Rec,
    PointwiseBERT4Rec,
    PointwiseCaser,
    PointwiseGRU4Rec,
    PointwiseSASRec,
    UniSRec,
)
from rlrec.recommenders.caser import CaserEncoder
from rlrec.recommenders.gru import GRU

DIM = 4


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Eval mode and random parameters: torch starts biases and norms at 0 and 1, where an error would not show."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def rechub():
    """torch-rechub's features of a target and two histories, whose items share one table of 9 rows, and a user."""
    features = pytest.importorskip("torch_rechub.basic.features")
    item = features.SparseFeature("item", 9, DIM, padding_idx=0)
    history, negative = (
        features.SequenceFeature(name, 9, DIM, pooling="concat", shared_with="item", padding_idx=0)
        for name in ("history", "negative")
    )
    return [features.SparseFeature("user", 3, DIM)], [history], [negative], [item]


def copy_items(model, table: torch.nn.Embedding) -> None:
    """Take another project's item table, without reactions."""
    torch.nn.init.normal_(table.weight, std=0.5)
    with torch.no_grad():
        table.weight[0] = 0.0
        model.table.weight[-9:] = table.weight
        model.reactions.zero_()


def inputs_of(module: torch.nn.Module, call) -> torch.Tensor:
    """What `module` is given while `call()` runs."""
    seen = []
    with module.register_forward_pre_hook(lambda _, given: seen.append(given[0])):
        call()
    return seen[0].detach()


def batch_of(history: torch.Tensor, item: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"user": torch.ones_like(item), "item": item, "history": history, "history_labels": 0.0 * history}


def representation(model, batch) -> torch.Tensor:
    history, x, fields = model.embed(batch)
    return model.represent(x, history != 0, fields[:, 1]).detach()


def test_din_attends_as_torch_rechub(rechub):
    ranking = pytest.importorskip("torch_rechub.models.ranking")
    user, history, _, target = rechub
    attention = {"dims": [6], "activation": "prelu"}
    theirs = ranking.DIN(user, history, target, {"dims": [4]}, attention).eval()
    ours = randomised(DIN(3, 9, embedding_dim=DIM, attention_dim=6))
    copy_items(ours, theirs.embedding.embed_dict["item"])
    unit, (linear, norm, prelu, _, output) = ours.activation_unit, theirs.attention_layers[0].attention.mlp
    norm.running_var.fill_(1 - norm.eps)  # without batch normalisation, which DIN's unit has not
    with torch.no_grad():
        v, x, difference, product = linear.weight.split(DIM, dim=1)
        unit.target.weight.copy_(v + difference)  # W (v - x) is W v - W x
        unit.history.weight.copy_(torch.cat((x - difference, product), dim=1))
        unit.history.bias.copy_(linear.bias)
        unit.activation.weight.copy_(prelu.weight)
        unit.output.load_state_dict(output.state_dict())
    batch = batch_of(torch.tensor([[1, 2, 3], [8, 8, 5]]), torch.tensor([4, 5]))
    expected = inputs_of(theirs.mlp, lambda: theirs(batch))[:, :DIM]
    torch.testing.assert_close(representation(ours, batch), expected, atol=1e-5, rtol=0)


def copy_gru(theirs: torch.nn.GRU, number: int, ours: GRU) -> None:
    """torch's order is reset, 1 - update, candidate: sigmoid(-x) is 1 - sigmoid(x)."""
    with torch.no_grad():
        for name, weights in (("weight_ih", ours.input.weight), ("weight_hh", ours.state.weight)):
            update, reset, candidate = weights.chunk(3)
            getattr(theirs, f"{name}_l{number}").copy_(torch.cat((reset, -update, candidate)))
        if theirs.bias:
            update, reset, candidate = ours.input.bias.chunk(3)
            getattr(theirs, f"bias_ih_l{number}").copy_(torch.cat((reset, -update, candidate)))
            getattr(theirs, f"bias_hh_l{number}").zero_()


def rechub_dien(rechub, ours: DIEN):
    """torch-rechub's DIEN with the weights of ours."""
    ranking = pytest.importorskip("torch_rechub.models.ranking.dien")
    theirs = ranking.DIEN(*rechub, {"dims": [4]}, alpha=1.0).eval()
    copy_items(ours, theirs.embedding.embed_dict["item"])
    copy_gru(theirs.interest_extractor_layers[0], 0, ours.extractor)
    evolution = theirs.interest_evolving_layers[0]
    with torch.no_grad():
        evolution.Wa.copy_(ours.attention.weight)  # h W e_a in both
        for name, weight, bias, state in zip(
            "urh",
            ours.evolution.input.weight.chunk(3),
            ours.evolution.input.bias.chunk(3),
            ours.evolution.state.weight.chunk(3),
        ):
            getattr(evolution.augru_cell, f"W{name}").copy_(weight.T)
            getattr(evolution.augru_cell, f"U{name}").copy_(state.T)
            getattr(evolution.augru_cell, f"b{name}").copy_(bias)
    return theirs


def test_dien_evolves_as_torch_rechub(rechub):
    ours = randomised(DIEN(3, 9, embedding_dim=DIM))
    theirs = rechub_dien(rechub, ours)
    batch = batch_of(torch.tensor([[1, 2, 3, 4], [8, 8, 0, 0], [0, 0, 0, 0]]), torch.tensor([4, 5, 6]))
    batch["negative"] = torch.zeros_like(batch["history"])
    expected = inputs_of(theirs.mlp, lambda: theirs(batch))[:, :DIM]
    torch.testing.assert_close(representation(ours, batch), expected, atol=1e-5, rtol=0)
    assert (expected[:2].abs().amax(1) > 0.1).all()


def test_diens_auxiliary_loss_is_torch_rechubs(rechub):
    """With two known items, the other one is the only negative there is."""
    ours = randomised(DIEN(3, 9, embedding_dim=DIM))
    theirs = rechub_dien(rechub, ours)
    ours.config["num_items"] = 3
    batch = batch_of(torch.tensor([[1, 2, 2, 1], [2, 1, 0, 0], [1, 0, 0, 0]]), torch.tensor([1, 2, 1]))
    batch["negative"] = (3 - batch["history"]) * (batch["history"] != 0)
    _, expected = theirs(batch)
    history, x, _ = ours.embed(batch)
    interests = ours.extractor(x)
    torch.testing.assert_close(ours.auxiliary_loss(interests, history), expected, atol=1e-5, rtol=0)
    assert ours.auxiliary_loss(interests, history * torch.tensor([1, 0, 0, 0])).item() == 0  # no pair
    labels = torch.tensor([1.0, 0.0, 1.0])
    target = torch.nn.functional.binary_cross_entropy_with_logits(ours(batch), labels)
    torch.testing.assert_close(ours.loss(batch, None, labels), target + 0.2 * expected, atol=1e-5, rtol=0)
    ours.config["auxiliary_weight"] = 0.0
    torch.testing.assert_close(ours.loss(batch, None, labels), target)


def test_augru_by_hand():
    """d = 1; update sigmoid(x), reset sigmoid(2 h), candidate tanh(x + r * 3 h + 0.5)."""
    cell = GRU(1)
    with torch.no_grad():
        cell.input.weight.copy_(torch.tensor([[1.0], [0.0], [1.0]]))
        cell.input.bias.copy_(torch.tensor([0.0, 0.0, 0.5]))
        cell.state.weight.copy_(torch.tensor([[0.0], [2.0], [3.0]]))

    def sigmoid(value):
        return 1 / (1 + math.exp(-value))

    first = 0.25 * sigmoid(1) * math.tanh(1.5)  # h_0 = 0, attention 0.25
    update = 0.75 * sigmoid(-2)
    second = (1 - update) * first + update * math.tanh(-2 + sigmoid(2 * first) * 3 * first + 0.5)
    x, attention = torch.tensor([[[1.0], [-2.0], [9.0]]]), torch.tensor([[0.25, 0.75, 0.0]])
    assert cell(x, attention).flatten().tolist() == pytest.approx([first, second, second])  # 0 leaves the state


def test_the_grus_written_out_gradients():
    """Against finite differences, and against torch's GRU with the same weights."""
    gru = randomised(GRU(3)).double()
    x = torch.randn(2, 4, 3, dtype=torch.double, requires_grad=True)
    attention = torch.rand(2, 4, dtype=torch.double, requires_grad=True)
    parameters = list(gru.parameters())
    assert torch.autograd.gradcheck(lambda x, attention, *_: gru(x, attention), (x, attention, *parameters))
    theirs = torch.nn.GRU(3, 3, batch_first=True).double()
    copy_gru(theirs, 0, gru)
    expected = theirs(x)[0]
    torch.testing.assert_close(gru(x), expected)
    weight = torch.randn_like(expected)
    given, wanted = (torch.autograd.grad((states * weight).sum(), x)[0] for states in (gru(x), expected))
    torch.testing.assert_close(given, wanted)


def test_gru4rec_is_torch_rechubs(rechub):
    matching = pytest.importorskip("torch_rechub.models.matching.gru4rec")
    user, history, _, target = rechub
    theirs = matching.GRU4Rec(user, history, target, target, {"dims": [DIM]}).eval()
    ours = randomised(PointwiseGRU4Rec(3, 9, embedding_dim=DIM, gru_layers=2))
    copy_items(ours, theirs.embedding.embed_dict["item"])
    for number, layer in enumerate(ours.layers):
        torch.nn.init.zeros_(layer.input.bias)
        copy_gru(theirs.gru, number, layer)
    batch = batch_of(torch.tensor([[1, 2, 3], [8, 7, 6]]), torch.tensor([4, 5]))
    expected = inputs_of(theirs.user_mlp, lambda: theirs.user_tower(batch))[:, -DIM:]
    torch.testing.assert_close(representation(ours, batch), expected, atol=1e-5, rtol=0)


def test_casers_horizontal_and_vertical_filters_by_hand():
    """Items (1, 2) and (3, -1); the last layer is the identity on a chosen feature."""
    layer = CaserEncoder(length=2, dim=2, horizontal=1, vertical=2, dropout=0.0)
    with torch.no_grad():
        one, two = layer.horizontal
        one.weight.copy_(torch.tensor([[[1.0], [1.0]]]))  # 1 + 2 = 3 and 3 - 1 = 2: the larger is 3, plus 0.5
        one.bias.fill_(0.5)
        two.weight.copy_(torch.tensor([[[1.0, 2.0], [10.0, 1.0]]]))  # 1 + 2 * 3 + 10 * 2 - 1 = 26, minus 1
        two.bias.fill_(-1.0)
        layer.vertical.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, -3.0]]))  # (7, 0) and (-9, 3)
    picture = torch.tensor([[[1.0, 2.0], [3.0, -1.0]]])
    features = inputs_of(layer.output, lambda: layer(picture))
    assert features.tolist() == [[3.5, 25.0, 7.0, 0.0, -9.0, 3.0]]
    with torch.no_grad():
        layer.output.weight.zero_()
        layer.output.weight[0, 1], layer.output.weight[1, 4] = 1.0, 1.0
        layer.output.bias.zero_()
    assert layer(picture).tolist() == [[25.0, 0.0]]  # ReLU(-9) = 0
    assert inputs_of(layer.output, lambda: layer(0 * picture)).tolist() == [[0.5, 0.0, 0.0, 0.0, 0.0, 0.0]]


def test_caser_by_loops():
    model = randomised(PointwiseCaser(3, 9, embedding_dim=DIM, max_length=3, horizontal_filters=2, vertical_filters=2))
    weight = {name: value.detach().double().numpy() for name, value in model.convolutions.named_parameters()}
    batch = batch_of(torch.tensor([[5, 7, 0, 0]]), torch.tensor([4]))
    _, x, _ = model.embed(batch)
    picture = np.vstack([np.zeros(DIM), x[0, :2].detach().double().numpy()])  # zeros at the old end
    features = []
    for height in (1, 2, 3):
        for k in range(2):
            filters, bias = weight[f"horizontal.{height - 1}.weight"][k], weight[f"horizontal.{height - 1}.bias"][k]
            windows = [(picture[i : i + height].T * filters).sum() + bias for i in range(4 - height)]
            features.append(max(0.0, *windows))
    for k in range(2):
        features += list(weight["vertical.weight"][k] @ picture)
    given = inputs_of(model.convolutions.output, lambda: model(batch))
    np.testing.assert_allclose(given[0].numpy(), features, atol=1e-5)
    assert max(features[:6]) > 0


@pytest.mark.parametrize(("layers", "heads"), [(1, 1), (2, 2)])
def test_sasrec_equals_the_reference(layers, heads):
    model = randomised(PointwiseSASRec(3, 9, embedding_dim=DIM, layers=layers, heads=heads, max_length=5)).double()
    torch.nn.init.zeros_(model.reactions)
    items = model.table.weight[3:].detach()
    for history in ([4], [3, 8, 1], [7, 7, 2, 6, 5]):
        batch = batch_of(torch.tensor([history + [0] * (6 - len(history))]), torch.tensor([1]))
        batch["history_labels"] = batch["history_labels"].double()
        scores = (representation(model, batch)[0] @ items.T).numpy()
        weights = {**model.state_dict(), "item_table.weight": items}
        np.testing.assert_allclose(scores, reference_scores(weights, history, layers, heads), atol=1e-6)


def test_bert4rec_is_that_of_the_next_item():
    """The same weights: the mask behind the newest item has the same state, wherever it stands."""
    ours = randomised(PointwiseBERT4Rec(3, 9, embedding_dim=DIM, max_length=5))
    torch.nn.init.zeros_(ours.reactions)
    next_item = BERT4Rec(9, dim=DIM, max_length=6).eval()
    weights = {name: value for name, value in ours.state_dict().items() if name in next_item.state_dict()}
    weights |= {"item_table.weight": ours.table.weight[3:], "item_bias": torch.zeros(9)}
    next_item.load_state_dict(weights)
    batch = batch_of(torch.tensor([[3, 4, 5, 0, 0], [7, 0, 8, 6, 2], [0, 0, 0, 0, 0]]), torch.tensor([1, 2, 3]))
    torch.testing.assert_close(representation(ours, batch), next_item.next_states(batch["history"]).detach())


def test_bert4rec_encodes_as_transformers_bert():
    bert = pytest.importorskip("transformers.models.bert.modeling_bert")
    config = bert.BertConfig(hidden_size=DIM, num_hidden_layers=2, num_attention_heads=2, intermediate_size=4 * DIM)
    config.layer_norm_eps, config._attn_implementation = 1e-5, "eager"
    theirs = bert.BertEncoder(config).eval()
    ours = randomised(PointwiseBERT4Rec(3, 9, embedding_dim=DIM))
    with torch.no_grad():
        for their, our in zip(theirs.layer, ours.encoder.layers):
            attention = their.attention
            maps = (attention.self.query, attention.self.key, attention.self.value)
            weights, biases = our.self_attn.in_proj_weight.chunk(3), our.self_attn.in_proj_bias.chunk(3)
            for linear, weight, bias in zip(maps, weights, biases):
                linear.weight.copy_(weight)
                linear.bias.copy_(bias)
            attention.output.dense.load_state_dict(our.self_attn.out_proj.state_dict())
            attention.output.LayerNorm.load_state_dict(our.norm1.state_dict())
            their.intermediate.dense.load_state_dict(our.linear1.state_dict())
            their.output.dense.load_state_dict(our.linear2.state_dict())
            their.output.LayerNorm.load_state_dict(our.norm2.state_dict())
    x = torch.randn(2, 3, DIM)
    torch.testing.assert_close(ours.encoder(x), theirs(x)[0], atol=1e-5, rtol=0)


def test_unisrecs_adaptor_by_loops():
    model = UniSRec(3, 4, text_dim=3, embedding_dim=2, experts=2)
    texts = torch.tensor([[9.0, 9.0, 9.0], [1.0, 0.0, 5.0], [3.0, 4.0, 5.0], [0.0, 0.0, 0.0]])
    model.set_text_vectors(texts)
    # Of items 1 and 2: means 2, 2 and 5; deviations 1, 2 and 0, which counts as 0.01 (mean 1).
    assert model.text_vectors[0].tolist() == model.text_vectors[3].tolist() == [0.0, 0.0, 0.0]
    np.testing.assert_allclose(model.text_vectors[1:3], [[-1, -1, 0], [1, 1, 0]], atol=1e-5)
    weight = {name: value.detach().double().numpy() for name, value in model.named_parameters()}
    adapted = model.adapt(torch.tensor([[2, 1], [1, 3]])).detach()
    for item, vector in ((2, adapted[0, 0]), (1, adapted[0, 1]), (1, adapted[1, 0]), (3, adapted[1, 1])):
        text = model.text_vectors[item].double().numpy()
        gate = np.exp(weight["gate.weight"] @ text)
        experts = (weight["whitening.weight"] @ text + weight["whitening.bias"]).reshape(2, 2)
        np.testing.assert_allclose(vector, (gate / gate.sum()) @ experts, atol=1e-6)


def test_unisrec_adds_texts_to_history_and_target():
    model = randomised(UniSRec(3, 4, text_dim=3, embedding_dim=2))
    batch = batch_of(torch.tensor([[2, 3, 0]]), torch.tensor([1]))
    with pytest.raises(ValueError, match="no text vectors yet"):
        model.predict({**batch, "categories": torch.zeros(1, 0), "features": torch.zeros(1, 0)})
    model.set_text_vectors(torch.randn(4, 3))
    _, x, fields = model.embed(batch)
    texts = model.adapt(torch.tensor([[2, 3, 1]]))[0]
    rows = model.table.weight[3:]
    torch.testing.assert_close(x[0, :2], rows[[2, 3]] + texts[:2] + model.reactions[0])
    assert x[0, 2:].abs().sum() == 0
    torch.testing.assert_close(fields[0], torch.stack((model.table.weight[1], rows[1] + texts[2])))


def test_unisrec_refuses_vectors_that_do_not_fit():
    model = UniSRec(3, 4, text_dim=3)
    with pytest.raises(ValueError, match=r"shape \(4, 2\), expected \(num_items, text_dim\) = \(4, 3\)"):
        model.set_text_vectors(torch.randn(4, 2))
    with pytest.raises(ValueError, match="NaN or infinite"):
        model.set_text_vectors(torch.full((4, 3), math.nan))
    with pytest.raises(ValueError, match="none of the 3 items has a text vector"):
        model.set_text_vectors(torch.zeros(4, 3))
