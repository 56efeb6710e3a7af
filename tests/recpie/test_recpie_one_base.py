"""One frozen base in memory while RecPIE's policy is trained, also where the text encoder is that base."""

import pytest
import torch
from one_base import storages, tables_in_memory

from reward_models import resolve_reward
from rlrec.arguments import DataArguments, PolicyArguments, parse_arguments
from rlrec.ppo import PPOConfig, PPOTrainer
from rlrec.recpie import RecPIEArguments
from rlrec.recpie.run import RecPIERun

SETTINGS = ["--warmup_steps_copy", "0", "--template_steps", "5", "--num_users", "24", "--num_items", "30"]
SETTINGS += ["--interactions_per_user", "10", "--history_length", "4", "--per_device_train_batch_size", "16"]
SETTINGS += ["--recommender_epochs", "1", "--max_steps", "1", "--save_strategy", "no"]


@pytest.mark.parametrize("encoder", ["policy", "policy_words"])
def test_policy_and_encoder_share_one_base(encoder, tmp_path, monkeypatch):
    """Counted while the reward of a stage whose policy has a soft prompt is asked; the vectors are those of before."""
    kinds = (RecPIEArguments, DataArguments, PolicyArguments, PPOConfig)
    folder = ["--output_dir", str(tmp_path), "--encoder", encoder]
    run = RecPIERun(*parse_arguments(kinds, "recpie/smoke", [*SETTINGS, *folder]), resolve_reward)
    shape = run.policies.load_base().get_input_embeddings().weight.shape
    before, seen = tables_in_memory(shape), {}  # what other tests hold
    texts = ["I liked the drama.", "No.", "They will like it."]

    def look(trainer, *arguments):
        reward, embeddings = trainer.reward_funcs[0], trainer.model.get_input_embeddings().weight
        seen["soft prompt"] = trainer._causal_lm().soft_prompt
        seen["encoder"] = reward.encoder.encode(texts)
        seen["in memory"], seen["policy's"] = tables_in_memory(shape) - before, storages([embeddings])
        return calculate(trainer, *arguments)

    calculate = PPOTrainer._calculate_rewards
    monkeypatch.setattr(PPOTrainer, "_calculate_rewards", look)
    explanations = run.begin(run.arguments.variant)
    run.fit_recommender(explanations)  # the encoder has read them, with a base of its own
    assert len(tables_in_memory(shape) - before) == 1
    run.train_policy(explanations)
    assert seen["soft prompt"] is not None
    assert seen["in memory"] == seen["policy's"]
    assert torch.equal(seen["encoder"], run.encoder.encode(texts))
