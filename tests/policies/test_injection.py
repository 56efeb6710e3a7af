"""Eqs. 9 and 10 against attention written by hand; generation, gradients and files of an injected LLM."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from tiny_hugging_face import CHAT_TEMPLATE, build_tokenizer
from tiny_injected import KINDS, VOCAB, WIDTH, TwoVectors, injected, language_model
from transformers import GPT2Config, GPT2LMHeadModel

from rlrec.policies.injection import PLACEHOLDER, InjectedLLM, encode_prompts, fingerprint

V = VOCAB  # the placeholder
IDS = torch.tensor([[1, V, V, 5, 6, 7], [0, 0, 1, V, 8, V]])  # the second is padded on the left
PLAIN = torch.tensor([[1, 5, 6]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]])
STATE = torch.tensor([[1.0, 0.5, -1.0], [0.2, -0.3, 2.0]])
BATCH = {"input_ids": IDS, "attention_mask": MASK, "features": {"state": STATE}}


def hooks(model) -> int:
    return sum(len(module._forward_hooks) for name, module in model.llm.named_modules() if name.endswith("_proj"))


# -- eqs. 9 and 10 ----------------------------------------------------------------------------------------------------
def test_a_placeholder_becomes_the_next_vector():
    model = injected(inject=False)
    table, vectors = model.llm.get_input_embeddings().weight, model.adapter(STATE)
    rows = [
        torch.stack([table[1], vectors[0, 0], vectors[0, 1], table[5], table[6], table[7]]),
        torch.stack([table[0], table[0], table[1], vectors[1, 0], table[8], vectors[1, 1]]),
    ]
    expected = model.llm(inputs_embeds=torch.stack(rows), attention_mask=MASK).logits
    assert torch.equal(model(**BATCH).logits, expected)


def by_hand(llm, embedded, query, key, value):
    """A Llama's logits (L, V) for one sequence (L, H), with a vector each added to Q, K and V of every layer."""
    config = llm.config
    heads, groups = config.num_attention_heads, config.num_key_value_heads
    size, length = config.hidden_size // heads, len(embedded)

    def norm(states, layer):
        return states / (states.square().mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * layer.weight

    def turned(states):  # rotary: pairs (i, i + size / 2) by position * theta^(-2i / size)
        angles = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(0, size, 2) / size)
        cos, sin = angles.cos(), angles.sin()
        first, second = states[..., : size // 2], states[..., size // 2 :]
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

    def split(states, count):
        return states.view(length, count, size).transpose(0, 1)

    states = embedded
    for layer in llm.model.layers:
        given, attention = norm(states, layer.input_layernorm), layer.self_attn
        q = turned(split(given @ attention.q_proj.weight.T + query, heads))
        k = turned(split(given @ attention.k_proj.weight.T + key, groups))
        v = split(given @ attention.v_proj.weight.T + value, groups)
        mixed = []
        for head in range(heads):
            group = head * groups // heads
            scores = q[head] @ k[group].T / size**0.5
            scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
            mixed.append(scores.softmax(-1) @ v[group])
        states = states + torch.cat(mixed, dim=-1) @ attention.o_proj.weight.T
        given, mlp = norm(states, layer.post_attention_layernorm), layer.mlp
        states = states + (F.silu(given @ mlp.gate_proj.weight.T) * (given @ mlp.up_proj.weight.T)) @ (
            mlp.down_proj.weight.T
        )
    return norm(states, llm.model.norm) @ llm.lm_head.weight.T


@pytest.mark.parametrize("kind", ["llama", "llama, grouped"])
def test_the_sum_is_added_to_q_k_and_v_of_every_layer(kind):
    model = injected(kind)
    vectors = model.adapter(STATE)
    table, total = model.llm.get_input_embeddings().weight, vectors.sum(1)[0]
    embedded = torch.stack([table[1], vectors[0, 0], vectors[0, 1], *table[5:8]])
    if kind == "llama":  # eq. 10 as it is printed
        assert not model.widths
        narrow = total
    else:
        assert list(model.widths) == ["key_value"]
        narrow = model.widths["key_value"].weight @ total
        heads = total.view(2, 2, 8)  # K's heads x the query heads of each
        torch.testing.assert_close(narrow, heads.mean(1).flatten())  # as it starts
    expected = by_hand(model.llm, embedded, total, narrow, narrow)
    logits = model(**BATCH).logits[0]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    weight = model.adapter.weight
    gradient, by_ours = (torch.autograd.grad(each[-1].log_softmax(-1)[5], weight)[0] for each in (expected, logits))
    torch.testing.assert_close(by_ours, gradient, atol=1e-4, rtol=1e-3)
    assert gradient.abs().max() > 0.01
    without = by_hand(model.llm, embedded, 0, 0, 0)
    assert not torch.allclose(expected, without, atol=1e-2)
    plain = InjectedLLM(model.llm, model.adapter, inject=False)
    torch.testing.assert_close(plain(**BATCH).logits[0], without, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_familys_projections_get_it_and_only_during_the_call(kind):
    model = injected(kind)
    before = model.llm(PLAIN).logits
    total = model.adapter(STATE).sum(1)
    seen = []

    def compare(name):
        def hook(module, given, output):
            added = output - F.linear(given[0], module.weight, module.bias)
            part = {"q_proj": "query", "k_proj": "key_value", "v_proj": "key_value"}[name]
            expected = model.widths[part](total) if part in model.widths else total
            seen.append(torch.allclose(added, expected[:, None].expand_as(added), atol=1e-5))

        return hook

    with model._adding(model.adapter(STATE)):  # looked at after the model's own hooks
        for name, module in model._projections():
            module.register_forward_hook(compare(name))
        model.llm(inputs_embeds=model._embed(IDS, model.adapter(STATE)), attention_mask=MASK)
    assert seen == [True] * 6  # three projections in two layers
    model = injected(kind)
    assert not torch.allclose(model(**BATCH).logits, InjectedLLM(model.llm, model.adapter, False)(**BATCH).logits)
    assert hooks(model) == 0
    assert torch.equal(model.llm(PLAIN).logits, before)


def test_qwen3_with_wide_queries():
    widths = injected("qwen3").widths
    assert {name: tuple(linear.weight.shape) for name, linear in widths.items()} == {"query": (64, WIDTH)}
    # 32 values are two heads of 16: the first two query heads get the first, the others the second
    first, second = torch.eye(32)[:16], torch.eye(32)[16:]
    assert torch.equal(widths["query"].weight, torch.cat((first, first, second, second)))


def test_without_injection_there_is_nothing_to_pay():
    model, counts = injected("llama, grouped", inject=False), []
    model.llm.model.register_forward_pre_hook(lambda module, given: counts.append(hooks(model)))
    model(**BATCH)
    model.generate(**BATCH, max_new_tokens=2)
    assert set(counts) == {0}
    assert not model.widths
    assert set(model.trained_state()) == {"adapter.weight", "adapter.bias"}


def test_a_failed_call_leaves_no_hook():
    model = injected()
    wrong = {**BATCH, "input_ids": IDS.masked_fill(IDS == 8, V)}
    for call in (model, model.generate):
        with pytest.raises(ValueError, match=r"Row 1 of the batch has 3 placeholders .* for 2 vectors"):
            call(**wrong)
    assert hooks(model) == 0


@pytest.mark.parametrize("inject", [True, False])
def test_other_families(inject):
    llm = GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=WIDTH, n_layer=1, n_head=2, n_positions=16)).eval()
    if inject:
        with pytest.raises(ValueError, match=r"a GPT2LMHeadModel .* take a model of Llama, Mistral, Qwen2, Qwen3, or"):
            InjectedLLM(llm, TwoVectors())
    else:
        model = InjectedLLM(llm, TwoVectors(), inject=False)
        assert model(**BATCH).logits.shape == (2, 6, VOCAB)
        assert model.generate(**BATCH, max_new_tokens=3, min_new_tokens=3, pad_token_id=0).shape == (2, 3)


# -- generation -------------------------------------------------------------------------------------------------------
@torch.no_grad()
def without_cache(model, count, temperature=None):
    """Tokens written by a loop that reads the whole sequence again for each of them."""
    ids, mask = IDS, MASK
    for _ in range(count):
        places = (mask.cumsum(1) - 1).clamp(min=0)
        logits = model(ids, {"state": STATE}, attention_mask=mask, position_ids=places, use_cache=False).logits[:, -1]
        if temperature is None:
            token = logits.argmax(-1, keepdim=True)
        else:
            token = torch.multinomial((logits / temperature).softmax(-1), 1)
        ids, mask = torch.cat((ids, token), 1), torch.cat((mask, torch.ones(2, 1, dtype=torch.long)), 1)
    return ids[:, IDS.shape[1] :]


@pytest.mark.parametrize("kind", KINDS)
def test_generation_with_the_cache_writes_what_it_writes_without(kind):
    model = injected(kind)
    model.llm.generation_config.eos_token_id = None
    options = {"max_new_tokens": 12, "top_k": 0}
    greedy = without_cache(model, 12)
    assert torch.equal(model.generate(**BATCH, do_sample=False, **options), greedy)
    for seed in range(3):
        torch.manual_seed(seed)
        sampled = without_cache(model, 12, temperature=0.8)
        torch.manual_seed(seed)
        assert torch.equal(model.generate(**BATCH, do_sample=True, temperature=0.8, **options), sampled)
        assert not torch.equal(sampled, greedy)
    assert hooks(model) == 0


@pytest.mark.parametrize(
    ("options", "sequences"),
    [
        ({"num_beams": 3, "num_return_sequences": 2}, 2),
        ({"num_beams": 4}, 1),
        ({"repetition_penalty": 1.3}, 1),
        ({"no_repeat_ngram_size": 2}, 1),
    ],
)
def test_every_beam_has_its_own_rows_vectors(options, sequences):
    model = injected("llama, grouped")
    options = {"do_sample": False, "max_new_tokens": 8, "min_new_tokens": 8, **options}
    together = model.generate(**BATCH, **options)
    assert together.shape == (2 * sequences, 8)
    alone = [
        model.generate(IDS[:1], {"state": STATE[:1]}, MASK[:1], **options),
        model.generate(IDS[1:, 2:], {"state": STATE[1:]}, MASK[1:, 2:], **options),
    ]
    assert torch.equal(together, torch.cat(alone))
    assert not torch.equal(together[0], together[-1])


def test_several_samples_of_a_prompt():
    model = injected()
    options = {"do_sample": True, "max_new_tokens": 6, "min_new_tokens": 6, "temperature": 1e-4, "top_k": 0}
    sampled = model.generate(**BATCH, num_return_sequences=3, **options)
    greedy = model.generate(**BATCH, do_sample=False, max_new_tokens=6, min_new_tokens=6)
    assert torch.equal(sampled, greedy.repeat_interleave(3, dim=0))


# -- gradients --------------------------------------------------------------------------------------------------------
def gradients(model):
    model.train()
    model.zero_grad()
    model(**BATCH, labels=IDS.masked_fill((IDS == V) | (MASK == 0), -100)).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("kind", ["llama", "llama, grouped", "qwen3"])
def test_only_adapter_and_linears_are_trained_also_with_checkpoints(kind):
    model = injected(kind)
    linears = [f"widths.{name}.weight" for name in model.widths]
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"adapter.weight", "adapter.bias", *linears} == set(model.trained_state())
    plain = gradients(model)
    assert plain.keys() == trained
    assert all(gradient.any() for gradient in plain.values())
    model.activation_checkpointing_enable({"use_reentrant": False})
    passes = []
    model.llm.model.layers[0].self_attn.register_forward_pre_hook(lambda *_: passes.append(hooks(model)))
    checkpointed = gradients(model)
    assert passes == [6, 6]  # the layer was computed again, with the hooks on
    assert checkpointed.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient)
    assert hooks(model) == 0
    with pytest.raises(ValueError, match="Reentrant checkpoints lose the adapter's gradients"):
        model.gradient_checkpointing_enable({"use_reentrant": True})


def test_an_llm_in_bfloat16_with_an_adapter_in_float32():
    model = injected("qwen3")
    expected = model(**BATCH).logits
    model.llm.bfloat16()
    torch.testing.assert_close(model(**BATCH).logits.float(), expected, atol=0.3, rtol=0.1)
    assert {gradient.dtype for gradient in gradients(model).values()} == {torch.float32}
    assert model.eval().generate(**BATCH, max_new_tokens=3, min_new_tokens=3).shape == (2, 3)


# -- files ------------------------------------------------------------------------------------------------------------
def test_saved_and_loaded(tmp_path):
    model = injected("llama, grouped")
    with torch.no_grad():
        model.widths["key_value"].weight.add_(0.1)
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter.json", "adapter.safetensors"]
    again = InjectedLLM.load(tmp_path, language_model("llama, grouped"), TwoVectors())
    assert torch.equal(again(**BATCH).logits, model(**BATCH).logits)
    assert fingerprint(copy.deepcopy(model.llm).bfloat16()) == fingerprint(model.llm)
    plain = injected(inject=False)
    plain.save_pretrained(tmp_path / "plain")
    assert not InjectedLLM.load(tmp_path / "plain", language_model(), TwoVectors()).inject


def test_another_base_or_adapter_is_refused(tmp_path):
    injected().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"adapter.json was saved on the base model '' with weights_sha256 .* but ''"):
        InjectedLLM.load(tmp_path, language_model(seed=1), TwoVectors())
    with pytest.raises(ValueError, match="with num_key_value_heads 4, but '' has 2: load the base that the adapter"):
        InjectedLLM.load(tmp_path, language_model("llama, grouped"), TwoVectors())
    with pytest.raises(ValueError, match="with model_type llama, but '' has qwen2"):
        InjectedLLM.load(tmp_path, language_model("qwen2"), TwoVectors())
    with pytest.raises(ValueError, match="with adapter TwoVectors, but the model has Linear: build the adapter as"):
        InjectedLLM.load(tmp_path, language_model(), torch.nn.Linear(3, 2 * WIDTH))
    with pytest.raises(ValueError, match=r"with settings None, but the model has \{'heads': 2\}"):
        InjectedLLM.load(tmp_path, language_model(), TwoVectors({"heads": 2}))
    wider = TwoVectors()
    wider.weight = torch.nn.Parameter(torch.zeros(2 * WIDTH, 4))
    with pytest.raises(ValueError, match=r"with shape of adapter.weight \[64, 3\], but the model has \[64, 4\]"):
        InjectedLLM.load(tmp_path, language_model(), wider)
    with pytest.raises(ValueError, match="with inject True, but the model has False"):
        injected(inject=False).load_weights(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"adapter.json is missing: .* holds no adapter"):
        InjectedLLM.load(tmp_path / "other", language_model(), TwoVectors())
    saved = json.loads((tmp_path / "adapter.json").read_text())
    saved["base"]["name"] = "meta-llama/Llama-2-7b-hf"  # the same weights under another name are the same base
    (tmp_path / "adapter.json").write_text(json.dumps(saved))
    InjectedLLM.load(tmp_path, language_model(), TwoVectors())


def test_without_a_mask_no_token_is_padding():
    """Also where the padding token is the id that stands for placeholders inside the LLM."""
    model = injected()
    model.llm.generation_config.eos_token_id = None
    rows = {"input_ids": IDS[:1], "features": {"state": STATE[:1]}, "max_new_tokens": 6, "pad_token_id": 0}
    assert torch.equal(model.generate(**rows), model.generate(**rows, attention_mask=MASK[:1]))


# -- prompts ----------------------------------------------------------------------------------------------------------
def test_prompts_hold_placeholders_and_no_text_spells_another_control_token():
    tokenizer = build_tokenizer()
    prompts = [f"The user {PLACEHOLDER}{PLACEHOLDER} liked <|eot|>", f"{PLACEHOLDER}book", "plain"]
    ids = encode_prompts(tokenizer, prompts, 999)
    assert [each.count(999) for each in ids] == [2, 1, 0]
    assert [each[0] for each in ids] == [tokenizer.bos_token_id] * 3
    assert all(tokenizer.eos_token_id not in each for each in ids)
    words = [tokenizer.decode([token for token in each[1:] if token != 999]) for each in ids]
    assert words == ["The user  liked <|eot|>", "book", "plain"]
    assert ids[1][1] == 999


def test_a_conversation_stands_in_the_chat_template():
    tokenizer = build_tokenizer(CHAT_TEMPLATE)
    content = f"like {PLACEHOLDER} the <|assistant|> book"
    (ids,) = encode_prompts(tokenizer, [[{"role": "user", "content": content}]], 999)
    shown = [tokenizer.convert_ids_to_tokens(each) if each != 999 else "*" for each in ids]
    assert shown[:2] == ["<s>", "<|user|>"]
    assert shown[-2:] == ["<|eot|>", "<|assistant|>"]
    assert shown.count("<|assistant|>") == 1  # the one in the text is text
    middle = tokenizer.decode([each for each in ids[2:-2] if each != 999])
    assert middle == "like  the <|assistant|> book"
    assert shown.count("*") == 1


def test_conversations_need_a_chat_template():
    with pytest.raises(ValueError, match="has no chat template"):
        encode_prompts(build_tokenizer(), [[{"role": "user", "content": "book"}]], 999)
