"""EER: the same as SASRec at the start, each row by its own weights, and better with a useful explanation."""

import pytest
import torch
from reference_sasrec import reference_scores

from rlrec.recommenders import EER, SASRec, fit_explained
from rlrec.recommenders.explanation_enhanced import changed_linear, per_sample_bytes
from rlrec.recommenders.sequential import next_item_metrics

HISTORY = torch.tensor([[3, 4, 5, 1], [7, 2, 0, 0], [9, 0, 0, 0]])
RANKS = pytest.mark.parametrize("rank", [None, 3])


def awake(rank: int | None, **options) -> EER:
    """A model whose weights are all random, so that explanations matter."""
    torch.manual_seed(1)
    model = EER(12, explanation_dim=5, dim=8, max_length=6, hidden=7, rank=rank, **options).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@RANKS
def test_starts_as_the_sasrec_it_comes_from(rank):
    torch.manual_seed(0)
    sasrec = SASRec(12, dim=8, heads=2, max_length=6, dropout=0.1)
    for parameter in sasrec.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model = EER.from_sasrec(sasrec, explanation_dim=5, rank=rank)
    for explanations in (torch.randn(3, 5), torch.zeros(3, 5)):
        torch.testing.assert_close(model.scores(HISTORY, explanations), sasrec.scores(HISTORY), atol=1e-6, rtol=0)
    torch.testing.assert_close(model.scores(HISTORY), sasrec.scores(HISTORY), atol=1e-6, rtol=0)
    with torch.no_grad():  # a copy: the SASRec stays as it is
        model.item_table.weight.zero_()
    assert sasrec.item_table.weight.any()


@RANKS
def test_each_row_has_weights_of_its_own(rank):
    """Equation 14 row by row: the changes are added to SASRec's weights, and the reference reads the result."""
    model = awake(rank, heads=2).double()
    z = torch.randn(3, 5, dtype=torch.float64)
    scores = model.scores(HISTORY, z)
    for row in range(3):
        weights = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("hypernetworks")}
        for number, hypernetwork in enumerate(model.hypernetworks):
            layer = f"encoder.layers.{number}."
            mlp = torch.relu(hypernetwork.input.projection.weight @ z[row] + hypernetwork.bias)
            flat = hypernetwork.output.weight @ mlp + hypernetwork.output.bias
            start = 0
            names = ("self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight")
            for name, out in zip(names, (24, 8, 8, 8)):
                if rank is None:
                    change = flat[start : start + out * 8].reshape(out, 8)
                    start += out * 8
                else:
                    a = flat[start : start + rank * 8].reshape(rank, 8)
                    b = flat[start + rank * 8 : start + rank * (8 + out)].reshape(out, rank)
                    change, start = b @ a, start + rank * (8 + out)
                weights[layer + name] = weights[layer + name] + change.detach()
            assert start == len(flat)
        history = [item for item in HISTORY[row].tolist() if item]
        expected = torch.from_numpy(reference_scores(weights, history, layers=2, heads=2))
        torch.testing.assert_close(scores[row, 1:], expected[1:], atol=1e-6, rtol=0)


@RANKS
def test_rows_do_not_meet(rank):
    model, z = awake(rank), torch.randn(3, 5)
    scores = model.scores(HISTORY, z)
    for row in range(3):
        torch.testing.assert_close(scores[row : row + 1], model.scores(HISTORY[row : row + 1], z[row : row + 1]))
    torch.testing.assert_close(model.scores(HISTORY, z, batch_size=1), scores)
    assert not torch.allclose(scores[:, 1:], model.scores(HISTORY, z.roll(1, 0))[:, 1:])
    assert torch.equal(model.scores(HISTORY, torch.zeros(3, 5)), model.scores(HISTORY))


def test_a_changed_linear_by_hand():
    """W = [[1, 2]], b = 10, x = (1, 1): rows with D = [[5, 0]] and D = [[0, -1]] give 18 and 12."""
    x, weight, bias = torch.ones(2, 1, 2), torch.tensor([[1.0, 2.0]]), torch.tensor([10.0])
    full = torch.tensor([[[5.0, 0.0]], [[0.0, -1.0]]])
    assert changed_linear(x, weight, bias, full).flatten().tolist() == [18.0, 12.0]
    a, b = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]]), torch.tensor([[[5.0]], [[-1.0]]])
    assert changed_linear(x, weight, bias, (a, b)).flatten().tolist() == [18.0, 12.0]


@RANKS
def test_the_memory_is_that_of_the_tensors(rank):
    model = awake(rank)
    held = 0
    for hypernetwork in model.hypernetworks:
        for change in hypernetwork(torch.randn(3, 5), 3).values():
            parts = change if isinstance(change, tuple) else (change,)
            held += sum(part.numel() * part.element_size() for part in parts)
    assert held == per_sample_bytes(dim=8, layers=2, batch_size=3, rank=rank)


def told(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The last item of the history has four followers, and the explanation says which, one-hot."""
    generator = torch.Generator().manual_seed(seed)
    history = torch.randint(1, 41, (count, 4), generator=generator)
    choice = torch.randint(0, 4, (count,), generator=generator)
    items = (history[:, -1] + 7 * choice) % 40 + 1
    return history, items, torch.nn.functional.one_hot(choice, 4).float()


@RANKS
def test_an_explanation_that_tells_is_used(rank):
    history, items, z = told(1200, seed=0)
    test = told(300, seed=1)
    torch.manual_seed(0)
    model = EER(41, explanation_dim=4, dim=32, max_length=4, dropout=0.0, hidden=32, rank=rank)
    before = {name: values.clone() for name, values in model.state_dict().items()}
    result = fit_explained(model, history, items, z, test, epochs=25, learning_rate=5e-3, batch_size=100)
    moved = {name for name, values in model.state_dict().items() if not torch.equal(values, before[name])}
    assert {f"hypernetworks.{layer}.{part}" for layer in (0, 1) for part in ("output.weight", "bias")} <= moved
    assert result.history[-1]["train_loss"] < 0.5 * result.history[0]["train_loss"]
    right = next_item_metrics(model, *test)
    wrong = next_item_metrics(model, test[0], test[1], test[2].roll(1, 1))
    # Without the explanation four items are equally likely: the target's mean NDCG@10 is (1 + .63 + .5 + .43) / 4.
    assert right["ndcg@10"] > 0.75 > wrong["ndcg@10"] + 0.2


@RANKS
def test_saved_and_loaded(rank, tmp_path):
    model, z = awake(rank), torch.randn(3, 5)
    model.hypernetworks[0].input.standardise(torch.randn(20, 1, 5))
    model.save_pretrained(tmp_path)
    loaded = EER.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(loaded.scores(HISTORY, z), model.scores(HISTORY, z))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="rank is 0"):
        EER(12, explanation_dim=5, dim=8, rank=0)
    model = EER(12, explanation_dim=5, dim=8)
    history, items, z = HISTORY, torch.tensor([1, 2, 0]), torch.randn(3, 5)
    with pytest.raises(ValueError, match=r"training samples .* shape \(3, 4\), expected \(3, 5\)"):
        fit_explained(model, history, items, z[:, :4])
    bad = z.clone()
    bad[1, 2] = float("nan")
    with pytest.raises(ValueError, match="validation explanation 1 holds NaN"):
        fit_explained(model, history, items, z, (history, items, bad))
    with pytest.raises(ValueError, match="none of 3 training samples has a known item"):
        fit_explained(model, history, torch.zeros_like(items), z)
    result = fit_explained(model, history, items, z, epochs=2)  # the third row is left out
    assert [record["epoch"] for record in result.history] == [1, 2]
