"""PPO of a policy with a soft prompt, and which batches split a pair; both on two ranks: test_two_ranks.py."""

import copy

import pytest
import soft_prompt_training as program
import tiny_training as tiny
import torch
from peft import LoraConfig
from transformers import LlamaForCausalLM

from rlrec.policies.soft_prompt import soft_prompt_of
from rlrec.ppo import PPOTrainer


class Rollouts:
    """Keeps the trainer's rollout batches."""

    def __init__(self, trainer):
        self.batches, generate = [], trainer._generate_and_score_completions
        trainer._generate_and_score_completions = lambda rows: (
            self.batches.append((rows, generate(rows))) or (self.batches[-1][1])
        )


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_training_leaves_the_soft_prompt_as_it_was(tmp_path, lora, checkpointing):
    run = program.trainer(tmp_path, lora=lora, gradient_checkpointing=checkpointing)
    soft_prompt = soft_prompt_of(run.model)
    before, start = copy.deepcopy(soft_prompt.state_dict()), tiny.parameters(run.model)
    rollouts = Rollouts(run)
    run.train()
    for name, values in soft_prompt.state_dict().items():
        assert torch.equal(values, before[name]), name
    assert soft_prompt.consumer_table.weight.grad is None
    assert any(not torch.equal(start[name], values) for name, values in tiny.parameters(run.model).items())
    optimized = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert not optimized & {id(p) for p in soft_prompt.parameters()}
    vocab_size, known = soft_prompt.vocab_size, {user: row for row, user in enumerate(program.USERS, start=1)}
    for rows, batch in rollouts.batches:
        first = batch["prompt_ids"][batch["prompt_mask"].cumsum(1) == 1]
        assert (first - vocab_size).tolist() == [known[row["user_id"]] for row in rows]
        assert int(batch["completion_ids"].max()) < vocab_size
    logged = [entry["objective/kl"] for entry in run.state.log_history if "objective/kl" in entry]
    assert logged[0] == pytest.approx(0, abs=1e-4)  # the reference saw the consumers, too
    assert abs(logged[-1]) > 1e-3


@pytest.mark.parametrize("from_generation", [True, False])
def test_log_probabilities_equal_plain_forward_passes(tmp_path, from_generation):
    run = program.trainer(tmp_path, lora=True, logprobs_from_generation=from_generation, max_steps=1)
    rollouts = Rollouts(run)
    start = program.policy().eval()  # a fresh adapter is no change
    run.train()
    _, batch = rollouts.batches[0]
    for row in range(8):
        prompt = batch["prompt_ids"][row][batch["prompt_mask"][row].bool()]
        completion = batch["completion_ids"][row][batch["completion_mask"][row].bool()]
        with torch.no_grad():
            logits = start(input_ids=torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, completion[:, None])[:, 0]
        torch.testing.assert_close(batch["old_per_token_logps"][row, : len(completion)], expected, atol=1e-5, rtol=0)


def test_resumed_run_is_bitwise_equal_and_another_table_is_refused(tmp_path):
    whole = program.trainer(tmp_path / "whole", **tiny.RESUMABLE)
    whole.train()
    checkpoint = str(tmp_path / "whole" / "checkpoint-10")
    resumed = program.trainer(tmp_path / "resumed", **tiny.RESUMABLE)
    resumed.train(resume_from_checkpoint=checkpoint)
    expected, found = tiny.parameters(whole.model), tiny.parameters(resumed.model)
    assert all(torch.equal(found[name], values) for name, values in expected.items())
    other = program.trainer(tmp_path / "other", model=program.policy(seed=1), **tiny.RESUMABLE)
    with pytest.raises(ValueError, match=r"checkpoint-10/soft_prompt.json was saved with consumer_table_sha256"):
        other.train(resume_from_checkpoint=checkpoint)


def test_a_fully_fine_tuned_model_is_saved_as_a_plain_one(tmp_path):
    run = program.trainer(tmp_path, max_steps=2)
    run.train()
    run.save_model(str(tmp_path / "final"))
    again, report = LlamaForCausalLM.from_pretrained(tmp_path / "final", output_loading_info=True)
    assert not any(report.values())
    trained = dict(run._causal_lm().named_parameters())
    assert all(torch.equal(values, trained[name]) for name, values in again.named_parameters())
    assert (tmp_path / "final" / "soft_prompt.json").is_file()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"use_vllm": True}, "use_vllm cannot sample from a policy with a soft prompt"),
        ({"repetition_penalty": 1.1}, "a soft prompt's token has none: set it to 1"),
        ({"generation_kwargs": {"repetition_penalty": 1.1}}, "a soft prompt's token has none: set it to 1"),
        ({"ref_policy": "base"}, "loaded from the model's path and has no soft prompt"),
    ],
)
def test_what_would_lose_the_soft_prompt_is_refused(tmp_path, options, sentence):
    tiny.language_model().save_pretrained(tmp_path / "base")
    model = program.policy(model=LlamaForCausalLM.from_pretrained(tmp_path / "base"))
    with pytest.raises(ValueError, match=sentence):
        program.trainer(tmp_path, model=model, **options)


def test_a_rollout_function_is_refused():
    with pytest.raises(ValueError, match="rollout_func tokenizes prompts itself"):
        PPOTrainer(program.policy(), tiny.share_of_e, rollout_func=lambda prompts, trainer: {})


def test_an_adapter_on_the_embedding_is_refused(tmp_path, monkeypatch):
    lora = LoraConfig(r=2, target_modules=["embed_tokens", "q_proj"], task_type="CAUSAL_LM")
    monkeypatch.setattr(tiny, "LoraConfig", lambda **_: lora)
    with pytest.raises(ValueError, match="wrapped or replaced after its soft prompt was attached"):
        program.trainer(tmp_path, lora=True)


def test_rows_need_a_user_id(tmp_path):
    with pytest.raises(ValueError, match=r"every row needs the column 'user_id'; this one has \['prompt'\]"):
        program.trainer(tmp_path, columns={}).train()


# -- pairs ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("rows", "batch_size", "sentence"),
    [
        (32, 5, r"A rank samples 5 completions per rollout .* splits a pair: make it a multiple of 2"),
        (31, 4, "31 rows: pairs need an even number"),
    ],
)
def test_an_odd_number_of_rows_splits_a_pair(tmp_path, rows, batch_size, sentence):
    columns = {"pair_id": [row // 2 for row in range(rows)]}
    run = tiny.trainer(tmp_path, prompts=["a b"] * rows, columns=columns, per_device_train_batch_size=batch_size)
    with pytest.raises(ValueError, match=sentence):
        run.train()
