"""One ExpCTR cycle (LC, CTR model, IC, evaluation) on two ranks, sharded as accelerate_configs/*.yaml say, on the CPU.

    python -m pytest -m slow tests/test_sharded_cycles.py        # ZeRO needs the deepspeed extra

The command lines are those of docs/scaling.md, but for two processes instead of eight and float32 instead of bf16,
which transformers refuses without a GPU (tests/sharded_ranks.py).
"""

import functools

import pytest
import torch
from command_lines import ROOT
from safetensors.torch import load_file
from sharded_ranks import STRATEGIES, launch_sharded
from test_recipes import NO_CONTROLS, SETTINGS, WORLD, assert_results

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cycle(tmp_path_factory):
    """name of an accelerate configuration -> folder of the run, and what it printed."""

    @functools.cache
    def run(name: str):
        folder = tmp_path_factory.mktemp(name)
        arguments = [*SETTINGS, *WORLD, *NO_CONTROLS, "--per_device_train_batch_size", "32"]
        recipe = ROOT / "recipes" / "expctr.py"
        process = launch_sharded(name, folder, recipe, *arguments, "--output_dir", folder / "run")
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
