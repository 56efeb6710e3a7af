"""SELLER's samples: the two cuts in time, histories without the future, and word2vec's downsampling, by hand."""

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from rlrec.data import prepare
from rlrec.data.sequences import item_text, keep_probability, sequence_samples, split_by_time, unseen_targets

HALF = (0.5, 0.25, 0.25)
# Nine rows; "a" comes back to "w", which does not count. Half of the eight others are earlier than second 5, three
# quarters earlier than second 7. "c" has one interaction, and no training interaction has "z".
ROWS = [
    ("a", "w", 1),
    ("b", "x", 2),
    ("a", "x", 3),
    ("c", "y", 4),
    ("a", "y", 5),
    ("b", "z", 6),
    ("b", "w", 7),
    ("a", "z", 8),
    ("a", "w", 9),
]
CATEGORIES = {"w": ["A", "B", "C", "D"], "x": ["A"], "y": [], "z": ["E"]}


def table(rows=ROWS):
    users, items, times = zip(*rows)
    columns = {"user_id": users, "item_id": items, "rating": [float(time) for time in times], "timestamp": times}
    return pl.DataFrame(columns)


def items_table(categories=CATEGORIES, description="Told."):
    rows = [(item, f"Title {item}", names, description) for item, names in categories.items()]
    schema = {"item_id": str, "title": str, "categories": pl.List(pl.String), "description": str}
    return pl.DataFrame(rows, schema=schema, orient="row")


@pytest.fixture(scope="module")
def world():
    return prepare("simulated-sequences", num_users=200, num_items=120, interactions_per_user=20)


def test_every_column_by_hand():
    samples = sequence_samples(table(), items_table(), fractions=HALF, category_threshold=1.0)
    expected = [
        ("train", "a", "x", 3.0, 3, "Title x", ["A"], "Told.", ["w"], ["Title w"], [CATEGORIES["w"]], list("ABCA")),
        ("validation", "a", "y", 5.0, 5, "Title y", [], "Told.", ["w", "x"], ["Title w", "Title x"],
         [CATEGORIES["w"], ["A"]], list("ABCA")),
        # Nobody can rank "z" as a target, but in a history it is what it is.
        ("test", "b", "w", 7.0, 7, "Title w", CATEGORIES["w"], "Told.", ["x", "z"], ["Title x", "Title z"],
         [["A"], ["E"]], list("AEABC")),
    ]  # fmt: skip
    names = ["split", "user_id", "item_id", "rating", "timestamp", "title", "categories", "description", "history"]
    names += ["history_titles", "history_categories", "category_sequence"]
    assert samples[names].rows() == expected
    assert sorted(samples.columns) == sorted(names)
    assert unseen_targets(table(), HALF) == {"validation": 1, "test": 1}


def test_interactions_of_one_second_stay_together():
    rows = [(f"u{k}", "x", time) for k, time in enumerate([1, 1, 2, 2, 2, 2, 3, 3])]
    # Half of eight would cut between two of second 2, three quarters before second 3.
    assert split_by_time(table(rows), HALF)["split"].to_list() == ["train"] * 2 + ["validation"] * 4 + ["test"] * 2


def test_cuts_of_ten_are_eight_one_one():
    rows = [("u", f"i{k}", k) for k in range(10)]
    assert split_by_time(table(rows))["split"].to_list() == ["train"] * 8 + ["validation", "test"]


def test_nothing_of_the_future_is_in_a_history(world):
    samples = sequence_samples(world.interactions, world.items, max_length=7)
    watched = {}
    for user, item, time in world.interactions.select("user_id", "item_id", "timestamp").iter_rows():
        watched.setdefault(user, []).append((time, item))
    for user, item, time, history in samples.select("user_id", "item_id", "timestamp", "history").iter_rows():
        assert history == [other for when, other in sorted(watched[user]) if when < time][-7:]
        assert item not in history
    assert samples["history"].list.len().min() == 1
    assert samples["history"].list.len().max() == 7
    of = {name: samples.filter(pl.col("split") == name)["timestamp"] for name in ("train", "validation", "test")}
    assert of["train"].max() < of["validation"].min() <= of["validation"].max() < of["test"].min()
    # All but the 200 users' first interactions, and targets that are not seen in training, are samples.
    assert len(samples) == world.interactions.height - 200 - sum(unseen_targets(world.interactions).values())
    assert samples["reasons"].list.len().unique().to_list() == [2]


def test_num_samples_takes_training_samples_of_all_times(world):
    everything = sequence_samples(world.interactions, world.items, category_threshold=1.0)
    some = sequence_samples(world.interactions, world.items, num_samples=300, category_threshold=1.0)
    assert (some["split"] == "train").sum() == 300
    rest = [frame.filter(pl.col("split") != "train") for frame in (everything, some)]
    assert_frame_equal(*rest)
    times = everything.filter(pl.col("split") == "train")["timestamp"].sort()
    places = [times.search_sorted(time) / len(times) for time in some.filter(pl.col("split") == "train")["timestamp"]]
    assert sum(places) / 300 == pytest.approx(0.5, abs=0.05)  # three standard errors


def test_one_seed_gives_one_table_whatever_the_order_of_rows(world):
    options = {"num_samples": 100, "category_threshold": 0.02}
    first = sequence_samples(world.interactions, world.items, **options)
    shuffled = sequence_samples(world.interactions.sample(fraction=1.0, shuffle=True, seed=1), world.items, **options)
    assert_frame_equal(first, shuffled)
    other = sequence_samples(world.interactions, world.items, seed=1, **options)
    assert other["category_sequence"].to_list() != first["category_sequence"].to_list()


def test_keep_probability():
    # Shares 16/20, 3/20 and 1/20; sqrt(0.05 / 0.8) = 1/4, sqrt(0.05 / 0.15) = sqrt(1/3), sqrt(1) = 1.
    lists = pl.Series([["a", "b"]] * 3 + [["a"]] * 13 + [["c"], []])
    keep = dict(keep_probability(lists, 0.05).iter_rows())
    assert keep == pytest.approx({"a": 0.25, "b": 3**-0.5, "c": 1.0})
    assert dict(keep_probability(lists, 0.5).iter_rows()) == pytest.approx({"a": 0.625**0.5, "b": 1.0, "c": 1.0})


def test_categories_are_kept_as_often_as_they_should_be():
    # Two categories of one half each: sqrt(0.02 / 0.5) = 0.2 of all occurrences are kept.
    names = {f"i{k}": ["p" if k % 2 else "q"] for k in range(60)}
    rows = [(f"u{user}", f"i{(k + user) % 60}", 100 * k + user) for user in range(100) for k in range(60)]
    samples = sequence_samples(table(rows), items_table(names), fractions=(0.9, 0.05, 0.05), category_threshold=0.02)
    long = samples.filter(pl.col("history").list.len() >= 30)
    kept = long["category_sequence"].list.len().sum() / (long["history"].list.len() + 1).sum()
    assert kept == pytest.approx(0.2, abs=0.005)
    assert long["history"].list.len().max() == 50


def test_a_category_is_kept_where_one_is_known():
    samples = sequence_samples(table(), items_table(), fractions=HALF, category_threshold=1e-12)
    # "E" is not among the training interactions' categories, so its share is 0 and it is kept for certain.
    assert samples["category_sequence"].list.len().to_list() == [1, 1, 1]
    assert samples["category_sequence"].to_list()[2] == ["E"]
    assert sequence_samples(table(), items_table(), fractions=HALF, category_threshold=1.0, categories_per_item=1)[
        "category_sequence"
    ].to_list() == [["A", "A"], ["A", "A"], ["A", "E", "A"]]


def test_items_without_categories_or_text():
    bare = items_table({item: [] for item in CATEGORIES}, None)
    samples = sequence_samples(table(), bare, fractions=HALF)
    assert samples["category_sequence"].to_list() == [[], [], []]
    assert samples["description"].to_list() == ["", "", ""]
    assert item_text(samples.row(0, named=True)) == "Title x."


def test_item_text():
    row = {"title": "Up!", "categories": ["A", "B"], "description": "A film."}
    assert item_text(row) == "Up! Categories: A, B. A film."
    assert item_text({"title": "Up", "categories": None, "description": ""}) == "Up."


def test_what_cannot_be_split():
    with pytest.raises(ValueError, match=r"timestamp is missing in 9 of 9 interactions.*with timestamps"):
        sequence_samples(table().with_columns(timestamp=pl.lit(None, pl.Int64)), items_table())
    with pytest.raises(ValueError, match=r"fractions is \(0.5, 0.5, 0\), but must be three positive numbers"):
        sequence_samples(table(), items_table(), fractions=(0.5, 0.5, 0))
    with pytest.raises(ValueError, match="max_length is 0, categories_per_item 3 and category_threshold 1e-05"):
        sequence_samples(table(), items_table(), max_length=0)
    with pytest.raises(ValueError, match="No sample is left for train and validation and test: of 3 interactions"):
        sequence_samples(table([("a", "w", 1), ("b", "w", 2), ("c", "w", 3)]), items_table())
