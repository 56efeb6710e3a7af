"""The controls keep what they must keep and cut what they must cut."""

import numpy as np
import polars as pl
import pytest

from rlrec.evaluation.controls import permutation_auc, shuffle_labels, shuffled_partners


@pytest.fixture
def samples():
    rows = 300
    rng = np.random.default_rng(0)
    ratings = rng.integers(1, 6, rows)
    return pl.DataFrame(
        {
            "split": ["train"] * 200 + ["validation"] * 50 + ["test"] * 50,
            "user_id": [f"u{row}" for row in range(rows)],
            "rating": ratings.astype(float),
            "label": (ratings > 3).astype(int),
            "reasons": [[f"+r{rating}"] for rating in ratings],
            "like_rate": rng.random(rows),
        }
    )


def test_shuffled_labels_keep_rates_columns_and_the_test_split(samples):
    shuffled = shuffle_labels(samples, seed=3)
    assert shuffled.schema == samples.schema
    for split in ("train", "validation"):
        before, after = (frame.filter(pl.col("split") == split) for frame in (samples, shuffled))
        assert after["label"].sum() == before["label"].sum()
        assert after["label"].to_list() != before["label"].to_list()
        assert after.select("user_id", "like_rate").equals(before.select("user_id", "like_rate"))
    # A row's outcome moves as one: the rating still gives the label and the reasons.
    assert (shuffled["rating"] > 3).cast(int).to_list() == shuffled["label"].to_list()
    assert [reasons[0] for reasons in shuffled["reasons"]] == [f"+r{int(rating)}" for rating in shuffled["rating"]]
    test = pl.col("split") == "test"
    assert shuffled.filter(test).equals(samples.filter(test))


def test_shuffled_labels_are_seeded_and_take_splits(samples):
    assert shuffle_labels(samples, seed=3).equals(shuffle_labels(samples, seed=3))
    assert not shuffle_labels(samples, seed=3).equals(shuffle_labels(samples, seed=4))
    only_train = shuffle_labels(samples, seed=3, splits=["train"])
    assert only_train[200:].equals(samples[200:])


def test_labels_no_longer_follow_the_feature(samples):
    leaky = samples.with_columns(like_rate=pl.col("label").cast(float))
    shuffled = shuffle_labels(leaky, seed=0).filter(pl.col("split") == "train")
    assert abs(np.corrcoef(shuffled["label"], shuffled["like_rate"])[0, 1]) < 0.2


@pytest.mark.parametrize("seed", range(20))
def test_partners_stay_in_the_split_and_leave_the_user(seed):
    rng = np.random.default_rng(seed)
    splits = np.repeat(["train", "test"], [50, 20])
    users = np.concatenate([rng.integers(0, 10, 50), 100 + rng.integers(0, 5, 20)])
    partners = shuffled_partners(splits, seed=seed, users=users)
    assert sorted(partners) == list(range(70))
    assert (splits[partners] == splits).all()
    assert (users[partners] != users).all()


def test_partners_without_users_have_no_fixed_point():
    for seed in range(50):
        assert sorted(shuffled_partners(["a", "a"], seed)) == [0, 1]
        partners = shuffled_partners(["a"] * 3, seed)
        assert (partners != np.arange(3)).all()


def test_two_users_with_one_half_each():
    partners = shuffled_partners(["a"] * 4, users=["x", "x", "y", "y"])
    assert set(partners[:2]) == {2, 3}


def test_partners_that_cannot_be():
    with pytest.raises(ValueError, match="Split 'test' has 1 rows"):
        shuffled_partners(["train", "train", "test"])
    with pytest.raises(ValueError, match="one user holds 3"):
        shuffled_partners(["train"] * 5, users=["u", "u", "u", "v", "w"])


def test_permutation_auc():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    informed = permutation_auc(labels, labels + rng.normal(size=400))
    assert informed["auc"] > 0.7
    assert informed["p_value"] == pytest.approx(1 / 1001)
    # Standard deviation of a permuted AUC: sqrt((n + 1) / (12 n+ n-)) = 0.0289; 95 % within 0.057.
    assert informed["permuted_mean"] == pytest.approx(0.5, abs=0.005)
    assert informed["permuted_high"] - informed["permuted_low"] == pytest.approx(4 * 0.0289, rel=0.1)
    assert permutation_auc(labels, np.zeros(400)) == {
        "auc": 0.5, "permuted_mean": 0.5, "permuted_low": 0.5, "permuted_high": 0.5, "p_value": 1.0
    }  # fmt: skip
