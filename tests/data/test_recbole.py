import pytest

from rlrec.data import DataError, prepare

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\tsession:token\n"
ITEM = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"


def write(folder, inter=None, item=None):
    if inter is not None:
        (folder / "toy.inter").write_text(inter, encoding="utf-8")
    if item is not None:
        (folder / "toy.item").write_text(item, encoding="utf-8")
    return folder


def test_atomic_files(tmp_path):
    rows = [
        "u1\ta\t3.5\t978300760.0\ts1",
        "u1\tb\t1\t978300000\t",
        "u2\ta\t5.0\t1e9\tx",
        "u2\tb\tbad\t1\tx",
        "u2\tb\t1",
    ]
    rows += ["\tb\t1\t1\tx", "u2\tz\t2\t2\tx"]
    items = ["a\tToy Story\t1995\tAnimation Comedy", "b\tSay <s>\t1996\t['War', 'Film Noir']", "c\t\t1\tx", "d\tx"]
    prepared = prepare("recbole", write(tmp_path, INTER + "\n".join(rows), ITEM + "\n".join(items)), domain="film")
    assert prepared.interactions.rows() == [
        ("u1", "b", 1.0, 978300000),
        ("u1", "a", 3.5, 978300760),
        ("u2", "a", 5.0, 1000000000),
    ]
    assert prepared.items.select("title", "categories").rows() == [
        ("Toy Story", ["Animation", "Comedy"]),
        ("Say ‹s›", ["War", "Film Noir"]),
    ]
    assert sorted(prepared.rejected.select("file", "row", "field", "reason").rows()) == [
        ("toy.inter", 5, "rating", "not a number"),
        ("toy.inter", 6, "line", "wrong number of columns"),
        ("toy.inter", 7, "user_id", "user or item id is empty"),
        ("toy.inter", 8, "item_id", "item not among the usable items of the metadata"),
        ("toy.item", 4, "title", "title is empty"),
        ("toy.item", 5, "line", "wrong number of columns"),
    ]
    # Ratings 3.5, 1, 5 and (of the unknown item) 2: the median is 2.75.
    assert prepared.metadata["default_threshold"] == 2.75
    assert prepared.metadata["rating_scale"] == [1.0, 5.0]
    assert prepared.metadata["domain"] == "film"


def test_threshold_leaves_positives_where_the_median_is_the_largest_rating(tmp_path):
    rows = "".join(f"u{k}\ta\t{5 if k else 4}\n" for k in range(9))
    inter = "user_id:token\titem_id:token\trating:float\n" + rows
    prepared = prepare("recbole", write(tmp_path, inter, ITEM + "a\tA\t1\tx\n"))
    assert prepared.metadata["default_threshold"] == 4.0
    assert prepared.metadata["positive_rate"] == pytest.approx(8 / 9, abs=1e-6)
    assert prepared.metadata["has_timestamps"] is False


def test_rating_scale_rejects_what_lies_outside(tmp_path):
    inter = INTER + "u\ta\t-1\t1\tx\nu\ta\t3\t2\tx\nu\ta\t99\t3\tx\n"
    prepared = prepare("recbole", write(tmp_path, inter, ITEM + "a\tA\t1\tx\n"), rating_scale=(1, 5))
    assert prepared.interactions["rating"].to_list() == [3.0]
    assert prepared.metadata["rejected"] == {"rating outside the scale": 2}


@pytest.mark.parametrize(
    ("inter", "item", "message"),
    [
        (None, ITEM, "0 .inter files found where one is needed"),
        (INTER + "u\ta\t1\t1\tx\n", None, "toy.item: file not found"),
        ("", ITEM, "toy.inter: file is empty"),
        ("user_id:token\titem_id:token\nu\ta\n", ITEM, "lacks user_id, item_id, rating"),
        ("user_id,item_id,rating\n", ITEM, "lacks user_id, item_id, rating"),
        (INTER + "u\ta\t1\t1\tx\n", "item_id:token\tyear:token\na\t1\n", "no title column"),
        (INTER + "u\ta\tx\t1\tx\n", ITEM + "a\tA\t1\tx\n", "no row has a rating"),
        ("user_id:token\tuser_id:token\titem_id:token\trating:float\n", ITEM, "stands twice"),
    ],
)
def test_files_as_a_whole(tmp_path, inter, item, message):
    with pytest.raises(DataError, match=message):
        prepare("recbole", write(tmp_path, inter, item))
