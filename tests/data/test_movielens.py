"""The three MovieLens formats and what can be wrong in them; files are written here byte by byte."""

import os
from pathlib import Path

import pytest

import rlrec.data.raw
from rlrec.data import DataError, prepare

RATINGS_HEADER = b"userId,movieId,rating,timestamp\n"
MOVIES = b'movieId,title,genres\n1,Toy Story (1995),Adventure|Comedy\n2,"American President, The (1995)",Drama\n'


@pytest.fixture
def write(tmp_path):
    def write(**files):
        for name, content in files.items():
            (tmp_path / name.replace("_", ".")).write_bytes(content)
        return tmp_path

    return write


def rejections(prepared):
    return sorted(prepared.rejected.select("file", "row", "field", "value", "reason").rows())


def test_100k(write):
    flags = b"|".join(b"1" if k in (1, 2) else b"0" for k in range(3))
    folder = write(
        u_data=b"7\t1\t5\t881250949\n7\t2\t3\t881250900\n8\t1\t4\t5\n",
        u_item=b"1|Caf\xe9 Noir (1995)|01-Jan-1995||http://x|" + flags + b"\n2|Two|||http://y|1|0|0\n",
        u_genre=b"unknown|0\nAction|1\nComedy|2\n\n",
    )
    prepared = prepare("ml-100k", folder)
    assert prepared.interactions.rows() == [
        ("7", "2", 3.0, 881250900),
        ("7", "1", 5.0, 881250949),
        ("8", "1", 4.0, 5),
    ]
    assert prepared.items.rows() == [
        ("1", "Café Noir (1995)", ["Action", "Comedy"], ""),
        ("2", "Two", [], ""),
    ]
    assert prepared.metadata["rating_scale"] == [1.0, 5.0]
    assert prepared.metadata["threshold"] == 4.0
    assert prepared.metadata["positive_rate"] == pytest.approx(1 / 3, abs=1e-6)
    assert [entry["file"] for entry in prepared.metadata["raw_files"]] == ["u.data", "u.item", "u.genre"]
    assert rejections(prepared) == []


def test_1m(write):
    folder = write(
        ratings_dat=b"1::10::5::978300760\n1::20::3::978302109\nbroken line\n1::10::6::978300761\n",
        movies_dat="10::Toy Story (1995)::Animation|Children's\n20::Léon: a film::Drama\n".encode("latin-1"),
    )
    prepared = prepare("ml-1m", folder)
    assert prepared.interactions.rows() == [("1", "10", 5.0, 978300760), ("1", "20", 3.0, 978302109)]
    assert prepared.items["title"].to_list() == ["Toy Story (1995)", "Léon: a film"]
    assert prepared.items["categories"].to_list() == [["Animation", "Children's"], ["Drama"]]
    assert rejections(prepared) == [
        ("ratings.dat", 3, "line", "broken line", "wrong number of columns"),
        ("ratings.dat", 4, "rating", "6.0", "rating outside the scale"),
    ]


def test_csv_in_a_folder_below(write, tmp_path):
    (tmp_path / "ml-20m").mkdir()
    (tmp_path / "ml-20m" / "ratings.csv").write_bytes(RATINGS_HEADER + b"1,2,3.5,1112486027\r\n1,1,0.5,1112486028\r\n")
    (tmp_path / "ml-20m" / "movies.csv").write_bytes(MOVIES)
    prepared = prepare("ml-20m", tmp_path)
    assert prepared.interactions["rating"].to_list() == [3.5, 0.5]
    assert prepared.items["title"].to_list() == ["Toy Story (1995)", "American President, The (1995)"]
    assert prepared.metadata["rating_scale"] == [0.5, 5.0]


@pytest.mark.parametrize("block_bytes", [rlrec.data.raw.BLOCK_BYTES, 40])
def test_bad_rows_cost_only_themselves(write, monkeypatch, block_bytes):
    """With blocks of 40 bytes most rows take the fast path, and only the blocks of bad ones are read by lines."""
    monkeypatch.setattr(rlrec.data.raw, "BLOCK_BYTES", block_bytes)
    lines = [
        b"1,1,4.0,100",  # line 2
        b"1,2,abc,101",
        b"1,2,4.0",
        b"1,2,4.0,102,surplus",
        b"",
        b"1,2,9.5,103",
        b"1,2,-1,104",
        b"1,2,nan,105",
        b"1,2,,106",
        b"x,2,4.0,107",
        b"1,3,4.0,108",  # 3 is not in movies.csv
        b"1,2,4.0,1e99",
        b"1,1,2.0,100",  # again
        b" 1 , 2 , 5.0 , 110 ",
        b"99999999999999999999,2,4.0,111",
        b"\xff\xfe,2,4.0,112",
        b"1,1,3.0,113",  # no line end
    ]
    prepared = prepare("ml-latest-small", write(ratings_csv=RATINGS_HEADER + b"\n".join(lines), movies_csv=MOVIES))
    assert prepared.interactions.rows() == [("1", "1", 4.0, 100), ("1", "2", 5.0, 110), ("1", "1", 3.0, 113)]
    assert [(row, field, reason) for _, row, field, _, reason in rejections(prepared)] == [
        (3, "rating", "not a number"),
        (4, "line", "wrong number of columns"),
        (5, "line", "wrong number of columns"),
        (7, "rating", "rating outside the scale"),
        (8, "rating", "rating outside the scale"),
        (9, "rating", "rating outside the scale"),
        (10, "rating", "not a number"),
        (11, "user_id", "not a number"),
        (12, "item_id", "item not among the usable items of the metadata"),
        (13, "timestamp", "not a number"),
        (14, "item_id", "duplicate of an earlier row (same user, item and time)"),
        (16, "user_id", "not a number"),
        (17, "user_id", "not a number"),
    ]
    assert [value for _, row, _, value, _ in rejections(prepared) if row in (3, 5, 13)] == [
        "abc",
        "1,2,4.0,102,surplus",
        "1e99",
    ]


def test_bad_titles(write):
    movies = b"\n".join(
        [
            b"movieId,title,genres",
            b'1,"Quote ""Me"" (1990)",Drama',
            b'2,"Two\nlines (1991)",(no genres listed)',
            b"3,   ,Drama",
            b"4,NUL\0 and \xe2\x80\xae bidi,Drama",
            b"5,End<|eot_id|></s>[INST],Drama",
            b"6," + b"x" * 40_000 + b",Drama",
            b"7,wrong,columns,here",
            b"1,Again,Drama",
            b"abc,No id,Drama",
            b'8,"never closed,Drama',
            b"9,Still read (1999),Drama",
        ]
    )
    ratings = RATINGS_HEADER + b"".join(b"1,%d,4.0,%d\n" % (item, item) for item in range(1, 10))
    prepared = prepare("ml-25m", write(ratings_csv=ratings, movies_csv=movies))
    titles = dict(zip(prepared.items["item_id"], prepared.items["title"]))
    assert titles == {
        "1": "Quote 'Me' (1990)",
        "2": "Two lines (1991)",
        "4": "NUL and bidi",
        "5": "End‹|eot_id|›‹/s›(INST)",
        "6": "x" * 197 + "...",
        "9": "Still read (1999)",
    }
    assert [(file, row, reason) for file, row, _, _, reason in rejections(prepared)] == [
        ("movies.csv", 5, "title is empty"),
        ("movies.csv", 9, "wrong number of columns"),
        ("movies.csv", 10, "duplicate of an earlier item"),
        ("movies.csv", 11, "not a number"),
        ("movies.csv", 12, "malformed record"),
        ("ratings.csv", 4, "item not among the usable items of the metadata"),
        ("ratings.csv", 8, "item not among the usable items of the metadata"),
        ("ratings.csv", 9, "item not among the usable items of the metadata"),
    ]
    assert prepared.items.filter(prepared.items["item_id"] == "2")["categories"].to_list() == [[]]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "none of u.data, ratings.dat, ratings.csv found"),
        ({"ratings_csv": b"", "movies_csv": MOVIES}, r"ratings.csv: file is empty"),
        ({"ratings_csv": RATINGS_HEADER + b"1,1,4.0,1\n"}, r"movies.csv: file not found"),
        ({"ratings_csv": RATINGS_HEADER + b"1,1,4.0,1\n", "movies_csv": b""}, r"movies.csv: file is empty"),
        ({"ratings_csv": b"user;item\n1;2\n", "movies_csv": MOVIES}, r"the first line is 'user;item', not 'userId,"),
        ({"ratings_csv": RATINGS_HEADER + b"1,1,4.0,1\n", "movies_csv": b"a,b\n"}, "not 'movieId,title,genres'"),
        ({"ratings_csv": RATINGS_HEADER, "movies_csv": MOVIES}, "no usable interaction is left"),
        ({"u_data": b"1\t1\t5\t1\n", "u_item": b"x", "u_genre": b"x"}, "found u.data, but ml-latest-small comes as"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(write, files, message):
    with pytest.raises(DataError, match=message) as error:
        prepare("ml-latest-small", write(**files))
    assert "\n" not in str(error.value)


def test_no_such_folder(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: folder not found"):
        prepare("ml-1m", tmp_path / "nowhere")
    with pytest.raises(DataError, match="raw_dir is not given"):
        prepare("ml-1m")


real = pytest.mark.skipif("RLREC_DATA_DIR" not in os.environ, reason="RLREC_DATA_DIR names no folder of real data")


@real
def test_real_100k():
    prepared = prepare("ml-100k", Path(os.environ["RLREC_DATA_DIR"]) / "ml-100k")
    # The README's counts; 21,201 of the ratings are five stars.
    assert [prepared.metadata[name] for name in ("users", "items", "interactions")] == [943, 1682, 100_000]
    assert prepared.metadata["positive_rate"] == 0.21201
    assert prepared.rejected.height == 0
    first = prepared.items.row(0, named=True)
    assert first["title"] == "Toy Story (1995)"
    assert first["categories"] == ["Animation", "Children's", "Comedy"]


@real
def test_real_latest_small():
    prepared = prepare("ml-latest-small", Path(os.environ["RLREC_DATA_DIR"]) / "ml-latest-small")
    # 100,836 ratings and 9,742 movies by the README, of which 18 have no rating.
    assert (
        prepared.metadata["interactions"] + prepared.rejected.filter(prepared.rejected["row"] <= 100_837).height
        == 100_836
    )
    assert prepared.metadata["items"] == 9_724
    assert prepared.metadata["items_without_interactions"] == 18
    assert prepared.items["title"].str.contains('["\n]').sum() == 0
