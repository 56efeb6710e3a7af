"""Amazon's three releases in small, and what can be wrong in them."""

import gzip
import json
import os
from pathlib import Path

import pytest

from rlrec.data import DataError, prepare
from rlrec.data.popularity import popularity_data


def write(path, lines):
    """JSON lines (strings are written as they are), gzipped if the name says so."""
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def review_2018(user="U1", item="B1", rating=5.0, time=100, text="Good."):
    return {"reviewerID": user, "asin": item, "overall": rating, "unixReviewTime": time, "reviewText": text}


def rejections(prepared):
    return sorted(prepared.rejected.select("file", "row", "field", "reason").rows())


def test_2018(tmp_path):
    write(tmp_path / "Books_5.json.gz", [review_2018(text='Read "it" <br /> twice.'), review_2018("U2", "B1", 3.0)])
    meta = {
        "asin": "B1",
        "title": "Salt &amp; Pepper",
        "category": ["Books", "Cooking", "Books"],
        "description": ["<b>Hot</b>", "and spicy."],
        "main_cat": "Books",
    }
    write(tmp_path / "meta_Books.json.gz", [meta, {"asin": "B2", "title": "Nobody reviewed it"}])
    prepared = prepare("amazon", tmp_path)
    assert prepared.interactions.rows() == [
        ("U1", "B1", 5.0, 100, "Read 'it' twice."),
        ("U2", "B1", 3.0, 100, "Good."),
    ]
    assert prepared.items.rows() == [("B1", "Salt & Pepper", ["Books", "Cooking"], "Hot and spicy.")]
    assert prepared.metadata["domain"] == "book"
    assert prepared.metadata["category"] == "Books"
    assert prepared.metadata["threshold"] == 4.0
    assert prepared.metadata["positive_rate"] == 0.5
    assert "review" not in prepare("amazon", tmp_path, reviews=False).interactions.columns


def test_2014_metadata_are_python_literals_and_only_literals(tmp_path):
    write(tmp_path / "reviews_Baby_5.json", [review_2018(item=item) for item in ("B1", "B2", "B3", "B4")])
    write(
        tmp_path / "meta_Baby.json",
        [
            "{'asin': 'B1', 'title': \"It's a doll\", 'categories': [['Baby', 'Toys'], ['Gifts']], 'price': 1.5}",
            "{'asin': 'B2', 'title': __import__('os').getcwd()}",
            "{'asin': 'B3', 'title': " + "[" * 5_000 + "}",
            "{'asin': 'B4', 'title': 'B', 'main_cat': 'Baby &amp; Toys'}",
        ],
    )
    prepared = prepare("amazon", tmp_path)
    assert prepared.items.select("item_id", "title", "categories").rows() == [
        ("B1", "It's a doll", ["Baby", "Toys", "Gifts"]),
        ("B4", "B", ["Baby & Toys"]),
    ]
    assert rejections(prepared) == [
        ("meta_Baby.json", 2, "line", "malformed record"),
        ("meta_Baby.json", 3, "line", "malformed record"),
        ("reviews_Baby_5.json", 2, "item_id", "item not among the usable items of the metadata"),
        ("reviews_Baby_5.json", 3, "item_id", "item not among the usable items of the metadata"),
    ]
    assert prepared.metadata["domain"] == "product"


def test_2023(tmp_path):
    review = {
        "user_id": "U1",
        "asin": "V1",
        "parent_asin": "P1",
        "rating": 4.0,
        "timestamp": 1588687728923,
        "text": "Fine.",
    }
    write(tmp_path / "Video_Games.jsonl.gz", [review])
    meta = {"parent_asin": "P1", "title": "A Game", "main_category": "Games", "categories": [], "description": []}
    write(tmp_path / "meta_Video_Games.jsonl.gz", [meta])
    prepared = prepare("amazon", tmp_path, threshold=3)
    assert prepared.interactions.rows() == [("U1", "P1", 4.0, 1588687728, "Fine.")]
    assert prepared.items.rows() == [("P1", "A Game", ["Games"], "")]
    assert prepared.metadata["domain"] == "video game"
    assert prepared.metadata["positive_rate"] == 1.0


SPOON_2014 = (
    "{'asin': 'B1', 'title': 'Spoon', 'categories': [['Baby', 'Feeding']], "
    "'description': \"Soft tips, for <b>3+</b> months. It's safe.\", 'price': 5.09, 'brand': 'M'}"
)
SPOON_2018 = {
    "asin": "B1",
    "title": "Spoon",
    "category": ["Baby", "Feeding"],
    "description": ["", "Soft tips, for <b>3+</b> months.", "It's safe."],
    "price": "$5.09",
    "brand": "M",
    "tech1": "",
    "feature": ["Six"],
}


@pytest.mark.parametrize(
    ("reviews", "meta", "category", "spoon"),
    [
        ("reviews_Baby_5.json.gz", "meta_Baby.json.gz", "Baby", SPOON_2014),
        ("reviews_Beauty.json.gz", "meta_Beauty.json.gz", "Beauty", SPOON_2014),
        ("reviews_Beauty_5.json", "meta_Beauty.json", "Beauty", SPOON_2014),
        ("All_Beauty_5.json.gz", "meta_All_Beauty.json.gz", "All_Beauty", SPOON_2018),
        ("Luxury_Beauty.json.gz", "meta_Luxury_Beauty.json.gz", "Luxury_Beauty", SPOON_2018),
        ("Baby_5.json", "meta_Baby.json", "Baby", {**SPOON_2018, "description": " ".join(SPOON_2018["description"])}),
    ],
)
def test_beauty_and_baby_have_times_and_descriptions(tmp_path, reviews, meta, category, spoon):
    """As TRAIL needs them, whole or 5-core, of 2014 and 2018, with the fields that these files have beside."""
    beside = {"reviewerName": "N", "reviewTime": "07 16, 2013", "summary": "s"}
    beside["helpful" if spoon is SPOON_2014 else "vote"] = [0, 0] if spoon is SPOON_2014 else "2"
    rows = [{**review_2018(f"U{k}", "B1", 5.0, 1_373_932_800 + 40 * 86_400 * k), **beside} for k in range(4)]
    write(tmp_path / reviews, [*rows, {**review_2018(user="U9"), "unixReviewTime": None}])
    write(tmp_path / meta, [spoon])
    prepared = prepare("amazon", tmp_path, category=category)
    assert prepared.items.rows() == [("B1", "Spoon", ["Baby", "Feeding"], "Soft tips, for 3+ months. It's safe.")]
    assert prepared.interactions["timestamp"].to_list() == [
        *(1_373_932_800, 1_377_388_800, 1_380_844_800, 1_384_300_800),  # 2013-07-16 and three times 40 days later
    ]
    assert (prepared.metadata["category"], prepared.metadata["domain"]) == (category, "product")
    assert rejections(prepared) == [(reviews, 5, "timestamp", "not a number")]
    # Days 0, 40, 80 and 120: windows 1, 2, 3 and, not filled, 5; the fourth is empty.
    data = popularity_data(prepared)
    assert data.samples["history"].to_list() == [[1], [1, 1], [1, 1, 1]]
    assert data.samples["popularity"].to_list() == [1, 1, 0]
    assert data.metadata["first_day"] == "2013-07-16"


def test_milliseconds_of_2023_become_windows(tmp_path):
    times = [1_577_836_800_123 + 86_400_000 * days for days in (0, 45, 119)]  # from 2020-01-01
    rows = [
        {"user_id": f"U{k}", "parent_asin": "P1", "rating": 5.0, "timestamp": time, "text": "t"}
        for k, time in enumerate(times)
    ]
    write(tmp_path / "Baby_Products.jsonl", rows)
    description = ["Soft.", "Safe."]
    write(tmp_path / "meta_Baby_Products.jsonl", [{"parent_asin": "P1", "title": "S", "description": description}])
    prepared = prepare("amazon", tmp_path)
    assert prepared.interactions["timestamp"].to_list() == [1_577_836_800, 1_581_724_800, 1_588_118_400]
    assert prepared.items["description"].to_list() == ["Soft. Safe."]
    assert popularity_data(prepared).samples["history"].to_list() == [[1], [1, 1], [1, 1, 0]]


@pytest.mark.parametrize("year", [2018, 2023])
def test_movies_with_reviews(tmp_path, year):
    """Movies and TV, as RecPIE's appendix F uses it, with the fields that these files have beside."""
    if year == 2018:
        reviews, meta = "Movies_and_TV_5.json.gz", "meta_Movies_and_TV.json.gz"
        extra = {
            "verified": True,
            "reviewTime": "03 11, 2013",
            "style": {"Format:": " DVD"},
            "summary": "s",
            "vote": "3",
        }
        lines = [review_2018(text="A <i>fine</i> film.") | extra, review_2018("U2", rating=2.0) | extra]
        title = '<span id="productTitle" class="a-size-large">\n  Brazil &amp; more \n</span>'
        item = {"asin": "B1", "category": ["Movies & TV", "Movies"], "also_buy": [], "price": "$4"}
    else:
        reviews, meta = "Movies_and_TV.jsonl.gz", "meta_Movies_and_TV.jsonl.gz"
        extra = {"asin": "V1", "parent_asin": "B1", "images": [], "helpful_vote": 0, "verified_purchase": True}
        lines = [
            {"user_id": "U1", "rating": 5.0, "title": "t", "text": "A fine<br />film.", "timestamp": 100_000, **extra},
            {"user_id": "U2", "rating": 2.0, "title": "t", "text": "Good.", "timestamp": 100_999, **extra},
        ]
        title = "Brazil & more"
        item = {
            "parent_asin": "B1",
            "main_category": "Prime Video",
            "categories": ["Movies & TV", "Movies"],
            "store": None,
        }
    write(tmp_path / reviews, lines)
    write(tmp_path / meta, [{**item, "title": title, "description": []}])
    prepared = prepare("amazon", tmp_path, category="Movies_and_TV", label_rule="ge")
    assert prepared.interactions.rows() == [("U1", "B1", 5.0, 100, "A fine film."), ("U2", "B1", 2.0, 100, "Good.")]
    assert prepared.items.rows() == [("B1", "Brazil & more", ["Movies & TV", "Movies"], "")]
    assert (prepared.metadata["domain"], prepared.metadata["positive_rate"]) == ("movie", 0.5)


def test_bad_records(tmp_path):
    write(
        tmp_path / "Gift_Cards.json",
        [
            review_2018(),
            review_2018(),  # row 2, again
            review_2018(time=101, rating="4.0"),
            review_2018(rating="five"),
            review_2018(rating=None),
            review_2018(rating=True),
            review_2018(rating=7),
            review_2018(user=""),
            review_2018(item=None),
            review_2018(time="yesterday"),
            review_2018(item="B9"),
            '{"reviewerID": "U1", "asin": "B1", "over',
            "[1, 2]",
            '{"reviewerID": "U1", "asin": "B1", "overall": NaN, "unixReviewTime": 5}',
            "",
            review_2018(item="B2", text=None),
            "[" * 100_000,
        ],
    )
    write(
        tmp_path / "meta_Gift_Cards.json",
        [
            {"asin": "B1", "title": "One </s>"},
            {"asin": "B1", "title": "Again"},
            {"asin": "B2", "title": "x " * 20_000},
            {"asin": "B9", "title": " "},
            {"asin": "B8"},  # not reviewed, so nobody minds
        ],
    )
    prepared = prepare("amazon", tmp_path)
    assert [row[:4] for row in prepared.interactions.rows()] == [
        ("U1", "B1", 5.0, 100),
        ("U1", "B2", 5.0, 100),
        ("U1", "B1", 4.0, 101),
    ]
    assert prepared.items["title"].to_list()[0] == "One"
    assert len(prepared.items["title"].to_list()[1]) <= 200
    assert rejections(prepared) == [
        ("Gift_Cards.json", 2, "item_id", "duplicate of an earlier row (same user, item and time)"),
        ("Gift_Cards.json", 4, "rating", "not a number"),
        ("Gift_Cards.json", 5, "rating", "not a number"),
        ("Gift_Cards.json", 6, "rating", "not a number"),
        ("Gift_Cards.json", 7, "rating", "rating outside the scale"),
        ("Gift_Cards.json", 8, "user_id", "user or item id is empty"),
        ("Gift_Cards.json", 9, "item_id", "user or item id is empty"),
        ("Gift_Cards.json", 10, "timestamp", "not a number"),
        ("Gift_Cards.json", 11, "item_id", "item not among the usable items of the metadata"),
        ("Gift_Cards.json", 12, "line", "malformed record"),
        ("Gift_Cards.json", 13, "line", "malformed record"),
        ("Gift_Cards.json", 14, "rating", "not a number"),
        ("Gift_Cards.json", 17, "line", "malformed record"),
        ("meta_Gift_Cards.json", 2, "item_id", "duplicate of an earlier item"),
        ("meta_Gift_Cards.json", 4, "title", "title is empty"),
    ]


def test_files_as_a_whole(tmp_path):
    with pytest.raises(DataError, match="no reviews file found"):
        prepare("amazon", tmp_path)
    write(tmp_path / "Books_5.json", [review_2018()])
    with pytest.raises(DataError, match="no metadata file found"):
        prepare("amazon", tmp_path)
    write(tmp_path / "meta_Books.json", [{"asin": "B1", "title": "T"}])
    write(tmp_path / "Baby_5.json", [review_2018()])
    write(tmp_path / "meta_Baby.json", [{"asin": "B1", "title": "T"}])
    with pytest.raises(
        DataError, match=r"several reviews files found \(Baby_5.json, Books_5.json\); name a --category"
    ):
        prepare("amazon", tmp_path)
    assert prepare("amazon", tmp_path, category="Baby").metadata["category"] == "Baby"
    with pytest.raises(DataError, match="no reviews file of category Toys"):
        prepare("amazon", tmp_path, category="Toys")
    (tmp_path / "Baby_5.json").write_bytes(b"")
    with pytest.raises(DataError, match=r"Baby_5.json: file is empty"):
        prepare("amazon", tmp_path, category="Baby")


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: b"not gzip at all", lambda data: data[:30]])
def test_a_damaged_archive(tmp_path, damage):
    write(tmp_path / "Books_5.json.gz", [review_2018(time=k) for k in range(2_000)])
    write(tmp_path / "meta_Books.json", [{"asin": "B1", "title": "T"}])
    path = tmp_path / "Books_5.json.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"Books_5.json.gz: the gzip archive is damaged"):
        prepare("amazon", tmp_path)


@pytest.mark.skipif("RLREC_DATA_DIR" not in os.environ, reason="RLREC_DATA_DIR names no folder of real data")
def test_real_gift_cards():
    prepared = prepare("amazon", Path(os.environ["RLREC_DATA_DIR"]) / "amazon_gift_cards")
    # 2,972 reviews, of which three repeat a (user, item, time); 2,752 of all have five stars.
    assert prepared.metadata["interactions"] == 2_969
    assert prepared.metadata["rejected"] == {"duplicate of an earlier row (same user, item and time)": 3}
    assert prepared.metadata["items"] == 148
    assert prepared.metadata["domain"] == "gift card"
    assert not prepared.items["title"].str.contains('[<>"]|&amp;').any()
    assert "Amazon.com Gift Card in a Brown & Blue Tin (Classic Blue Card Design)" in prepared.items["title"]
