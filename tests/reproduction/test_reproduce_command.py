"""The command itself: what it says, what it refuses, and from planned cells to a written table."""

import subprocess
import sys
import types
from pathlib import Path

import pytest

from recipes import reproduce
from rlrec.reproduction import execute as execution

ROOT = Path(__file__).parents[2]


def run(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["reproduce.py", *map(str, arguments)])
    return reproduce.main()


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    monkeypatch.delenv("RLREC_DATA_DIR", raising=False)


def refused(monkeypatch, capsys, *arguments) -> str:
    assert run(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_unknown_names_are_refused(monkeypatch, capsys, tmp_path):
    out = ("--output_dir", tmp_path)
    assert "did you mean 'expctr'" in refused(monkeypatch, capsys, "expct", "--table", 1, *out)
    assert "did you mean 'table 3'" in refused(monkeypatch, capsys, "trail", "--table", 33, *out)
    error = refused(monkeypatch, capsys, "recpie", "--figure", 1, *out)
    assert "recpie" in error
    error = refused(monkeypatch, capsys, "seller", "--table", 2, "--datasets", "ml-10k", *out)
    assert "There is no dataset of seller, table 2: 'ml-10k'; did you mean 'ml-100k'" in error
    error = refused(monkeypatch, capsys, "seller", "--table", 2, "--rows", "xreq", *out)
    assert "did you mean 'xrec'" in error
    error = refused(monkeypatch, capsys, "seller", "--table", 2, "--datasets", "yelp", *out)
    assert "yelp: no data; give --data yelp=FOLDER" in error
    assert "must be at least 1" in refused(monkeypatch, capsys, "seller", "--table", 2, "--seeds", 0, *out)
    assert "must be at least 1" in refused(monkeypatch, capsys, "seller", "--table", 2, "--workers", 0, *out)
    assert "must be NAME=VALUE" in refused(monkeypatch, capsys, "seller", "--table", 2, "--configs", "yelp", *out)
    error = refused(monkeypatch, capsys, "seller", "--table", 2, "--configs", "simulated=seller/simulatde", *out)
    assert "did you mean 'seller/simulated'" in error
    error = refused(monkeypatch, capsys, "seller", "--table", 2, "--configs", "simulatde=seller/simulated", *out)
    assert "'simulatde'; did you mean 'simulated'" in error
    error = refused(monkeypatch, capsys, "expctr", "--table", 1, "--options", "baseline.fits=1", *out)
    assert "There is no recipe of expctr's table: 'baseline'; did you mean 'baselines'" in error
    error = refused(monkeypatch, capsys, "expctr", "--table", 1, "--options", "ctr_fits=[1", *out)
    assert "the value is no YAML" in error


def test_a_list_needs_no_torch_and_little_time(tmp_path):
    """Within two seconds; measured as processor time, since tests may run beside anything."""
    script = "import resource, runpy, sys\nsys.argv = sys.argv[1:]\n"
    script += "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
    script += "except SystemExit as end:\n    assert not end.code\n"
    script += "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    script += "used = resource.getrusage(resource.RUSAGE_SELF)\nprint(used.ru_utime + used.ru_stime)\n"
    command = [sys.executable, "-c", script, str(ROOT / "recipes" / "reproduce.py"), "expctr", "--table", "1"]
    command += ["--datasets", "ml-100k", "simulated", "--seeds", "5", "--output_dir", str(tmp_path), "--list"]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert finished.returncode == 0, finished.stderr
    *told, seconds = finished.stdout.splitlines()
    assert float(seconds) < 2
    told = "\n".join(told)
    assert "ml-100k: no data; give --data ml-100k=FOLDER" in told
    assert "expctr expctr on simulated, seed 2" in told
    assert "about   8 min" in told


def test_commands_for_a_cluster(monkeypatch, capsys, tmp_path):
    arguments = ("trail", "--table", 3, "--datasets", "simulated", "--seed_list", 7, 8, "--output_dir", tmp_path)
    assert run(monkeypatch, *arguments, "--print_commands") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    folder = tmp_path / "trail" / "simulated" / "trail" / "seed-7"
    assert lines[0].startswith("accelerate launch ")
    assert lines[0].endswith(f"trail.py --config trail/simulated --seed 7 --output_dir {folder}")
    assert run(monkeypatch, *arguments, "--launcher", "torchrun --nproc_per_node 2", "--print_commands") == 0
    assert capsys.readouterr().out.startswith("torchrun --nproc_per_node 2 ")
    arguments = (*arguments[:-1], tmp_path / "new")  # Slurm makes no folder for its logs
    assert run(monkeypatch, *arguments, "--slurm", tmp_path / "array.sh") == 0
    assert (tmp_path / "new").is_dir()
    assert subprocess.run(["bash", "-n", tmp_path / "array.sh"]).returncode == 0
    assert "#SBATCH --array=0-1" in (tmp_path / "array.sh").read_text()


@pytest.fixture
def written(monkeypatch):
    """A stand-in for the module that writes tables: it notes what it was given."""
    calls = []

    def write_table(table, cells, output_dir, seeds):
        calls.append((table, cells, seeds))
        output_dir.mkdir(parents=True, exist_ok=True)
        path = output_dir / "table.md"
        path.write_text("| a table |\n")
        return [path]

    module = types.ModuleType("rlrec.reproduction.output")
    module.write_table = write_table
    monkeypatch.setitem(sys.modules, "rlrec.reproduction.output", module)
    return calls


FAKE = """
import json, pathlib, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
seed, folder = int(given["--seed"]), pathlib.Path(given["--output_dir"])
if seed == 2:
    sys.exit("RuntimeError: out of luck")
rows = dict.fromkeys(["trail", "pare", "upper_bound", "trail_without_sup", "trail_without_con"], {"hr@10": 0.5})
record = {"schema": 1, "system": "trail", "dataset": "simulated-trends", "seed": seed, "rows": rows, "controls": {}}
(folder / "results.json").write_text(json.dumps(record))
"""


def test_from_cells_to_a_table(monkeypatch, capsys, tmp_path, written):
    fake = tmp_path / "fake.py"
    fake.write_text(FAKE)
    monkeypatch.setattr("rlrec.reproduction.plan.recipe_path", lambda recipe: str(fake))
    arguments = ("trail", "--table", 3, "--datasets", "simulated", "--output_dir", tmp_path / "out", "--workers", 2)
    assert run(monkeypatch, *arguments, "--seeds", 3) == 1
    output = capsys.readouterr()
    assert "| a table |" in output.out
    assert "10 cells done, 5 cells failed" in output.out
    assert "out of luck" in output.err
    table, cells, seeds = written[0]
    assert (table.number, seeds, len(cells)) == ("3", 3, 15)
    assert {cell.seed for cell in cells if cell.status == "failed"} == {2}
    assert "out of luck" in next(cell.reason for cell in cells if cell.status == "failed")

    monkeypatch.setattr(execution, "start", None)  # nothing may be started any more
    assert run(monkeypatch, *arguments, "--seeds", 2) == 0
    assert "Nothing is left to run." in capsys.readouterr().out
    assert [cell.status for cell in written[1][1]] == ["done"] * 10


def test_a_launcher_that_is_not_there(monkeypatch, capsys, tmp_path, written):
    arguments = ("trail", "--table", 3, "--datasets", "simulated", "--output_dir", tmp_path, "--launcher", "nowhere_")
    assert run(monkeypatch, *arguments) == 2
    assert "error: " in (error := capsys.readouterr().err)
    assert "nowhere_" in error
    assert written == []


def test_stopped_by_the_keyboard(monkeypatch, capsys, tmp_path, written):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(execution, "execute", interrupted)
    assert run(monkeypatch, "trail", "--table", 3, "--datasets", "simulated", "--output_dir", tmp_path) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    assert written == []


def test_options_reach_their_recipe(monkeypatch, capsys, tmp_path):
    arguments = ("expctr", "--table", 1, "--datasets", "simulated", "--seeds", 1, "--output_dir", tmp_path)
    options = ("--options", "ctr_fits=1", "baselines.fits=2", "baselines.grid_learning_rates=[0.001, 0.01]")
    assert run(monkeypatch, *arguments, *options, "--print_commands") == 0
    lines = {line.split(".py ")[0].rpartition("/")[2]: line for line in capsys.readouterr().out.splitlines()}
    assert "--ctr_fits 1" in lines["expctr"]
    assert "--fits 2 --grid_learning_rates 0.001 0.01" in lines["baselines"]
    assert "ctr_fits" not in lines["baselines"]
    assert lines["baselines"].count("--rows ") == 1
