"""SASRec, BERT4Rec, Caser and HGN: what they may see, what they learn, how they are stored."""

import math

import polars as pl
import pytest
import torch

from rlrec.recommenders import HGN, BERT4Rec, Caser, SASRec, fit_sequences, item_sequences
from rlrec.recommenders.sequential import to_left

MODELS = [
    pytest.param(lambda **arguments: SASRec(13, dim=32, max_length=16, dropout=0.1, **arguments), 1e-3, id="sasrec"),
    pytest.param(lambda **arguments: BERT4Rec(13, dim=32, max_length=16, **arguments), 2e-3, id="bert4rec"),
    pytest.param(lambda **arguments: Caser(13, dim=32, dropout=0.1, **arguments), 3e-3, id="caser"),
    pytest.param(lambda **arguments: HGN(13, dim=32, **arguments), 3e-3, id="hgn"),
]


def cycle(rows: int = 160) -> torch.Tensor:
    """Walks of 6 to 12 steps along 1 -> 2 -> ... -> 12 -> 1 from random starts."""
    generator = torch.Generator().manual_seed(0)
    starts = torch.randint(0, 12, (rows, 1), generator=generator)
    lengths = torch.randint(6, 13, (rows, 1), generator=generator)
    steps = torch.arange(12)
    return ((starts + steps) % 12 + 1) * (steps < lengths)


def test_sequences_by_hand():
    interactions = pl.DataFrame(
        {
            "user_id": ["v", "u", "u", "v", "u"],
            "item_id": ["b", "c", "a", "new", "b"],
            "timestamp": [5, 3, 1, 6, 3],  # u had b and c at once: by name
        }
    )
    assert item_sequences(interactions, ["a", "b", "c"]).tolist() == [[1, 2, 3], [2, 0, 0]]
    with pytest.raises(ValueError, match="no column \\['timestamp'\\]"):
        item_sequences(interactions.drop("timestamp"), ["a"])


def test_histories_are_moved_to_the_left():
    history = torch.tensor([[0, 5, 0, 6, 7], [0, 0, 0, 0, 0], [1, 2, 3, 4, 5]])
    assert to_left(history, 3).tolist() == [[5, 6, 7], [0, 0, 0], [3, 4, 5]]
    assert to_left(history[1:2], 3).tolist() == [[0]]


def test_sasrec_does_not_see_the_future():
    torch.manual_seed(0)
    model = SASRec(20, dim=8).eval()
    history = torch.tensor([[1, 2, 3, 4, 5, 6]])
    changed = torch.tensor([[1, 2, 3, 9, 8, 7]])
    before, after = model.states(history), model.states(changed)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.isclose(before[:, 3:], after[:, 3:]).all(-1).any()


def test_bert4rec_sees_both_sides_and_not_what_is_masked():
    torch.manual_seed(0)
    model = BERT4Rec(20, dim=8).eval()
    masked = torch.tensor([[False, True, False]])
    first = model.states(torch.tensor([[1, 2, 3]]), masked)[0, 1]
    assert torch.equal(first, model.states(torch.tensor([[1, 9, 3]]), masked)[0, 1])
    for changed in ([[7, 2, 3]], [[1, 2, 7]]):
        assert not torch.allclose(first, model.states(torch.tensor(changed), masked)[0, 1])


@pytest.mark.parametrize(("build", "learning_rate"), MODELS)
class TestAll:
    def test_padding_does_not_matter(self, build, learning_rate):
        torch.manual_seed(0)
        model = build()
        plain = model.scores(torch.tensor([[3, 4, 5]]))
        assert plain.shape == (1, 13)
        assert plain[0, 0] == -math.inf
        batch = torch.tensor([[3, 4, 5, 0, 0, 0], [0, 3, 0, 4, 5, 0], [1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 0]])
        scores = model.scores(batch)
        torch.testing.assert_close(scores[:2], plain.expand(2, -1))
        assert torch.isfinite(scores[:, 1:]).all()
        torch.testing.assert_close(model.scores(batch, batch_size=1), scores)

    @pytest.mark.parametrize("negatives", [None, 32])
    def test_a_cycle_is_learned(self, build, learning_rate, negatives):
        torch.manual_seed(0)
        model = build(negatives=negatives)
        epochs = []
        result = fit_sequences(
            model,
            cycle(),
            epochs=60 if isinstance(model, BERT4Rec) else 20,
            batch_size=32,
            learning_rate=learning_rate,
            on_epoch=lambda epoch, seen: epochs.append((epoch, seen is model)),
        )
        assert epochs == [(epoch, True) for epoch in range(1, len(result.history) + 1)]
        assert result.history[-1]["train_loss"] < 0.7 * result.history[0]["train_loss"]
        walks = (torch.arange(12).unsqueeze(1) + torch.arange(5)) % 12 + 1  # from every start, the fifth is asked for
        right = model.scores(walks[:, :4]).argmax(1) == walks[:, 4]
        assert right.float().mean() > 0.8

    def test_saved_and_loaded(self, build, learning_rate, tmp_path):
        torch.manual_seed(0)
        model = build()
        model.save_pretrained(tmp_path)
        loaded = type(model).from_pretrained(tmp_path)
        assert torch.equal(loaded.scores(cycle(4)), model.scores(cycle(4)))
        assert torch.equal(loaded.item_table.weight, model.item_table.weight)
        other = BERT4Rec if isinstance(model, SASRec) else SASRec
        with pytest.raises(ValueError, match=f"describes '{type(model).__name__}', not '{other.__name__}'"):
            other.from_pretrained(tmp_path)

    def test_the_best_epoch_is_kept(self, build, learning_rate):
        """Validation sequences that go the other way round: the more it learns, the worse."""
        torch.manual_seed(0)
        model = build()
        backwards = cycle(40)[:, :6].flip(1)
        validation = (backwards[:, :5], backwards[:, 5])
        result = fit_sequences(
            model, cycle(), validation, epochs=40, batch_size=32, learning_rate=learning_rate, patience=3
        )
        losses = [record["validation_loss"] for record in result.history]
        assert result.best_epoch == losses.index(min(losses)) + 1 == len(losses) - 3
        again = torch.nn.functional.cross_entropy(model.scores(validation[0]), validation[1])
        assert float(again) == pytest.approx(min(losses))

    def test_what_does_not_fit_is_refused(self, build, learning_rate):
        model = build()
        with pytest.raises(ValueError, match=r"indices 1\.\.13, but the model was built with num_items=13"):
            model.scores(torch.tensor([[1, 13]]))
        with pytest.raises(ValueError, match="integers of shape"):
            model.scores(torch.tensor([1, 2]))
        with pytest.raises(ValueError, match="no training sequence has two known items"):
            fit_sequences(model, torch.tensor([[4, 0], [0, 0]]))


def test_the_loss_by_hand():
    """State (1, 0), items 1..3 scored 0, ln 2 and ln 5: the softmax of item 3 is 5 / (1 + 2 + 5)."""
    model = SASRec(4, dim=2)
    with torch.no_grad():
        model.item_table.weight.copy_(torch.tensor([[9.0, 9], [0, 1], [math.log(2), 1], [math.log(5), 1]]))
    state, target = torch.tensor([[1.0, 0.0]]), torch.tensor([3])
    assert model.cross_entropy(state, target, None).item() == pytest.approx(math.log(8 / 5))
    drawn = []
    for seed in range(5):
        torch.manual_seed(seed)
        drawn.append(torch.randint(1, 4, (2,)).tolist())
        torch.manual_seed(seed)
        # The target among the negatives counts once; others by their weight 1 or 2, as often as they were drawn.
        weight = 5 + sum({1: 1, 2: 2, 3: 0}[item] for item in drawn[-1])
        assert model.cross_entropy(state, target, 2).item() == pytest.approx(math.log(weight / 5), abs=1e-6)
    assert any(3 in items for items in drawn)


def test_sasrec_learns_from_every_position():
    """Its loss is the mean over positions of the loss of each prefix's next item."""
    torch.manual_seed(0)
    model = SASRec(6, dim=8, dropout=0.0)
    sequence = torch.tensor([[2, 4, 1, 5]])
    prefixes = [sequence[:, :end] for end in (1, 2, 3)]
    by_prefix = [torch.nn.functional.cross_entropy(model.scores(p), sequence[:, p.shape[1]]) for p in prefixes]
    padded = torch.nn.functional.pad(sequence, (0, 3))
    assert model.loss(padded).item() == pytest.approx(torch.stack(by_prefix).mean().item(), rel=1e-5)


def test_bert4rec_arguments():
    with pytest.raises(ValueError, match="mask_share 1"):
        BERT4Rec(4, mask_share=1)
