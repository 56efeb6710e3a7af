"""One frozen base in memory: the policy's, its reference's, its critic's, the LC scorer's and the encoder's."""

from pathlib import Path

import pytest
import torch
import yaml
from one_base import storages, tables_in_memory

from reward_models import FirstTokenScorer, resolve_reward
from rlrec.arguments import DataArguments, PolicyArguments, parse_arguments
from rlrec.expctr import ExpCTRArguments
from rlrec.expctr.run import ExpCTRRun
from rlrec.ppo import PPOConfig, PPOTrainer

SMOKE = Path(__file__).parents[2] / "recipes" / "configs" / "expctr" / "smoke.yaml"


@pytest.fixture
def run(tmp_path):
    config = tmp_path / "run.yaml"
    settings = yaml.safe_load(SMOKE.read_text()) | {"num_users": 60, "num_samples": 300, "template_steps": 5}
    settings |= {"warmup_steps_copy": 2, "output_dir": str(tmp_path / "run"), "max_steps": 1, "save_strategy": "no"}
    config.write_text(yaml.safe_dump(settings))
    kinds = (ExpCTRArguments, DataArguments, PolicyArguments, PPOConfig)
    return ExpCTRRun(
        *parse_arguments(kinds, "expctr/smoke", ["--config", str(config)]), resolve_reward, FirstTokenScorer
    )


def test_policy_reference_critic_scorer_and_encoder_share_one_base(run, monkeypatch):
    """Counted while the rewards of a stage with LC and IC at once are asked."""
    seen = {}

    def look(trainer, *arguments):
        lc, ic = trainer.reward_funcs
        names = {"policy": trainer.model, "LC scorer": lc.scorer.model, "encoder": ic.encoder.model}
        adapter = {n for n, _ in trainer.model.named_parameters() if "lora_" in n or "value_head" in n}
        assert adapter
        seen["base"] = [p for n, p in trainer.model.named_parameters() if n not in adapter]
        seen["others"] = {name: storages(model.parameters()) for name, model in names.items()}
        seen["reference"] = trainer.ref_model
        embeddings = trainer.model.get_input_embeddings().weight
        seen["embeddings"] = storages([embeddings])
        seen["in memory"] = tables_in_memory(embeddings.shape)
        return calculate(trainer, *arguments)

    shape = run.policies.load_base().get_input_embeddings().weight.shape
    before = tables_in_memory(shape)  # what other tests hold
    store, written = run.untuned_explanations(), run.explain("icl")
    recommender = run.fit_recommender(store, written)  # the encoder has read them, with a base of its own
    assert len(tables_in_memory(shape) - before) == 1

    calculate = PPOTrainer._calculate_rewards
    monkeypatch.setattr(PPOTrainer, "_calculate_rewards", look)
    run.train("both", ["lc", "ic"], 1, recommender=recommender, store=store)
    base = storages(seen["base"])
    assert len(base) == len(seen["base"])  # no two weights share one either
    assert seen["reference"] is None  # the adapter off is the reference
    for name, theirs in seen["others"].items():
        assert base <= theirs, name
        assert theirs == seen["others"]["policy"], name
    assert seen["in memory"] - before == seen["embeddings"]


def test_the_encoder_gives_the_same_vectors_in_a_stage(run):
    """An adapter that changes the policy changes nothing for the encoder that reads its base."""
    policy = run.policies.load()
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    texts = ["I liked the drama.", "No.", "They will like it."]
    assert torch.equal(run.stage_encoder(policy).encode(texts), run.encoder.encode(texts))
    assert any(parameter.requires_grad for parameter in policy.parameters())


def test_an_encoder_with_a_base_of_its_own_where_weights_are_split(run, monkeypatch):
    policy = run.policies.load()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert run.stage_encoder(policy) is run.encoder
    assert not storages(run.encoder.model.parameters()) & storages(policy.parameters())
