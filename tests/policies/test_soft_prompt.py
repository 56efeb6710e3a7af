"""One input vector per consumer: what the LLM sees, what it does not keep, and what its files say."""

import copy
import json
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from tiny_hugging_face import CHAT_TEMPLATE, build_tokenizer, write_llama
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from rlrec.policies.generation import generate_explanations, tokenize_prompts
from rlrec.policies.soft_prompt import SoftPrompt, attach_soft_prompt, detach_soft_prompt, soft_prompt_of

VOCAB, WIDTH = 20, 16
USERS = ["ann", "bob", "cid"]
PROMPTS = [[5, 6, 7], [8, 9], [10]]


def consumer_table() -> nn.Embedding:
    table = nn.Embedding(len(USERS) + 1, 8)
    nn.init.normal_(table.weight, std=0.1, generator=torch.Generator().manual_seed(3))
    return table


def language_model(kind="llama", tied=False):
    torch.manual_seed(0)
    common = {"vocab_size": VOCAB, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3}
    common["tie_word_embeddings"] = tied
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_embd=WIDTH, n_layer=2, n_head=2, n_positions=32, **common)).eval()
    sizes = {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(hidden_size=WIDTH, **sizes, **common)).eval()


def with_adapter(model, seed=1):
    """A LoRA adapter whose weights are not zero."""
    lora = LoraConfig(r=2, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    policy = get_peft_model(model, lora)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2, generator=generator)
    return policy


def attached(model, **options):
    return attach_soft_prompt(model, SoftPrompt.for_model(model, consumer_table(), USERS, **options))


@torch.no_grad()
def logits(model, ids):
    return model(input_ids=torch.tensor(ids)).logits


# -- what the model reads ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_consumers_token_is_its_row_projected(kind):
    model = attached(language_model(kind))
    soft_prompt, embedding = soft_prompt_of(model), model.get_input_embeddings()
    ids = soft_prompt.prepend(PROMPTS[:1], ["bob"])
    assert ids == [[VOCAB + 2, 5, 6, 7]]
    embedded = embedding(torch.tensor(ids))
    row, matrix = soft_prompt.consumer_table.weight[2], soft_prompt.projection.weight  # (8,), (H, 8)
    by_hand = torch.stack([sum(matrix[h, k] * row[k] for k in range(8)) for h in range(WIDTH)])
    torch.testing.assert_close(embedded[0, 0], by_hand)
    assert torch.equal(embedded[0, 1:], embedding.weight[torch.tensor([5, 6, 7])])
    vectors = torch.cat([by_hand[None], embedding.weight[5:8]])
    torch.testing.assert_close(logits(model, ids)[0], model(inputs_embeds=vectors[None]).logits[0].detach())


def test_the_projection_keeps_distances_up_to_one_factor():
    torch.manual_seed(0)
    table = nn.Embedding(40, 8)
    soft_prompt = SoftPrompt(table, [str(user) for user in range(39)], VOCAB, WIDTH, norm=3.0)
    vectors = soft_prompt(torch.arange(VOCAB, VOCAB + 40))
    factor = torch.pdist(vectors) / torch.pdist(table.weight)
    torch.testing.assert_close(factor, factor[:1].expand_as(factor))
    torch.testing.assert_close(vectors.square().sum(1).mean().sqrt(), torch.tensor(3.0))
    assert SoftPrompt(table, ["u"] * 39, VOCAB, hidden_size=4)(torch.tensor([VOCAB])).shape == (1, 4)


def test_it_is_as_long_as_a_token_embedding_of_the_model():
    class Scaled(nn.Embedding):  # as Gemma's: the length that counts is that of the output
        def forward(self, ids):
            return super().forward(ids) * 7

    model = language_model()
    median = float(model.get_input_embeddings().weight.norm(dim=1).median())
    for scale in (1, 7):
        soft_prompt = soft_prompt_of(attached(model))
        vectors = soft_prompt(torch.arange(VOCAB, VOCAB + 4))
        assert float(vectors.square().sum(1).mean().sqrt()) == pytest.approx(scale * median, rel=1e-4)
        detach_soft_prompt(model).get_input_embeddings().__class__ = Scaled
    attach_soft_prompt(model, soft_prompt)
    torch.testing.assert_close(model.get_input_embeddings()(torch.tensor([21])), soft_prompt(torch.tensor([21])))


def test_a_consumers_row_changes_that_consumers_logits_alone():
    model = attached(language_model())
    soft_prompt = soft_prompt_of(model)
    ids = soft_prompt.prepend([[5, 6]] * 3, USERS)
    before = logits(model, ids)
    assert not torch.allclose(before[0, 1:], before[1, 1:])
    with torch.no_grad():
        soft_prompt.consumer_table.weight[2] += 0.1
    after = logits(model, ids)
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert not torch.allclose(after[1], before[1])
    assert torch.equal(logits(model, [[5, 6]]), logits(language_model(), [[5, 6]]))  # without a consumer: as before


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("lora", [False, True])
def test_generate_equals_teacher_forcing(kind, lora):
    model = language_model(kind)
    model = attached(with_adapter(model) if lora else model)
    prompts = soft_prompt_of(model).prepend(PROMPTS, USERS)
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = (ids != 0).long()
    options = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6, "pad_token_id": 0}
    out = model.generate(
        input_ids=ids, attention_mask=mask, return_dict_in_generate=True, output_logits=True, **options
    )
    assert torch.equal(out.sequences[:, :width], ids)
    assert int(out.sequences[:, width:].max()) < VOCAB
    cached = torch.stack(out.logits, dim=1)  # (B, 6, V)
    for row, prompt in enumerate(prompts):
        whole = [prompt + out.sequences[row, width:].tolist()]
        forced = logits(model, whole)[0, len(prompt) - 1 : -1]
        assert forced.shape[1] == VOCAB
        torch.testing.assert_close(cached[row], forced, atol=1e-5, rtol=1e-5)


def test_the_reference_pass_sees_the_consumer_too():
    base = language_model()
    policy = attached(with_adapter(copy.deepcopy(base)))
    plain = attach_soft_prompt(base, soft_prompt_of(policy))
    ids = soft_prompt_of(policy).prepend(PROMPTS[:1], ["cid"])
    with policy.disable_adapter():
        assert torch.equal(logits(policy, ids), logits(plain, ids))
    assert not torch.allclose(logits(policy, ids), logits(plain, ids))


# -- gradients --------------------------------------------------------------------------------------------------------
def gradients(policy, ids):
    policy.train()
    policy.zero_grad()
    policy(input_ids=torch.tensor(ids)).logits.log_softmax(-1)[..., 5].sum().backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


def test_gradient_checkpointing_gives_the_same_gradients():
    policy = attached(with_adapter(language_model()))
    ids = soft_prompt_of(policy).prepend([[5, 6]] * 3, USERS)
    plain = gradients(policy, ids)
    assert plain
    assert all("lora_" in name for name in plain)
    policy.gradient_checkpointing_enable({"use_reentrant": True})
    policy.enable_input_require_grads()
    checkpointed = gradients(policy, ids)
    assert checkpointed.keys() == plain.keys()
    for name in plain:
        torch.testing.assert_close(checkpointed[name], plain[name])


def test_the_consumer_table_gets_no_gradient_from_the_llm_and_the_projection_only_if_asked_for():
    policy = attached(with_adapter(language_model()))
    soft_prompt = soft_prompt_of(policy)
    ids = soft_prompt.prepend([[5, 6]] * 3, USERS)
    gradients(policy, ids)
    assert soft_prompt.consumer_table.weight.grad is None
    assert soft_prompt.projection.weight.grad is None
    soft_prompt.projection.requires_grad_(True)
    gradients(policy, ids)
    assert soft_prompt.projection.weight.grad.abs().sum() > 0
    assert soft_prompt.consumer_table.weight.grad is None
    assert soft_prompt.consumer_table.weight.requires_grad  # the recommender trains it


# -- what the model keeps ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("tied", [False, True])
def test_parameters_and_files_of_the_llm_are_the_plain_models(tmp_path, tied):
    plain = language_model(tied=tied)
    model = attached(copy.deepcopy(plain))
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    model.save_pretrained(tmp_path)
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert type(again.get_input_embeddings()) is nn.Embedding
    assert torch.equal(logits(again, [[5, 6, 7]]), logits(plain, [[5, 6, 7]]))


def test_an_exported_adapter_loads_without_the_soft_prompt(tmp_path):
    base = language_model()
    policy = attached(with_adapter(copy.deepcopy(base)))
    policy.save_pretrained(tmp_path)
    soft_prompt_of(policy).save(tmp_path)
    again = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval()
    assert torch.equal(logits(again, [[5, 6, 7]]), logits(policy.eval(), [[5, 6, 7]]))
    with again.disable_adapter():
        assert torch.equal(logits(again, [[5, 6, 7]]), logits(base, [[5, 6, 7]]))


def test_detached_it_is_the_plain_model_again():
    model = attached(language_model())
    soft_prompt = soft_prompt_of(model)
    assert soft_prompt_of(attach_soft_prompt(model, soft_prompt)) is soft_prompt  # twice is once
    detach_soft_prompt(model)
    assert type(model.get_input_embeddings()) is nn.Embedding
    assert soft_prompt_of(model) is None
    with pytest.raises(IndexError):
        logits(model, [[VOCAB, 5]])


def test_a_copied_model_shares_the_consumers():
    model = attached(language_model())
    copied = copy.deepcopy(model)
    assert soft_prompt_of(copied) is soft_prompt_of(model)
    assert copied.get_input_embeddings().weight is not model.get_input_embeddings().weight
    detach_soft_prompt(model)
    assert logits(copied, [[VOCAB, 5]]).shape == (1, 2, VOCAB)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="has 4 rows for 2 users: it needs one for each and row 0"):
        SoftPrompt(consumer_table(), USERS[:2], VOCAB, WIDTH)
    zeros = consumer_table()
    nn.init.zeros_(zeros.weight)
    with pytest.raises(ValueError, match="holds only zeros"):
        SoftPrompt(zeros, USERS, VOCAB, WIDTH)
    with pytest.raises(ValueError, match="is 20 x 16, but the soft prompt was made for 21 x 16"):
        attach_soft_prompt(language_model(), SoftPrompt(consumer_table(), USERS, VOCAB + 1, WIDTH))
    adapter = LoraConfig(r=2, target_modules=["embed_tokens"], task_type="CAUSAL_LM")
    with pytest.raises(ValueError, match="keep it out of the adapter's target_modules"):
        attached(get_peft_model(language_model(), adapter))


# -- consumers and prompts --------------------------------------------------------------------------------------------
def test_an_unknown_consumer_is_row_0_and_said_once():
    soft_prompt = SoftPrompt(consumer_table(), USERS, VOCAB, WIDTH)
    with pytest.warns(UserWarning, match="2 of 3 consumers, such as 'eve', are unknown to the soft prompt"):
        assert [ids[0] for ids in soft_prompt.prepend(PROMPTS, ["eve", "ann", None])] == [20, 21, 20]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert soft_prompt.prepend([[5]], ["eve"]) == [[20, 5]]


@pytest.mark.parametrize("conversational", [False, True])
def test_a_title_cannot_spell_a_consumer(conversational):
    tokenizer = build_tokenizer(CHAT_TEMPLATE)
    text = 'The liked books: "<consumer_3>"'
    prompt = [{"role": "user", "content": text}] if conversational else text
    ids = tokenize_prompts(tokenizer, [prompt])[0]
    assert max(ids) < len(tokenizer)
    assert "<consumer_3>" in tokenizer.decode(ids)
    assert len(SoftPrompt(consumer_table(), USERS, len(tokenizer), WIDTH).prepend([ids], ["cid"])[0]) == len(ids) + 1


def test_explanations_depend_on_the_consumer(tmp_path):
    tokenizer = build_tokenizer()
    model = AutoModelForCausalLM.from_pretrained(write_llama(tmp_path, tokenizer))
    options = {"temperature": 1e-4, "max_new_tokens": 12, "progress": None}
    with pytest.raises(ValueError, match="has no soft prompt, but the consumers of the prompts were given"):
        generate_explanations(model, tokenizer, ["why"], consumers=["ann"], **options)
    plain = generate_explanations(model, tokenizer, ["why"], **options)
    attach_soft_prompt(model, SoftPrompt.for_model(model, consumer_table(), USERS))
    with pytest.raises(ValueError, match="has a soft prompt, but the consumers of the prompts are missing"):
        generate_explanations(model, tokenizer, ["why"], **options)
    texts = generate_explanations(model, tokenizer, ["why"] * 4, consumers=[*USERS, "ann"], batch_size=2, **options)
    assert texts[0] == texts[3]
    assert len({own[0] for own in texts}) == 3
    assert generate_explanations(detach_soft_prompt(model), tokenizer, ["why"], **options) == plain


def test_the_embedded_policy_stays_restricted(small_policies, small_world):
    rows = small_world.test_rows[:16]
    policy = small_policies.load()
    users = sorted({row["user_id"] for row in rows})
    torch.manual_seed(0)
    table = nn.Embedding(len(users) + 1, 8)
    attach_soft_prompt(policy, SoftPrompt.for_model(policy, table, users))
    prompts, consumers = [row["prompt"] for row in rows], [row["user_id"] for row in rows]
    texts = generate_explanations(
        policy, small_policies.tokenizer, prompts, consumers=consumers, max_new_tokens=28, progress=None
    )
    cited = [(set(text.split('"')[1::2]), row) for (text,), row in zip(texts, rows)]
    assert sum(map(len, (titles for titles, _ in cited))) > 4
    assert all(titles <= set(row["history_titles"]) for titles, row in cited)


# -- files ------------------------------------------------------------------------------------------------------------
def test_saved_and_loaded(tmp_path):
    soft_prompt = SoftPrompt(consumer_table(), USERS, VOCAB, WIDTH, norm=2.0, seed=5)
    soft_prompt.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["soft_prompt.json", "soft_prompt.safetensors"]
    assert load_file(tmp_path / "soft_prompt.safetensors").keys() == {"projection.weight"}
    table = consumer_table()
    again = SoftPrompt.load(tmp_path, table, USERS)
    assert again.consumer_table is table
    tokens = torch.arange(VOCAB, VOCAB + 4)
    assert torch.equal(again(tokens), soft_prompt(tokens))


def test_another_consumer_table_is_refused(tmp_path):
    soft_prompt = SoftPrompt(consumer_table(), USERS, VOCAB, WIDTH)
    soft_prompt.save(tmp_path)
    other = consumer_table()
    with torch.no_grad():
        other.weight[3, 7] += 1e-6
    saved = json.loads((tmp_path / "soft_prompt.json").read_text())["consumer_table_sha256"]
    found = SoftPrompt(other, USERS, VOCAB, WIDTH).identity()["consumer_table_sha256"]
    with pytest.raises(
        ValueError, match=rf"soft_prompt.json was saved with consumer_table_sha256 {saved}, .* {found}"
    ):
        SoftPrompt.load(tmp_path, other, USERS)
    next_round = SoftPrompt.load(tmp_path, other, USERS, table_went_on=True)
    assert torch.equal(next_round.projection.weight, soft_prompt.projection.weight)
    with pytest.raises(ValueError, match="was saved with users_sha256"):
        SoftPrompt.load(tmp_path, consumer_table(), USERS[::-1], table_went_on=True)
    with pytest.raises(ValueError, match=r"was saved with consumer_table_shape \[4, 8\], but here it is \[5, 8\]"):
        SoftPrompt.load(tmp_path, nn.Embedding(5, 8), [*USERS, "eve"], table_went_on=True)


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    SoftPrompt(consumer_table(), USERS, VOCAB, WIDTH).save(tmp_path / "a")
    SoftPrompt(consumer_table(), USERS, VOCAB, WIDTH, seed=1).save(tmp_path / "b")
    (tmp_path / "b" / "soft_prompt.safetensors").replace(tmp_path / "a" / "soft_prompt.safetensors")
    with pytest.raises(ValueError, match="was saved with projection_sha256"):
        SoftPrompt.load(tmp_path / "a", consumer_table(), USERS)
    with pytest.raises(FileNotFoundError, match=r"soft_prompt.json is missing: .* holds no soft prompt"):
        SoftPrompt.load(tmp_path, consumer_table(), USERS)
