import numpy as np
import pytest
import torch

from rlrec.recommenders import NCF


def test_prediction_in_numpy():
    """concat(z_pos, z_neg, e_c, e_p) of width 32, then 32, 16, 8 and 1."""
    torch.manual_seed(0)
    model = NCF(4, 6, explanation_slots=2, explanation_dim=5).eval()
    batch = {
        "user": torch.tensor([2]),
        "item": torch.tensor([3]),
        "categories": torch.zeros(1, 0, dtype=torch.long),
        "features": torch.zeros(1, 0),
    }
    z = torch.randn(1, 2, 5)
    weight = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    tokens = list(z[0].double().numpy() @ weight["inputs.explanation_input.projection.weight"].T)
    tokens += [weight["inputs.consumer_table.weight"][2], weight["inputs.product_table.weight"][3]]
    hidden, widths = np.concatenate(tokens), []
    for layer in (0, 2, 4, 6):
        widths.append(weight[f"mlp.{layer}.weight"].shape)
        hidden = weight[f"mlp.{layer}.weight"] @ hidden + weight[f"mlp.{layer}.bias"]
        hidden = np.maximum(hidden, 0) if layer < 6 else hidden
    assert widths == [(32, 32), (16, 32), (8, 16), (1, 8)]
    assert model(batch, z).item() == pytest.approx(hidden.item(), rel=1e-5)
    assert model.consumer_table.weight.shape == (4, 8)
    assert torch.equal(model(batch), model({**batch, "history": torch.tensor([[1, 2]])}))


def test_without_slots_and_with_free_explanations():
    model = NCF(4, 6, explanation_slots=2, free_explanations=True)
    batch = {"user": torch.tensor([1]), "item": torch.tensor([1])}
    model(batch).sum().backward()
    assert model.inputs.free_explanations.grad.shape == (2, 8)
    for without in (model, NCF(4, 6)):
        with pytest.raises(ValueError, match="must not be given any"):
            without(batch, torch.zeros(1, 2, 5))
