"""Files cut short, and files with one bit turned: one sentence that names the file, wherever they are read back."""

import os
import shutil
import sys
from pathlib import Path

import polars as pl
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "ppo"))
import tiny_training as tiny
from command_lines import assert_refused

from rlrec.alternating import PolicyStage, finish_stage
from rlrec.data import PreparedDataset
from rlrec.data.simulated import simulate
from rlrec.experiment import claim_folder
from rlrec.explanations import ExplanationStore
from rlrec.files import DamagedFile, replacing
from rlrec.ppo.value_head import load_value_head, save_value_head
from rlrec.quality import read_explanations
from rlrec.recommenders import DeepFM
from rlrec.results import (
    read_log_histories,
    read_predictions,
    read_results,
    write_log_history,
    write_predictions,
    write_results,
)
from rlrec.utility import read_texts


def flip(path: Path) -> None:
    """Turns one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def store(folder: Path) -> None:
    explanations = ExplanationStore()
    explanations.update([{"user_id": "u", "item_id": "i", "text": "They liked it."}])
    explanations.save(folder / "part.parquet")


def predictions(folder: Path) -> None:
    write_predictions(folder, pl.DataFrame({"user_id": ["u"], "item_id": ["i"]}), {"deepfm": [0.5]})


def results(folder: Path) -> None:
    write_results(folder, system="expctr", dataset="simulated", seed=0, rows={"deepfm": {"auc": 0.5}})


FILES = {
    "model.safetensors": (lambda f: DeepFM(4, 4).save_pretrained(f), DeepFM.from_pretrained),
    "config.json": (lambda f: DeepFM(4, 4).save_pretrained(f), DeepFM.from_pretrained),
    "part.parquet": (store, lambda folder: ExplanationStore.load(folder / "part.parquet")),
    "predictions.parquet": (predictions, read_predictions),
    "results.json": (results, read_results),
    "logs/lc.json": (lambda f: write_log_history(f, "lc", [{"step": 1, "reward": 0.25}]), read_log_histories),
    "settings.json": (lambda f: claim_folder(f, {"beta": 0.1}), lambda f: claim_folder(f, {"beta": 0.1})),
    **{
        name: (lambda f: simulate(20, 30, 5).write(f), PreparedDataset.load)
        for name in ("interactions.parquet", "items.parquet", "metadata.json")
    },
}


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("read", [read_explanations, read_texts])
def test_commands_on_a_finished_run_name_what_is_damaged(read, damage, tmp_path):
    pairs = pl.DataFrame({"user_id": ["u"], "item_id": ["i"]})
    write_predictions(tmp_path, pairs, {}, {"expctr_llm": ["They liked it."]})
    read(tmp_path)
    damage(tmp_path / "predictions.parquet")
    with pytest.raises(DamagedFile, match=r"predictions\.parquet is damaged"):
        read(tmp_path)


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named(name, damage, tmp_path):
    write, read = FILES[name]
    write(tmp_path)
    read(tmp_path)
    damage(tmp_path / name)
    with pytest.raises(ValueError, match="damaged") as raised:
        read(tmp_path)
    assert str(tmp_path / name) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["model.safetensors", "part.parquet", "results.json"])
def test_a_file_cut_short_is_named_without_its_checksum_too(name, tmp_path):
    write, read = FILES[name]
    write(tmp_path)
    (tmp_path / f".{name}.sha256").unlink()
    read(tmp_path)
    cut(tmp_path / name)
    with pytest.raises(DamagedFile, match=f"{name} is damaged "):
        read(tmp_path)


def test_a_damaged_value_head(tmp_path):
    model = tiny.trainer(tmp_path)._causal_lm()
    save_value_head(model, str(tmp_path), None)
    load_value_head(model, str(tmp_path))
    cut(tmp_path / "value_head.safetensors")  # one bit that is turned, the manifest of its folder tells
    with pytest.raises(DamagedFile, match=r"value_head\.safetensors is damaged "):
        load_value_head(model, str(tmp_path))


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("old")
    with pytest.raises(KeyError), replacing(tmp_path / "a.txt") as temporary:  # noqa: PT012
        temporary.write_text("half of the n")
        raise KeyError
    assert (tmp_path / "a.txt").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.txt.sha256", "a.txt"]


def test_a_finished_stage_with_a_damaged_adapter(tmp_path):
    """It is named; without done.json the stage is ended again, from its last checkpoint and with the same weights."""
    settings = {"lora": True, "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    stage = finish_stage(PolicyStage(tmp_path), tiny.trainer(tmp_path, **settings))
    weights = stage.adapter / "adapter_model.safetensors"
    before = weights.read_bytes()
    for damage in (flip, cut, Path.unlink):
        damage(weights)
        with pytest.raises(DamagedFile, match=r"is finished, but its adapter/adapter_model\.safetensors is "):
            stage.done  # noqa: B018
        (tmp_path / "done.json").unlink()
        finish_stage(stage, tiny.trainer(tmp_path, **settings))
        assert stage.done
        assert weights.read_bytes() == before
    for said in ("{}", "[]", '{"files": 3}'):
        (tmp_path / "done.json").write_text(said)
        with pytest.raises(DamagedFile, match=r"is finished, but its done\.json "):
            stage.done  # noqa: B018


def test_damaged_prepared_data_on_the_command_line(tmp_path, monkeypatch, capsys):
    data = tmp_path / "data"
    simulate(20, 30, 5).write(data)
    flip(data / "interactions.parquet")
    error = assert_refused(monkeypatch, capsys, "--data_dir", data, "--output_dir", tmp_path / "run")
    assert f"{data / 'interactions.parquet'} is damaged" in error
    shutil.rmtree(data)


def test_damaged_settings_on_the_command_line(tmp_path, monkeypatch, capsys):
    claim_folder(tmp_path / "run", {"beta": 0.1})
    flip(tmp_path / "run" / "settings.json")
    small = ["--config", "expctr/smoke", "--output_dir", tmp_path / "run"]
    assert "settings.json is damaged" in assert_refused(monkeypatch, capsys, *small)


def test_weights_are_equal_after_reading(tmp_path):
    torch.manual_seed(0)
    model = DeepFM(4, 4)
    model.save_pretrained(tmp_path)
    read = DeepFM.from_pretrained(tmp_path).state_dict()
    assert all(value.equal(read[name]) for name, value in model.state_dict().items())
