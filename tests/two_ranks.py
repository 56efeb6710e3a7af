"""Programs on two real processes (gloo), as `torchrun` starts them."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import torch
from transformers import TrainerCallback


def on_two_ranks(program: str, *arguments) -> None:
    """Run a file of tests/ on two ranks; it can import what lies in tests/."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", program]
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    process = subprocess.run(
        [*command, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr[-3000:]


def leave_together() -> None:
    """The end of a rank's program, its trainers being gone.

    DDP's reducer holds the process group. As the last to do so, at the interpreter's end, it waits for a thread of
    gloo, which may wait for the interpreter.
    """
    gc.collect()
    torch.distributed.barrier()  # a rank that leaves first can make gloo abort the other
    torch.distributed.destroy_process_group()


class KeepGradients(TrainerCallback):
    """The gradients of the first optimizer step, as they are after synchronisation."""

    def __init__(self):
        self.gradients = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if not self.gradients:
            named = ((name.removeprefix("module."), p) for name, p in model.named_parameters())
            self.gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}
