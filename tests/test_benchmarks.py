"""What the benchmarks share, and that the two sides of prepare_data.py do the same work."""

import importlib
import importlib.util
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

from rlrec.data import prepare

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    """A module of benchmarks/ by name."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.fixture
def suite(module):
    spec = importlib.util.spec_from_file_location("benchmark_suite", FOLDER / "__main__.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_ratios_are_of_neighbouring_runs(module):
    measured = module("measured")
    assert measured.ratios([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == "2.00 [1.00, 3.00]"
    assert measured.spread([1234.56], 1) == "1,234.6"


def test_the_inner_part_gets_the_time(module):
    clock = iter([0.0, 1.0, 4.0, 4.5, 10.0, 12.0])
    shares = module("measured").Shares(clock=lambda: next(clock))
    reward = shares.watched("reward", lambda: None)

    def rollout():
        reward()
        raise KeyError("title")

    with pytest.raises(KeyError):
        shares.watched("rollout", rollout)()  # 0 to 4.5, and the reward in it 1 to 4
    reward()  # 10 to 12; between the two nothing runs
    assert shares.amounts == {"rollout": 1.5, "reward": 5.0}


def test_the_suite_names_every_script(suite):
    others = {"__main__", "measured", "rechub", "deepfm_user_disjoint", "ic_variants"}
    assert set(suite.SUITE) == {path.stem for path in FOLDER.glob("*.py")} - others


def test_a_benchmark_that_fails_is_a_row_and_keeps_the_others(suite, monkeypatch, tmp_path):
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.setattr(suite, "ROOT", tmp_path)
    row = json.dumps(["DTW", "4", "2 (theirs)", "2.00"])
    (tmp_path / "benchmarks" / "good.py").write_text(f"print('hello'); print('ROW ' + {row!r})")
    (tmp_path / "benchmarks" / "bad.py").write_text("import sys; sys.exit('no data')")
    rows, well = suite.run("good", "--seeds 3")
    assert well
    assert [line[:4] + line[5:] for line in rows] == [
        ["DTW", "4", "2 (theirs)", "2.00", "`python benchmarks/good.py --seeds 3`"]
    ]
    rows, well = suite.run("bad", "")
    assert not well
    assert rows[0][:2] == ["bad", "failed: no data"]


@pytest.mark.parametrize(("bad_rows", "k_core"), [(0, 0), (40, 5)])
def test_pandas_finds_what_prepare_finds(module, tmp_path, bad_rows, k_core):
    benchmark = module("prepare_data")
    benchmark.generate(tmp_path, 20_000, bad_rows)
    benchmark.prepare_with_pandas(tmp_path, k_core, bad_rows)
    theirs = json.loads((tmp_path / "pandas" / "metadata.json").read_text())
    ours = prepare("ml-20m", tmp_path, k_core=k_core).metadata
    assert 0 < theirs["interactions"] < 20_000 if bad_rows else theirs["interactions"] > 19_000
    for key in ("interactions", "users", "positive_rate"):
        assert theirs[key] == pytest.approx(ours[key], abs=1e-6), key


def test_shares_of_the_peak_by_hand(module):
    """64 episodes of 1,000 operations in 2 s are 32,000 a second of 80,000; half of them in updates of 1.6 s."""
    options = types.SimpleNamespace(episodes=64)
    counted = {"operations": 1000.0, "operations_of_updates": 500.0}
    run = {"side": "rlrec", "seconds": 2.0, "update_seconds": 1.6, "peak_operations_per_second": 80_000.0}
    shares = module("ppo_vs_trl").shares_of_peak
    assert shares([run, {"failed": "killed"}], counted, options) == {"whole run": [0.4], "updates": [0.25]}
    assert shares([run], {"failed": "killed"}, options) == {}


@pytest.mark.parametrize(
    "command", [("two_ranks.py", "--child"), ("ppo_vs_trl.py", "--child", "count", "--micro_batch_size", "1")]
)
def test_a_few_real_episodes(command):
    """What the suite starts in processes of their own ends with its figures."""
    script, *options = command
    small = ["--episodes", "4", "--batch_size", "2", "--prompt_length", "4", "--response_length", "2", "--epochs", "1"]
    arguments = [sys.executable, FOLDER / script, *options, *small]
    run = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    told = next(line for line in run.stdout.splitlines() if line.startswith("FIGURES "))
    figures = json.loads(told.removeprefix("FIGURES "))
    if script == "two_ranks.py":
        assert figures["ranks"] == 1
        assert figures["episodes_per_second"] > 0
    else:
        assert 0 < figures["operations_of_updates"] < figures["operations"]


def test_every_peer_of_the_sequence_models_can_be_built(module):
    benchmark = module("sequence_models")
    sizes = {"num_users": 3, "num_items": 5}
    layers = {name: benchmark.rechub_model(name, sizes) for name in benchmark.RECHUB}
    assert [layers[name].encoder.num_layers for name in ("gru4rec", "gru4rec_2_layers")] == [1, 2]
