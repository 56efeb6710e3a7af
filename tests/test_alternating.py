"""Stages: trained, skipped when done, resumed where they were cut off; the same on two ranks."""

import gc
import json
import weakref
from pathlib import Path

import polars as pl
import pytest
import stage_on_ranks as program
import torch
from safetensors.torch import load_file
from two_ranks import on_two_ranks

from rlrec.alternating import PolicyStage, stage_config
from rlrec.policies.soft_prompt import SoftPrompt, attach_soft_prompt


@pytest.fixture(scope="module")
def train(small_policies, small_world):
    """Runs a stage of four rollouts of 16 rows; `cut_off` raises KeyboardInterrupt while the nth one is rewarded."""

    def train(folder, cut_off=None, **options):
        return program.train(folder, small_policies, small_world.train_rows, cut_off=cut_off, **options)

    return train


@pytest.fixture(scope="module")
def finished(train, tmp_path_factory) -> PolicyStage:
    return train(tmp_path_factory.mktemp("stages") / "lc")


def adapter(stage: PolicyStage) -> dict[str, torch.Tensor]:
    return load_file(stage.adapter / "adapter_model.safetensors")


def refuse():
    raise AssertionError("a finished stage loads nothing")


def test_a_stage_trains_and_leaves_its_files(finished, small_policies, small_world):
    done = json.loads((finished.folder / "done.json").read_text())
    assert done["global_step"] == 4
    assert {"adapter/adapter_model.safetensors", "log_history.json"} <= set(done["files"])
    trained = small_policies.load(finished.adapter)
    moved = [name for name, value in trained.named_parameters() if "lora_B" in name and value.abs().sum() > 0]
    assert len(moved) == 2 * 7  # two layers with seven linear maps, all zero in a fresh adapter
    logged = [entry for entry in finished.log_history if "reward" in entry]
    assert [entry["step"] for entry in logged] == [1, 2, 3, 4]
    assert all("rewards/length/mean" in entry for entry in logged)
    assert [path.name for path in sorted(finished.folder.glob("checkpoint-*"))] == ["checkpoint-3", "checkpoint-4"]


def test_every_explanation_is_kept(finished, small_world):
    store = finished.explanations()
    assert (len(store), store.generated) == (64, 64)
    rows = {(row["user_id"], row["item_id"]): row for row in small_world.train_rows[:64]}
    for kept in store.to_frame().iter_rows(named=True):
        row = rows[kept["user_id"], kept["item_id"]]
        assert kept["round"] == 3
        assert kept["step"] in range(4)
        assert kept["reward"] == pytest.approx(program.length(completions=[kept["text"]], label=[row["label"]])[0])


def test_a_finished_stage_is_not_trained_again(finished, train):
    before = sorted((path, path.stat().st_mtime_ns) for path in finished.folder.rglob("*"))
    assert train(finished.folder, load_policy=refuse) == finished
    assert sorted((path, path.stat().st_mtime_ns) for path in finished.folder.rglob("*")) == before


def test_a_stage_lets_go_of_its_policy(train, small_policies, tmp_path):
    loaded = []

    def load():
        policy = small_policies.load()
        loaded.append(weakref.ref(policy))
        return policy

    gc.disable()  # a policy that waits for the collector is in memory when the next one is loaded
    try:
        train(tmp_path, load_policy=load)
        assert [policy() for policy in loaded] == [None]
    finally:
        gc.enable()


@pytest.mark.parametrize("cut_off", [1, 3])
def test_a_stage_cut_off_ends_like_an_uninterrupted_one(finished, train, tmp_path, cut_off):
    """Before the first checkpoint, and in the third rollout: whatever this process drew in between."""
    folder = tmp_path / "lc"
    with pytest.raises(KeyboardInterrupt):
        train(folder, cut_off=cut_off)
    assert not (folder / "done.json").exists()
    torch.manual_seed(123456)
    torch.rand(7)
    resumed = train(folder)
    expected, found = adapter(finished), adapter(resumed)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert resumed.explanations().to_frame().equals(finished.explanations().to_frame())
    rewards = [[e["reward"] for e in stage.log_history if "reward" in e] for stage in (resumed, finished)]
    assert rewards[0] == rewards[1]


def test_a_stage_with_a_soft_prompt(train, small_policies, small_world, tmp_path):
    """Cut off and resumed like any other; its adapter says which consumer table it needs."""
    users = sorted({row["user_id"] for row in small_world.train_rows})
    torch.manual_seed(0)
    table = torch.nn.Embedding(len(users) + 1, 8)

    def load_policy():
        policy = small_policies.load()
        return attach_soft_prompt(policy, SoftPrompt.for_model(policy, table, users))

    whole = train(tmp_path / "whole", load_policy=load_policy)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", load_policy=load_policy, cut_off=3)
    resumed = adapter(train(tmp_path / "cut", load_policy=load_policy))
    assert all(torch.equal(resumed[name], value) for name, value in adapter(whole).items())
    SoftPrompt.load(whole.adapter, table, users)
    with torch.no_grad():
        table.weight[1] += 1
    with pytest.raises(ValueError, match="was saved with consumer_table_sha256"):
        SoftPrompt.load(whole.adapter, table, users)


def test_a_half_written_checkpoint_is_passed_over(finished, train, tmp_path):
    folder = tmp_path / "lc"
    with pytest.raises(KeyboardInterrupt):
        train(folder, cut_off=3)
    (folder / "checkpoint-3").mkdir()  # killed while it was written: no explanations in it
    (folder / "checkpoint-3" / "adapter_model.safetensors").write_bytes(b"half")
    assert (folder / "checkpoint-2").is_dir()
    resumed = adapter(train(folder))
    assert all(torch.equal(resumed[name], value) for name, value in adapter(finished).items())


def test_a_stage_goes_on_from_anothers_adapter(finished, train, small_policies, tmp_path):
    following = train(tmp_path / "ic", load_policy=lambda: small_policies.load(finished.adapter))
    first, second = adapter(finished), adapter(following)
    distance = sum(float((second[name] - first[name]).abs().sum()) for name in first)
    from_zero = sum(float(second[name].abs().sum()) for name in first)
    assert 0 < distance < from_zero
    # the KL reference is pi_init, so the trained adapter starts away from it
    assert following.log_history[0]["objective/kl"] != pytest.approx(0, abs=1e-4)
    assert finished.log_history[0]["objective/kl"] == pytest.approx(0, abs=1e-4)


def test_a_stages_settings_leave_the_runs_alone(tmp_path):
    config = program.config(tmp_path / "run")
    staged = stage_config(config, tmp_path / "run" / "stages" / "lc", 0.5)
    assert (Path(staged.output_dir), staged.num_train_epochs) == (tmp_path / "run" / "stages" / "lc", 0.5)
    assert (Path(config.output_dir), config.num_train_epochs) == (tmp_path / "run", 3.0)


def test_two_ranks_share_explanations_and_training(small_policies, small_world, tmp_path):
    """torchrun with two gloo processes: the texts of all prompts on both, equal adapters, one store of two parts."""
    samples = small_world.samples.filter(pl.col("split") == "train").head(64)
    samples.write_parquet(tmp_path / "samples.parquet")
    small_policies.load_base().save_pretrained(tmp_path / "policy")
    small_policies.tokenizer.save_pretrained(tmp_path / "policy")
    on_two_ranks(program.__file__, tmp_path)

    first, second = (json.loads((tmp_path / f"texts{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert [len(texts) for texts in first] == [2] * 64
    for texts, history in zip(first, samples["history_titles"]):
        for text in texts:  # the policy is restricted, so a text that is not its prompt's would cite other titles
            assert set(text.split('"')[1::2]) <= set(history)

    first, second = (load_file(tmp_path / f"adapter{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    stage = PolicyStage(tmp_path / "stage")
    assert all(torch.equal(first[name], value) for name, value in adapter(stage).items())
    parts = sorted(path.name for path in stage.folder.glob("explanations-*.parquet"))
    assert parts == ["explanations-rank0-of-2.parquet", "explanations-rank1-of-2.parquet"]
    assert (len(stage.explanations()), stage.explanations().generated) == (64, 64)
