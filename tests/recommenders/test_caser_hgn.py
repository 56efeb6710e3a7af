"""Caser and HGN: forward passes worked by hand, the windows they learn from, and a world in which sequence matters."""

import math

import pytest
import torch

from rlrec.data.sequences import split_by_time
from rlrec.data.simulated_sequences import simulate_sequences
from rlrec.recommenders import HGN, Caser, fit_sequences, item_sequences
from rlrec.recommenders.caser import CaserEncoder
from rlrec.recommenders.sequential import item_ranks, rank_metrics
from rlrec.recommenders.windows import to_right, training_windows


def test_caser_by_hand():
    """E = [[1, 2], [3, -1]]; filters of height 1 and 2, one vertical filter, three outputs."""
    encoder = CaserEncoder(length=2, dim=2, horizontal=1, vertical=1, output_dim=3).eval()
    one, two = encoder.horizontal
    with torch.no_grad():
        one.weight.copy_(torch.tensor([[[1.0], [1.0]]]))  # rows summed: 3 and 2, and 0.5 more
        one.bias.fill_(0.5)
        two.weight.copy_(torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]))  # 1 * 1 + 2 * -1 = -1, cut at 0
        two.bias.zero_()
        encoder.vertical.weight.copy_(torch.tensor([[0.5, 2.0]]))  # 0.5 (1, 2) + 2 (3, -1) = (6.5, -1)
        encoder.output.weight.copy_(torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1], [-1, 0, 0, 0]]))
        encoder.output.bias.copy_(torch.tensor([-1.0, 0, 0]))
    z = encoder(torch.tensor([[[1.0, 2], [3, -1]]]))  # relu(W (3.5, 0, 6.5, -1) + b)
    torch.testing.assert_close(z, torch.tensor([[2.5, 5.5, 0.0]]))


def test_hgn_by_hand():
    """Items (4, 0) and (0, 8). The feature gate is 0.75 for the first number of the first item, else 0.5: (3, 0) and
    (0, 4). The instance gate is 0.5 and 0.75: (1.5, 0) and (0, 3), mean (0.75, 1.5). Items: (4, 8).
    """
    model = HGN(3, dim=2, max_length=2).eval()
    with torch.no_grad():
        model.item_table.weight.copy_(torch.tensor([[9.0, 9], [4, 0], [0, 8]]))
        model.feature_gate.weight.copy_(torch.tensor([[math.log(3) / 4, 0], [0, 0]]))
        model.feature_gate.bias.zero_()
        model.instance_gate.weight.copy_(torch.tensor([[0, math.log(3) / 4]]))
        model.output_table.weight.copy_(torch.tensor([[0.0, 0], [1, 0], [1, 2]]))
        model.output_bias.copy_(torch.tensor([0.0, 10, 20]))
    torch.testing.assert_close(model.states(torch.tensor([[1, 2]])), torch.tensor([[4.75, 9.5]]))
    scores = model.scores(torch.tensor([[1, 2], [0, 0]]))
    torch.testing.assert_close(scores[:, 1:], torch.tensor([[14.75, 43.75], [10.0, 20.0]]))
    # one item: the mean is over it alone; the place's gate opens from 0.5 to 0.75
    torch.testing.assert_close(model.states(torch.tensor([[0, 1]])), torch.tensor([[5.5, 0.0]]))
    with torch.no_grad():
        model.place_gate.copy_(torch.tensor([0.0, math.log(3)]))
    torch.testing.assert_close(model.states(torch.tensor([[0, 1]])), torch.tensor([[6.25, 0.0]]))


def test_windows():
    history = torch.tensor([[1, 2, 0, 3, 4], [5, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    assert to_right(history, 3).tolist() == [[2, 3, 4], [0, 0, 5], [0, 0, 0]]
    assert to_right(history[1:], 7).tolist() == [[0] * 6 + [5], [0] * 7]
    windows, targets = training_windows(history, 2)
    assert windows.tolist() == [[0, 1], [1, 2], [2, 3]]
    assert targets.tolist() == [2, 3, 4]


@pytest.mark.parametrize("kind", [Caser, HGN])
class TestBoth:
    def test_the_loss_is_that_of_every_prefix(self, kind):
        torch.manual_seed(0)
        model = kind(6, dim=8, max_length=3, dropout=0.0)
        torch.nn.init.normal_(model.output_bias)
        sequence = torch.tensor([[2, 4, 1, 5, 3]])
        prefixes = [sequence[:, :end] for end in range(1, 5)]
        by_prefix = [torch.nn.functional.cross_entropy(model.scores(p), sequence[:, p.shape[1]]) for p in prefixes]
        padded = torch.nn.functional.pad(sequence, (0, 3))
        assert model.loss(padded).item() == pytest.approx(torch.stack(by_prefix).mean().item(), rel=1e-5)

    def test_only_the_newest_items_are_read(self, kind):
        torch.manual_seed(0)
        model = kind(9, dim=8, max_length=3)
        for parameter in model.parameters():  # HGN's places start alike
            torch.nn.init.normal_(parameter)
        newest = model.scores(torch.tensor([[4, 5, 6]]))
        torch.testing.assert_close(model.scores(torch.tensor([[1, 2, 4, 5, 6]])), newest)
        assert not torch.allclose(model.scores(torch.tensor([[1, 4, 6, 5]])), newest)

    def test_own_scores_are_those_of_all_items(self, kind):
        torch.manual_seed(0)
        model = kind(6, dim=4)
        torch.nn.init.normal_(model.output_bias)
        states, items = torch.randn(3, 4), torch.tensor([1, 5, 2])
        expected = model.item_scores(states)
        torch.testing.assert_close(model.own_scores(states, items), expected.gather(1, items[:, None]).squeeze(1))
        torch.testing.assert_close(model.item_scores(states, items), expected[:, items])

    @pytest.mark.parametrize("objective", ["softmax", "bpr"])
    def test_gradients_reach_everything(self, kind, objective):
        torch.manual_seed(0)
        model = kind(20, dim=8, objective=objective, dropout=0.0)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        model.loss(torch.randint(1, 20, (8, 9))).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name

    def test_better_than_popularity(self, kind):
        """Fans whose category and mood move: the last item of each training sequence from those before it."""
        world = simulate_sequences(num_users=300, num_items=120, interactions_per_user=20)
        frame = split_by_time(world.interactions)
        items = sorted(world.interactions["item_id"].unique())
        training = item_sequences(frame.filter(frame["split"] == "train"), items)
        asked = item_sequences(frame, items)
        length = (asked != 0).sum(1)
        targets = asked.gather(1, length[:, None] - 1).squeeze(1)
        histories = asked.scatter(1, length[:, None] - 1, 0)
        torch.manual_seed(0)
        model = kind(len(items) + 1, dim=16, dropout=0.1)
        fit_sequences(model, training, epochs=25, batch_size=64, learning_rate=5e-3)
        found = rank_metrics(model.ranks(histories, targets), (10,))["recall@10"].mean()
        counts = training.flatten().bincount(minlength=len(items) + 1).float()
        counts[0] = -math.inf
        popular = rank_metrics(item_ranks(counts.expand(len(targets), -1), targets), (10,))["recall@10"].mean()
        assert found > 1.3 * popular
