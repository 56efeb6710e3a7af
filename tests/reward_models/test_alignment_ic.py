"""Equation 13: the IC reward by hand, and with real DeepFMs in and out of fold."""

import polars as pl
import pytest
import torch

from reward_models import ICReward
from reward_models.alignment import ic_terms
from rlrec.explanations import ExplanationStore
from rlrec.recommenders.base import Vocabulary
from rlrec.recommenders.deepfm import DeepFM
from rlrec.recommenders.fitting import cross_fit, fit


class WordEncoder:
    """1 in the first place for "good", in the second for "bad", a constant in the third."""

    dimension = 3

    def encode(self, texts):
        return torch.tensor([[float("good" in text), float("bad" in text), 1.0] for text in texts]).reshape(-1, 3)


class FixedRecommender:
    """0.5 without explanation, 0.8 with a good one, 0.3 with a bad one."""

    def predict(self, batch, explanations=None):
        if explanations is None:
            return torch.full((len(batch["user"]),), 0.5)
        present = (explanations != 0).any(-1)[:, 0]
        return torch.where(present, 0.5 + 0.3 * explanations[:, 0, 0] - 0.2 * explanations[:, 0, 1], 0.5)


SAMPLES = pl.DataFrame({"user_id": ["u", "v", "w", "x"], "item_id": ["a", "b", "a", "b"]})
VOCABULARY = Vocabulary.from_samples(SAMPLES)
COLUMNS = {**SAMPLES.to_dict(as_series=False), "title": ["A", "B", "A", "B"], "trainer_state": None}
COMPLETIONS = ["good", "good", "bad", "bad"]
LABELS = [1, 0, 1, None]


def reward_of(**options):
    logged = {}
    reward = ICReward(FixedRecommender(), WordEncoder(), VOCABULARY, **options)
    values = reward(prompts=None, completions=COMPLETIONS, label=LABELS, log_metric=logged.__setitem__, **COLUMNS)
    assert values[3] is None
    return values[:3], logged


def test_equation_13_by_hand():
    # labels 1, 0, 1; s_r 0.8, 0.8, 0.3; s~ 0.5
    values, logged = reward_of()
    assert values == pytest.approx([0.8 + 0.3, 0.2 + 0.3, 0.3 + 0.2])
    assert logged == pytest.approx(
        {
            "ic/accuracy_term": (0.8 + 0.2 + 0.3) / 3,
            "ic/shift_term": (0.3 + 0.3 + 0.2) / 3,
            "ic/score_positive": 0.55,
            "ic/score_negative": 0.8,
        }
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"shift": "off"}, [0.8, 0.2, 0.3]),
        ({"shift": "signed"}, [0.8 + 0.3, 0.2 - 0.3, 0.3 - 0.2]),
        ({"shift": "signed", "accuracy": False}, [0.3, -0.3, -0.2]),
        ({"shift": "on", "accuracy": False}, [0.3, 0.3, 0.2]),
        ({"baseline": "without_explanation"}, [1.1 - 0.5, 0.5 - 0.5, 0.5 - 0.5]),
        ({"shift": "signed", "baseline": "without_explanation"}, [0.6, -0.6, -0.4]),
    ],
)
def test_options_by_hand(options, expected):
    assert reward_of(**options)[0] == pytest.approx(expected)


def test_the_stored_explanation_as_baseline():
    store = ExplanationStore()
    store.update([{"user_id": "u", "item_id": "a", "text": "bad"}, {"user_id": "v", "item_id": "b", "text": "good"}])
    values, logged = reward_of(baseline="stored", store=store)
    # rewards 1.1, 0.5, 0.5; the same reward for "bad" with label 1: 0.3 + 0.2; for "good" with label 0: 0.2 + 0.3;
    # without a stored one, label 1: 0.5
    assert values == pytest.approx([1.1 - 0.5, 0.5 - 0.5, 0.5 - 0.5])
    assert logged["ic/baseline"] == pytest.approx(0.5)
    assert logged["ic/accuracy_term"] == pytest.approx((0.8 + 0.2 + 0.3) / 3)  # the terms of R, not what is left


def test_a_baseline_shifts_all_completions_of_a_row_alike():
    columns = {"user_id": ["u"] * 3, "item_id": ["a"] * 3}
    arguments = {"prompts": None, "completions": ["good", "bad", "neither"], "label": [1] * 3, **columns}
    bare = ICReward(FixedRecommender(), WordEncoder(), VOCABULARY)(**arguments)
    shifted = ICReward(FixedRecommender(), WordEncoder(), VOCABULARY, baseline="without_explanation")(**arguments)
    assert [a - b for a, b in zip(bare, shifted)] == pytest.approx([0.5] * 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shift": "maybe"}, "shift must be"),
        ({"baseline": "zero"}, "baseline is 'zero', but must be one of"),
        ({"shift": "off", "accuracy": False}, "leaves no term"),
        ({"baseline": "stored"}, "needs the explanation store"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ICReward(FixedRecommender(), WordEncoder(), VOCABULARY, **options)


def test_a_missing_column_is_named():
    vocabulary = Vocabulary.from_samples(SAMPLES.with_columns(like_rate=0.5), dense_features=("like_rate",))
    with pytest.raises(ValueError, match=r"needs the dataset columns \['like_rate'\]"):
        ICReward(FixedRecommender(), WordEncoder(), vocabulary)(None, COMPLETIONS, label=LABELS, **COLUMNS)


def test_terms_with_other_shifts():
    y, s_r, s_0 = torch.tensor([1.0, 0.0]), torch.tensor([0.9, 0.9]), torch.tensor([0.6, 0.6])
    assert ic_terms(y, s_r, s_0, "off")[1].tolist() == [0, 0]
    assert ic_terms(y, s_r, s_0, "signed")[1].tolist() == pytest.approx([0.3, -0.3])


def training_rows(count=240, seed=0):
    """Users whose explanations say their label; one row each, with categories and a dense feature."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (count,), generator=generator)
    samples = pl.DataFrame(
        {
            "user_id": [f"user {i}" for i in range(count)],
            "item_id": [f"item {i % 7}" for i in range(count)],
            "categories": [["Drama"] if i % 2 else ["Action", "Crime"] for i in range(count)],
            "like_rate": torch.rand(count, generator=generator).tolist(),
        }
    )
    return samples, labels, ["good" if y else "bad" for y in labels.tolist()]


def make_deepfm(vocabulary):
    return DeepFM(**vocabulary.sizes(), explanation_slots=1, explanation_dim=3)


def test_with_real_recommenders_the_right_explanation_is_paid_more():
    torch.manual_seed(0)
    samples, labels, texts = training_rows()
    vocabulary = Vocabulary.from_samples(samples, dense_features=("like_rate",))
    batch, z = vocabulary.encode(samples), WordEncoder().encode(texts).unsqueeze(1)
    users = samples["user_id"].to_list()
    options = {"epochs": 15, "batch_size": 32, "learning_rate": 0.01}
    crossed = cross_fit(lambda: make_deepfm(vocabulary), batch, labels, z, groups=users, folds=3, **options)
    single = make_deepfm(vocabulary)
    fit(single, batch, labels, z, **options)
    # trained users, and two that no fold knows
    rows = pl.concat([samples.head(10), samples.head(2).with_columns(user_id=pl.Series(["new 1", "new 2"]))])
    columns = {name: rows[name].to_list() for name in rows.columns}
    y = [*labels[:10].tolist(), *labels[:2].tolist()]
    right, wrong = (["good" if label == truth else "bad" for label in y] for truth in (1, 0))
    gaps = {}
    for name, recommender in (("out of fold", crossed), ("in sample", single)):
        reward = ICReward(recommender, WordEncoder(), vocabulary, shift="signed")
        good, bad = (torch.tensor(reward(None, texts, label=y, **columns)) for texts in (right, wrong))
        assert (good > bad).all()
        gaps[name] = (good - bad)[:10].mean()
    # a model that was trained on the rows knows their labels from the ids, and cares less for what the text says
    assert gaps["out of fold"] > max(1.0, gaps["in sample"])
    # out of fold: row 0's score is that of the one model that never saw its user
    reward = ICReward(crossed, WordEncoder(), vocabulary, shift="off")
    fold = crossed.fold_of_group["user 0"]
    part = vocabulary.encode(rows.head(1))
    s_r = crossed.models[fold].predict(part, WordEncoder().encode(right[:1]).unsqueeze(1))
    assert reward(None, right, label=y, **columns)[0] == pytest.approx(1 - abs(y[0] - float(s_r)), abs=1e-5)
