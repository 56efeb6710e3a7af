"""Google Local in small, and what can be wrong in it."""

import gzip
import json

import pytest

from rlrec.data import DataError, prepare
from rlrec.data.google_local import parse_zip_codes


def write(path, lines):
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def review(user="100000000000000000001", item="0x1:0xa", rating=5, time=1_500_000_000_999, text="Good.", **more):
    answer = {"time": 1_600_000_000_000, "text": "Thank you"}
    record = {"user_id": user, "name": "A B", "time": time, "rating": rating, "text": text, "pics": None}
    return {**record, "resp": answer, "gmap_id": item, **more}


def business(item="0x1:0xa", name="Café Uno", zip_code="94041", **more):
    address = f"{name}, 90210 Castro St, Mountain View, CA {zip_code}"
    fixed = {"description": None, "latitude": 37.4, "longitude": -122.1, "category": ["Cafe", "Bakery"]}
    return {"name": name, "address": address, "gmap_id": item, **fixed, "avg_rating": 4.5, "url": "https://x", **more}


def rejections(prepared):
    return sorted(prepared.rejected.select("file", "row", "field", "reason").rows())


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_reviews_and_businesses(tmp_path, suffix):
    reviews = [
        review(text='They said:\n"Fresh" , daily ☕'),
        review(user="2", rating=3, text=None),
        review(user="2", item="0x2:0xb", rating=1.0, time=1_400_000_000_000),
    ]
    write(tmp_path / f"review-California{suffix}", reviews)
    about = {"category": ["Bar", "Bar", "Pub", "A", "B", "C", "D"], "description": "Dark <b>beer</b> &amp; more."}
    write(
        tmp_path / f"meta-California{suffix}", [business(), business("0x2:0xb", "Bar Due", **about), business("0x3")]
    )
    prepared = prepare("google-local", tmp_path)
    assert prepared.interactions.rows() == [
        ("100000000000000000001", "0x1:0xa", 5.0, 1_500_000_000, "They said: 'Fresh', daily ☕"),
        ("2", "0x2:0xb", 1.0, 1_400_000_000, "Good."),
        ("2", "0x1:0xa", 3.0, 1_500_000_000, ""),
    ]
    assert prepared.items.rows() == [
        ("0x1:0xa", "Café Uno", ["Cafe", "Bakery"], "Café Uno, 90210 Castro St, Mountain View, CA 94041"),
        ("0x2:0xb", "Bar Due", ["Bar", "Pub", "A", "B", "C"], "Dark beer & more."),
    ]
    about = prepared.metadata
    assert (about["domain"], about["category"], about["rating_scale"], about["threshold"]) == (
        "business",
        "California",
        [1.0, 5.0],
        4.0,
    )
    assert about["items_without_interactions"] == 1
    assert [file["file"] for file in about["raw_files"]] == [f"review-California{suffix}", f"meta-California{suffix}"]
    assert "review" not in prepare("google-local", tmp_path, reviews=False).interactions.columns


def test_zip_codes(tmp_path):
    items = {"a": "94035", "b": "94043-1234", "c": "94044", "d": "95014", "e": ""}
    write(
        tmp_path / "meta-California.json",
        [*(business(f"0x{k}", k, v) for k, v in items.items()), business("0xf", address=None)],
    )
    write(tmp_path / "review-California.json", [review(item=f"0x{k}") for k in "abcdefg"])

    def kept(zip_codes):
        prepared = prepare("google-local", tmp_path, zip_codes=zip_codes)
        return "".join(sorted(item[2:] for item in prepared.items["item_id"])), prepared

    everything, prepared = kept(None)
    assert everything == "abcdef"
    assert prepared.metadata["rejected"] == {"item not among the usable items of the metadata": 1}  # 0xg
    assert "zip_codes" not in prepared.metadata
    some, prepared = kept("94035-94043")
    assert some == "ab"
    # Reviews of other businesses are no errors; a business that the metadata does not have is one.
    assert rejections(prepared) == [
        ("review-California.json", 7, "item_id", "item not among the usable items of the metadata")
    ]
    assert prepared.metadata["zip_codes"] == "94035-94043"
    assert (prepared.metadata["businesses_elsewhere"], prepared.metadata["reviews_elsewhere"]) == (4, 4)
    assert kept("95014, 94044")[0] == "cd"
    with pytest.raises(DataError, match=r"meta-California.json: no address has one of the zip codes 90210"):
        kept("90210")  # a house number


def test_parse_zip_codes():
    assert parse_zip_codes("00501") == {"00501"}
    assert len(parse_zip_codes("94035-94043,94035")) == 9
    for wrong in ("", "9403", "94035-9404", "94043-94035", "94035..94043", "94035,"):
        with pytest.raises(DataError, match="write five digits, or a range such as 94035-94043"):
            parse_zip_codes(wrong)


def test_bad_records(tmp_path):
    write(
        tmp_path / "review-Ohio_10.json",
        [
            review(),
            review(),  # again
            review(user=None),
            review(item=""),
            review(rating=None),
            review(rating="four", time=1),
            review(rating=6),
            review(time=None),
            review(time=10**16),
            review(time="1500000001000", rating="4"),
            '{"user_id": "1", "time": 15',
            review(item="0x9:0x9"),
        ],
    )
    write(
        tmp_path / "meta-Ohio.json",
        [business(category=None), business(), business("0x2", None), business("0x3", " "), "nothing", business(None)],
    )
    prepared = prepare("google-local", tmp_path)
    assert [row[2:4] for row in prepared.interactions.rows()] == [(5.0, 1_500_000_000), (4.0, 1_500_000_001)]
    assert prepared.items["categories"].to_list() == [[]]
    assert rejections(prepared) == [
        ("meta-Ohio.json", 2, "item_id", "duplicate of an earlier item"),
        ("meta-Ohio.json", 3, "title", "title is empty"),
        ("meta-Ohio.json", 4, "title", "title is empty"),
        ("meta-Ohio.json", 5, "line", "malformed record"),
        ("meta-Ohio.json", 6, "item_id", "user or item id is empty"),
        ("review-Ohio_10.json", 2, "item_id", "duplicate of an earlier row (same user, item and time)"),
        ("review-Ohio_10.json", 3, "user_id", "user or item id is empty"),
        ("review-Ohio_10.json", 4, "item_id", "user or item id is empty"),
        ("review-Ohio_10.json", 5, "rating", "not a number"),
        ("review-Ohio_10.json", 6, "rating", "not a number"),
        ("review-Ohio_10.json", 7, "rating", "rating outside the scale"),
        ("review-Ohio_10.json", 8, "timestamp", "not a number"),
        ("review-Ohio_10.json", 9, "timestamp", "not a number"),
        ("review-Ohio_10.json", 11, "line", "malformed record"),
        ("review-Ohio_10.json", 12, "item_id", "item not among the usable items of the metadata"),
    ]


def test_files_as_a_whole(tmp_path):
    with pytest.raises(DataError, match="no reviews file found; put a reviews file such as review-California"):
        prepare("google-local", tmp_path)
    for state in ("Ohio", "New_York"):
        write(tmp_path / f"review-{state}.json", [review()])
        write(tmp_path / f"meta-{state}.json", [business(name=state)])
    with pytest.raises(DataError, match=r"several reviews files found \(review-New_York.json, review-Ohio.json\)"):
        prepare("google-local", tmp_path)
    assert prepare("google-local", tmp_path, category="New_York").items["title"].to_list() == ["New_York"]
    write(tmp_path / "review-Ohio_10.json", [review()])
    with pytest.raises(DataError, match="keep one reviews file of it"):
        prepare("google-local", tmp_path, category="Ohio")
