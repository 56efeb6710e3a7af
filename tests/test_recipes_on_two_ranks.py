"""Each recipe from end to end on two processes of one machine, by the command line of docs/scaling.md.

python -m pytest -m slow tests/test_recipes_on_two_ranks.py
"""

import json
import os
import subprocess
import sys

import polars as pl
import pytest
from command_lines import ROOT

pytestmark = pytest.mark.slow

WITHOUT_POLICY = {  # rows that no language model has a part in
    "expctr": ("like_rate_plus_item_mean", "deepfm_like_rate_item_mean"),
    "recpie": ("item_mean", "gru_categories"),
    "trail": ("last_window", "pare", "upper_bound"),
    "seller": ("empty", "peter"),
}


@pytest.mark.parametrize("system", WITHOUT_POLICY)
def test_two_ranks_make_the_rows_of_one(system, tmp_path):
    """All rows are there; those without a policy are equal, and one of each file has been written."""
    arguments = [ROOT / "recipes" / f"{system}.py", "--config", f"{system}/smoke", "--use_cpu", "true"]
    folders = {"one": [], "two": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]}
    for folder, launcher in folders.items():
        command = [sys.executable, *launcher, *arguments, "--output_dir", tmp_path / folder]
        process = subprocess.run(
            [*map(str, command)], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
        )
        assert process.returncode == 0, process.stderr[-3000:]
    one, two = (json.loads((tmp_path / folder / "results.json").read_text())["rows"] for folder in folders)
    assert list(two) == list(one)
    for row in WITHOUT_POLICY[system]:
        assert two[row] == pytest.approx(one[row], abs=1e-9), row
    predictions = [pl.read_parquet(path).height for path in sorted(tmp_path.glob("*/predictions.parquet"))]
    assert len(predictions) == 2
    assert predictions[0] == predictions[1] > 0
