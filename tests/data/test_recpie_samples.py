"""RecPIE's user-temporal samples, worked by hand on four users."""

import polars as pl
import pytest

from rlrec.data import simulate
from rlrec.data.splits import expctr_samples, recpie_samples

ITEMS = pl.DataFrame(
    {"item_id": [f"i{k}" for k in range(10)], "title": [f"Title {k}" for k in range(10)], "categories": [["C"]] * 10}
)
# (item, stars) of each user in time: 7 + 1 + 2 training, validation and test rows for a; 4 + 0 + 1 for b; 2 + 0 + 1
# for c; 1 for d.
RATED = {
    "a": [(0, 5), (1, 1), (2, 4), (3, 3), (4, 5), (5, 2), (6, 4), (7, 5), (8, 1), (9, 5)],
    "b": [(0, 2), (1, 4), (2, 5), (3, 5), (8, 5)],
    "c": [(9, 4), (0, 4), (1, 3)],
    "d": [(8, 2)],
}
SPLIT = {"a": "tttttttvee", "b": "tttte", "c": "tte", "d": "t"}
NAMES = {"t": "train", "v": "validation", "e": "test"}


def interactions(rated=RATED, timeless=False) -> pl.DataFrame:
    rows = [
        (user, f"i{item}", float(stars), None if timeless else 100 + time)
        for user, row in rated.items()
        for time, (item, stars) in enumerate(row)
    ]
    schema = {"user_id": pl.String, "item_id": pl.String, "rating": pl.Float64, "timestamp": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def sample(frame=None, **options) -> pl.DataFrame:
    return recpie_samples(interactions() if frame is None else frame, ITEMS, **{"rating_scale": (1, 5), **options})


def row(samples: pl.DataFrame, user: str, item: int) -> dict:
    return samples.filter((pl.col("user_id") == user) & (pl.col("item_id") == f"i{item}")).row(0, named=True)


def test_the_last_fifth_of_each_user_is_tested_and_the_tenth_before_it_is_validation():
    expected = [
        (user, f"i{item}", NAMES[letter])
        for user, rated in RATED.items()
        for (item, _), letter in zip(rated, SPLIT[user], strict=True)
    ]
    assert sample().select("user_id", "item_id", "split").rows() == expected
    shuffled = interactions().sample(fraction=1.0, shuffle=True, seed=3)
    assert sample(shuffled).equals(sample())


@pytest.mark.parametrize(
    ("count", "fractions", "sizes"),
    [
        (1, (0.2, 0.1), (1, 0, 0)),
        (2, (0.2, 0.1), (2, 0, 0)),  # round(0.4) = 0
        (3, (0.2, 0.1), (2, 0, 1)),  # round(0.6) = 1
        (6, (0.2, 0.1), (4, 1, 1)),  # round(1.2) = 1; of 5 before it round(0.5) = 1
        (8, (0.2, 0.1), (5, 1, 2)),
        (10, (0.3, 0.5), (3, 4, 3)),  # half of 7 is 3.5
        (5, (0.3, 0.0), (3, 0, 2)),  # 1.5, which is 0.3 * 5 in decimal only
        (3, (0.6, 0.9), (1, 0, 2)),  # one row is trained, whatever the fractions
    ],
)
def test_rounding(count, fractions, sizes):
    user = [(k, 5 if k % 2 else 1) for k in range(count)]
    frame = interactions({**{f"u{k}": RATED["a"] for k in range(9)}, "x": user})
    samples = sample(frame, test_fraction=fractions[0], validation_fraction=fractions[1])
    counts = dict(samples.filter(pl.col("user_id") == "x").group_by("split").len().iter_rows())
    assert tuple(counts.get(name, 0) for name in ("train", "validation", "test")) == sizes


def test_history_is_all_that_the_user_rated_before_in_any_split():
    for sampled in sample().iter_rows(named=True):
        rated = RATED[sampled["user_id"]]
        position = [f"i{item}" for item, _ in rated].index(sampled["item_id"])
        before = rated[:position]
        assert sampled["history"] == [f"i{item}" for item, _ in before]
        assert sampled["history_ratings"] == [float(stars) for _, stars in before]
        assert sampled["history_targets"] == [(stars - 1) / 4 for _, stars in before]
        assert sampled["history_labels"] == [int(stars >= 4) for _, stars in before]
        assert sampled["history_titles"] == [f"Title {item}" for item, _ in before]
        assert sampled["history_categories"] == [["C"]] * position
        assert sampled["label"] == (rated[position][1] >= 4)
        assert sampled["target"] == (rated[position][1] - 1) / 4
        assert (sampled["rating"], sampled["timestamp"]) == (rated[position][1], 100 + position)
        assert (sampled["title"], sampled["categories"]) == (f"Title {sampled['item_id'][1]}", ["C"])
        if before:
            assert sampled["like_rate"] == pytest.approx(sum(stars >= 4 for _, stars in before) / position)
    assert row(sample(history_length=3), "a", 9)["history"] == ["i6", "i7", "i8"]  # a training, validation, test row


def test_means_by_hand():
    # The 14 training rows, in stars: a 5 1 4 3 5 2 4, b 2 4 5 5, c 4 4, d 2. Nine are 4 or 5; they sum to 50.
    liked, target = 9 / 14, (50 - 14) / 4 / 14
    samples = sample(prior_strength=2.0)
    # i0 is trained by a (5), b (2) and c (4), and a's own row is left out.
    first = row(samples, "a", 0)
    assert first["item_mean"] == pytest.approx((1 + 2 * liked) / (2 + 2))
    assert first["item_rating_mean"] == pytest.approx((0.25 + 0.75 + 2 * target) / (2 + 2))
    assert first["like_rate"] == pytest.approx(liked)  # nothing before it
    assert first["user_mean"] == pytest.approx(target)
    # i8 is trained by d (2) alone; a and b are tested on it.
    for user in "ab":
        tested = row(samples, user, 8)
        assert tested["item_mean"] == pytest.approx((0 + 2 * liked) / (1 + 2))
        assert tested["item_rating_mean"] == pytest.approx((0.25 + 2 * target) / (1 + 2))
    assert row(samples, "d", 8)["item_mean"] == pytest.approx(liked)  # nobody else's
    # Before i2, a trained 5 and 1; before the test rows 5 1 4 3 5 2 4, the validation row not among them.
    assert row(samples, "a", 2)["user_mean"] == pytest.approx((1 + 0 + 2 * target) / (2 + 2))
    for item in (7, 8, 9):
        trained = (4 + 0 + 3 + 2 + 4 + 1 + 3) / 4
        assert row(samples, "a", item)["user_mean"] == pytest.approx((trained + 2 * target) / (7 + 2))


def test_no_training_row_knows_its_own_rating():
    features = ["history", "history_ratings", "history_labels", "like_rate", "user_mean", "item_mean"]
    features.append("item_rating_mean")
    prepared = simulate(num_users=200, num_items=60, interactions_per_user=10)
    options = {"rating_scale": (1, 5), "prior_strength": 1e-9}  # without a prior, which one row hardly moves
    before = recpie_samples(prepared.interactions, prepared.items, **options)
    for number in (0, 4, 1003, 1995):  # first and later rows of users, all trained
        is_row = pl.int_range(pl.len()) == number
        other = prepared.interactions.with_columns(
            rating=pl.when(is_row).then(6 - pl.col("rating") + (pl.col("rating") == 3)).otherwise("rating")
        )
        after = recpie_samples(other, prepared.items, **options)
        assert before["split"][number] == "train"
        assert before["target"][number] != after["target"][number]
        for feature in features:
            assert before[feature].to_list()[number] == pytest.approx(after[feature].to_list()[number], abs=1e-3)


def test_where_nothing_is_known_the_features_do_not_tell_the_label():
    # Items that only one user rated, as the first thing: all features must be one number for likes and dislikes.
    frame = interactions({"a": RATED["a"], **{f"x{k}": [(k, 5 if k % 2 else 1)] for k in range(8)}})
    frame = frame.with_columns(item_id=pl.when(pl.col("user_id") == "a").then("item_id").otherwise("user_id"))
    items = pl.concat(
        [ITEMS, pl.DataFrame({"item_id": [f"x{k}" for k in range(8)], "title": "T", "categories": [[]] * 8})]
    )
    single = recpie_samples(frame, items, rating_scale=(1, 5)).filter(pl.col("user_id") != "a")
    assert single["label"].n_unique() == 2
    for feature in ("like_rate", "user_mean", "item_mean", "item_rating_mean", "crowd"):
        assert single[feature].n_unique() == 1


def test_the_scale_and_the_label_rule():
    samples = sample(rating_scale=(0, 10), threshold=2, label_rule="gt")
    assert (row(samples, "a", 1)["target"], row(samples, "a", 0)["target"]) == (0.1, 0.5)
    assert [row(samples, "a", item)["label"] for item in (1, 3, 5)] == [0, 1, 0]


def test_min_history_takes_samples_and_not_training_ratings():
    some, every = sample(min_history=3), sample()
    assert some.equals(every.filter(pl.col("history").list.len() >= 3).with_columns(crowd=some["crowd"]))


def test_ties_and_missing_times_follow_the_row_order():
    timeless = interactions(timeless=True)
    constant = ["timestamp", "crowd"]
    assert sample(timeless).drop(constant).equals(sample().drop(constant))
    tied = interactions().with_columns(timestamp=pl.lit(7, pl.Int64))
    assert sample(tied).drop(constant).equals(sample().drop(constant))
    backwards = sample(timeless.reverse())
    assert row(backwards, "c", 0)["history"] == ["i1"]


def test_a_second_rating_of_an_item_does_not_count():
    again = interactions().with_columns(timestamp=pl.col("timestamp") + 1000, rating=6 - pl.col("rating"))
    assert sample(pl.concat([interactions(), again])).equals(sample())


@pytest.fixture(scope="module")
def world():
    return simulate(num_users=100, num_items=80, interactions_per_user=20)


def test_training_fractions(world):
    def thin(fraction, **options):
        return recpie_samples(
            world.interactions, world.items, rating_scale=(1, 5), training_fraction=fraction, **options
        )

    def keys(samples, split):
        return set(samples.filter(pl.col("split") == split).select("user_id", "item_id").iter_rows())

    # 20 a user: 4 tested, 2 (1.6) validation, 14 trained.
    whole, half, eighth = thin(1.0), thin(0.5), thin(0.12)
    for samples, train, validation in ((whole, 1400, 200), (half, 700, 100), (eighth, 168, 24)):
        assert [len(keys(samples, name)) for name in ("train", "validation", "test")] == [train, validation, 400]
    for split in ("train", "validation"):
        assert keys(eighth, split) < keys(half, split) < keys(whole, split)
    assert keys(half, "train") != keys(thin(0.5, seed=1), "train")
    # A kept or tested sample has the history it had; its means come from the kept training rows alone.
    fixed = ["user_id", "item_id", "split", "label", "target", "history", "history_ratings", "review", "reasons"]
    assert half.select(fixed).equals(
        whole.join(half, on=["user_id", "item_id"], how="semi", maintain_order="left").select(fixed)
    )
    train = half.filter(pl.col("split") == "train")
    tested = half.filter(pl.col("split") == "test").row(5, named=True)
    of_item = train.filter(pl.col("item_id") == tested["item_id"])
    of_user = train.filter(pl.col("user_id") == tested["user_id"])
    prior = train["target"].mean() * 5
    assert tested["item_rating_mean"] == pytest.approx((of_item["target"].sum() + prior) / (len(of_item) + 5))
    assert tested["user_mean"] == pytest.approx((of_user["target"].sum() + prior) / (len(of_user) + 5))


def test_number_of_samples(world):
    def draw(number, **options):
        return recpie_samples(world.interactions, world.items, rating_scale=(1, 5), num_samples=number, **options)

    whole, some = draw(None), draw(500)
    assert (len(whole), len(some), len(draw(5000))) == (2000, 500, 2000)
    assert some.drop("crowd").equals(
        whole.join(some, on=["user_id", "item_id"], how="semi", maintain_order="left").drop("crowd")
    )
    assert not some.equals(draw(500, seed=1))
    quarter = draw(500, training_fraction=0.25)
    assert (
        quarter.filter(pl.col("split") == "test")
        .select("user_id", "item_id", "history", "target")
        .equals(some.filter(pl.col("split") == "test").select("user_id", "item_id", "history", "target"))
    )
    assert 0.15 < (quarter["split"] == "train").sum() / (some["split"] == "train").sum() < 0.35


def test_columns_are_those_of_expctr_and_four_more(world):
    expctr = expctr_samples(world.interactions, world.items, threshold=3, num_samples=None)
    recpie = recpie_samples(world.interactions, world.items, rating_scale=(1, 5))
    assert set(recpie.columns) - set(expctr.columns) == {
        "target",
        "history_ratings",
        "history_targets",
        "user_mean",
        "item_rating_mean",
    }
    assert dict(recpie.select(expctr.columns).schema) == dict(expctr.schema)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_fraction": 0.0}, r"test_fraction is 0.0, .* but must be in \(0, 1\), \[0, 1\) and \(0, 1\]"),
        ({"training_fraction": 1.2}, "training_fraction 1.2, but must be in"),
        ({"rating_scale": (2, 5)}, "rating_scale is 2 to 5, and 2 ratings, such as 1, are outside"),
        ({"rating_scale": (5, 1)}, "rating_scale is 5 to 1"),
        ({"min_history": 99}, "use a smaller --min_history"),
        ({"threshold": 6}, r"All 19 samples have the label 0 \(rule: rating >= 6\)"),
        ({"num_samples": 2}, "split has . of 2 samples|All 2 samples"),
        ({"label_rule": "above"}, "label_rule must be 'gt'"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        sample(**options)


def test_no_validation_rows():
    frame = interactions({user: RATED[user] for user in "bc"})
    with pytest.raises(ValueError, match="The validation split has none of 8 samples: no user has enough"):
        sample(frame, threshold=5)
