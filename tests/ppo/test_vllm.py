"""PPO whose completions a server samples, by TRL's vLLM protocol (vllm_server.py says what of it is real)."""

import socket

import pytest
import tiny_training as tiny
import torch
import vllm_server
from command_lines import assert_refused
from datasets import Dataset
from peft import LoraConfig
from trl.generation.vllm_generation import VLLMGeneration

from rlrec.alternating import train_policy_stage
from rlrec.policies.loading import Policies
from rlrec.policies.tiny import TinyPolicy
from rlrec.ppo import vllm


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def server(monkeypatch):
    """Its model has other weights than the policy, until it is sent the policy's."""
    vllm_server.stand_in(monkeypatch)
    model = tiny.language_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    with vllm_server.VLLMServer(model) as server:
        yield server


def options(server) -> dict:
    return {
        "use_vllm": True,
        "vllm_mode": "server",
        "vllm_server_base_url": server.url,
        "vllm_group_port": free_port(),
        "temperature": 0.8,
    }


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


@pytest.mark.parametrize("lora", [False, True])
def test_samples_come_from_the_policy_as_it_is(server, tmp_path, lora):
    """Importance ratios of 1 say that the server had the trained weights, adapter merged, at every rollout."""
    trainer = tiny.trainer(tmp_path, lora=lora, max_steps=6, num_generations=2, **options(server))
    before = tiny.parameters(trainer.model)
    trainer.train()
    assert len(server.updates) == 3  # a rollout for two steps
    assert [len(request["prompt"]) for request in server.requests] == [4] * 3
    assert {request["n"] for request in server.requests} == {2}
    assert {request["temperature"] for request in server.requests} == {0.8}
    assert max(logged(trainer, "sampling/sampling_logp_difference/max")) < 1e-4
    for bound in ("min", "mean", "max"):
        assert logged(trainer, f"sampling/importance_sampling_ratio/{bound}") == pytest.approx([1] * 3, abs=1e-3)
    first, last = server.updates[0], server.updates[-1]
    assert any(not torch.equal(first[name], last[name]) for name in first)  # which training had moved between

    after = tiny.parameters(trainer.model)
    frozen = [name for name, parameter in trainer.model.named_parameters() if not parameter.requires_grad]
    assert bool(frozen) == lora
    for name in frozen:  # merging and unmerging, three times and once for their shapes, leaves the base as it was
        torch.testing.assert_close(after[name], before[name], atol=1e-6, rtol=0)
    trainer.vllm_generation.sync_weights()
    plain = trainer.model.merge_and_unload() if lora else trainer._causal_lm()
    expected = {name: p for name, p in plain.named_parameters() if "value_head" not in name}
    assert expected.keys() == server.updates[-1].keys()
    for name, parameter in expected.items():
        torch.testing.assert_close(server.updates[-1][name], parameter.detach(), atol=1e-6, rtol=0)
    vllm.leave_server(trainer.vllm_generation)


def test_the_value_head_stays_here(server, tmp_path):
    trainer = tiny.trainer(tmp_path, lora=True, **options(server))
    everything = {name for name, _ in VLLMGeneration._iter_named_params(trainer.vllm_generation)}
    assert {name for name in everything if "value_head" in name} == {"value_head.weight", "value_head.bias"}
    sent = {name for name, _ in trainer.vllm_generation._iter_named_params()}
    assert sent == everything - {"value_head.weight", "value_head.bias"}
    del trainer.vllm_generation._iter_named_params  # what a server says to a value head
    with pytest.raises(Exception, match=r"There is no parameter value_head.bias, value_head.weight"):
        trainer.vllm_generation.sync_weights()
    vllm.leave_server(trainer.vllm_generation)


def test_one_stage_after_another(server, tmp_path):
    """Two trainers in one program send their weights through the same port."""
    lora = LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    policies, settings, adapter = Policies(tiny.language_model, tiny.tokenizer(), lora), options(server), None
    rows = [{"prompt": text, "user_id": f"u{i}", "item_id": "i"} for i, text in enumerate(["a b", "c", "d e f"] * 8)]
    for stage in ("lc", "ic"):
        finished = train_policy_stage(
            tmp_path / stage,
            load_policy=lambda adapter=adapter: policies.load(adapter),
            tokenizer=policies.tokenizer,
            dataset=Dataset.from_list(rows),
            make_rewards=lambda policy: [tiny.share_of_e],
            config=tiny.config(tmp_path, max_steps=-1, num_iterations=1, **settings),
            num_train_epochs=1,
        )
        adapter = finished.adapter
        assert len(finished.explanations()) == 24
    assert server.groups == 2
    assert len(server.updates) == len(server.requests) == 6


def test_a_restricted_policy_is_refused(server, tmp_path):
    model = TinyPolicy(tiny.language_model().config)
    with pytest.raises(ValueError, match="use_vllm cannot sample from a TinyPolicy: its forward restricts"):
        tiny.trainer(tmp_path, model=model, **options(server))
    assert server.groups == 0


@pytest.mark.parametrize(
    ("model", "soft_prompt", "sentence"),
    [
        ("tiny", False, "use_vllm cannot serve the embedded policy 'tiny'"),
        ("some/model", True, "set soft_prompt to false, or leave use_vllm out"),
        ("some/model", False, r"use_vllm needs vLLM in this environment.*: install rlrec\[vllm\]"),
    ],
)
def test_settings_are_refused_before_anything_is_loaded(monkeypatch, model, soft_prompt, sentence):
    monkeypatch.setattr(vllm, "is_vllm_available", lambda: False)
    with pytest.raises(ValueError, match=sentence):
        vllm.check_command(tiny.config("out", use_vllm=True), model, soft_prompt)
    vllm.check_command(tiny.config("out"), model, soft_prompt)


def test_a_recipe_refuses_the_embedded_policy(monkeypatch, capsys, tmp_path):
    error = assert_refused(
        monkeypatch, capsys, "--config", "expctr/smoke", "--use_vllm", "true", "--output_dir", tmp_path / "run"
    )
    assert "use_vllm cannot serve the embedded policy 'tiny'" in error
    assert not (tmp_path / "run").exists()


def test_recpies_loss_takes_no_importance_sampling():
    with pytest.raises(ValueError, match="vllm_importance_sampling_correction to False"):
        tiny.config("out", use_vllm=True, loss_type="recpie")
    tiny.config("out", use_vllm=True, loss_type="recpie", vllm_importance_sampling_correction=False)
