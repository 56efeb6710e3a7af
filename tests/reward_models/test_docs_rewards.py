"""The guide in docs/rewards.md: its code is run, its tables are compared with the code."""

import re
import sys
from pathlib import Path

import pytest
from test_alignment_ic import WordEncoder
from tiny_language_models import build_llama, build_tokenizer

from reward_models import resolve_reward
from reward_models.resolution import BUILT_IN

GUIDE = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")
MODEL_NAME = "Qwen/Qwen2.5-0.5B-Instruct"


def code_blocks():
    """(file name or None, code) of the guide's Python blocks, in order."""
    for code in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL):
        name = re.match(r"# (\w+\.py)\n", code)
        yield (name[1] if name else None), code


@pytest.fixture
def guide_folder(tmp_path, monkeypatch):
    """A working folder with the guide's files in it and a tiny model under the name that the guide uses."""
    for name, code in code_blocks():
        if name:
            (tmp_path / name).write_text(code)
    build_llama().save_pretrained(tmp_path / MODEL_NAME)
    build_tokenizer().save_pretrained(tmp_path / MODEL_NAME)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name, _ in code_blocks():
        sys.modules.pop((name or "").removesuffix(".py"), None)


@pytest.mark.filterwarnings("ignore:.pin_memory")
def test_the_guides_code_runs(guide_folder):
    blocks = [code for name, code in code_blocks() if name is None]
    assert len(blocks) == 2
    namespace = {}
    for code in blocks:
        exec(compile(code, "docs/rewards.md", "exec"), namespace)
    trainer = namespace["trainer"]
    assert trainer.state.global_step == 2
    logged = {key for entry in trainer.state.log_history for key in entry}
    assert {"rewards/names_a_category/mean", "rewards/groundedness/mean", "category/missing"} <= logged


def test_the_guides_class_takes_its_encoder_from_the_context(guide_folder):
    reward = resolve_reward("my_class_rewards.CloseToReview", encoder=WordEncoder())
    # (1, 0, 1) against (1, 0, 1), and against (0, 1, 1)
    assert reward(None, ["good", "good"], review=["good", "bad"]) == pytest.approx([1.0, 0.5])


def test_the_first_reward_takes_ten_lines():
    name, code = next(code_blocks())
    assert name == "my_rewards.py"
    body = code.split("def names_a_category", 1)[1]
    assert 1 + body.count("\n") <= 10


def test_the_table_names_the_built_in_rewards():
    table = GUIDE.split("## The built-in rewards", 1)[1].split("\n\n")[1]
    assert re.findall(r"^\| `(\w+)` ", table, re.MULTILINE) == list(BUILT_IN)
