import math

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

from rlrec.recommenders import NCF, SelfAttentiveGRU, Vocabulary, fit
from rlrec.recommenders.self_attentive_gru import SelfAttention, SelfAttentiveGRULayer


def make_batch(user: list[int], item: list[int], history: list[list[int]]) -> dict[str, torch.Tensor]:
    rows = len(user)
    return {
        "user": torch.tensor(user),
        "item": torch.tensor(item),
        "categories": torch.zeros(rows, 0, dtype=torch.long),
        "features": torch.zeros(rows, 0),
        "history": torch.tensor(history),
    }


@pytest.fixture
def model() -> SelfAttentiveGRU:
    torch.manual_seed(0)
    model = SelfAttentiveGRU(4, 6, explanation_slots=2, explanation_dim=5).eval()
    nn.init.normal_(model.inputs.product_table.weight)  # so that the histories matter
    return model


def test_attention_by_hand():
    """Two vectors, identity queries and keys, doubled values; d_k = 2."""
    attention = SelfAttention(2)
    with torch.no_grad():
        attention.query.weight.copy_(torch.eye(2))
        attention.key.weight.copy_(torch.eye(2))
        attention.value.weight.copy_(2 * torch.eye(2))
    scale = math.sqrt(2) * math.log(3)  # the first vector's score with itself is then scale / sqrt(2) = ln 3
    x = torch.tensor([[[math.sqrt(scale), 0.0], [0.0, 0.0]]])
    outputs, weights = attention(x)
    # Scores [[ln 3, 0], [0, 0]], weights [[3/4, 1/4], [1/2, 1/2]].
    torch.testing.assert_close(weights, torch.tensor([[[0.75, 0.25], [0.5, 0.5]]]))
    first = 2 * math.sqrt(scale)
    torch.testing.assert_close(outputs, torch.tensor([[[0.75 * first, 0.0], [0.5 * first, 0.0]]]))
    # With the second vector hidden, everybody looks at the first.
    _, weights = attention(x, torch.tensor([[True, False]]))
    assert weights.tolist() == [[[1.0, 0.0], [1.0, 0.0]]]


def test_weights_are_applied_from_the_right_as_in_equation_23():
    """nn.Linear holds the transpose of the paper's W: Q = S W^Q is query(S)."""
    attention = SelfAttention(2)
    with torch.no_grad():
        attention.query.weight.zero_()  # equal weights
        attention.value.weight.copy_(torch.tensor([[1.0, 10.0], [0.0, 1.0]]))  # W^V = [[1, 0], [10, 1]]
    outputs, _ = attention(torch.tensor([[[1.0, 2.0]]]))
    assert outputs.tolist() == [[[21.0, 2.0]]]  # (1, 2) W^V


def test_gru_step_by_hand():
    """dim 1: r = u = sigmoid(0) = 1/2, candidate tanh(1 + 2 * (1/2 * 4)) = tanh 5; h = 4/2 + tanh(5)/2."""
    layer = SelfAttentiveGRULayer(1)
    with torch.no_grad():
        layer.gates.weight.zero_()
        layer.candidate.weight.fill_(2.0)
    hidden = layer.step(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[4.0]]))
    assert hidden.item() == pytest.approx(2 + math.tanh(5) / 2)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def sequence_embedding_in_numpy(layer: SelfAttentiveGRULayer, s: np.ndarray) -> np.ndarray:
    """Equations 23-30 for one history s (n, d), symbol by symbol."""
    weight = {name: p.detach().double().numpy() for name, p in layer.named_parameters()}
    d = s.shape[1]
    q, k, v = (s @ weight[f"attention.{name}.weight"].T for name in ("query", "key", "value"))  # 23
    score = q @ k.T / np.sqrt(d)  # 24
    alpha = np.exp(score) / np.exp(score).sum(1, keepdims=True)  # 25
    z = alpha @ v  # 26
    w_r, w_u, w_h = np.split(weight["input.weight"], 3)
    b_r, b_u, b_h = np.split(weight["input.bias"], 3)
    u_r, u_u = np.split(weight["gates.weight"], 2)
    u_h = weight["candidate.weight"]
    h = z[0]
    for t in range(1, len(z)):
        r = sigmoid(w_r @ z[t] + u_r @ h + b_r)  # 27
        u = sigmoid(w_u @ z[t] + u_u @ h + b_u)  # 28
        candidate = np.tanh(w_h @ z[t] + u_h @ (r * h) + b_h)  # 29
        h = u * h + (1 - u) * candidate  # 30
    return h


@pytest.mark.parametrize("length", [1, 2, 7])
def test_sequence_embedding_is_equations_23_to_30(length):
    torch.manual_seed(length)
    layer = SelfAttentiveGRULayer(8).double()
    s = 2 * torch.randn(1, length, 8, dtype=torch.float64)
    embedding = layer(s, torch.ones(1, length, dtype=torch.bool))
    np.testing.assert_allclose(embedding[0].detach().numpy(), sequence_embedding_in_numpy(layer, s[0].numpy()))


def test_gru_agrees_with_torch_where_the_two_must():
    """Where U_h is diagonal, resetting before and after the product with it is the same."""
    torch.manual_seed(0)
    layer, reference = SelfAttentiveGRULayer(4), nn.GRU(4, 4, batch_first=True)
    vectors = torch.randn(3, 6, 4)
    with torch.no_grad():
        layer.candidate.weight.copy_(torch.diag(torch.randn(4)))
        reference.weight_ih_l0.copy_(layer.input.weight)
        reference.bias_ih_l0.copy_(layer.input.bias)
        reference.weight_hh_l0.copy_(torch.cat((layer.gates.weight, layer.candidate.weight)))
        reference.bias_hh_l0.zero_()
        attended, _ = layer.attention(vectors)
        _, last = reference(attended[:, 1:], attended[:, :1].transpose(0, 1).contiguous())
        torch.testing.assert_close(layer(vectors, torch.ones(3, 6, dtype=torch.bool)), last[0])
        layer.candidate.weight.copy_(torch.randn(4, 4))
        reference.weight_hh_l0[8:] = layer.candidate.weight
        _, last = reference(attended[:, 1:], attended[:, :1].transpose(0, 1).contiguous())
        assert (layer(vectors, torch.ones(3, 6, dtype=torch.bool)) - last[0]).abs().max() > 1e-3


def test_prediction_is_equations_10_and_11(model):
    """The whole forward pass in numpy: five tokens, attention, flatten, MLP 40-64-8-1."""
    z = torch.randn(1, 2, 5, generator=torch.Generator().manual_seed(1))
    batch = make_batch([2], [3], [[1, 4, 5]])
    weight = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    tables = weight["inputs.consumer_table.weight"], weight["inputs.product_table.weight"]
    sequence = sequence_embedding_in_numpy(model.sequence, tables[1][[1, 4, 5]])
    projected = z[0].double().numpy() @ weight["inputs.explanation_input.projection.weight"].T
    x = np.stack((projected[0], projected[1], tables[0][2], tables[1][3], sequence))
    q, k, v = (x @ weight[f"self_attention.{name}.weight"].T for name in ("query", "key", "value"))
    alpha = np.exp(q @ k.T / np.sqrt(8))
    alpha /= alpha.sum(1, keepdims=True)
    hidden = (alpha @ v).flatten()
    shapes = []
    for layer in (0, 2, 4):
        shapes.append(weight[f"mlp.{layer}.weight"].shape)
        hidden = weight[f"mlp.{layer}.weight"] @ hidden + weight[f"mlp.{layer}.bias"]
        if layer < 4:
            hidden = np.maximum(hidden, 0)
    assert shapes == [(64, 40), (8, 64), (1, 8)]
    assert model(batch, z).item() == pytest.approx(hidden.item(), rel=1e-5)
    np.testing.assert_allclose(model.attention(batch, z)[0].numpy(), alpha, rtol=1e-5)


def test_attention_weights_are_named_and_sum_to_one(model):
    batch = make_batch([1, 2, 3], [1, 2, 3], [[1, 2], [3, 0], [0, 0]])
    model.train()
    weights = model.attention(batch, torch.randn(3, 2, 5))
    assert model.training
    assert model.token_names == ("pos", "neg", "c", "p", "seq")
    assert weights.shape == (3, 5, 5)
    assert not weights.requires_grad
    torch.testing.assert_close(weights.sum(2), torch.ones(3, 5))
    # Without explanations both tokens are zero, and so are the scores of the row with no history: uniform attention.
    torch.testing.assert_close(model.attention(batch)[:, 0], torch.full((3, 5), 0.2))
    torch.testing.assert_close(model.attention(batch)[2, 4], torch.full((5,), 0.2))
    assert model.attention({key: values[:0] for key, values in batch.items()}).shape == (0, 5, 5)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({}, ("c", "p", "seq")),
        ({"explanation_slots": 1, "explanation_dim": 5}, ("pos", "c", "p", "seq")),
        ({"explanation_slots": 2, "explanation_dim": 5}, ("pos", "neg", "c", "p", "seq")),
        (
            {"explanation_slots": 2, "explanation_dim": 5, "num_features": 3},
            ("pos", "neg", "c", "p", "seq", "context"),
        ),
        ({"num_categories": 3}, ("c", "p", "seq", "context")),
    ],
)
def test_tokens_of_each_variant(arguments, names):
    torch.manual_seed(0)
    model = SelfAttentiveGRU(4, 6, **arguments).eval()
    batch = make_batch([1, 2], [1, 2], [[1, 2], [0, 0]])
    batch["features"] = torch.randn(2, arguments.get("num_features", 0))
    batch["categories"] = torch.tensor([[1, 2], [0, 0]]) if "num_categories" in arguments else batch["categories"]
    slots = arguments.get("explanation_slots", 0)
    z = torch.randn(2, slots, 5) if slots else None
    assert model.token_names == names
    assert model.attention(batch, z).shape == (2, len(names), len(names))
    assert torch.isfinite(model.predict(batch, z)).all()


def test_context_token_by_hand():
    model = SelfAttentiveGRU(2, 2, num_categories=3, num_features=1, embedding_dim=2)
    with torch.no_grad():
        model.inputs.features.weight.copy_(torch.tensor([[1.0], [2.0]]))
        model.inputs.features.bias.copy_(torch.tensor([0.5, 0.0]))
        model.inputs.category_table.weight.copy_(torch.tensor([[9.0, 9.0], [2.0, 0.0], [4.0, 2.0]]))
    batch = {"features": torch.tensor([[3.0], [0.0]]), "categories": torch.tensor([[1, 2, 0], [0, 0, 0]])}
    # 3 * (1, 2) + (.5, 0) + mean of (2, 0) and (4, 2); and a row with neither: the bias.
    assert model.inputs.context(batch).tolist() == [[6.5, 7.0], [0.5, 0.0]]


def test_padding_does_not_matter_on_either_side_or_in_between(model):
    expected = model(make_batch([1], [2], [[3, 5, 1]]))
    for history in ([3, 5, 1, 0, 0], [0, 0, 3, 5, 1], [0, 3, 0, 0, 5, 1, 0]):
        torch.testing.assert_close(model(make_batch([1], [2], [history])), expected)
    assert (model(make_batch([1], [2], [[5, 3, 1]])) - expected).abs() > 1e-5


def test_an_empty_history_is_a_zero_embedding_of_any_length(model):
    empties = [model(make_batch([1], [2], [[0] * length])) for length in (1, 4)]
    empties.append(model({**make_batch([1], [2], [[1]]), "history": torch.zeros(1, 0, dtype=torch.long)}))
    assert torch.equal(empties[0], empties[1])
    assert torch.equal(empties[0], empties[2])
    history = torch.zeros(2, 3, dtype=torch.long)
    assert model.sequence(model.inputs.product_table(history), history != 0).abs().sum() == 0
    model.train()(make_batch([1, 1], [2, 2], [[0, 0], [3, 4]])).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def gradient_of_unknown_rows(id_dropout: float, training: bool) -> tuple[float, float]:
    torch.manual_seed(0)
    model = SelfAttentiveGRU(4, 6, id_dropout=id_dropout).train(training)
    model(make_batch([1, 2, 3] * 10, [1, 2, 3] * 10, [[4]] * 30)).sum().backward()
    tables = model.consumer_table, model.inputs.product_table
    return tuple(float(table.weight.grad[0].abs().sum()) for table in tables)


def test_dropped_ids_train_the_unknown_rows():
    consumer, product = gradient_of_unknown_rows(0.3, training=True)
    assert consumer > 0
    assert product > 0
    assert gradient_of_unknown_rows(0.3, training=False) == (0.0, 0.0)
    assert gradient_of_unknown_rows(0.0, training=True) == (0.0, 0.0)


def test_ids_are_dropped_at_the_given_rate():
    torch.manual_seed(0)
    inputs = SelfAttentiveGRU(4, 6, id_dropout=0.25).train().inputs
    assert float((inputs.drop(torch.full((10_000,), 3)) == 0).float().mean()) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("model_class", [SelfAttentiveGRU, NCF])
def test_an_unknown_user_gets_the_average_of_the_known_ones(model_class):
    """Users rate .2, .4, .6 or .8 whatever the item: a stranger's rating must come out at .5."""
    torch.manual_seed(0)
    users = torch.arange(400) % 4 + 1
    items = torch.arange(400) // 4 % 5 + 1
    batch = make_batch(users.tolist(), items.tolist(), [[0]] * 400)
    model = model_class(5, 6, objective="rating", id_dropout=0.2)
    fit(model, batch, users / 5, epochs=40, batch_size=64, learning_rate=1e-2)
    torch.testing.assert_close(model.predict(batch), users / 5, atol=0.04, rtol=0)
    strangers = {**batch, "user": torch.zeros_like(users)}
    torch.testing.assert_close(model.predict(strangers), torch.full((400,), 0.5), atol=0.08, rtol=0)


@pytest.mark.parametrize("objective", ["binary", "rating"])
def test_learns_whether_the_last_item_of_the_history_is_even(objective):
    """A pattern in the order of the history alone; the ids of user and item say nothing."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 5, (1000, 1), generator=generator)
    history = torch.randint(1, 7, (1000, 4), generator=generator) * (torch.arange(4) < lengths)
    last = history.gather(1, lengths - 1).squeeze(1)
    labels = (last % 2 == 0).float()
    batch = {**make_batch([1] * 1000, [1] * 1000, [[0]] * 1000), "history": history}
    train = {key: values[:800] for key, values in batch.items()}
    test = {key: values[800:] for key, values in batch.items()}
    torch.manual_seed(0)
    model = SelfAttentiveGRU(2, 7, objective=objective, id_dropout=0.0)
    fit(model, train, labels[:800], epochs=40, batch_size=32, learning_rate=1e-2)
    assert float(((model.predict(test) > 0.5) == labels[800:].bool()).float().mean()) > 0.95


def test_free_explanations_stand_in_for_embeddings(tmp_path):
    torch.manual_seed(0)
    model = SelfAttentiveGRU(4, 6, explanation_slots=2, explanation_dim=5, free_explanations=True)
    batch = make_batch([1, 2], [1, 2], [[1], [2]])
    assert model.inputs.free_explanations.shape == (2, 8)
    assert model.attention(batch).shape == (2, 5, 5)
    model(batch).sum().backward()
    assert (model.inputs.free_explanations.grad != 0).all()
    with pytest.raises(ValueError, match="must not be given any"):
        model.predict(batch, torch.zeros(2, 2, 5))
    with pytest.raises(ValueError, match="must not be given any"):
        SelfAttentiveGRU(4, 6)(batch, torch.zeros(2, 1, 5))
    model.save_pretrained(tmp_path)
    assert torch.equal(SelfAttentiveGRU.from_pretrained(tmp_path).predict(batch), model.predict(batch))


def test_the_consumer_table_can_be_shared_and_frozen(model):
    """The soft prompt keeps the parameter itself; a fit with early stopping must not replace it."""
    table = model.consumer_table.weight
    batch = make_batch([1, 2, 3, 1] * 5, [1, 2] * 10, [[4]] * 20)
    labels = torch.tensor([0, 1] * 10)
    before = table.detach().clone()
    table.requires_grad_(False)
    fit(model, batch, labels, validation=(batch, labels, None), epochs=3)
    assert torch.equal(table, before)
    table.requires_grad_(True)
    fit(model, batch, labels, validation=(batch, labels, None), epochs=3)
    assert table is model.consumer_table.weight
    assert not torch.equal(table[1:], before[1:])


def test_a_batch_without_history_is_refused(model):
    samples = pl.DataFrame({"user_id": ["u"], "item_id": ["i"]})
    with pytest.raises(ValueError, match=r"no 'history'.*use_history=True"):
        model.predict(Vocabulary.from_samples(samples).encode(samples))
    with pytest.raises(ValueError, match=r"batch\['history'\] holds indices 1\.\.6.*num_items=6"):
        model.predict(make_batch([1], [1], [[1, 6]]))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="explanation_slots is 3, expected 0, 1 or 2"):
        SelfAttentiveGRU(2, 2, explanation_slots=3, explanation_dim=4)
    with pytest.raises(ValueError, match=r"id_dropout is 1\.0"):
        SelfAttentiveGRU(2, 2, id_dropout=1.0)
    with pytest.raises(ValueError, match="objective is 'ranking', expected 'binary' or 'rating'"):
        NCF(2, 2, objective="ranking")
