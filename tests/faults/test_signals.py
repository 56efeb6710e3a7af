"""SIGTERM and SIGINT: a checkpoint between two rollouts, one sentence, the shell's exit code, and the same end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "ppo"))
import tiny_training as tiny
from transformers import TrainerCallback

from rlrec import stopping
from rlrec.checkpoints import newest_checkpoint
from rlrec.stopping import StopBetweenRollouts, stops_in_order

SETTINGS = {"lora": True, "num_iterations": 4, "max_steps": 12, "save_strategy": "steps", "save_steps": 12}


class SignalAt(TrainerCallback):
    """Sends this process a signal at the start of a step."""

    def __init__(self, number: int, step: int):
        self.number, self.step = number, step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


def train(folder, *callbacks):
    stop = StopBetweenRollouts(cycle=4)
    trainer = tiny.trainer(folder, callbacks=[*callbacks, stop], **SETTINGS)
    trainer.resume()
    stop.leave()
    return trainer


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_a_rollout_saves_at_its_end(number, code, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_, stops_in_order():
        train(tmp_path, SignalAt(number, 1))
    assert exit_.value.code == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    name = signal.Signals(number).name
    assert error == f"stopped by {name}: a checkpoint was saved; give the same command again to go on."
    assert newest_checkpoint(tmp_path).endswith("checkpoint-4")
    with stops_in_order():
        resumed = train(tmp_path)
        whole = train(tmp_path / "whole")
    expected, found = tiny.parameters(whole.model), tiny.parameters(resumed.model)
    assert all(expected[key].equal(found[key]) for key in expected)


def test_where_the_rollouts_end_is_far_the_last_checkpoint_is_kept(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(stopping, "GRACE_SECONDS", 1)

    class Slow(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 6:
                time.sleep(5)

    with pytest.raises(SystemExit) as exit_, stops_in_order():
        train(tmp_path, SignalAt(signal.SIGTERM, 5), Slow())
    assert exit_.value.code == 143
    assert "what was finished and the last whole checkpoint are kept" in capsys.readouterr().err


def test_a_second_signal_does_not_wait(tmp_path):
    began = time.monotonic()
    with pytest.raises(SystemExit) as exit_, stops_in_order():
        train(tmp_path, SignalAt(signal.SIGINT, 1), SignalAt(signal.SIGINT, 2))
    assert exit_.value.code == 130
    assert time.monotonic() - began < stopping.GRACE_SECONDS
    assert newest_checkpoint(tmp_path) is None


def test_a_signal_outside_of_training():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as exit_, stops_in_order():
        signal.raise_signal(signal.SIGTERM)
    assert exit_.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
def test_a_recipe_stopped_by_sigterm(tmp_path):
    """In a process of its own, before any training; what it prints has no traceback."""
    root = Path(__file__).parents[2]
    command = [sys.executable, root / "recipes" / "expctr.py", "--config", "expctr/smoke", "--output_dir", tmp_path]
    command += ["--warmup_steps_copy", "5", "--template_steps", "5000", "--seed", "77"]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while not (tmp_path / "settings.json").is_file():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "stopped by SIGTERM: what was finished and the last whole checkpoint are kept" in error
    assert "Traceback" not in error
