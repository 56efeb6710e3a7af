"""What the benchmarks share, and that the two sides of prepare_data.py do the same work."""

import importlib
import importlib.util
import json
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


def test_the_inner_part_gets_the_time(module, monkeypatch):
    step_shares, clock = module("step_shares"), iter([0.0, 1.0, 4.0, 4.5, 10.0, 12.0])
    monkeypatch.setattr(step_shares.time, "perf_counter", lambda: next(clock))
    shares = step_shares.Shares()
    reward = shares.timed("reward", lambda: None)

    def rollout():
        reward()
        raise KeyError("title")

    with pytest.raises(KeyError):
        shares.timed("rollout", rollout)()  # 0 to 4.5, and the reward in it 1 to 4
    reward()  # 10 to 12; between the two nothing runs
    assert shares.seconds == {"rollout": 1.5, "reward": 5.0}


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
