"""PPOTrainer on a real, tiny Llama: it learns, its numbers agree with plain passes, and bad input stops it clearly."""

import pytest
import tiny_training as tiny
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, TrainerCallback

from rlrec.ppo import PPOTrainer
from rlrec.ppo.rewards import RewardFailure

NAN = float("nan")


class Rollouts(TrainerCallback):
    """Keeps what `on_rollout` is given."""

    def __init__(self):
        self.seen = []

    def on_rollout(self, args, state, control, inputs, completions, rewards):
        self.seen.append((inputs, completions, rewards))


def rollout(trainer, count=8):
    """One rollout of the dataset's first rows, without training."""
    trainer.model.train()
    return trainer._generate_and_score_completions([trainer.train_dataset[row] for row in range(count)])


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


# -- learning ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("lora", [False, True])
def test_learns_to_emit_a_token(tmp_path, lora):
    trainer = tiny.trainer(
        tmp_path, lora=lora, max_steps=60, per_device_train_batch_size=32, beta=0.01, learning_rate=2e-2
    )
    before = tiny.parameters(trainer.model)
    trainer.train()
    rewards = logged(trainer, "reward")
    assert rewards[0] < 0.15
    assert sum(rewards[-4:]) / 4 > 0.5
    after = tiny.parameters(trainer.model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert moved == trained
    assert any("value_head" in name for name in moved)


def test_metrics_are_logged_and_finite(tmp_path):
    trainer = tiny.trainer(tmp_path, normalize_rewards=True, reward_clip=1.0)
    trainer.train()
    for name in (
        "objective/kl", "objective/score", "objective/rlhf_reward", "policy/approx_kl", "loss/policy", "loss/value",
        "value/mean", "value/clipfrac", "value/explained_variance", "entropy", "clip_ratio/region_mean",
    ):  # fmt: skip
        assert logged(trainer, name), name
        assert all(abs(value) < 1e3 for value in logged(trainer, name)), name
    assert not logged(trainer, "frac_reward_zero_std")  # of no meaning for one completion per prompt


def test_gradient_checkpointing_changes_nothing(tmp_path):
    weights = []
    for checkpointing in (False, True):
        trainer = tiny.trainer(tmp_path, lora=True, max_steps=2, gradient_checkpointing=checkpointing)
        trainer.train()
        weights.append(tiny.parameters(trainer.model))
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-4, atol=1e-6)


def test_gradient_accumulation_matches_one_large_batch(tmp_path):
    weights = []
    for size, steps in ((8, 1), (4, 2)):
        trainer = tiny.trainer(
            tmp_path,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=steps,
            max_steps=1,
            num_iterations=1,
            loss_type="grpo",
            vf_coef=0.0,
            prompts=["a b c d"] * 8,
        )
        trainer.train()
        weights.append(tiny.parameters(trainer.model))
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-3, atol=1e-4)


def test_recpie_loss_trains_without_critic(tmp_path):
    trainer = tiny.trainer(tmp_path, lora=True, loss_type="recpie", max_steps=3)
    before = tiny.parameters(trainer.model)
    trainer.train()
    assert logged(trainer, "recpie/frac_zero_grad")[0] == 0  # the policy starts at the reference: ratio 1 everywhere
    assert not any("value_head" in name for name in before)
    assert any(not torch.equal(before[name], value) for name, value in tiny.parameters(trainer.model).items())


def test_evaluation_computes_a_loss(tmp_path):
    trainer = tiny.trainer(tmp_path, max_steps=1)
    trainer.train()
    metrics = trainer.evaluate(trainer.train_dataset)
    assert abs(metrics["eval_loss"]) < 10
    assert "eval_value/mean" in metrics


# -- log-probabilities and values -------------------------------------------------------------------------------------
@pytest.mark.parametrize("lora", [False, True])
def test_generation_and_teacher_forcing_agree(tmp_path, lora):
    outputs = []
    for from_generation in (True, False):
        trainer = tiny.trainer(tmp_path, lora=lora, logprobs_from_generation=from_generation, temperature=0.7)
        torch.nn.init.normal_(trainer._causal_lm().value_head.weight, generator=torch.Generator().manual_seed(0))
        torch.manual_seed(3)
        outputs.append(rollout(trainer))
    assert torch.equal(outputs[0]["completion_ids"], outputs[1]["completion_ids"])
    for name in ("old_per_token_logps", "old_values", "ref_per_token_logps", "advantages", "returns"):
        torch.testing.assert_close(outputs[0][name], outputs[1][name], rtol=1e-4, atol=1e-4)
    assert outputs[0]["old_values"].abs().max() > 0.1


def test_generation_is_recorded_by_default_only_where_it_is_exact(tmp_path):
    assert tiny.trainer(tmp_path)._records_generation
    assert not tiny.trainer(tmp_path, disable_dropout=False)._records_generation
    assert not tiny.trainer(tmp_path, bf16=True)._records_generation
    assert not tiny.trainer(tmp_path, model=tiny.language_model().to(torch.bfloat16))._records_generation


def plain_logps(trainer, output, model=None):
    """Log-probabilities of the sampled tokens by an ordinary forward pass of each row alone, without padding."""
    model = model or trainer._causal_lm()
    expected = torch.zeros(output["completion_ids"].shape)
    for row in range(len(expected)):
        prompt = output["prompt_ids"][row][output["prompt_mask"][row].bool()]
        completion = output["completion_ids"][row][output["completion_mask"][row].bool()]
        with torch.no_grad():
            logits = model(torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1 : -1]
        chosen = (logits / trainer.temperature).log_softmax(-1).gather(1, completion[:, None])[:, 0]
        expected[row, : len(completion)] = chosen
    return expected


@pytest.mark.parametrize("from_generation", [True, False])
def test_log_probabilities_equal_plain_forward_passes(tmp_path, from_generation):
    trainer = tiny.trainer(tmp_path, logprobs_from_generation=from_generation, temperature=1.3)
    output = rollout(trainer)
    torch.testing.assert_close(output["old_per_token_logps"], plain_logps(trainer, output), rtol=1e-4, atol=1e-5)


def test_absolute_positions_are_counted_as_generate_counts_them(tmp_path):
    """GPT-2 gives another answer when padding shifts its positions; rotary models do not."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=4 + len(tiny.WORDS), n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.2,
        pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    for from_generation in (True, False):
        trainer = tiny.trainer(tmp_path, model=model, logprobs_from_generation=from_generation)
        output = rollout(trainer)
        assert (output["prompt_mask"] == 0).any()
        expected = plain_logps(trainer, output)
        for name in ("old_per_token_logps", "ref_per_token_logps"):
            torch.testing.assert_close(output[name], expected, rtol=1e-4, atol=1e-4)


def test_padding_columns_of_a_chunk_are_not_computed(tmp_path):
    trainer = tiny.trainer(tmp_path, logprobs_from_generation=False)
    widths = []
    trainer._causal_lm().base_model.register_forward_hook(
        lambda module, arguments, output: widths.append(output.last_hidden_state.size(1))
    )
    ids = torch.tensor([[0, 0, 4, 5, 6, 0], [0, 0, 0, 7, 8, 0]])
    mask = (ids != 0).long()
    with torch.no_grad():
        logps, entropies, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, 3, compute_entropy=True
        )
        alone, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids[1:, 3:5], mask[1:, 3:5], 1)
    assert widths[0] <= 3  # columns 2, 3 and 4, cut to what the LM head needs
    assert logps.shape == entropies.shape == (2, 3)
    torch.testing.assert_close(logps[1, 1:2], alone[0])
    assert logps[1, 0] != 0 or mask[1, 3] == 0
    assert torch.equal(logps[:, 2], torch.zeros(2))


class Restricted(LlamaForCausalLM):
    """Writes no word that the context does not hold, in `generate` and elsewhere, as `restrict_logits` demands."""

    def allowed(self, input_ids):
        seen = torch.zeros(len(input_ids), self.config.vocab_size, dtype=torch.bool)
        seen.scatter_(1, input_ids, True)
        return seen & (torch.arange(self.config.vocab_size) != self.config.pad_token_id)

    def restrict_logits(self, logits, input_ids):
        return logits.masked_fill(~self.allowed(input_ids)[:, None], -torch.inf)

    def forward(self, input_ids=None, past_key_values=None, **kwargs):
        output = super().forward(input_ids=input_ids, past_key_values=past_key_values, **kwargs)
        if past_key_values is None or past_key_values.get_seq_length() == input_ids.size(1):
            self.prompt_allows = self.allowed(input_ids)
        output.logits = output.logits.masked_fill(~self.prompt_allows[:, None], -torch.inf)
        return output


@pytest.mark.parametrize(("lora", "from_generation"), [(False, True), (True, False)])
def test_restricted_policy(tmp_path, lora, from_generation):
    model = tiny.language_model(Restricted)
    trainer = tiny.trainer(
        tmp_path, model=model, lora=lora, logprobs_from_generation=from_generation, prompts=["a b e", "c e"] * 16
    )
    with torch.no_grad():  # away from the reference, so that the two can be told apart
        for name, parameter in trainer.model.named_parameters():
            if parameter.requires_grad and "value_head" not in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    output = rollout(trainer)
    for prompt, completion in zip(output["prompt_ids"], output["completion_ids"]):
        assert set(completion.tolist()) <= set(prompt.tolist()) | {0}
    policy = plain_logps(trainer, output)
    torch.testing.assert_close(output["old_per_token_logps"], policy, rtol=1e-4, atol=1e-5)
    reference = plain_logps(trainer, output, model=model)
    torch.testing.assert_close(output["ref_per_token_logps"], reference, rtol=1e-4, atol=1e-5)
    assert (policy - reference).abs().max() > 1e-3
    trainer.train()
    assert all(value == value and 0 <= value < 1.7 for value in logged(trainer, "entropy"))  # at most log 5
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())


# -- the reference policy ---------------------------------------------------------------------------------------------
def trained_adapter():
    model = get_peft_model(tiny.language_model(), LoraConfig(r=2, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    return model


@pytest.mark.parametrize("ref_policy", ["initial", "base"])
def test_reference_of_a_continued_adapter(tmp_path, ref_policy):
    trainer = tiny.trainer(tmp_path, model=trained_adapter(), ref_policy=ref_policy)
    assert ("ref" in trainer.model.peft_config) == (ref_policy == "initial")
    output = rollout(trainer)
    if ref_policy == "base":
        expected = plain_logps(trainer, output, model=tiny.language_model())
    else:
        expected = output["old_per_token_logps"]
    torch.testing.assert_close(output["ref_per_token_logps"], expected, rtol=1e-4, atol=1e-5)


def test_reference_of_a_model_in_memory_is_a_frozen_copy(tmp_path):
    trainer = tiny.trainer(tmp_path, max_steps=2)
    initial = tiny.parameters(tiny.language_model())
    trainer.train()
    frozen = trainer.accelerator.unwrap_model(trainer.ref_model)
    assert all(torch.equal(parameter, initial[name]) for name, parameter in frozen.named_parameters())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_a_frozen_policy_is_refused(tmp_path):
    with pytest.raises(ValueError, match="load its adapter with is_trainable=True"):
        tiny.trainer(tmp_path, model=trained_adapter().requires_grad_(False), ref_policy="base")


# -- rewards ----------------------------------------------------------------------------------------------------------
def test_reward_becomes_token_advantages(tmp_path):
    """With beta 0, gamma = lam = 1 and a critic at 0 every token's advantage is the completion's reward."""
    settings = {"beta": 0.0, "lam": 1.0, "whiten_advantages": False}
    first_word = lambda prompts, completions, **columns: [float(len(prompt)) for prompt in prompts]  # noqa: E731
    first_word.__name__ = "length"
    trainer = tiny.trainer(tmp_path, first_word, **settings)
    output = rollout(trainer, 4)
    rewards = torch.tensor([5.0, 3.0, 1.0, 15.0])  # characters of the four prompts
    torch.testing.assert_close(output["advantages"], rewards[:, None] * output["completion_mask"])
    normalized = tiny.trainer(tmp_path, first_word, normalize_rewards=True, reward_clip=0.5, **settings)
    output = rollout(normalized, 4)
    # mean 6, population std sqrt((1 + 9 + 25 + 81) / 4) = 5.385165
    expected = torch.tensor([-1 / 5.385165, -0.5, -0.5, 0.5])
    torch.testing.assert_close(output["advantages"], expected[:, None] * output["completion_mask"])


def test_group_baseline(tmp_path):
    numbers = lambda completions, **columns: [0.0, 1.0, 2.0, 6.0]  # noqa: E731
    numbers.__name__ = "numbers"
    trainer = tiny.trainer(
        tmp_path, numbers, baseline="group", num_generations=2, beta=0.0, lam=1.0, whiten_advantages=False
    )
    output = rollout(trainer, 4)
    expected = torch.tensor([-1.0, 1.0, -4.0, 4.0])
    torch.testing.assert_close(output["advantages"], expected[:, None] * output["completion_mask"])


def test_completions_without_reward_do_not_train(tmp_path):
    def sometimes(completions, **columns):
        return [None if row % 2 else float(row) for row in range(len(completions))]

    def never(completions, **columns):
        return [NAN] * len(completions)

    trainer = tiny.trainer(tmp_path, [sometimes, never])
    output = rollout(trainer)
    assert torch.equal(output["tool_mask"].any(dim=1), torch.tensor([True, False] * 4))
    assert output["num_items_in_batch"] == output["completion_mask"][::2].sum()
    for name in ("advantages", "returns", "old_values"):
        assert not output[name][1::2].any()
    assert output["completion_mask"][1::2].any()
    trainer.train()
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())


@pytest.mark.parametrize(
    ("rewards", "sentence"),
    [
        (lambda n: [1.0], "'bad' returned 1 rewards for 8 completions"),
        (lambda n: [float("inf")] * n, "'bad' returned inf for completion 0"),
        (lambda n: [None] * n, "gave a reward for any of the 8 completions of this rollout"),
        (lambda n: [NAN] * n, "gave a reward for any of the 8 completions of this rollout"),
        (lambda n: 1 / 0, "'bad' raised ZeroDivisionError: division by zero"),
    ],
)
def test_bad_rewards_stop_training(tmp_path, rewards, sentence):
    def bad(completions, **columns):
        return rewards(len(completions))

    with pytest.raises(RewardFailure, match=sentence):
        tiny.trainer(tmp_path, bad).train()


def test_on_rollout_gets_rows_completions_and_raw_rewards(tmp_path):
    def half(completions, user_id, **columns):
        return [None if user == "u1" else 0.5 for user in user_id]

    rollouts = Rollouts()
    trainer = tiny.trainer(
        tmp_path,
        [tiny.share_of_e, half],
        columns={"user_id": [f"u{row}" for row in range(32)]},
        callbacks=[rollouts],
        normalize_rewards=True,
        max_steps=4,
    )
    trainer.train()
    assert len(rollouts.seen) == 2  # two epochs over each rollout
    rows, completions, rewards = rollouts.seen[0]
    assert len(rows) == len(completions) == 8
    assert rewards.shape == (8, 2)
    assert all(isinstance(text, str) for text in completions)
    assert [reward != reward for reward in rewards[:, 1].tolist()] == [row["user_id"] == "u1" for row in rows]
    torch.testing.assert_close(rewards[:, 0], torch.tensor(tiny.share_of_e(completions)))
    trainer.evaluate(trainer.train_dataset)
    assert len(rollouts.seen) == 2  # evaluation is no rollout to learn from


# -- prompts ----------------------------------------------------------------------------------------------------------
def test_control_tokens_in_plain_prompts_are_text(tmp_path):
    tokenizer = tiny.tokenizer(bos=True)
    ids = tokenizer.convert_tokens_to_ids
    trainer = tiny.trainer(tmp_path, processing_class=tokenizer)
    (safe,), _, _ = trainer._tokenize_prompts(["a <eos> b"])
    assert safe == ids(["<bos>", "a", "<", "eos", ">", "b"])
    trainer.args.sanitize_control_tokens = False
    (acting,), _, _ = trainer._tokenize_prompts(["a <eos> b"])
    assert acting == ids(["<bos>", "a", "<eos>", "b"])


def test_control_tokens_in_conversations_are_text(tmp_path):
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<bos> {{ m['content'] }} <eos>{% endfor %}"
    ids = tokenizer.convert_tokens_to_ids
    trainer = tiny.trainer(tmp_path, processing_class=tokenizer)
    (safe,), _, _ = trainer._tokenize_prompts([[{"role": "user", "content": "a <eos> b"}]])
    assert safe == ids(["<bos>", "a", "<", "eos", ">", "b", "<eos>"])


def test_conversations_train_and_reach_on_rollout_as_text(tmp_path):
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<bos> {{ m['content'] }} {% endfor %}"
    rollouts = Rollouts()

    def reward(completions, **columns):
        return tiny.share_of_e([messages[0]["content"] for messages in completions])

    prompts = [[{"role": "user", "content": "a b"}]] * 8
    tiny.trainer(
        tmp_path, reward, prompts=prompts, processing_class=tokenizer, callbacks=[rollouts], max_steps=2
    ).train()
    assert all(isinstance(text, str) for text in rollouts.seen[0][1])


def test_conversations_need_a_chat_template(tmp_path):
    with pytest.raises(ValueError, match=r"the tokenizer '.*' has no chat template: give plain-text prompts"):
        tiny.trainer(tmp_path, prompts=[[{"role": "user", "content": "a"}]] * 8).train()


def test_empty_prompts_are_refused(tmp_path):
    with pytest.raises(ValueError, match="The prompt '' has no token"):
        tiny.trainer(tmp_path, prompts=[""] * 8).train()


def test_pairs_stay_adjacent(tmp_path):
    rollouts = Rollouts()
    columns = {"pair_id": [row // 2 for row in range(32)], "side": ["positive", "negative"] * 16}
    tiny.trainer(tmp_path, columns=columns, callbacks=[rollouts]).train()
    for rows, _, _ in rollouts.seen:
        assert [row["side"] for row in rows] == ["positive", "negative"] * 4
        assert all(first["pair_id"] == second["pair_id"] for first, second in zip(rows[::2], rows[1::2]))
    with pytest.raises(ValueError, match="Rows 0 and 1 must be a pair"):
        tiny.trainer(tmp_path, columns={"pair_id": list(range(32))}).train()


def test_other_arguments_are_refused(tmp_path):
    with pytest.raises(TypeError, match="args must be a PPOConfig, not a str"):
        PPOTrainer(tiny.language_model(), tiny.share_of_e, str(tmp_path))
    with pytest.raises(ValueError, match="logprobs_from_generation=True needs PPO's own loss"):
        tiny.trainer(tmp_path, loss_type="recpie", logprobs_from_generation=True)


def test_adapter_files_load_without_the_trainer(tmp_path):
    trainer = tiny.trainer(tmp_path, lora=True, max_steps=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    loaded = PeftModel.from_pretrained(tiny.language_model(), tmp_path / "saved")
    ids = torch.tensor([[4, 5, 6]])
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, trainer.model.eval()(ids).logits)
