"""One ExpCTR cycle (LC, CTR model, IC, evaluation) on two ranks, sharded as accelerate_configs/*.yaml say, on the CPU.

    python -m pytest -m slow tests/test_sharded_cycles.py        # ZeRO needs the deepspeed extra

The command lines are those of docs/scaling.md, but for two processes instead of eight and float32 instead of bf16,
which transformers refuses without a GPU. accelerate shards on accelerators alone, so `ON_CPU` tells each process that
it has one, which is the CPU and talks over gloo.
"""

import functools
import os
import subprocess
import sys

import pytest
import torch
from command_lines import ROOT
from safetensors.torch import load_file
from test_recipes import NO_CONTROLS, SETTINGS, WORLD, assert_results

pytestmark = pytest.mark.slow

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


@pytest.fixture(scope="module")
def cycle(tmp_path_factory):
    """name of an accelerate configuration -> folder of the run, and what it printed."""

    @functools.cache
    def run(name: str):
        if name.startswith("deepspeed"):
            pytest.importorskip("deepspeed")
        folder = tmp_path_factory.mktemp(name)
        (folder / "sitecustomize.py").write_text(ON_CPU)
        command = ["accelerate.commands.launch", "--config_file", ROOT / "accelerate_configs" / f"{name}.yaml"]
        command += ["--num_processes", "2", "--main_process_port", "0", "--mixed_precision", "no"]
        command += [ROOT / "recipes" / "expctr.py", *SETTINGS, *WORLD, *NO_CONTROLS]
        command += ["--per_device_train_batch_size", "32", "--output_dir", folder / "run"]
        paths = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
        process = subprocess.run(
            [sys.executable, "-m", *map(str, command)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "DS_ACCELERATOR": "cpu"},
            capture_output=True,
            text=True,
            timeout=1200,
        )
        assert process.returncode == 0, process.stderr[-3000:]
        return folder / "run", process.stdout

    return run


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_cycle(cycle, name):
    folder, printed = cycle(name)
    assert printed.count(f"sharded by {STRATEGIES[name]}") == 2
    assert_results(folder, "simulated", 416)


@pytest.mark.parametrize("name", ["deepspeed_zero2", "deepspeed_zero3"])
@pytest.mark.parametrize("stage", ["lc", "ic"])
def test_how_weights_are_split_does_not_change_them(cycle, name, stage):
    for file in ("adapter_model.safetensors", "value_head.safetensors"):
        weights = [load_file(cycle(n)[0] / "stages" / stage / "adapter" / file) for n in ("fsdp2", name)]
        assert weights[0].keys() == weights[1].keys()
        for key, tensor in weights[0].items():
            torch.testing.assert_close(weights[1][key], tensor, atol=1e-4, rtol=0)
        if file.startswith("adapter"):
            assert max(float(tensor.abs().max()) for key, tensor in weights[0].items() if "lora_B" in key) > 2e-3
