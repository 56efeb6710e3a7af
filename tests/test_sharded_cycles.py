"""One ExpCTR cycle (LC, CTR model, IC, evaluation) on two ranks, sharded as accelerate_configs/*.yaml say, on the CPU.

    python -m pytest -m slow tests/test_sharded_cycles.py        # ZeRO needs the deepspeed extra

The command lines are those of docs/scaling.md, but for two processes instead of eight and float32 instead of bf16,
which transformers refuses without a GPU. accelerate shards on accelerators alone, so `ON_CPU` tells each process that
it has one, which is the CPU and talks over gloo.
"""

import os
import subprocess
import sys

import pytest
from command_lines import ROOT
from test_recipes import NO_CONTROLS, SETTINGS, WORLD, assert_results

pytestmark = pytest.mark.slow

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


@pytest.mark.parametrize(
    ("name", "strategy"), [("deepspeed_zero2", "DEEPSPEED"), ("deepspeed_zero3", "DEEPSPEED"), ("fsdp2", "FSDP")]
)
def test_a_cycle(tmp_path, name, strategy):
    if strategy == "DEEPSPEED":
        pytest.importorskip("deepspeed")
    (tmp_path / "sitecustomize.py").write_text(ON_CPU)
    launcher = ["-m", "accelerate.commands.launch", "--config_file", ROOT / "accelerate_configs" / f"{name}.yaml"]
    launcher += ["--num_processes", "2", "--main_process_port", "0", "--mixed_precision", "no"]
    recipe = [ROOT / "recipes" / "expctr.py", *SETTINGS, *WORLD, *NO_CONTROLS, "--per_device_train_batch_size", "32"]
    paths = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    run = subprocess.run(
        [sys.executable, *map(str, [*launcher, *recipe, "--output_dir", tmp_path / "run"])],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.count(f"sharded by {strategy}") == 2
    assert_results(tmp_path / "run", "simulated", 416)
