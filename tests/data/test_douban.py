"""Douban Movies in small: both spellings of the columns, times, the period, and what can be wrong."""

import csv

import pytest

from recipes.prepare_data import main
from rlrec.data import DataError, PreparedDataset, prepare

MOVIE_COLUMNS = [
    *("MOVIE_ID", "NAME", "ALIAS", "ACTORS", "COVER", "DIRECTORS", "GENRES", "OFFICIAL_SITE", "REGIONS", "LANGUAGES"),
    *("RELEASE_DATE", "MINS", "IMDB_ID", "DOUBAN_SCORE", "DOUBAN_VOTES", "TAGS", "STORYLINE", "SLUG", "YEAR"),
]
JOKER = {
    "MOVIE_ID": "27119724",
    "NAME": "小丑 Joker",
    "ACTORS": "A B/C D/E F/G H/I J/K L",
    "DIRECTORS": "Todd Phillips",
    "GENRES": "剧情/惊悚/剧情",
    "LANGUAGES": "英语",
    "RELEASE_DATE": "2019-08-31",
    "DOUBAN_SCORE": "8.7",
    "DOUBAN_VOTES": "1000000",
    "STORYLINE": 'A comedian,\nshe said, is "lost".',
}
RATING_COLUMNS = ["RATING_ID", "USER_MD5", "MOVIE_ID", "RATING", "RATING_TIME"]
RATING = ["1", "0ab7", "27119724", "5", "2014-11-11 09:47:22"]


def write(path, header, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def raw(tmp_path):
    other = {"MOVIE_ID": "2", "NAME": "Plain"}
    write(
        tmp_path / "movies.csv", MOVIE_COLUMNS, [[film.get(c, "") for c in MOVIE_COLUMNS] for film in (JOKER, other)]
    )
    write(tmp_path / "ratings.csv", RATING_COLUMNS, [RATING, ["2", "0ab8", "2", "3", "2015-01-01"]])
    return tmp_path


def test_ratings_and_films(raw):
    prepared = prepare("douban-movies", raw)
    # 2014-11-11 is day 16,385 since 1970; 9 h 47 min 22 s are 35,242 seconds. 2015-01-01 is day 16,436.
    assert prepared.interactions.rows() == [
        ("0ab7", "27119724", 5.0, 16_385 * 86_400 + 35_242),
        ("0ab8", "2", 3.0, 16_436 * 86_400),
    ]
    films = {row["item_id"]: row for row in prepared.items.iter_rows(named=True)}
    assert films["27119724"]["title"] == "小丑 Joker"
    assert films["27119724"]["categories"] == ["剧情", "惊悚"]
    assert films["27119724"]["description"] == (
        "小丑 Joker. Genres: 剧情, 惊悚. Directed by Todd Phillips. With A B, C D, E F, G H, I J. Language: 英语. "
        "Released 2019-08-31. A comedian, she said, is 'lost'."
    )
    assert (films["2"]["categories"], films["2"]["description"]) == ([], "Plain.")
    # Score and votes are of the day the dump was made, which is after all windows.
    assert "8.7" not in films["27119724"]["description"]
    assert "1000000" not in films["27119724"]["description"]
    metadata = prepared.metadata
    assert (metadata["domain"], metadata["threshold"], metadata["rating_scale"]) == ("movie", 4.0, [1.0, 5.0])
    assert [entry["file"] for entry in metadata["raw_files"]] == ["ratings.csv", "movies.csv"]


def test_the_period_includes_its_last_day_and_counts_the_rest(raw):
    times = [
        *("2009-12-31 23:59:59", "2010-01-01 00:00:00", "2019-11-30 23:59:59", "2019-12-01 00:00:00", "2005-06-12"),
    ]
    write(raw / "ratings.csv", RATING_COLUMNS, [["1", "u", "2", "3", time] for time in times])
    prepared = prepare("douban-movies", raw)
    assert prepared.interactions["timestamp"].to_list() == [14_610 * 86_400, 18_231 * 86_400 - 1]
    assert prepared.metadata["period"] == ["2010-01-01", "2019-11-30"]
    assert prepared.metadata["outside_period"] == 3
    assert prepared.metadata["rejected"] == {}
    everything = prepare("douban-movies", raw, period=None)
    assert everything.interactions.height == 5
    assert "outside_period" not in everything.metadata
    assert prepare("douban-movies", raw, period=("2019-12-01", "2019-12-01")).interactions.height == 1


def test_the_command_takes_a_period(raw, tmp_path):
    command = ["--dataset", "douban-movies", "--raw_dir", str(raw), "--output_dir", str(tmp_path / "out")]
    main([*command, "--period", "2015-01-01", "2015-12-31"])
    assert PreparedDataset.load(tmp_path / "out").interactions["item_id"].to_list() == ["2"]
    with pytest.raises(SystemExit, match=r"error: .*its first day comes after its last"):
        main([*command, "--period", "2015-01-01", "2014-12-31"])
    with pytest.raises(SystemExit, match=r"error: .*give two days such as"):
        main([*command, "--period", "2015", "2016-13-31"])


def test_comments_and_few_columns_will_do(tmp_path):
    """The form of comments.csv: USER_ID for USER_MD5, another order; no storyline and no director."""
    write(tmp_path / "movies.csv", ["NAME", "MOVIE_ID"], [["A", "1"]])
    header = ["COMMENT_ID", "COMMENT_TIME", "CONTENT", "MOVIE_ID", "RATING", "USER_ID", "VOTES"]
    write(tmp_path / "comments.csv", header, [["1", "2012-01-01 00:00:10", "Good, she\nsaid", "1", "4", "u", "2"]])
    prepared = prepare("douban-movies", tmp_path)
    assert prepared.interactions.rows() == [("u", "1", 4.0, 15_340 * 86_400 + 10)]
    assert prepared.items.rows() == [("1", "A", [], "A.")]


def test_bad_rows(raw):
    films = [["27119724", "J"], ["2", "P"], ["3", " "], ["2", "Again"], ["", "No id"], ["4"]]
    write(raw / "movies.csv", ["MOVIE_ID", "NAME"], films)
    good = ["u", "2", "3", "2014-01-01 00:00:00"]
    rows = [
        good,
        good,
        ["u", "2", "good", "2014-01-02 00:00:00"],
        ["u", "2", "", "2014-01-02 00:00:00"],
        ["u", "2", "3", "11/11/2014"],
        ["u", "2", "3", ""],
        ["u", "2", "6", "2014-01-03 00:00:00"],
        ["u", "99", "3", "2014-01-03 00:00:00"],
        ["", "2", "3", "2014-01-03 00:00:00"],
        ["u", "", "3", "2014-01-03 00:00:00"],
        ["u", "2", "3"],
    ]
    write(raw / "ratings.csv", RATING_COLUMNS[1:], rows)
    with (raw / "ratings.csv").open("a") as file:
        file.write('"u,2,3,2014-01-04 00:00:00\n')
    prepared = prepare("douban-movies", raw)
    assert prepared.interactions.height == 1
    assert sorted(prepared.rejected.select("file", "row", "field", "reason").rows()) == [
        ("movies.csv", 4, "title", "title is empty"),
        ("movies.csv", 5, "item_id", "duplicate of an earlier item"),
        ("movies.csv", 6, "item_id", "user or item id is empty"),
        ("movies.csv", 7, "line", "wrong number of columns"),
        ("ratings.csv", 3, "item_id", "duplicate of an earlier row (same user, item and time)"),
        ("ratings.csv", 4, "rating", "not a number"),
        ("ratings.csv", 5, "rating", "not a number"),
        ("ratings.csv", 6, "timestamp", "not a date"),
        ("ratings.csv", 7, "timestamp", "not a date"),
        ("ratings.csv", 8, "rating", "rating outside the scale"),
        ("ratings.csv", 9, "item_id", "item not among the usable items of the metadata"),
        ("ratings.csv", 10, "user_id", "user or item id is empty"),
        ("ratings.csv", 11, "item_id", "user or item id is empty"),
        ("ratings.csv", 12, "line", "wrong number of columns"),
        ("ratings.csv", 13, "line", "malformed record"),
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no movies.csv found"),
        ({"movies.csv": "MOVIE_ID,NAME\n1,A\n"}, "no ratings.csv found"),
        ({"movies.csv": "", "ratings.csv": "x"}, "movies.csv: file is empty"),
        ({"movies.csv": "MOVIE_ID,TITLE\n", "ratings.csv": "x"}, "has no column NAME but MOVIE_ID, TITLE"),
        (
            {"movies.csv": "MOVIE_ID,NAME\n1,A\n", "ratings.csv": "USER,MOVIE_ID,RATING,RATING_TIME\n"},
            "has no column USER_MD5 or USER_ID but USER",
        ),
        (
            {"movies.csv": "MOVIE_ID,NAME\n1,A\n", "ratings.csv": "USER_MD5,MOVIE_ID,RATING\n"},
            "has no column RATING_TIME or COMMENT_TIME",
        ),
        (
            {"movies.csv": "MOVIE_ID,NAME\n1,A\n", "ratings.csv": ",".join(RATING_COLUMNS) + "\n"},
            "no usable interaction is left",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message) as error:
        prepare("douban-movies", tmp_path)
    assert "\n" not in str(error.value)
