"""SELLER's adapter: eqs. 7 and 8 by hand, padding, ablations and bad input."""

import pytest
import torch
from tiny_injected import WIDTH, language_model
from torch import nn

from rlrec.policies.injection import InjectedLLM
from rlrec.policies.sequence_adapter import SequenceAdapter


def adapter(**changes) -> SequenceAdapter:
    torch.manual_seed(0)
    return SequenceAdapter(
        6, **{"behaviour_size": 8, "semantic_size": 5, "width": 8, "num_heads": 2, **changes}
    ).eval()


def features(length: int = 4) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    mask = torch.arange(length) < torch.tensor([[length], [2]])
    return {
        "behaviour": torch.randn(2, length, 8),
        "semantic": torch.randn(2, length, 5),
        "sequence_mask": mask,
    }


class Constant(nn.Module):
    def __init__(self, *values: float):
        super().__init__()
        self.values = torch.tensor(values)

    def forward(self, hidden):
        return self.values.expand(len(hidden), -1)


class Same(nn.Module):
    def forward(self, hidden, src_key_padding_mask):
        return hidden


def test_a_path_by_hand():
    """Two experts: the mean (1, 3) of the items that count goes through 2x and -x, with gates 3/4 and 1/4."""
    path = SequenceAdapter(2, 2, None, width=2, num_heads=1, num_experts=2).eval().paths["behaviour"]
    path.norm, path.encoder, path.gate = nn.Identity(), Same(), Constant(torch.log(torch.tensor(3.0)), 0.0)
    path.experts = nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(2))
    for expert, factor in zip(path.experts, (2.0, -1.0)):
        expert.weight.data = factor * torch.eye(2)
    states = torch.tensor([[[0.0, 4.0], [2.0, 2.0], [100.0, 100.0]]])
    vector = path(states, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(vector, torch.tensor([[1.25, 3.75]]))  # 3/4 * 2 - 1/4 = 5/4 of (1, 3)


def test_the_papers_sizes():
    made = SequenceAdapter(4096)
    assert made.settings == {
        "sizes": {"behaviour": 64, "semantic": 768},
        "width": 64,
        "num_layers": 2,
        "num_heads": 4,
        "num_experts": 8,
        "dropout": 0.2,
        "positions": 0,
    }
    behaviour, semantic = made.paths["behaviour"], made.paths["semantic"]
    assert isinstance(behaviour.narrow, nn.Identity)
    assert semantic.narrow.weight.shape == (64, 768)
    for path in (behaviour, semantic):
        assert len(path.encoder.layers) == 2
        assert {layer.self_attn.num_heads for layer in path.encoder.layers} == {4}
        assert [tuple(part.weight.shape) for part in path.experts[7] if isinstance(part, nn.Linear)] == [
            (256, 64),
            (4096, 256),
        ]
        assert {part.p for part in path.modules() if isinstance(part, nn.Dropout)} == {0.2}
        assert len(path.experts) == 8


def test_padding_changes_nothing():
    made, given = adapter(), features()
    given["behaviour"].requires_grad_()
    vectors = made(**given)
    assert vectors.shape == (2, 2, 6)
    short = {name: values[1:, :2] for name, values in given.items()}
    torch.testing.assert_close(made(**short), vectors[1:])
    vectors.sum().backward()
    moved = given["behaviour"].grad.abs().sum(-1) > 0
    assert torch.equal(moved, given["sequence_mask"])


def test_order_counts_only_with_positions():
    given = features()
    turned = {name: values[:1].flip(1) for name, values in given.items()}
    torch.testing.assert_close(adapter()(**turned), adapter()(**given)[:1])  # eq. 6 as printed: a set
    placed = adapter(positions=3)
    assert not torch.allclose(placed(**turned), placed(**given)[:1])
    # counted from the newest, wherever the padding is: the last one is 0
    left = {name: torch.cat((torch.zeros_like(values[1:]), values[1:, :2]), 1) for name, values in given.items()}
    torch.testing.assert_close(placed(**left), placed(**given)[1:])


@pytest.mark.parametrize(("left_out", "kept"), [("behaviour", "semantic"), ("semantic", "behaviour")])
def test_without_one_path(left_out, kept):
    made, given = adapter(**{f"{left_out}_size": None}), features()
    vectors = made(**given)
    assert vectors.shape == (2, 1, 6)
    assert torch.equal(made(**{name: value for name, value in given.items() if name != left_out}), vectors)
    with pytest.raises(ValueError, match=f"The adapter reads {kept}, but the features have no such states"):
        made(sequence_mask=given["sequence_mask"])


def test_without_both_paths_it_is_the_plain_llm():
    llm = language_model()
    model = InjectedLLM(llm, SequenceAdapter(WIDTH, None, None))
    assert not model.trained_state()
    ids = torch.tensor([[1, 5, 6], [1, 7, 8]])
    assert torch.equal(model(ids, features()).logits, llm(ids).logits)
    written = llm.generate(ids, max_new_tokens=4, do_sample=False)[:, 3:]
    assert torch.equal(model.generate(ids, features(), max_new_tokens=4, do_sample=False), written)


def test_a_sequence_without_items_is_refused():
    given = features()
    given["sequence_mask"][1] = False
    with pytest.raises(ValueError, match="Sequence 1 of the batch has no item"):
        adapter()(**given)
    one = {name: values[:1, :1] for name, values in features().items()}
    assert adapter()(**one).isfinite().all()
