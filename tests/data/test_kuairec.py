"""KuaiRec's official files in small, and what can be wrong in them."""

import pytest

from rlrec.data import DataError, PreparedDataset, prepare
from rlrec.data.sequences import item_text

MATRIX = "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio"
CAPTIONS = (
    "video_id,manual_cover_text,caption,topic_tag,first_level_category_id,first_level_category_name,"
    "second_level_category_id,second_level_category_name,third_level_category_id,third_level_category_name"
)


def row(user=0, video=1, ratio="2.5", time="1593878903.438"):
    return f"{user},{video},25000,10000,2020-07-05 00:08:23.438,20200705,{time},{ratio}"


def write(folder, *rows, name="big_matrix.csv", tags=('1,"[27, 9]"', "2,[8]", "3,[]"), captions=None):
    (folder / name).write_text("\n".join([MATRIX, *rows]) + "\n")
    (folder / "item_categories.csv").write_text("\n".join(["video_id,feat", *tags]) + "\n")
    if captions is not None:
        (folder / "kuairec_caption_category.csv").write_text("\n".join([CAPTIONS, *captions]) + "\n", "utf-8")


def rejections(prepared):
    return sorted(prepared.rejected.select("file", "row", "field", "reason").rows())


def test_liked_videos_and_their_three_levels_of_category(tmp_path):
    captions = [
        '1,UNKNOWN,"吃饭 ""now"", #food","[美食,吃播]",8,美食,150,吃播,-124,UNKNOWN',
        "2,Cover,UNKNOWN,[],6,Dance,6,Dance,673,Street dance",
        "3,UNKNOWN,UNKNOWN,[],-124,UNKNOWN,-124,UNKNOWN,-124,UNKNOWN",
    ]
    rows = [row(), row(video=2, ratio="2.0"), row(5, 2, "3", "1593878904"), row(5, 3, "12.25", "1593878905.999")]
    write(tmp_path, *rows, captions=captions)
    prepared = prepare("kuairec", tmp_path)
    assert prepared.interactions.rows() == [
        ("0", "1", 2.5, 1_593_878_903),
        ("5", "2", 3.0, 1_593_878_904),
        ("5", "3", 12.25, 1_593_878_905),
    ]
    assert prepared.items.rows() == [
        ("1", "Video 1", ["美食", "吃播"], ""),
        ("2", "Video 2", ["Dance", "Street dance"], ""),
        ("3", "Video 3", [], ""),  # neither a category nor a tag
    ]
    about = prepared.metadata
    assert (about["domain"], about["rating_scale"], about["threshold"]) == ("video", [0.0, 12.25], 2.0)
    assert (about["matrix"], about["min_watch_ratio"], about["watched_less"]) == ("big", 2.0, 1)  # 2.0 is not above 2
    assert about["rejected"] == {}
    files = ["big_matrix.csv", "item_categories.csv", "kuairec_caption_category.csv"]
    assert [file["file"] for file in about["raw_files"]] == files
    everything = prepare("kuairec", tmp_path, min_watch_ratio=0)
    assert (everything.interactions.height, everything.metadata["positive_rate"]) == (4, 0.75)

    details = prepare("kuairec", tmp_path, item_details=True).items
    assert details["description"].to_list() == ["吃饭 'now', #food. Topics: 美食, 吃播", "Cover", ""]
    assert item_text(prepared.items.row(1, named=True)) == "Video 2. Categories: Dance, Street dance."


def test_tags_where_no_category_is_known(tmp_path):
    rows = [row(video=video) for video in (1, 2, 3)]
    write(tmp_path, *rows)
    assert prepare("kuairec", tmp_path).items["categories"].to_list() == [["tag 27", "tag 9"], ["tag 8"], []]
    unknown = ",".join(["-124", "UNKNOWN"] * 3)
    write(tmp_path, *rows, captions=[f"1,,,[],{unknown}", "2,,,[],6,Dance,-124,UNKNOWN,-124,UNKNOWN"])
    assert prepare("kuairec", tmp_path).items["categories"].to_list() == [["tag 27", "tag 9"], ["Dance"], []]


def test_small_matrix_in_a_folder_below_lacks_some_times(tmp_path):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data", row(), "14,2,16067,10000,,,,2.6", name="small_matrix.csv")
    prepared = prepare("kuairec", tmp_path, matrix="small")
    assert prepared.interactions["user_id"].to_list() == ["0"]
    assert rejections(prepared) == [("small_matrix.csv", 3, "timestamp", "not a number")]
    with pytest.raises(DataError, match=r"no big_matrix.csv found; put big_matrix.csv or small_matrix.csv"):
        prepare("kuairec", tmp_path)


def test_ten_core_counts_at_least_ten(tmp_path):
    """Users 0 to 9 like videos 1 to 10; user 10 likes nine of them, and video 11 is liked by nine users."""
    rows = [row(user, video) for user in range(10) for video in range(1, 11)]
    rows += [row(10, video) for video in range(1, 10)] + [row(user, 11) for user in range(9)]
    write(tmp_path, *rows, tags=[f"{video},[1]" for video in range(1, 12)])
    prepared = prepare("kuairec", tmp_path, k_core=10)
    assert (prepared.metadata["users"], prepared.metadata["items"], prepared.metadata["interactions"]) == (10, 10, 100)
    with pytest.raises(DataError, match="no usable interaction is left after taking the 11-core"):
        prepare("kuairec", tmp_path, k_core=11)


def test_bad_records(tmp_path):
    bad = [row("x"), row(time="inf"), row(ratio="nan"), "0,1,2", row(video=9), row()]
    captions = ["1,,", "3,,,[],1,A,2,B,3,C", "3,,,[],1,A,2,B,3,C", "x,,,[],1,A,2,B,3,C", '2,"open,,[],1,A,2,B,3,C']
    write(tmp_path, row(), row(3, 3), *bad, captions=captions)
    prepared = prepare("kuairec", tmp_path)
    assert prepared.interactions["user_id"].to_list() == ["0", "3"]
    # A video whose caption cannot be read has its tags.
    assert prepared.items.select("item_id", "categories").rows() == [
        ("1", ["tag 27", "tag 9"]),
        ("3", ["A", "B", "C"]),
    ]
    assert rejections(prepared) == [
        ("big_matrix.csv", 4, "user_id", "not a number"),
        ("big_matrix.csv", 5, "timestamp", "not a number"),
        ("big_matrix.csv", 6, "rating", "not a number"),
        ("big_matrix.csv", 7, "line", "wrong number of columns"),
        ("big_matrix.csv", 8, "item_id", "item not among the usable items of the metadata"),
        ("big_matrix.csv", 9, "item_id", "duplicate of an earlier row (same user, item and time)"),
        ("kuairec_caption_category.csv", 2, "line", "wrong number of columns"),
        ("kuairec_caption_category.csv", 4, "item_id", "duplicate of an earlier item"),
        ("kuairec_caption_category.csv", 5, "item_id", "not a number"),
        ("kuairec_caption_category.csv", 6, "line", "malformed record"),
    ]


def test_files_as_a_whole(tmp_path):
    with pytest.raises(DataError, match="matrix is 'medium', but must be 'big' or 'small'"):
        prepare("kuairec", tmp_path, matrix="medium")
    write(tmp_path, row())
    (tmp_path / "item_categories.csv").write_text("video,feat\n1,[1]\n")
    with pytest.raises(DataError, match=r"item_categories.csv: the first line is 'video,feat', not 'video_id,feat'"):
        prepare("kuairec", tmp_path)
    (tmp_path / "item_categories.csv").unlink()
    with pytest.raises(DataError, match=r"item_categories.csv: file not found; put big_matrix.csv"):
        prepare("kuairec", tmp_path)
    write(tmp_path, row(ratio="1.0"))
    with pytest.raises(DataError, match="no usable interaction is left"):
        prepare("kuairec", tmp_path)


def test_from_the_command_line(tmp_path):
    from recipes.prepare_data import main

    write(tmp_path, row(ratio="0.6"), row(1, 2, "0.4"), name="small_matrix.csv")
    command = ["--dataset", "kuairec", "--raw_dir", str(tmp_path), "--output_dir", str(tmp_path / "out")]
    main([*command, "--matrix", "small", "--min_watch_ratio", "0.5", "--item_details"])
    assert PreparedDataset.load(tmp_path / "out").interactions["user_id"].to_list() == ["0"]
