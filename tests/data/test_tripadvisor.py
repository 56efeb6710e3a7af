"""PETER's TripAdvisor data: a pickle that is read and never loaded, and the lines made of it.

The pickles are written here (by pickle itself, whose output is the reference) and opened by the code under test only.
"""

import collections
import datetime
import json
import pickle
import subprocess
import sys

import pytest

from rlrec.data import DataError, prepare
from rlrec.data.plain_pickle import read_plain_pickle
from rlrec.data.splits import recpie_samples
from rlrec.data.tripadvisor import convert, main

RECORDS = [
    {
        "user": "7B55",
        "item": "1068",
        "rating": 5,
        "template": ("train", "near", "the train is “near”", 1),
        "predicted": "x",
    },
    {"user": "A", "item": "2", "rating": 3.5, "template": ("room", "small", "small <unk> room", -1), "predicted": "x"},
    {"user": "7B55", "item": "2", "rating": 1, "template": ("room", "bad", "bad room", -1), "predicted": "y"},
]


def pickled(tmp_path, value, protocol=pickle.HIGHEST_PROTOCOL):
    path = tmp_path / "reviews.pickle"
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_of_every_protocol(tmp_path, protocol):
    shared = ["again"]
    values = [
        {},
        [],
        (),
        (1,),
        (1, 2),
        (1, 2, 3),
        (1, 2, 3, "four"),
        [None, True, False, 0, 255, 256, 70_000, -1, 2**31, -(2**40), 2**2100, 1.5, -0.0, 1e300],
        ["", "é", "日本", "x" * 300, "y" * 70_000, "\n\\"],
        {"a": {"b": [1, {"c": ()}]}, 5: "five", "one": [1]},
        [shared, shared, {"k": shared}],
        list(range(3000)),
        {str(k): k for k in range(3000)},
        RECORDS * 400,
    ]
    assert read_plain_pickle(pickled(tmp_path, values, protocol), "get it.") == values
    assert repr(read_plain_pickle(pickled(tmp_path, values, protocol), "get it.")) == repr(values)


class Command:
    def __reduce__(self):
        return print, ("this must not be printed",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value", [Command(), collections.OrderedDict(a=1), datetime.date(2020, 1, 1), print, {1, 2}, b"bytes", Command]
)
def test_anything_else_is_refused_and_not_run(tmp_path, capsys, protocol, value):
    path = pickled(tmp_path, [*RECORDS, {"user": value}], protocol)
    with pytest.raises(
        DataError, match=r"reviews.pickle: at byte \d+ is the instruction [A-Z_0-9]+, which builds more"
    ):
        convert(path, tmp_path / "reviews.jsonl")
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "reviews.jsonl").exists()


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(RECORDS)[:-1],
        pickle.dumps(RECORDS)[: len(pickle.dumps(RECORDS)) // 2],
        b"no pickle at all",
        b"a.",  # APPEND to nothing
        b"K\x01K\x02s.",
        b"]K\x01K\x02s.",  # a list taken for a dictionary
        b"}(K\x01u.",  # a key without a value
        b"h\x05.",  # a memo that was never made
        b"t.",
        b"(}]K\x01s.",  # a list as key
    ],
)
def test_damaged_pickles(tmp_path, data):
    path = tmp_path / "reviews.pickle"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"reviews.pickle: (not a whole pickle|is not a list|at byte)"):
        convert(path, tmp_path / "reviews.jsonl")
    assert not (tmp_path / "reviews.jsonl").exists()


@pytest.mark.parametrize("value", [{"a": 1}, ["text"], [[1]], 5])
def test_other_plain_data(tmp_path, value):
    with pytest.raises(DataError, match="is not a list of dictionaries"):
        convert(pickled(tmp_path, value), tmp_path / "reviews.jsonl")


def test_convert_and_read(tmp_path):
    assert convert(pickled(tmp_path, RECORDS), tmp_path / "reviews.jsonl") == 3
    assert json.loads((tmp_path / "reviews.jsonl").read_text().splitlines()[0]) == {
        "user": "7B55",
        "item": "1068",
        "rating": 5,
        "feature": "train",
        "adjective": "near",
        "sentence": "the train is “near”",
        "sentiment": 1,
    }
    prepared = prepare("tripadvisor", tmp_path)
    columns = ["user_id", "item_id", "rating", "timestamp", "review", "feature", "adjective", "sentiment"]
    assert prepared.interactions.select(columns).rows() == [
        ("7B55", "1068", 5.0, None, "the train is 'near'", "train", "near", 1),
        ("7B55", "2", 1.0, None, "bad room", "room", "bad", -1),
        ("A", "2", 3.5, None, "small room", "room", "small", -1),
    ]
    assert prepared.items.rows() == [("1068", "Hotel 1068", [], ""), ("2", "Hotel 2", [], "")]
    assert (prepared.metadata["domain"], prepared.metadata["has_timestamps"]) == ("hotel", False)


def test_the_order_of_rows_is_the_order_of_time(tmp_path):
    items, stars = ["9", "3", "7", "1", "8"], {"a": [5, 1, 4, 2, 5], "b": [1, 5, 2, 4, 1]}
    records = [
        {"user": u, "item": i, "rating": stars[u][k], "template": ("f", "a", "s", 1)}
        for k, i in enumerate(items)
        for u in "ab"
    ]
    convert(pickled(tmp_path, records), tmp_path / "reviews.jsonl")
    prepared = prepare("tripadvisor", tmp_path)
    samples = recpie_samples(prepared.interactions, prepared.items, rating_scale=(1, 5), validation_fraction=0.3)
    assert samples["item_id"].to_list() == items * 2
    assert samples["history"].to_list() == [items[:k] for k in range(5)] * 2
    assert samples["split"].to_list() == ["train", "train", "train", "validation", "test"] * 2
    assert samples["feature"].to_list() == ["f"] * 10


def test_records_that_lack_something(tmp_path):
    records = [
        RECORDS[0],
        {**RECORDS[1], "rating": None},
        {**RECORDS[1], "rating": "good"},
        {**RECORDS[1], "rating": 9},
        {**RECORDS[1], "template": None},
        {**RECORDS[1], "user": ["A"]},
        {},
        RECORDS[0],
    ]
    convert(pickled(tmp_path, records), tmp_path / "reviews.jsonl")
    prepared = prepare("tripadvisor", tmp_path)
    assert prepared.interactions.select("user_id", "review", "sentiment").rows() == [
        ("7B55", "the train is 'near'", 1),
        ("A", "", None),
    ]
    assert sorted(prepared.rejected.select("row", "field", "reason").rows()) == [
        (2, "rating", "not a number"),
        (3, "rating", "not a number"),
        (4, "rating", "rating outside the scale"),
        (6, "user_id", "user or item id is empty"),
        (7, "user_id", "user or item id is empty"),
        (8, "item_id", "duplicate of an earlier row (same user, item and time)"),
    ]


def test_command_line(tmp_path):
    path = pickled(tmp_path, RECORDS)
    command = [sys.executable, "-m", "rlrec.data.tripadvisor", "convert", str(path), str(tmp_path / "reviews.jsonl")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, "reviews.jsonl: 3 records" in done.stdout) == (0, True), done.stderr
    with pytest.raises(SystemExit, match=r"error: .*nowhere.pickle: file not found; get it from https"):
        main(["convert", str(tmp_path / "nowhere.pickle"), str(tmp_path / "x")])


def test_a_pickle_that_was_not_converted(tmp_path):
    pickled(tmp_path, RECORDS)
    with pytest.raises(
        DataError, match=r"no reviews.jsonl found; .* -m rlrec.data.tripadvisor convert reviews.pickle"
    ):
        prepare("tripadvisor", tmp_path)
