"""Blocks of JSON lines at polars' speed, and the same line by line where something is wrong."""

import gzip
import json

import polars as pl
import pytest

from rlrec.data import DataError, json_lines
from rlrec.data.json_lines import read_json_lines

COLUMNS = {
    "u": ("user_id", pl.String),
    "i": ("item_id", pl.String),
    "stars": ("rating", pl.Float64),
    "t": ("timestamp", pl.Int64),
    "text": ("review", pl.String),
}


def line(**fields) -> str:
    return json.dumps({"u": "U", "i": "I", "stars": 4, "t": 7, "text": "x", "other": [{"a": 1}], **fields})


def read(path) -> tuple[list, list]:
    frames, rejected = zip(*read_json_lines(path, COLUMNS, ("review",), "get it again."))
    rows = pl.concat(frames).select("row", "user_id", "item_id", "rating", "timestamp", "review").rows()
    return rows, pl.concat(rejected).select("row", "field", "value", "reason").sort("row").rows()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (line(), ("U", "I", 4.0, 7, "x")),
        (line(stars=4.5, u=" V "), ("V", "I", 4.5, 7, "x")),
        (line(stars="4.0", t="8"), ("U", "I", 4.0, 8, "x")),
        (line(t=8.9), ("U", "I", 4.0, 8, "x")),
        (line(u=12, text=None), ("12", "I", 4.0, 7, None)),
        ('{"u": "U", "i": "I", "stars": 4, "t": 7}', ("U", "I", 4.0, 7, None)),
        (line(text=["a", 1]), ("U", "I", 4.0, 7, '["a", 1]')),
        (line(text="\ud83d!")[:-1] + ', "stars": 4}', ("U", "I", 4.0, 7, None)),
        (line(stars="five"), ("rating", "five", "not a number")),
        (line(stars=True), ("rating", "True", "not a number")),
        (line(stars=None), ("rating", None, "not a number")),
        (line(t=1e300), ("timestamp", "1e+300", "not a number")),
        (line(stars=float("nan")), ("rating", "nan", "not a number")),
        (line(u=None), ("user_id", None, "user or item id is empty")),
        (line(i="  "), ("item_id", "", "user or item id is empty")),
        ("[1, 2]", ("line", "[1, 2]", "malformed record")),
        (line()[:-5], ("line", line()[:-5], "malformed record")),
        ("[" * 100_000, ("line", "[" * 200, "malformed record")),
    ],
)
def test_one_line_among_good_ones(tmp_path, text, expected):
    path = tmp_path / "x.json"
    path.write_text("\n".join([line()] * 50 + [text] + [line()] * 50) + "\n")
    rows, rejected = read(path)
    good = ("U", "I", 4.0, 7, "x")
    if len(expected) == 3:
        assert rejected == [(51, *expected)]
        assert rows == [(number, *good) for number in range(1, 102) if number != 51]
    else:
        assert rejected == []
        # What a lone half of a surrogate pair becomes is left to the cleaning of the text.
        assert [row[:5] if expected[4] is None else row for row in rows][50] == (
            (51, *expected[:4]) if expected[4] is None else (51, *expected)
        )
        assert len(rows) == 101


@pytest.mark.parametrize(("name", "block_bytes"), [("x.json", 1000), ("x.json.gz", 1000), ("x.json", 20_000)])
def test_blocks_bad_lines_and_blank_lines(tmp_path, monkeypatch, name, block_bytes):
    """Row numbers hold over small blocks and pieces, wherever the bad lines are."""
    monkeypatch.setattr(json_lines, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(json_lines, "PIECES", 3)
    monkeypatch.setattr(json_lines, "FEW_LINES", 2)
    lines = [line(t=number) for number in range(1, 501)]
    for number in (1, 2, 137, 138, 139, 300, 500):
        lines[number - 1] = "{"
    for number in (10, 499):
        lines[number - 1] = ""
    lines[249] = line(t=250, text="y" * 5000)
    data = "\n".join(lines).replace("\n", "\r\n", 3).encode()  # without a last line end
    data = data.replace(b'"t": 20,', b'"t": 20, "z": "\xff",')  # not UTF-8
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    rows, rejected = read(path)
    assert [row[0] for row in rejected] == [1, 2, 137, 138, 139, 300, 500]
    assert {reason for *_, reason in rejected} == {"malformed record"}
    expected = [n for n in range(1, 501) if n not in (1, 2, 10, 137, 138, 139, 300, 499, 500)]
    assert [(row[0], row[4]) for row in rows] == [(n, n) for n in expected]
    assert len(rows[expected.index(250)][5]) == 5000


@pytest.mark.parametrize("position", [0, 150, 299])
def test_a_line_longer_than_all_others_together(tmp_path, position):
    lines = [line(t=number) for number in range(300)]
    lines[position] = line(text="y" * 1_000_000)
    lines[5] = "{"
    (tmp_path / "x.json").write_text("\n".join(lines))
    rows, rejected = read(tmp_path / "x.json")
    assert [row[0] for row in rows] == [number for number in range(1, 301) if number != 6]
    assert len(rows[position - (position > 5)][5]) == 1_000_000
    assert rejected == [(6, "line", "{", "malformed record")]


def test_only_bad_lines(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("{\n\n}\n")
    rows, rejected = read(path)
    assert rows == []
    assert [row[0] for row in rejected] == [1, 3]


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: b"not gzip at all", lambda data: data[:30]])
def test_a_damaged_archive(tmp_path, damage):
    path = tmp_path / "x.json.gz"
    path.write_bytes(damage(gzip.compress("\n".join(line(t=k) for k in range(2000)).encode())))
    with pytest.raises(DataError, match=r"x.json.gz: the gzip archive is damaged .*; get it again."):
        read(path)


def test_missing_and_empty(tmp_path):
    with pytest.raises(DataError, match="file not found; get it again"):
        read(tmp_path / "x.json")
    (tmp_path / "x.json").touch()
    with pytest.raises(DataError, match="file is empty; get it again"):
        read(tmp_path / "x.json")
