"""The real command line, and downloads from a file:// mirror and a server on this machine."""

import hashlib
import http.server
import json
import subprocess
import sys
import threading
import zipfile
from functools import partial
from pathlib import Path

import pytest

from recipes.prepare_data import main
from rlrec.data import DataError, PreparedDataset, prepare
from rlrec.data.download import download

SCRIPT = Path(__file__).parents[2] / "recipes" / "prepare_data.py"
RATINGS = "userId,movieId,rating,timestamp\n1,1,5.0,10\n1,2,3.0,11\n2,1,bad,12\n2,2,4.5,13\n"
MOVIES = 'movieId,title,genres\n1,"Alien, The <|eot_id|>",Horror\n2,Brazil (1985),Comedy\n'


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "ratings.csv").write_text(RATINGS)
    (folder / "movies.csv").write_text(MOVIES)
    return folder


@pytest.fixture
def mirror(tmp_path):
    """A folder with ml-20m.zip and its md5, as GroupLens lays them out."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    with zipfile.ZipFile(folder / "ml-20m.zip", "w") as archive:
        archive.writestr("ml-20m/ratings.csv", RATINGS)
        archive.writestr("ml-20m/movies.csv", MOVIES)
    digest = hashlib.md5((folder / "ml-20m.zip").read_bytes()).hexdigest()
    (folder / "ml-20m.zip.md5").write_text(f"MD5 (ml-20m.zip) = {digest}\n")
    return folder


def test_command_line(raw, tmp_path):
    out = tmp_path / "prepared"
    command = [sys.executable, str(SCRIPT), "--dataset", "ml-20m", "--raw_dir", str(raw), "--output_dir", str(out)]
    done = subprocess.run([*command, "--label_rule", "ge", "--threshold", "4.5"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for words in ("reading ratings.csv", "looking for duplicates", "writing", "66.7% (rating >= 4.5)", "not a number"):
        assert words in done.stdout
    prepared = PreparedDataset.load(out)
    assert prepared.interactions.rows() == [("1", "1", 5.0, 10), ("1", "2", 3.0, 11), ("2", "2", 4.5, 13)]
    assert prepared.items["title"].to_list() == ["Alien, The ‹|eot_id|›", "Brazil (1985)"]
    assert prepared.rejected.rows() == [("ratings.csv", 4, "rating", "bad", "not a number")]
    assert prepared.metadata["raw_files"][0] == {
        "file": "ratings.csv",
        "bytes": len(RATINGS),
        "sha256": hashlib.sha256(RATINGS.encode()).hexdigest(),
    }


def test_metadata_is_the_same_every_time(raw, tmp_path):
    for name in ("one", "two"):
        main(["--dataset", "ml-25m", "--raw_dir", str(raw), "--output_dir", str(tmp_path / name)])
    assert (tmp_path / "one/metadata.json").read_bytes() == (tmp_path / "two/metadata.json").read_bytes()
    keys = json.loads((tmp_path / "one/metadata.json").read_text()).keys()
    assert {"name", "users", "items", "interactions", "rejected", "rating_scale", "threshold", "label_rule"} <= keys
    assert {"positive_rate", "has_timestamps", "domain", "raw_files", "licence", "rlrec_version"} <= keys


def test_zip_codes(tmp_path, capsys):
    items, reviews = [], []
    for item, zip_code in (("a", "94041"), ("b", "90001")):
        items.append({"gmap_id": item, "name": item.upper(), "address": f"1 A St, B, CA {zip_code}"})
        reviews.append({"user_id": "u", "gmap_id": item, "time": 1000, "rating": 5, "text": "x"})
    (tmp_path / "review-California.json").write_text("\n".join(map(json.dumps, reviews)))
    (tmp_path / "meta-California.json").write_text("\n".join(map(json.dumps, items)))
    command = ["--dataset", "google-local", "--raw_dir", str(tmp_path), "--output_dir", str(tmp_path / "out")]
    main([*command, "--zip_codes", "94035-94043", "--no_reviews"])
    assert PreparedDataset.load(tmp_path / "out").interactions.rows() == [("u", "a", 5.0, 1)]
    with pytest.raises(SystemExit, match="error: --zip_codes has '9403'; write five digits"):
        main([*command, "--zip_codes", "9403"])


@pytest.mark.parametrize("name", ["simulated", "simulated-hard", "simulated-trends", "simulated-sequences"])
def test_simulated(tmp_path, name):
    size = ["--num_users", "40", "--num_items", "30", "--interactions_per_user", "12", "--seed", "5"]
    main(["--dataset", name, "--output_dir", str(tmp_path), *size])
    written = PreparedDataset.load(tmp_path)
    expected = prepare(name, num_users=40, num_items=30, interactions_per_user=12, seed=5)
    assert written.interactions.equals(expected.interactions)
    assert written.metadata["simulation"].get("bias") is {"simulated": True, "simulated-hard": False}.get(name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "ml-200m"], "There is no dataset 'ml-200m'; did you mean 'ml-20m'?"),
        (["--dataset", "ml-1m", "--raw_dir", "/nowhere/at/all"], "folder not found"),
        (["--dataset", "book-crossing", "--download", "--raw_dir", "{tmp}"], "has no official download"),
        (["--dataset", "yelp", "--download", "--raw_dir", "{tmp}"], "has no official download"),
        (["--dataset", "ml-1m", "--download"], "--download needs --raw_dir"),
    ],
)
def test_errors_are_one_sentence_and_no_traceback(tmp_path, arguments, message):
    with pytest.raises(SystemExit) as exit_:
        main([*(argument.format(tmp=tmp_path) for argument in arguments), "--output_dir", str(tmp_path / "out")])
    assert message in str(exit_.value)
    assert str(exit_.value).startswith("error: ")
    assert not (tmp_path / "out").exists()


def test_a_file_in_the_outputs_place(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(SystemExit, match=r"error: --output_dir .*out is a file; give a folder"):
        main(["--dataset", "simulated", "--output_dir", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"error: .*Not a directory"):
        main(["--dataset", "simulated", "--num_users", "20", "--output_dir", str(tmp_path / "out" / "below")])
    assert (tmp_path / "out").read_text() == "mine"


def test_download_from_a_file_mirror(mirror, tmp_path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    arguments = ["--dataset", "ml-20m", "--raw_dir", str(raw), "--output_dir", str(out)]
    main([*arguments, "--download", "--mirror", mirror.as_uri()])
    assert PreparedDataset.load(out).metadata["interactions"] == 3
    assert sorted(path.name for path in raw.iterdir()) == ["ml-20m", "ml-20m.zip"]
    (mirror / "ml-20m.zip").unlink()
    download("ml-20m", raw, mirror=mirror.as_uri())  # there already, so nothing is fetched


def test_download_over_http_with_and_without_a_published_md5(mirror, tmp_path):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(mirror)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        download("ml-20m", tmp_path / "checked", mirror=url)
        assert prepare("ml-20m", tmp_path / "checked").metadata["interactions"] == 3
        (mirror / "ml-20m.zip.md5").unlink()
        messages = []
        download("ml-20m", tmp_path / "unchecked", mirror=url, progress=messages.append)
        assert any("no md5 is published" in message for message in messages)
        with pytest.raises(DataError, match=r"ml-1m.zip: cannot be downloaded \(HTTP Error 404"):
            download("ml-1m", tmp_path / "missing", mirror=url)
        for name in ("Gift_Cards_5.json.gz", "meta_Gift_Cards.json.gz"):
            (mirror / name).write_bytes(name.encode())
        download("amazon", tmp_path / "amazon", category="Gift_Cards", mirror=url)
        assert (tmp_path / "amazon/meta_Gift_Cards.json.gz").read_bytes() == b"meta_Gift_Cards.json.gz"
        for name in ("review-Ohio.json.gz", "meta-Ohio.json.gz"):
            (mirror / name).write_bytes(name.encode())
        download("google-local", tmp_path / "google", category="Ohio", mirror=url)
        assert (tmp_path / "google/review-Ohio.json.gz").read_bytes() == b"review-Ohio.json.gz"
    finally:
        server.shutdown()
        server.server_close()


def test_download_with_a_wrong_checksum_leaves_nothing(mirror, tmp_path):
    (mirror / "ml-20m.zip.md5").write_text("0" * 32 + "  ml-20m.zip\n")
    with pytest.raises(DataError, match=f"but {'0' * 32} is published"):
        download("ml-20m", tmp_path / "raw", mirror=mirror.as_uri())
    assert list((tmp_path / "raw").iterdir()) == []
    (mirror / "ml-20m.zip.md5").write_text("<html>moved</html>")
    with pytest.raises(DataError, match="holds no md5 sum"):
        download("ml-20m", tmp_path / "raw", mirror=mirror.as_uri())


@pytest.mark.parametrize("member", ["../escaped.txt", "/escaped.txt", "ml-1m/../../escaped.txt"])
def test_archive_members_cannot_leave_the_folder(tmp_path, member):
    with zipfile.ZipFile(tmp_path / "ml-1m.zip", "w") as archive:
        archive.writestr(member, "x")
    with pytest.raises(DataError, match="would be written outside the folder"):
        download("ml-1m", tmp_path / "raw", mirror=tmp_path.as_uri())
    assert not (tmp_path / "escaped.txt").exists()
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["ml-1m.zip"]


def test_download_refuses_other_schemes_and_broken_archives(tmp_path):
    with pytest.raises(DataError, match="not an http, https or file URL"):
        download("ml-1m", tmp_path / "raw", mirror="ftp://example.org")
    (tmp_path / "ml-1m.zip").write_bytes(b"not a zip")
    with pytest.raises(DataError, match="not a valid zip archive"):
        download("ml-1m", tmp_path / "raw", mirror=tmp_path.as_uri())
    with pytest.raises(DataError, match="needs --category"):
        download("amazon", tmp_path / "raw", category="../x")
