"""PPO, SELLER and TRAIL on two ranks under FSDP2 and ZeRO: what they save, and that killed runs go on. On the CPU.

python -m pytest -m slow tests/test_sharded_training.py        # ZeRO needs the deepspeed extra
"""

import functools
import json

import pytest
import sharded_training
import tiny_seller
import torch
from command_lines import ROOT
from safetensors.torch import load_file
from sharded_ranks import STRATEGIES, launch_sharded

from rlrec.policies.injection import InjectedLLM

pytestmark = pytest.mark.slow

RUNS = [
    ("ppo", "fsdp2"),
    ("ppo", "deepspeed_zero3"),
    *(("seller", name) for name in STRATEGIES),
    ("trail", "deepspeed_zero2"),
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """system, name of an accelerate configuration -> folder with a whole run and one that was killed and resumed."""

    @functools.cache
    def run(system: str, name: str):
        folder = tmp_path_factory.mktemp(f"{system}-{name}")
        begun = launch_sharded(name, folder, sharded_training.__file__, system, "begin", folder)
        assert (folder / "whole" / "done.json").is_file(), begun.stderr[-3000:]
        assert "SIGKILL" in begun.stderr, begun.stderr[-3000:]
        assert {path.name for path in (folder / "killed").glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
        resumed = launch_sharded(name, folder, sharded_training.__file__, system, "resume", folder)
        assert resumed.returncode == 0, resumed.stderr[-3000:]
        assert resumed.stdout.count(f"sharded by {STRATEGIES[name]}") == 2
        return folder

    return run


@pytest.mark.parametrize(("system", "name"), RUNS)
def test_a_killed_run_ends_with_the_weights_of_a_whole_one(runs, system, name):
    folder = runs(system, name)
    for saved in ("checkpoint-8", "adapter"):
        files = sorted((folder / "whole" / saved).glob("*.safetensors"))
        assert len(files) == (1 if system == "seller" else 2)  # PPO and TRAIL have a head beside the adapter
        for file in files:
            whole, resumed = load_file(file), load_file(folder / "killed" / saved / file.name)
            assert whole.keys() == resumed.keys()
            assert all(tensor.numel() for tensor in whole.values())
            for key, tensor in whole.items():
                assert torch.equal(resumed[key], tensor), key


@pytest.mark.parametrize("name", STRATEGIES)
def test_sellers_weights_are_those_of_one_process(runs, name, tmp_path):
    folder = runs("seller", name) / "whole"
    one = sharded_training.seller(tmp_path, use_cpu=True, per_device_train_batch_size=8)
    one.train()
    start, fresh = (tiny_seller.model(dropout=0.0) for _ in range(2))
    InjectedLLM.load(folder / "checkpoint-8", fresh.llm, fresh.adapter)  # refuses another base, and other shapes
    for step in (2, 8):
        saved, expected = (load_file(each / f"checkpoint-{step}/adapter.safetensors") for each in (folder, tmp_path))
        assert saved.keys() == expected.keys()
        for key, tensor in expected.items():
            torch.testing.assert_close(saved[key], tensor, atol=1e-4, rtol=0)
    assert any(not torch.equal(tensor, start.state_dict()[key]) for key, tensor in saved.items())


@pytest.mark.parametrize("name", STRATEGIES)
def test_sellers_best_checkpoint_is_what_a_stage_leaves(runs, name):
    folder = runs("seller", name) / "whole"
    left, best = (load_file(folder / each / "adapter.safetensors") for each in ("adapter", "checkpoint-2"))
    for key, tensor in best.items():
        assert torch.equal(left[key], tensor), key


@pytest.mark.parametrize(
    ("system", "name"), [("seller", "fsdp2"), ("seller", "deepspeed_zero3"), ("trail", "deepspeed_zero2")]
)
def test_a_recipe_from_end_to_end(system, name, tmp_path):
    arguments = [ROOT / "recipes" / f"{system}.py", "--config", f"{system}/smoke", "--output_dir", tmp_path / "run"]
    process = launch_sharded(name, tmp_path, *arguments)
    assert process.returncode == 0, process.stderr[-3000:]
    assert process.stdout.count(f"sharded by {STRATEGIES[name]}") == 2
    rows = json.loads((tmp_path / "run" / "results.json").read_text())["rows"]
    ablations = {"seller": ("without_be", "without_se", "without_ct"), "trail": ("without_sup", "without_con")}[system]
    assert {system, *(f"{system}_{ablation}" for ablation in ablations)} <= set(rows)


@pytest.mark.parametrize("name", ["fsdp2", "deepspeed_zero3"])
def test_trail_is_refused_before_anything_is_loaded(name, tmp_path):
    arguments = [ROOT / "recipes" / "trail.py", "--config", "trail/smoke", "--output_dir", tmp_path / "run"]
    process = launch_sharded(name, tmp_path, *arguments)
    assert process.returncode != 0
    assert "error: TRAIL trains the markers' rows inside of the embedding and the LM head" in process.stderr
    assert not (tmp_path / "run").exists()
