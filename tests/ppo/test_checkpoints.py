"""What checkpoints hold, and that a resumed run equals the uninterrupted one bit for bit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_training as tiny
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM
from trl import GRPOTrainer

from rlrec.ppo.value_head import VALUE_HEAD, is_value_head, save_value_head


def assert_equal_runs(run, other):
    expected, actual = tiny.parameters(run.model), tiny.parameters(other.model)
    assert expected.keys() == actual.keys()
    for name in expected:
        assert torch.equal(expected[name], actual[name]), name
    rewards = [[entry["reward"] for entry in each.state.log_history if "reward" in entry] for each in (run, other)]
    assert rewards[0] == rewards[1]


@pytest.mark.parametrize("lora", [False, True])
def test_value_head_has_its_own_file(tmp_path, lora):
    trainer = tiny.trainer(tmp_path, lora=lora, max_steps=2, save_strategy="steps", save_steps=2)
    trainer.train()
    folder = tmp_path / "checkpoint-2"
    head = load_file(folder / "value_head.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in head.items()} == {"weight": (1, 32), "bias": (1,)}
    assert torch.equal(head["weight"], trainer._causal_lm().value_head.weight)
    assert head["weight"].any()
    weights = load_file(folder / ("adapter_model.safetensors" if lora else "model.safetensors"))
    assert weights
    assert not any(is_value_head(name) for name in weights)
    if not lora:
        _, report = LlamaForCausalLM.from_pretrained(folder, output_loading_info=True)
        assert not any(report.values())


def test_resumed_run_is_bitwise_equal(tmp_path):
    """Also in the second epoch: 32 rows are 4 rollouts, and 12 steps 6 of them."""
    whole = tiny.trainer(tmp_path / "whole", **tiny.RESUMABLE)
    whole.train()
    for step in (2, 10):
        resumed = tiny.trainer(tmp_path / f"resumed-{step}", **tiny.RESUMABLE)
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert_equal_runs(whole, resumed)


def test_fully_fine_tuned_run_resumes_bitwise_equal(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole = tiny.trainer(tmp_path / "whole", **settings)
    whole.train()
    resumed = tiny.trainer(tmp_path / "resumed", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert_equal_runs(whole, resumed)


def test_run_resumed_after_sigkill_is_bitwise_equal(tmp_path):
    program = [sys.executable, str(Path(tiny.__file__)), str(tmp_path / "killed"), "killed"]
    process = subprocess.run(program, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert sorted(path.name for path in (tmp_path / "killed").glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    resumed = tiny.trainer(tmp_path / "killed", **tiny.RESUMABLE)
    resumed.train(resume_from_checkpoint=True)
    whole = tiny.trainer(tmp_path / "whole", **tiny.RESUMABLE)
    whole.train()
    assert_equal_runs(whole, resumed)


def test_saving_inside_a_rollout_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"save_steps is 3, .* set save_steps to 2 or 4"):
        tiny.trainer(tmp_path, save_strategy="steps", save_steps=3)
    with pytest.raises(ValueError, match=r"save_steps is 5, .* set save_steps to 4 or 6"):
        tiny.trainer(tmp_path, save_strategy="steps", save_steps=0.5, max_steps=10).train()  # a share of max_steps


def test_resuming_inside_a_rollout_is_refused(tmp_path):
    tiny.trainer(tmp_path, save_strategy="steps", save_steps=1, num_iterations=1, max_steps=1).train()
    longer = tiny.trainer(tmp_path, save_strategy="no", max_steps=4)
    with pytest.raises(ValueError, match="saved at step 1, inside a rollout cycle of 2 steps"):
        longer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_a_checkpoint_without_critic_is_refused(tmp_path):
    trainer = tiny.trainer(tmp_path, max_steps=2, save_strategy="steps", save_steps=2)
    trainer.train()
    (tmp_path / "checkpoint-2" / "value_head.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="was not saved by PPOTrainer, so it has no critic"):
        trainer._load_from_checkpoint(str(tmp_path / "checkpoint-2"))


def test_gathered_weights_are_preferred(tmp_path):
    """ZeRO-3 and FSDP hold empty shards in the module; the state dict they gather has the weights."""
    model = tiny.trainer(tmp_path)._causal_lm()
    gathered = {
        f"base_model.model.{VALUE_HEAD}.weight": torch.full((1, 32), 2.0, dtype=torch.bfloat16),
        f"base_model.model.{VALUE_HEAD}.bias": torch.ones(1),
        "base_model.model.lm_head.weight": torch.zeros(2, 2),
    }
    save_value_head(model, str(tmp_path), gathered)
    saved = load_file(tmp_path / "value_head.safetensors")
    assert saved.keys() == {"weight", "bias"}
    assert torch.equal(saved["weight"], torch.full((1, 32), 2.0))


def test_model_cards_are_no_part_of_a_checkpoint(tmp_path, monkeypatch):
    """TRL's is written once beside them; the adapter that is saved in the end has PEFT's."""
    written, write = [], GRPOTrainer.create_model_card
    monkeypatch.setattr(GRPOTrainer, "create_model_card", lambda *args, **kw: written.append(1) or write(*args, **kw))
    trainer = tiny.trainer(tmp_path, lora=True, max_steps=4, save_strategy="steps", save_steps=2)
    trainer.train()
    assert len(written) == 1
    assert sorted(path.parent.name for path in tmp_path.rglob("README.md")) == [tmp_path.name]
    trainer.save_model(str(tmp_path / "adapter"))
    assert (tmp_path / "adapter" / "README.md").is_file()
