"""ExpCTR's sampler, worked by hand on 20 users."""

import numpy as np
import polars as pl
import pytest

from rlrec.data.splits import CROWD_WORDS, expctr_samples, label_expression

TITLES = [f"Title {k}" for k in range(8)]
ITEMS = pl.DataFrame(
    {"item_id": [f"i{k}" for k in range(8)], "title": TITLES, "categories": [[f"C{k % 3}"] for k in range(8)]}
)
# ratings of i0 .. i7, in this order in time (users u00 to u19, times 10, 20, ...); 0: not rated
RATINGS = [
    [5, 1, 4, 2, 5, 3, 0, 0],
    [2, 5, 1, 5, 0, 0, 4, 0],
    [5, 5, 0, 0, 1, 2, 3, 4],
    [1, 2, 5, 4, 3, 0, 0, 5],
] * 5
CLOCK = [3, 0, 5, 1, 7, 2, 6, 4]  # item k is rated at time 10 * CLOCK[k]


def interactions(ratings=RATINGS, clock=CLOCK) -> pl.DataFrame:
    rows = [
        (f"u{user:02}", f"i{item}", float(rating), None if clock is None else 10 * clock[item])
        for user, row in enumerate(ratings)
        for item, rating in enumerate(row)
        if rating
    ]
    schema = {"user_id": pl.String, "item_id": pl.String, "rating": pl.Float64, "timestamp": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def sample(frame=None, **options) -> pl.DataFrame:
    options = {"threshold": 3.0, "num_samples": 60, "seed": 1, **options}
    return expctr_samples(interactions() if frame is None else frame, ITEMS, **options)


@pytest.mark.parametrize(("rule", "labels"), [("gt", [0, 0, 1]), ("ge", [0, 1, 1])])
def test_label_rules(rule, labels):
    assert pl.DataFrame({"rating": [3.0, 4.0, 5.0]}).select(label_expression(4, rule))["label"].to_list() == labels


def test_unknown_label_rule():
    with pytest.raises(ValueError, match=r"label_rule must be 'gt' .* or 'ge' .*, not 'above'"):
        sample(label_rule="above")


def test_history_is_what_came_before_oldest_first():
    # u00 rated, in time: i1 (1), i3 (2), i5 (3), i0 (5), i2 (4), i4 (5)
    order, labels = ["i1", "i3", "i5", "i0", "i2", "i4"], [0, 0, 0, 1, 1, 1]
    samples = sample(num_samples=100).filter(pl.col("user_id") == "u00")
    assert samples["item_id"].to_list() == order[1:]  # every interaction with something before it was drawn
    for position, row in enumerate(samples.iter_rows(named=True), start=1):
        assert row["history"] == order[:position]
        assert row["history_labels"] == labels[:position]
        assert row["history_titles"] == [TITLES[int(item[1])] for item in order[:position]]
        assert row["history_categories"] == [[f"C{int(item[1]) % 3}"] for item in order[:position]]
        assert row["label"] == labels[position]
        assert row["title"] == TITLES[int(row["item_id"][1])]
        assert row["categories"] == [f"C{int(row['item_id'][1]) % 3}"]
        assert row["like_rate"] == pytest.approx(sum(labels[:position]) / position)
        assert (row["rating"], row["timestamp"]) == (
            float(RATINGS[0][int(row["item_id"][1])]),
            CLOCK[int(row["item_id"][1])] * 10,
        )


def test_history_is_cut_to_the_newest():
    samples = sample(num_samples=100, history_length=2)
    last = samples.filter((pl.col("user_id") == "u00") & (pl.col("item_id") == "i4")).row(0, named=True)
    assert (last["history"], last["history_labels"], last["like_rate"]) == (["i0", "i2"], [1, 1], 1.0)
    assert len(sample(num_samples=100).filter(pl.col("history").list.len() > 10)) == 0


def test_at_most_ten_by_default():
    rng = np.random.default_rng(0)
    long = [[int(rng.integers(1, 6)) for _ in range(8)] for _ in range(20)]
    frame = pl.concat(
        [
            interactions(long),
            interactions(long).with_columns(item_id="j" + pl.col("item_id"), timestamp=pl.col("timestamp") + 100),
        ]
    )
    items = pl.concat([ITEMS, ITEMS.with_columns(item_id="j" + pl.col("item_id"))])
    lengths = expctr_samples(frame, items, threshold=3.0, num_samples=400)["history"].list.len()
    assert (lengths.max(), (lengths == 10).sum()) == (10, 20 * 6)  # positions 1 to 15: ten to fifteen before are ten


def test_min_history_bounds_the_targets():
    assert sample(num_samples=100, min_history=4)["history"].list.len().min() == 4
    free = sample(num_samples=200, min_history=0)
    prior = interactions().join(free.filter(pl.col("split") == "train").select("user_id").unique(), on="user_id")
    first = free.filter(pl.col("history").list.len() == 0)
    assert first["user_id"].n_unique() == 20
    assert first["like_rate"].to_list() == pytest.approx([(prior["rating"] > 3).mean()] * 20)


def test_users_are_disjoint_and_fractions_are_of_samples():
    samples = sample(num_samples=60)  # three targets for each of 20 users
    assert len(samples) == 60
    assert samples.group_by("user_id").len()["len"].unique().to_list() == [3]
    assert samples.group_by("user_id").agg(pl.col("split").n_unique())["split"].max() == 1
    assert dict(samples.group_by("split").len().iter_rows()) == {"train": 48, "validation": 6, "test": 6}
    halves = sample(num_samples=60, fractions=(0.5, 0.25, 0.25))
    assert dict(halves.group_by("split").len().iter_rows()) == {"train": 30, "validation": 15, "test": 15}


def test_number_of_samples():
    assert len(sample(num_samples=50)) == 50  # three per user, then cut
    assert len(sample(num_samples=None, fractions=(0.6, 0.2, 0.2))) == 20  # one per user
    some = sample(num_samples=12, fractions=(0.5, 0.25, 0.25), seed=0)  # fewer samples than users: one each
    assert (len(some), some["user_id"].n_unique()) == (12, 12)


def test_one_seed_one_table_whatever_the_row_order():
    frame = interactions()
    shuffled = frame.sample(fraction=1.0, shuffle=True, seed=3)
    assert sample(shuffled).equals(sample(frame))
    assert not sample(seed=2).equals(sample())
    timeless = interactions(clock=None)
    assert sample(timeless.sample(fraction=1.0, shuffle=True, seed=3)).equals(sample(timeless))


def test_without_timestamps_the_order_is_drawn_for_each_user():
    samples = sample(interactions(clock=None), num_samples=200)
    full = samples.sort(pl.col("history").list.len()).group_by("user_id", maintain_order=True).last()
    orders = {(*row["history"], row["item_id"]) for row in full.iter_rows(named=True)}
    assert len(orders) > 15  # 20 users, four sets of items: their orders differ
    for row in samples.iter_rows(named=True):
        assert row["item_id"] not in row["history"]
        assert row["timestamp"] is None
    other = sample(interactions(clock=None), num_samples=200, seed=5)
    assert not other.equals(samples)


def test_a_target_is_never_in_its_own_history():
    again = interactions().with_columns(timestamp=pl.col("timestamp") + 1000, rating=6 - pl.col("rating"))
    samples = sample(pl.concat([again, interactions()]), num_samples=1000)
    assert samples.equals(sample(num_samples=1000))  # the second rating of an item does not count
    assert not any(row["item_id"] in row["history"] for row in samples.iter_rows(named=True))


def test_item_mean_leaves_the_own_user_out():
    samples = sample(num_samples=60)
    training = set(samples.filter(pl.col("split") == "train")["user_id"])
    rated = {(f"u{u:02}", f"i{i}"): r > 3 for u, row in enumerate(RATINGS) for i, r in enumerate(row) if r}
    in_training = [liked for (user, _), liked in rated.items() if user in training]
    prior = sum(in_training) / len(in_training)
    for row in samples.iter_rows(named=True):
        others = [
            liked
            for (user, item), liked in rated.items()
            if item == row["item_id"] and user in training and user != row["user_id"]
        ]
        assert row["item_mean"] == pytest.approx((sum(others) + 5 * prior) / (len(others) + 5))


def test_item_mean_by_hand():
    # All users rate i0 then i1. i1: every second user likes it. One sample per user, its target is i1.
    ratings = [[5, 5 if user % 2 else 1] for user in range(20)]
    frame = interactions(ratings, clock=[0, 1])
    samples = sample(frame, num_samples=None, fractions=(0.6, 0.2, 0.2), prior_strength=2.0, seed=0)
    training = samples.filter(pl.col("split") == "train")
    likes, users = training["label"].sum(), len(training)
    assert users == 12
    prior = (12 + likes) / 24  # 12 likes of i0, `likes` of i1
    for row in samples.iter_rows(named=True):
        own = row["split"] == "train"
        expected = (likes - own * row["label"] + 2 * prior) / (users - own + 2)
        assert row["item_mean"] == pytest.approx(expected)


def test_crowd_words_are_quarters_of_the_training_samples():
    samples = sample(num_samples=100)
    means = samples.filter(pl.col("split") == "train")["item_mean"].to_numpy()
    low, middle, high = np.percentile(means, 25), np.percentile(means, 50), np.percentile(means, 75)
    for row in samples.iter_rows(named=True):
        mean = row["item_mean"]
        word = "lukewarm" if mean < low else "mixed" if mean < middle else "popular" if mean < high else "beloved"
        assert row["crowd"] == word
    assert set(samples["crowd"]) == set(CROWD_WORDS)


def test_reviews_and_reasons_come_along():
    frame = interactions().with_columns(review="On " + pl.col("item_id"), reasons=pl.concat_list(pl.lit("+a")))
    samples = sample(frame)
    assert (samples["review"] == "On " + samples["item_id"]).all()
    assert samples["reasons"].to_list() == [["+a"]] * len(samples)


def test_too_few_users():
    with pytest.raises(ValueError, match=r"The dataset has 9 users with enough history, but .* needs at least 10"):
        sample(interactions(RATINGS[:9]))
    # 20 users, of whom none has seven interactions before another
    with pytest.raises(ValueError, match="The dataset has 0 users with enough history"):
        sample(min_history=7)


def test_one_class():
    with pytest.raises(
        ValueError, match=r"All 60 samples have the label 0 \(rule: rating > 5\); choose another --thr"
    ):
        sample(threshold=5)
    with pytest.raises(ValueError, match=r"All 60 samples have the label 1 \(rule: rating >= 1\)"):
        sample(threshold=1, label_rule="ge")


def test_one_class_in_one_split():
    likes_all, dislikes_all = [5] * 8, [1] * 8
    with pytest.raises(
        ValueError, match=r"The (validation|test) split has 7 of 70 samples, all with label [01] \(rule"
    ):
        sample(interactions([likes_all, dislikes_all] * 5), num_samples=70)


def test_one_user_with_nearly_all_samples():
    count = 400
    ratings = [[(k * 7) % 5 + 1 for k in range(count)]] + [[5, 1]] * 11
    table = pl.DataFrame({"item_id": [f"i{k}" for k in range(count)], "title": "T", "categories": [[]] * count})
    frame = interactions(ratings, clock=range(count))
    with pytest.raises(ValueError, match=r"The (train|validation|test) split has \d+ of \d+ samples"):
        expctr_samples(frame, table, threshold=3, num_samples=400)
