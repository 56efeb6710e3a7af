"""Yelp's academic dataset in small, and what can be wrong in it."""

import gzip
import json

import pytest

from rlrec.data import DataError, prepare

REVIEWS, BUSINESSES = "yelp_academic_dataset_review.json", "yelp_academic_dataset_business.json"


def write(folder, name, lines):
    (folder / name).write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))


def review(user="u1", item="b1", stars=4.0, date="2018-07-07 22:09:11", text="Good.", **more):
    record = {
        "review_id": "r",
        "user_id": user,
        "business_id": item,
        "stars": stars,
        "useful": 0,
        "funny": 0,
        "cool": 0,
    }
    return {**record, "text": text, "date": date, **more}


def business(item="b1", name="Abby's", categories="Doctors, Beer, Wine & Spirits , Bars", **more):
    record = {"business_id": item, "name": name, "address": "1 St", "city": "Reno", "state": "NV", "stars": 4.0}
    return {**record, "is_open": 1, "attributes": {"ByAppointmentOnly": "True"}, "categories": categories, **more}


def test_reviews_and_businesses(tmp_path):
    write(tmp_path, REVIEWS, [review(text="Lovely\n\nplace"), review("u2", "b2", 1, "1970-01-02"), review("u2")])
    listed = business("b2", "B", ["Food", "Bars"], city=None)
    write(tmp_path, BUSINESSES, [business(), listed, business("b3", "C", None)])
    prepared = prepare("yelp", tmp_path)
    # 2018-07-07 22:09:11 is 17,719 days and 79,751 seconds after the first of January 1970.
    seconds = 17_719 * 86_400 + 79_751
    assert prepared.interactions.rows() == [
        ("u1", "b1", 4.0, seconds, "Lovely place"),
        ("u2", "b2", 1.0, 86_400, "Good."),
        ("u2", "b1", 4.0, seconds, "Good."),
    ]
    assert prepared.items.rows() == [
        ("b1", "Abby's", ["Doctors", "Beer, Wine & Spirits", "Bars"], "Reno, NV"),
        ("b2", "B", ["Food", "Bars"], "NV"),
    ]
    assert (prepared.metadata["domain"], prepared.metadata["rating_scale"]) == ("business", [1.0, 5.0])
    assert "review" not in prepare("yelp", tmp_path, reviews=False).interactions.columns


def test_item_details_are_the_fields_of_figure_3(tmp_path):
    """The paper's example, with two attributes as the release spells them; and a business of which little is known."""
    shop = {
        "business_id": "mpf3x-BjTdTEA3yCzrAYPw",
        "name": "The UPS Store",
        "address": "87 Grasso Plaza Shopping Center",
        "city": "Affton",
        "state": "MO",
        "postal_code": "63123",
        "latitude": 38.551126,
        "longitude": -90.335695,
        "stars": 3.0,
        "review_count": 15,
        "is_open": 1,
        "attributes": {
            "BusinessAcceptsCreditCards": "True",
            "WiFi": "u'no'",
            "Parking": "{'lot': True, u'street': 0}",
        },
        "categories": "Shipping Centers, Local Services, Notaries, Mailbox Centers, Printing Services",
        "hours": {"Monday": "0:0-0:0", "Tuesday": "8:0-18:30", "Sunday": None},
    }
    little = {"business_id": "b2", "name": "Don's", "stars": 4.5, "attributes": {"Music": "don't know, 'live'"}}
    write(tmp_path, REVIEWS, [review(item=shop["business_id"]), review(item="b2"), review(item="b3")])
    write(tmp_path, BUSINESSES, [shop, {**little, "is_open": 0, "hours": None}, {"business_id": "b3", "name": "C"}])
    items = prepare("yelp", tmp_path, item_details=True).items
    assert dict(items.select("item_id", "description").iter_rows()) == {
        "mpf3x-BjTdTEA3yCzrAYPw": "Address: 87 Grasso Plaza Shopping Center, Affton, MO. Stars: 3.0 (range 2.5-3.5). "
        "Attributes: BusinessAcceptsCreditCards True, WiFi no, Parking {lot: True, street: 0}. "
        "Hours: Monday 0:0-0:0, Tuesday 8:0-18:30. Open.",
        "b2": "Stars: 4.5 (range 4.0-5.0). Attributes: Music don't know, live. Closed for good.",
        "b3": "",
    }


def test_gzipped_in_a_folder_below(tmp_path):
    (tmp_path / "yelp").mkdir()
    for name, record in ((REVIEWS, review()), (BUSINESSES, business(categories=""))):
        (tmp_path / "yelp" / f"{name}.gz").write_bytes(gzip.compress(json.dumps(record).encode()))
    prepared = prepare("yelp", tmp_path)
    assert prepared.metadata["interactions"] == 1
    assert prepared.items["categories"].to_list() == [[]]


def test_bad_records(tmp_path):
    bad = [review(date="yesterday"), review(date=None), review(stars="x"), review(user=None), review(item="b9"), "{"]
    write(tmp_path, REVIEWS, [review(), *bad])
    write(tmp_path, BUSINESSES, [business(categories=5), business(), business("b2", None), business("")])
    prepared = prepare("yelp", tmp_path)
    assert prepared.metadata["interactions"] == 1
    assert sorted(prepared.rejected.select("file", "row", "field", "value", "reason").rows()) == sorted(
        [
            (REVIEWS, 2, "timestamp", "yesterday", "not a date"),
            (REVIEWS, 3, "timestamp", None, "not a date"),
            (REVIEWS, 4, "rating", "x", "not a number"),
            (REVIEWS, 5, "user_id", None, "user or item id is empty"),
            (REVIEWS, 6, "item_id", "b9", "item not among the usable items of the metadata"),
            (REVIEWS, 7, "line", "{", "malformed record"),
            (BUSINESSES, 2, "item_id", "b1", "duplicate of an earlier item"),
            (BUSINESSES, 3, "title", "None", "title is empty"),
            (BUSINESSES, 4, "item_id", "", "user or item id is empty"),
        ],
        key=lambda row: (row[0], row[1]),
    )


def test_missing_files(tmp_path):
    with pytest.raises(DataError, match=f"no {REVIEWS} found; put"):
        prepare("yelp", tmp_path)
    write(tmp_path, REVIEWS, [review()])
    with pytest.raises(DataError, match=f"{BUSINESSES}: file not found; put"):
        prepare("yelp", tmp_path)
