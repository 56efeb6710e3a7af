"""SIGTERM and SIGINT: a run ends in order, and says how it goes on.

In training the signal is a request: at the next step with no rollout in use a checkpoint is written and the program
ends. Where that takes longer than `GRACE_SECONDS` (schedulers kill after 30), on a second signal and outside of
training it ends at once: what is finished and the last checkpoint are on the disk, whole. Exit codes are the shell's,
143 and 130.

transformers' own callback for this (`enable_jit_checkpoint`) saves wherever it is, in the middle of a rollout too,
which PPO cannot resume exactly; it calls no `on_save`, and leaves `train()` as if the training had ended.
"""

import contextlib
import signal
import sys
from collections.abc import Iterator

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from transformers import TrainerCallback

GRACE_SECONDS = 25


class _Request:
    """Which signal has asked this process to stop, and whether a trainer listens."""

    signal: int | None = None
    listening = False


@contextlib.contextmanager
def stops_in_order() -> Iterator[None]:
    """Handles SIGTERM, SIGINT and the end of the grace period for the length of a program."""
    handlers = {number: signal.signal(number, _handle) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)}
    try:
        yield
    finally:
        signal.alarm(0)
        _Request.signal, _Request.listening = None, False
        for number, handler in handlers.items():
            signal.signal(number, handler)


class StopBetweenRollouts(TrainerCallback):
    """Saves and stops a trainer where a signal has asked for it and `cycle` divides the steps.

    The ranks agree, since a signal may reach them in different steps.
    """

    def __init__(self, cycle: int = 1):
        self.cycle, self.stopped = cycle, False

    def on_train_begin(self, args, state, control, **kwargs):
        _Request.listening = True

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.cycle == 0 and _asked_on_any_rank():
            signal.alarm(0)  # the checkpoint may take its time
            self.stopped = control.should_save = True
        return control

    def on_save(self, args, state, control, **kwargs):
        if self.stopped:  # after the checkpoint, whose state must not say that training has ended
            control.should_training_stop = True
        return control

    def on_train_end(self, args, state, control, **kwargs):
        _Request.listening = False

    def leave(self) -> None:
        """Ends the program where it was asked to stop."""
        if self.stopped:
            _leave("a checkpoint was saved")


def _handle(number: int, frame) -> None:
    if number != signal.SIGALRM and _Request.listening and _Request.signal is None:
        _Request.signal = number
        signal.alarm(GRACE_SECONDS)
        return
    if number != signal.SIGALRM:
        _Request.signal = number
    _leave("what was finished and the last whole checkpoint are kept")


def _leave(kept: str) -> None:
    number = _Request.signal or signal.SIGTERM  # of another rank
    if PartialState().is_main_process:
        name = signal.Signals(number).name
        print(f"\nstopped by {name}: {kept}; give the same command again to go on.", file=sys.stderr, flush=True)
    raise SystemExit(128 + number)


def _asked_on_any_rank() -> bool:
    asked = torch.tensor(float(_Request.signal is not None), device=PartialState().device)
    return reduce(asked, "sum").item() > 0
