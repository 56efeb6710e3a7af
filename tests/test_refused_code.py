"""Files from elsewhere run no code: configurations, models, archives, pickles, overlong lines."""

import gzip
import json
import stat
import sys
import zipfile

import pytest
from peft import LoraConfig

from recipes import expctr, recpie
from rlrec.arguments import DataArguments, PolicyArguments, parse_arguments
from rlrec.data import DataError, prepare
from rlrec.data import download as downloads
from rlrec.data.download import download
from rlrec.data.plain_pickle import read_plain_pickle
from rlrec.encoders import TextEncoder
from rlrec.expctr import ExpCTRArguments
from rlrec.policies.loading import pretrained_policies
from rlrec.ppo import PPOConfig
from rlrec.recpie import RecPIEArguments

MARKED = "import pathlib\npathlib.Path({mark!r}).touch()\n\ndef reward(completions, **columns):\n    return [0.0]\n"


# -- rewards ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A module that leaves a mark where it is imported, and the mark."""
    mark = tmp_path / "imported"
    (tmp_path / "my_evil_rewards.py").write_text(MARKED.format(mark=str(mark)))
    monkeypatch.syspath_prepend(tmp_path)
    yield mark
    sys.modules.pop("my_evil_rewards", None)


def parsed(config, *arguments, kind=ExpCTRArguments):
    return parse_arguments(
        (kind, DataArguments, PolicyArguments, PPOConfig), "x", ["--config", str(config), *arguments]
    )


@pytest.mark.parametrize("module", [expctr, recpie])
@pytest.mark.parametrize("names", ["[groundedness, my_evil_rewards.reward]", "my_evil_rewards.reward"])
def test_a_configuration_that_names_code_is_refused(code, tmp_path, monkeypatch, capsys, module, names):
    config = tmp_path / "theirs.yaml"
    config.write_text(f"reward_funcs: {names}\noutput_dir: {tmp_path / 'run'}\n")
    monkeypatch.setattr(sys, "argv", ["recipe", "--config", str(config)])
    with pytest.raises(SystemExit) as exit_:
        module.main()
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert f"reward_funcs in the configuration {config} names the code 'my_evil_rewards.reward'" in error
    assert "--allow_custom_rewards if you trust" in error
    assert not code.exists()


def test_what_the_command_line_names_is_explicit(code, tmp_path):
    config = tmp_path / "theirs.yaml"
    config.write_text("reward_funcs: [my_evil_rewards.reward]\nic_reward_funcs: [ic]\noutput_dir: x\n")
    given = ["--reward_funcs", "lc", "my_rewards.mine"]
    assert parsed(config, *given)[0].reward_funcs == ["lc", "my_rewards.mine"]
    trusted = parsed(config, "--allow_custom_rewards")[0]
    assert (trusted.reward_funcs, trusted.allow_custom_rewards) == (["my_evil_rewards.reward"], True)
    config.write_text("reward_funcs: [recpie]\noutput_dir: x\n")
    assert parsed(config, kind=RecPIEArguments)[0].reward_funcs == ["recpie"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("allow_custom_rewards: true", "Only the command line can say allow_custom_rewards"),
        ("ic_reward_funcs: [a.b]", "ic_reward_funcs in the configuration"),
        ("env: {PYTHONPATH: /tmp}", "Unknown key 'env'"),  # which TRL's parser would set
        ("reward_funcs: !!python/name:os.system", "is no valid YAML"),
        ("reward_funcs: !!python/object/apply:os.system [ls]", "is no valid YAML"),
    ],
)
def test_other_ways_to_bring_code(tmp_path, capsys, line, message):
    config = tmp_path / "theirs.yaml"
    config.write_text(f"{line}\noutput_dir: x\n")
    with pytest.raises(SystemExit):
        parsed(config)
    assert message in capsys.readouterr().err


# -- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [TextEncoder.from_pretrained, lambda path: pretrained_policies(path, LoraConfig())])
def test_a_models_own_code_is_not_run_nor_asked_for(tmp_path, load, monkeypatch):
    mark = tmp_path / "ran"
    folder = tmp_path / "model"
    folder.mkdir()
    auto = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForCausalLM"), "evil.Evil")
    tokens = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto | tokens}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Evil", "auto_map": tokens}))
    (folder / "evil.py").write_text(MARKED.format(mark=str(mark)) + "class Evil: pass\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # transformers would ask at a terminal
    with pytest.raises((ValueError, OSError)):
        load(str(folder))
    assert not mark.exists()


# -- archives ---------------------------------------------------------------------------------------------------------


def refused_archive(tmp_path, write, message):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    with zipfile.ZipFile(mirror / "ml-1m.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        write(archive)
    raw = tmp_path / "raw"
    with pytest.raises(DataError, match=message):
        download("ml-1m", raw, mirror=mirror.as_uri())
    assert [path.name for path in raw.iterdir()] == ["ml-1m.zip"]
    assert {path.name for path in tmp_path.iterdir()} == {"mirror", "raw"}


@pytest.mark.parametrize("name", ["../evil.txt", "/tmp/rlrec-evil.txt", "ml-1m/../../evil.txt"])
def test_members_outside_of_the_folder(tmp_path, name):
    refused_archive(tmp_path, lambda archive: archive.writestr(name, "x"), "would be written outside the folder")


def test_a_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "MIN_BOMB", 2**20)
    refused_archive(
        tmp_path,
        lambda archive: archive.writestr("ml-1m/ratings.dat", b"\0" * 2**22),
        "bytes would unpack to 4,194,304",
    )


def test_more_than_the_disk_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda path: downloads.shutil._ntuple_diskusage(9, 5, 4))
    refused_archive(
        tmp_path, lambda archive: archive.writestr("ml-1m/x", "12345"), "needs 5 bytes unpacked, and 4 are"
    )


def test_a_link_becomes_a_plain_file(tmp_path):
    """`zipfile` writes a symbolic link's target as text; nothing is followed when the file is read or replaced."""
    link = zipfile.ZipInfo("ml-1m/ratings.dat")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    (tmp_path / "mirror").mkdir()
    with zipfile.ZipFile(tmp_path / "mirror" / "ml-1m.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    download("ml-1m", tmp_path / "raw", mirror=(tmp_path / "mirror").as_uri())
    unpacked = tmp_path / "raw" / "ml-1m" / "ratings.dat"
    assert not unpacked.is_symlink()
    assert unpacked.read_text() == "/etc/passwd"


@pytest.mark.parametrize("dataset", ["amazon", "yelp"])
def test_a_line_beyond_all_records(tmp_path, monkeypatch, dataset):
    for module in ("raw", "json_lines"):
        monkeypatch.setattr(f"rlrec.data.{module}.LONGEST_LINE", 1000)
    monkeypatch.setattr("rlrec.data.json_lines.BLOCK_BYTES", 500)
    names = {
        "amazon": ("Books.jsonl.gz", "meta_Books.jsonl.gz"),
        "yelp": ("yelp_academic_dataset_review.json", "yelp_academic_dataset_business.json"),
    }[dataset]
    opened = gzip.open if dataset == "amazon" else open
    for name in names:
        with opened(tmp_path / name, "wb") as file:
            file.write(b"{" + b"a" * 5000)
    with pytest.raises(DataError, match=r"longer than .* characters, which no record is; do not use it"):
        prepare(dataset, tmp_path)


# -- pickles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b"abc",  # BINUNICODE8 of 4 exabytes
        b"\x80\x04\x8b\xff\xff\xff\x7fabc",  # LONG4 of 2 GB
        b"I" + b"9" * 5000 + b"\n.",  # more digits than Python converts
    ],
)
def test_lengths_beyond_all_memory(tmp_path, content):
    (tmp_path / "reviews.pickle").write_bytes(content)
    with pytest.raises(DataError, match="not a whole pickle"):
        read_plain_pickle(tmp_path / "reviews.pickle", "get it.")


@pytest.mark.parametrize("content", [b"cos\nsystem\n(S'touch x'\ntR.", b"\x80\x04\x8c\x02os\x8c\x06system\x93."])
def test_a_pickle_that_calls(tmp_path, content):
    (tmp_path / "reviews.pickle").write_bytes(content)
    with pytest.raises(DataError, match="do not load this file"):
        read_plain_pickle(tmp_path / "reviews.pickle", "get it.")
