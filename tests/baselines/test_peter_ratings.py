"""PETER's rating: by hand, and learned."""

import polars as pl
import pytest
import torch

from rlrec.baselines.peter import RATING_WEIGHT, RatingPETER, fit_peter, peter_data


def samples():
    """Everybody with every item; even items are rated high and said to be good."""
    rows = [(f"u{u}", f"i{i}", float(i % 2 == 0), ["bad", "good"][i % 2 == 0]) for u in range(20) for i in range(6)]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "target", "text"], orient="row")


def test_the_rating_sees_user_and_item_and_no_word():
    torch.manual_seed(0)
    model = RatingPETER(num_users=3, num_items=3, vocab_size=9, max_length=5).eval()
    one, two, words = torch.tensor([1]), torch.tensor([2]), torch.tensor([[1, 5, 6, 2]])
    rated = model.rating(model.states(one, one, words)[:, 0]).squeeze(1)
    torch.testing.assert_close(model.rate(one, one), rated)
    assert abs(float(model.rate(one, two).detach() - rated.detach())) > 1e-3


def test_the_joint_loss_by_hand():
    """Logits of zero cost log V for the words and for the context; a rating of 1/2 for 0 costs 1/4."""
    model = RatingPETER(num_users=2, num_items=2, vocab_size=8, max_length=5).eval()
    for layer in (model.head, model.rating[2]):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    torch.nn.init.constant_(model.rating[2].bias, 0.5)
    one = torch.tensor([1])
    loss = model.joint_loss(one, one, torch.tensor([[1, 5, 6, 2, 0]]), torch.tensor([0.0]))
    assert float(loss.detach()) == pytest.approx(2 * 2.0794415 + RATING_WEIGHT * 0.25)  # log 8


def test_it_learns_which_items_are_rated_high():
    data = samples().sample(fraction=1, shuffle=True, seed=0)
    parts = {"train": data[:80], "validation": data[80:100], "test": data[100:]}
    tensors = peter_data(parts["train"]["text"].to_list(), parts)
    assert tensors.words.shape == (80, 3)  # <s> good </s>
    options = {"learning_rate": 5e-3, "weight_decay": 0.0, "batch_size": 16, "dim": 16}
    fitted = fit_peter(tensors, seed=0, epochs=30, **options)
    truth = parts["test"]["target"].to_numpy()
    assert fitted.predictions[truth == 1].min() > fitted.predictions[truth == 0].max()
    assert fitted.loss < 0.3
    again = fit_peter(tensors, seed=0, epochs=30, **options)
    assert again.predictions.tolist() == fitted.predictions.tolist()


def test_ratings_must_be_scaled():
    data = samples().with_columns(target=pl.col("target") * 5)
    with pytest.raises(ValueError, match=r"train ratings must lie in \[0, 1\]"):
        peter_data(data["text"].to_list(), {"train": data, "validation": data, "test": data})
