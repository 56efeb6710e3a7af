"""The three forms of Book-Crossing, with the breakages their real files have."""

import os
from pathlib import Path

import pytest

from rlrec.data import DataError, prepare

URLS = ";".join(f'"http://images.amazon.com/images/P/x.{size}.jpg"' for size in "SML")
DUMP_HEADER = (
    '"ISBN";"Book-Title";"Book-Author";"Year-Of-Publication";"Publisher";"Image-URL-S";"Image-URL-M";"Image-URL-L"'
)


def rejections(prepared):
    return sorted(prepared.rejected.select("file", "row", "field", "reason").rows())


def test_original_dump(tmp_path):
    books = [
        DUMP_HEADER,
        f'"0001";"Café Society";"Ann Author";"1999";"Houghton &amp; Sons";{URLS}',
        f'"0002";"The Real \\"Kramer\\" &amp; Others";"J. P.";"0";"House";{URLS}',
        f'"0003";"DK Readers (Level 4)\\";Michael Teitelbaum";"2000";"DK Publishing Inc";{URLS}',
        f'"0004";"An "unescaped" quote; and a semicolon";"B. C.";"2001";"";{URLS}',
        '"0005";"Too short"',
        f'"0006";"";"No Title";"2001";"House";{URLS}',
        f'"0001";"Twice";"Ann Author";"1999";"House";{URLS}',
    ]
    ratings = [
        '"User-ID";"ISBN";"Book-Rating"',
        '"276725";"0001";"8"',
        '"276725";"0002";"0"',
        '"276726";"0003";"5"',
        '"276726";"0004";"10"',
        '"276726";"0001";"11"',
        '"276726";"9999";"7"',
        '"276727";"0002"',
        '"276727";"0002";"good"',
        '"";"0002";"7"',
        '"276726";"0003";"6"',
    ]
    (tmp_path / "BX-Books.csv").write_bytes("\r\n".join(books).encode("latin-1"))
    (tmp_path / "BX-Book-Ratings.csv").write_bytes("\r\n".join(ratings).encode("latin-1"))
    prepared = prepare("book-crossing", tmp_path)
    assert prepared.interactions.rows() == [
        ("276725", "0001", 8.0, None),
        ("276726", "0003", 5.0, None),
        ("276726", "0004", 10.0, None),
    ]
    assert prepared.items.drop("categories").rows() == [
        ("0001", "Café Society", "by Ann Author, published in 1999, Houghton & Sons"),
        ("0003", "DK Readers (Level 4)", "by Michael Teitelbaum, published in 2000, DK Publishing Inc"),
        ("0004", "An 'unescaped' quote; and a semicolon", "by B. C., published in 2001"),
    ]
    assert rejections(prepared) == [
        ("BX-Book-Ratings.csv", 3, "rating", "implicit feedback (rating 0)"),
        ("BX-Book-Ratings.csv", 6, "rating", "rating outside the scale"),
        ("BX-Book-Ratings.csv", 7, "item_id", "item not among the usable items of the metadata"),
        ("BX-Book-Ratings.csv", 8, "line", "wrong number of columns"),
        ("BX-Book-Ratings.csv", 9, "rating", "not a number"),
        ("BX-Book-Ratings.csv", 10, "user_id", "user or item id is empty"),
        ("BX-Book-Ratings.csv", 11, "item_id", "duplicate of an earlier row (same user, item and time)"),
        ("BX-Books.csv", 6, "line", "wrong number of columns"),
        ("BX-Books.csv", 7, "title", "title is empty"),
        ("BX-Books.csv", 8, "item_id", "duplicate of an earlier item"),
    ]
    assert prepared.metadata["rejected"]["implicit feedback (rating 0)"] == 1
    assert (prepared.metadata["threshold"], prepared.metadata["has_timestamps"]) == (5.0, False)
    assert prepared.metadata["positive_rate"] == pytest.approx(2 / 3, abs=1e-6)
    assert prepared.metadata["domain"] == "book"


@pytest.mark.parametrize(
    ("books", "ratings"),
    [
        (
            "ISBN,Book-Title,Book-Author,Year-Of-Publication,Publisher,Image-URL-S,Image-URL-M,Image-URL-L\n"
            '1,"Salt, Pepper ""and"" Co",A. B.,2002,House,u,u,u\n2,Plain,C. D.,2003,Home,u,u,u\n3,"open,x,1,y,u,u,u\n',
            "User-ID,ISBN,Book-Rating\n5,1,9\n5,2,3\n5,2,0\n",
        ),
        (
            "ISBN;Title;Author;Year;Publisher\n"
            '1;"Salt, Pepper ""and"" Co";A. B.;2002;House\n2;Plain;C. D.;2003;Home\n3;"open;x;1;y\n',
            "User-ID;ISBN;Rating\n5;1;9\n5;2;3\n5;2;0\n",
        ),
    ],
)
def test_both_kaggle_forms(tmp_path, books, ratings):
    (tmp_path / "Books.csv").write_text(books, encoding="utf-8")
    (tmp_path / "Ratings.csv").write_text(ratings, encoding="utf-8")
    (tmp_path / "Users.csv").write_text("User-ID,Age\n5,30\n", encoding="utf-8")
    prepared = prepare("book-crossing", tmp_path)
    assert prepared.interactions.select("user_id", "item_id", "rating").rows() == [("5", "1", 9.0), ("5", "2", 3.0)]
    assert prepared.items.drop("categories").rows() == [
        ("1", "Salt, Pepper 'and' Co", "by A. B., published in 2002, House"),
        ("2", "Plain", "by C. D., published in 2003, Home"),
    ]
    assert rejections(prepared) == [
        ("Books.csv", 4, "line", "malformed record"),
        ("Ratings.csv", 4, "rating", "implicit feedback (rating 0)"),
    ]


def test_tab_separated_form_joins_what_its_exporter_tore_apart(tmp_path):
    urls = "http://a\thttp://b\thttp://c\t\n"
    (tmp_path / "items_info.dat").write_text(
        "Book_ID\tISBN\tBook-Title\tBook-Author\tYear-Of-Publication\tPublisher\tImage-URL-S\tImage-URL-M\tImage-URL-L\n"
        f"1\t06\tBen &amp\t Jerry's Ice Cream &amp\t Dessert Book\tBen Cohen\t1987\tWorkman &amp\t Co\t{urls}"
        f"2\t03\t5 Novels : One\t Two\t Three\tDaniel P.\t1997\tFarrar\t{urls}"
        "3\t04\tNo year\n",
        encoding="utf-8",
    )
    (tmp_path / "book_ratings.dat").write_text(
        "user\titem\trating\n1\t1\t7.000000\n1\t2\t0.000000\n2\t2\t3.000000\n2\t3\t3.000000\n2\t1\tx\n2\t1\n"
    )
    prepared = prepare("book-crossing", tmp_path)
    assert prepared.items.select("title", "description").rows() == [
        ("Ben & Jerry's Ice Cream & Dessert Book", "by Ben Cohen, published in 1987, Workman & Co"),
        ("5 Novels : One; Two; Three", "by Daniel P., published in 1997, Farrar"),
    ]
    assert prepared.interactions["rating"].to_list() == [7.0, 3.0]
    assert rejections(prepared) == [
        ("book_ratings.dat", 3, "rating", "implicit feedback (rating 0)"),
        ("book_ratings.dat", 5, "item_id", "item not among the usable items of the metadata"),
        ("book_ratings.dat", 6, "rating", "not a number"),
        ("book_ratings.dat", 7, "line", "wrong number of columns"),
        ("items_info.dat", 4, "line", "wrong number of columns"),
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no ratings file of Book-Crossing found"),
        ({"Ratings.csv": "User-ID,ISBN,Book-Rating\n1,1,5\n"}, "Books.csv: file not found"),
        ({"Ratings.csv": "a,b\n", "Books.csv": "ISBN,Title\n"}, "header has no column 'user-id' or"),
        ({"Ratings.csv": "User-ID,ISBN,Rating\n1,1,5\n", "Books.csv": "ISBN,x\n"}, "no column 'book-title' or"),
        ({"BX-Book-Ratings.csv": "1;2;3\n", "BX-Books.csv": DUMP_HEADER}, "not the header of the dump"),
        ({"book_ratings.dat": "1\t2\t3\n", "items_info.dat": "x"}, "first line is"),
        ({"book_ratings.dat": "user\titem\trating\n1\t2\t3\n", "items_info.dat": "x"}, "not the header of items_info"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message) as error:
        prepare("book-crossing", tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.skipif("RLREC_DATA_DIR" not in os.environ, reason="RLREC_DATA_DIR names no folder of real data")
def test_real_files():
    prepared = prepare("book-crossing", Path(os.environ["RLREC_DATA_DIR"]) / "book_crossing")
    # The README's counts (its 62,657 ratings include the header line).
    assert [prepared.metadata[name] for name in ("users", "items", "interactions")] == [1295, 14_684, 62_656]
    titles = dict(zip(prepared.items["item_id"], prepared.items["title"]))
    assert titles["1968"] == "Ben & Jerry's Homemade Ice Cream & Dessert Book"
    assert titles["1765"] == "Algebra & Trigonometry Super Review"
    assert not prepared.items["title"].str.contains("&amp|http://").any()
