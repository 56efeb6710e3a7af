"""From arguments to samples, and the folder of a run."""

import dataclasses
import json

import pytest

from rlrec.arguments import DataArguments, PolicyArguments
from rlrec.data.simulated import simulate
from rlrec.expctr import ExpCTRArguments
from rlrec.expctr.run import load_samples
from rlrec.experiment import PPORun, Run, claim_folder, training_settings
from rlrec.ppo import PPOConfig
from rlrec.seller.run import SELLERRun
from rlrec.seller.trainer import SELLERConfig
from rlrec.trail.config import TRAILConfig
from rlrec.trail.run import TRAILRun

SIZE = {"num_users": 40, "num_items": 20, "interactions_per_user": 8}


def samples_of(**arguments):
    messages = []
    prepared, samples = load_samples(DataArguments(num_samples=120, **arguments), 0, messages.append)
    return prepared, samples, messages


def test_a_prepared_folder_brings_its_own_label_rule(tmp_path):
    simulate(**SIZE, threshold=4.0, label_rule="ge").write(tmp_path)
    _, samples, _ = samples_of(data_dir=str(tmp_path))
    assert (samples["label"] == (samples["rating"] >= 4)).all()
    _, samples, _ = samples_of(data_dir=str(tmp_path), label_rule="gt")
    assert (samples["label"] == (samples["rating"] > 4)).all()
    _, samples, _ = samples_of(data_dir=str(tmp_path), threshold=3.0)
    assert (samples["label"] == (samples["rating"] >= 3)).all()


def test_a_world_simulated_on_the_spot_is_the_prepared_one(tmp_path):
    simulate(**SIZE, seed=0).write(tmp_path)
    _, on_the_spot, messages = samples_of(dataset="simulated", **SIZE)
    _, loaded, _ = samples_of(data_dir=str(tmp_path))
    assert on_the_spot.equals(loaded)
    rate = f"{on_the_spot['label'].mean():.1%}"
    assert messages[-1] == f"simulated: 120 samples (96 / 12 / 12), {rate} positive"


def test_a_folder_holds_one_runs_settings(tmp_path):
    folder, settings = tmp_path / "run", {"seed": 0, "beta": 0.05, "rewards": ["lc"]}
    for _ in range(2):
        claim_folder(folder, settings)
    assert json.loads((folder / "settings.json").read_text()) == settings
    with pytest.raises(ValueError, match=r"run holds a run with beta = 0\.05, not 0\.1; give another --output_dir"):
        claim_folder(folder, {**settings, "beta": 0.1})
    with pytest.raises(ValueError, match=r"with beta = 0\.05, not 0\.1 \(and 1 more settings differ\)"):
        claim_folder(folder, {**settings, "beta": 0.1, "seed": 1})
    assert json.loads((folder / "settings.json").read_text()) == settings


def test_settings_that_an_earlier_version_did_not_note(tmp_path):
    claim_folder(tmp_path, {"beta": 0.05})
    claim_folder(tmp_path, {"beta": 0.05, "top_k": 0})
    with pytest.raises(ValueError, match=r"holds a run with beta = 0\.05, not 0\.1"):
        claim_folder(tmp_path, {"beta": 0.1, "top_k": 0})


def test_settings_that_another_version_had(tmp_path):
    claim_folder(tmp_path, {"beta": 0.05, "gone": 1})
    claim_folder(tmp_path, {"beta": 0.05})


def test_whatever_a_trainer_adds_is_compared(tmp_path):
    config = PPOConfig(str(tmp_path), report_to=[], epsilon_high=0.3, generation_kwargs={"min_length": 3})
    settings = training_settings(config)
    assert (settings["epsilon_high"], settings["generation_kwargs"]) == (0.3, {"min_length": 3})
    assert {"min_p", "repetition_penalty", "delta", "mask_truncated_completions", "gamma", "learning_rate"} <= {
        *settings
    }
    assert not {"log_completions", "vllm_server_port", "reward_timeout", "output_dir", "save_steps"} & {*settings}
    assert {"explanation_share", "projection_hidden_size"} <= {
        *training_settings(TRAILConfig(str(tmp_path), report_to=[]))
    }
    claim_folder(tmp_path / "run", settings)
    with pytest.raises(ValueError, match=r"holds a run with epsilon_high = 0\.3, not None"):
        claim_folder(
            tmp_path / "run",
            training_settings(PPOConfig(str(tmp_path), report_to=[])) | {"generation_kwargs": {"min_length": 3}},
        )


def test_a_run_goes_on_with_the_data_it_began_with(tmp_path):
    data = DataArguments(data_dir=str(tmp_path / "data"))

    def claim():
        config = PPOConfig(str(tmp_path / "run"), report_to=[])
        Run(ExpCTRArguments(), data, PolicyArguments(), config).claim_folder()

    simulate(**SIZE, seed=0).write(data.data_dir)
    claim()
    claim()
    simulate(**SIZE, seed=1).write(data.data_dir)
    with pytest.raises(
        ValueError, match=r"holds a run with data_dir/interactions\.parquet = .* \(and 1 more settings"
    ):
        claim()


def test_what_changes_the_weights_is_among_the_settings():
    """A run must not go on under another of these."""
    for settings in (PPORun.trainer_settings, SELLERRun.trainer_settings, TRAILRun.trainer_settings):
        assert {"learning_rate", "warmup_steps", "weight_decay", "max_grad_norm", "bf16"} <= {*settings}
        assert len({*settings}) == len(settings)
    assert {"ref_policy", "epsilon", "cliprange_value", "top_k", "top_p", "whiten_advantages"} <= {
        *PPORun.trainer_settings
    }
    for config, settings in ((PPOConfig, PPORun), (SELLERConfig, SELLERRun), (TRAILConfig, TRAILRun)):
        assert {*settings.trainer_settings} <= {field.name for field in dataclasses.fields(config)}
