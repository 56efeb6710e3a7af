"""Checkpoints: whole or not there, the newest whole one chosen, everything else named and left out."""

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

sys.path.insert(0, str(Path(__file__).parents[1] / "ppo"))
import tiny_training as tiny

from rlrec.checkpoints import MANIFEST, STAGED, WholeCheckpoints, checkpoint_problem, newest_checkpoint
from rlrec.files import DamagedFile

SETTINGS = {"lora": True, "save_strategy": "steps", "save_steps": 2, "max_steps": 6, "save_total_limit": 2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run that kept its checkpoints 4 and 6."""
    folder = tmp_path_factory.mktemp("checkpoints")
    tiny.trainer(folder, **SETTINGS).train()
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def flip(path: Path, position: int = -9) -> None:
    """Turns one bit of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(content)


def left_out(folder: Path) -> tuple[str | None, list[str]]:
    sentences = []
    newest = newest_checkpoint(folder, 1, tell=sentences.append)
    return newest and Path(newest).name, sentences


@pytest.mark.parametrize(
    ("engine", "settings", "message"),
    [
        ("deepspeed", {"deepspeed_config": {"zero_optimization": {"stage": 3}}}, "set zero3_save_16bit_model .* true"),
        ("fsdp", {"state_dict_type": "StateDictType.SHARDED_STATE_DICT"}, "set fsdp_state_dict_type FULL_STATE_DICT"),
    ],
)
def test_weights_that_would_not_be_saved_whole_are_refused(engine, settings, message, monkeypatch, tmp_path):
    trainer = tiny.trainer(tmp_path)
    plugins = SimpleNamespace(**{f"{engine}_plugin": SimpleNamespace(**settings)})
    monkeypatch.setattr(trainer, f"is_{engine}_enabled", True)
    monkeypatch.setattr(trainer, "accelerator", SimpleNamespace(state=plugins))
    with pytest.raises(ValueError, match=f"would not be saved whole: {message}"):
        trainer.resume()


def test_a_manifest_names_every_file(trained):
    assert sorted(path.name for path in trained.glob("*checkpoint*")) == ["checkpoint-4", "checkpoint-6"]
    assert not (trained / STAGED).exists()
    folder = trained / "checkpoint-6"
    manifest = json.loads((folder / MANIFEST).read_text())
    assert (manifest["global_step"], manifest["world_size"]) == (6, 1)
    assert {"adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= set(
        manifest["files"]
    )
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {*manifest["files"], MANIFEST}
    assert left_out(trained) == ("checkpoint-6", [])


@pytest.mark.parametrize(
    ("name", "damage", "sentence"),
    [
        (
            "adapter_model.safetensors",
            flip,
            "adapter_model.safetensors is damaged (its checksum is ",
        ),
        ("optimizer.pt", lambda path: os.truncate(path, 100), "optimizer.pt is damaged"),
        ("value_head.safetensors", Path.unlink, "value_head.safetensors is missing"),
        ("rng_state.pth", Path.unlink, "rng_state.pth is missing"),
        (MANIFEST, Path.unlink, "it has no manifest.json, so it was cut short or written by another program"),
        (MANIFEST, lambda path: os.truncate(path, 50), "manifest.json is damaged"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_left_out(folder, name, damage, sentence):
    damage(folder / "checkpoint-6" / name)
    newest, sentences = left_out(folder)
    assert newest == "checkpoint-4"
    assert len(sentences) == 1
    assert sentences[0].startswith(f"{folder}/checkpoint-6 is left out: {sentence}")
    with pytest.raises(DamagedFile, match="checkpoint-6 cannot be resumed: "):
        tiny.trainer(folder, **SETTINGS).train(resume_from_checkpoint=str(folder / "checkpoint-6"))


@pytest.mark.parametrize(
    ("names", "state"),
    [
        (["optimizer.pt"], "no optimizer state"),
        (["scheduler.pt", "rng_state.pth"], "no scheduler state and no random number state"),
    ],
)
def test_missing_state_is_never_resumed(folder, names, state):
    """Also where the manifest does not name it, as with save_only_model."""
    path = folder / "checkpoint-6" / MANIFEST
    manifest = json.loads(path.read_text())
    for name in names:
        del manifest["files"][name]
    path.write_text(json.dumps(manifest))
    assert state in checkpoint_problem(folder / "checkpoint-6")
    assert left_out(folder)[0] == "checkpoint-4"


def test_a_checkpoint_of_two_ranks_needs_the_random_numbers_of_both(folder):
    path = folder / "checkpoint-6" / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "world_size": 2}))
    assert "no random number state" in checkpoint_problem(path.parent)


def test_only_the_model_saved(tmp_path):
    tiny.trainer(tmp_path, **SETTINGS | {"max_steps": 2}, save_only_model=True).train()
    newest, sentences = left_out(tmp_path)
    assert newest is None
    assert "it holds no optimizer state and no scheduler state and no random number state" in sentences[0]


def test_nothing_left_to_resume(folder):
    for step in (4, 6):
        (folder / f"checkpoint-{step}" / MANIFEST).unlink()
    with pytest.raises(ValueError, match="holds no whole checkpoint to resume from"):
        tiny.trainer(folder, **SETTINGS).train(resume_from_checkpoint=True)


def test_another_number_of_ranks_is_told(trained):
    sentences = []
    assert newest_checkpoint(trained, 2, tell=sentences.append).endswith("checkpoint-6")
    assert "was written by 1 ranks and goes on with 2" in sentences[0]


def test_the_damaged_checkpoint_is_written_again(trained, folder):
    """Resumed from checkpoint 4, the run ends with the same checkpoint 6."""
    flip(folder / "checkpoint-6" / "optimizer.pt")
    (folder / STAGED / "checkpoint-8").mkdir(parents=True)
    tiny.trainer(folder, **SETTINGS).resume()
    assert left_out(folder) == ("checkpoint-6", [])
    assert not (folder / STAGED).exists()
    files = [
        {name: json.loads((each / "checkpoint-6" / MANIFEST).read_text())["files"][name] for name in SAME}
        for each in (trained, folder)
    ]
    assert files[0] == files[1]


SAME = ("adapter_model.safetensors", "value_head.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")


def test_a_run_that_had_ended_trains_no_further(trained, folder):
    """Half an epoch is over in the middle of the data, where transformers' trainer would go on."""
    resumed = tiny.trainer(folder, **SETTINGS)
    resumed.resume()
    assert resumed.state.global_step == 6
    assert left_out(folder) == ("checkpoint-6", [])
    resumed.save_model(str(folder / "adapter"))
    for name in ("adapter_model.safetensors", "value_head.safetensors"):
        expected, found = (load_file(path / name) for path in (trained / "checkpoint-6", folder / "adapter"))
        assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_callbacks_get_back_what_they_kept(folder):
    """By `train` as by `resume`: an explanation store that began anew would lose texts without a word."""
    seen = []

    class Keeping(TrainerCallback):
        def on_resume(self, args, folder, **kwargs):
            seen.append(Path(folder).name)

    for name in ("checkpoint-6", "checkpoint-6", "checkpoint-4"):
        trainer = tiny.trainer(folder, callbacks=[Keeping()], **SETTINGS)
        if len(seen) == 0:
            trainer.resume()
        else:
            trainer.train(resume_from_checkpoint=str(folder / name))
    assert seen == ["checkpoint-6", "checkpoint-6", "checkpoint-4"]


def test_the_mixin_stands_before_every_trainer():
    from rlrec.ppo import PPOTrainer
    from rlrec.seller.trainer import SELLERTrainer
    from rlrec.trail.trainer import TRAILTrainer

    for trainer in (PPOTrainer, TRAILTrainer, SELLERTrainer):
        assert trainer.__mro__[1] is WholeCheckpoints
