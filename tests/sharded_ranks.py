"""Programs on two real processes (gloo), sharded as accelerate_configs/*.yaml say, on the CPU.

accelerate shards on accelerators alone, so `ON_CPU` tells each process that it has one, which is the CPU. float32
stands for bf16, which transformers refuses without a GPU.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_lines import ROOT

STRATEGIES = {"fsdp2": "FSDP", "deepspeed_zero2": "DEEPSPEED", "deepspeed_zero3": "DEEPSPEED"}
ON_CPU = """
import os

if "LOCAL_RANK" in os.environ:
    import atexit

    import torch
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    def set_device(self):
        self.device = torch.device("cpu")

    PartialState._prepare_backend = lambda *arguments, **options: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = set_device
    atexit.register(lambda: print("sharded by", PartialState().distributed_type.value))
"""


def launch_sharded(name: str, folder: Path, program, *arguments) -> subprocess.CompletedProcess:
    """Run a program by `accelerate launch` with the configuration called `name`; `folder` gets a file of its own.

    The test is skipped where the program needs DeepSpeed and it is not installed.
    """
    if name.startswith("deepspeed"):
        pytest.importorskip("deepspeed")
    (folder / "sitecustomize.py").write_text(ON_CPU)
    command = ["accelerate.commands.launch", "--config_file", ROOT / "accelerate_configs" / f"{name}.yaml"]
    command += ["--num_processes", "2", "--main_process_port", "0", "--mixed_precision", "no", program, *arguments]
    paths = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
