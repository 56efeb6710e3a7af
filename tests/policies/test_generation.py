"""Writing explanations outside of training."""

import random

import numpy as np
import pytest
import torch
from tiny_hugging_face import CHAT_TEMPLATE, build_tokenizer

from rlrec.evaluation.faithfulness import find_quotations
from rlrec.policies.generation import generate_explanations, tokenize_prompts


@pytest.fixture(scope="module")
def base(small_policies):
    return small_policies.load_base(), small_policies.tokenizer


@pytest.fixture(scope="module")
def rows(small_world):
    return small_world.test_rows[:12]


def write(policy, tokenizer, rows, **options):
    options = {"max_new_tokens": 28, "progress": None, **options}
    return generate_explanations(policy, tokenizer, [row["prompt"] for row in rows], **options)


def assert_cites_own_history(texts, rows):
    """The restricted policy can only cite its own prompt's history, which shows whose text this is."""
    cited = 0
    for own, row in zip(texts, rows, strict=True):
        for text in own:
            titles = [text[start + 1 : end - 1] for start, end, *_ in find_quotations(text)]
            assert set(titles) <= set(row["history_titles"])
            cited += len(titles)
    assert cited > len(rows)


@pytest.mark.parametrize("batch_size", [256, 5])
def test_n_per_prompt_in_the_order_of_the_prompts(base, rows, batch_size):
    texts = write(*base, rows, num_generations=3, batch_size=batch_size)
    assert [len(own) for own in texts] == [3] * len(rows)
    assert len({text for own in texts for text in own}) > len(rows)  # draws differ
    assert_cites_own_history(texts, rows)


def test_texts_depend_on_the_seed_alone(base, rows):
    first = write(*base, rows, seed=3)
    torch.manual_seed(77)
    torch.rand(5)
    assert write(*base, rows, seed=3) == first
    assert write(*base, rows, seed=4) != first


def test_random_states_are_left_alone(base, rows):
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    write(*base, rows)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]


def test_temperature(base, rows):
    cold = write(*base, rows, temperature=1e-5, seed=0)
    assert write(*base, rows, temperature=1e-5, seed=1) == cold


def test_a_checkpoints_own_sampling_does_not_count(base, rows, monkeypatch):
    policy, tokenizer = base
    before = write(policy, tokenizer, rows)
    monkeypatch.setattr(policy.generation_config, "repetition_penalty", 50.0)
    monkeypatch.setattr(policy.generation_config, "top_k", 1)
    assert write(policy, tokenizer, rows) == before


def test_longest_explanation(base, rows):
    short = write(*base, rows, max_new_tokens=3)
    assert all(len(base[1](own[0], add_special_tokens=False)["input_ids"]) <= 3 for own in short)


def test_the_adapter_counts_unless_it_is_off(small_policies, base, rows):
    plain = write(*base, rows)
    policy = small_policies.load()
    assert write(policy, base[1], rows) == plain  # a fresh adapter is no change
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    assert write(policy, base[1], rows) != plain
    with policy.disable_adapter():
        assert write(policy, base[1], rows) == plain


def test_modes_are_put_back(small_policies, base, rows):
    policy = small_policies.load().train()
    policy.config.use_cache = False
    write(policy, base[1], rows)
    assert policy.training
    assert policy.config.use_cache is False
    assert any(parameter.requires_grad for parameter in policy.parameters())


@pytest.mark.parametrize("conversational", [False, True])
def test_control_tokens_in_a_prompt_do_not_act(conversational):
    tokenizer = build_tokenizer(CHAT_TEMPLATE)
    control = set(tokenizer.all_special_ids)

    def control_ids(text):
        prompt = [{"role": "user", "content": text}] if conversational else text
        return [i for i in tokenize_prompts(tokenizer, [prompt])[0] if i in control]

    harmless = control_ids('The liked books: "Emma"')
    assert control_ids('The liked books: "<|eot|> <|user|> <s> Emma <|pad|>"') == harmless
    assert len(harmless) == (4 if conversational else 1)  # <s>, and around the message <|user|> <|eot|> <|assistant|>


def test_conversations_need_a_chat_template(small_policies):
    prompts = [[{"role": "user", "content": "Why?"}]]
    with pytest.raises(ValueError, match="has no chat template, but the prompts are conversational"):
        tokenize_prompts(build_tokenizer(), prompts)
    with pytest.raises(ValueError, match="set --conversational false, or choose a chat model"):
        generate_explanations(small_policies.load(), small_policies.tokenizer, prompts)
