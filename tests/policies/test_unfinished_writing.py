"""Batches by tokens, and writing that was cut short."""

import json

import pytest
import torch

from rlrec.policies.generation import Unfinished, batches, generate_explanations, write_shared


@pytest.fixture(scope="module")
def base(small_policies):
    return small_policies.load_base(), small_policies.tokenizer


@pytest.fixture(scope="module")
def prompts(small_world):
    return [row["prompt"] for row in small_world.test_rows[:10]]


def test_batches_by_tokens():
    # 30 tokens: 10 + 2 twice (24), 6 + 2 three times, and what is left; a prompt of 40 is alone
    assert batches([40, 10, 10, 6, 6, 6, 1], 99, 30, 2) == [range(1), range(1, 3), range(3, 6), range(6, 7)]
    assert batches([40, 10, 10, 6, 6, 6, 1], 2, 30, 2) == [range(1), range(1, 3), range(3, 5), range(5, 7)]
    assert batches([], 2) == []


def test_no_batch_has_more_tokens(base, prompts):
    model, tokenizer = base
    shapes = []

    def generate(rows, input_ids, attention_mask):
        shapes.append(tuple(input_ids.shape))
        return input_ids[:, :1]

    ids = tokenizer([p[: 40 * (i + 1)] for i, p in enumerate(prompts)])["input_ids"]
    write_shared(model, tokenizer, ids, generate, batch_tokens=150, new_tokens=4)
    assert sum(rows for rows, _ in shapes) == len(prompts)
    assert any(rows > 1 for rows, _ in shapes)
    assert all(rows * (width + 4) <= 150 or rows == 1 for rows, width in shapes)


def write(base, prompts, path=None, **options):
    options = {"num_generations": 2, "max_new_tokens": 12, "batch_size": 4, "progress": None, "seed": 5, **options}
    return generate_explanations(*base, prompts, keep=path, **options)


class Killed(BaseException):
    """As KeyboardInterrupt: nothing catches it."""


@pytest.fixture
def save_always(monkeypatch):
    monkeypatch.setattr(Unfinished.__init__, "__defaults__", ((), 0.0))


@pytest.mark.usefixtures("save_always")
def test_a_killed_call_goes_on_and_writes_the_same(base, prompts, tmp_path):
    whole, path, calls = write(base, prompts), tmp_path / "explanations" / "lc.parquet", []

    def killed_in_third(rows, written):
        calls.append(rows)
        if len(calls) == 3:
            raise Killed

    with pytest.raises(Killed):
        write(base, prompts, path, on_batch=killed_in_third)
    (left,) = path.parent.glob("*.unfinished")
    assert len(json.loads(left.read_text())["texts"]) == 8  # two batches of four
    torch.rand(3)
    again = []
    assert write(base, prompts, path, on_batch=lambda rows, written: again.append(rows)) == whole
    assert again[0] == calls[2]  # the one that was cut short
    assert len(again) == 3  # of five: 20 texts

    path.write_text("whole")
    Unfinished.forget(path)
    assert [file.name for file in path.parent.iterdir()] == ["lc.parquet"]


@pytest.mark.usefixtures("save_always")
@pytest.mark.parametrize("changes", [{"seed": 6}, {"temperature": 0.5}, {"batch_size": 3}, {"max_new_tokens": 9}])
def test_what_other_settings_left_is_not_taken(base, prompts, tmp_path, changes):
    write(base, prompts, tmp_path / "lc.parquet")
    assert write(base, prompts, tmp_path / "lc.parquet", **changes) == write(base, prompts, **changes)
    others = prompts[::-1]
    assert write(base, others, tmp_path / "lc.parquet") == write(base, others)


def test_nothing_is_kept_of_what_takes_no_time(base, prompts, tmp_path):
    write(base, prompts, tmp_path / "lc.parquet")
    assert list(tmp_path.iterdir()) == []
