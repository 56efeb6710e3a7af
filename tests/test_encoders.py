"""Frozen encoders: the masked mean by hand, no leaking padding, the policy as encoder, and the cache on disk."""

import multiprocessing
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5Model,
)

from rlrec.encoders import EmbeddingCache, TextEncoder, frozen_base, masked_mean

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "they", "liked", "disliked", "the", "film", "a", "lot"]
TEXTS = ["they liked the film a lot", "film", "they disliked the film", "liked liked liked"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def tiny_tokenizer():
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **names)


def tiny_bert():
    torch.manual_seed(0)
    return BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, **SIZES))


def tiny_distilbert():
    torch.manual_seed(0)
    sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}
    return DistilBertModel(DistilBertConfig(vocab_size=len(WORDS), max_position_embeddings=32, **sizes))


def tiny_llama():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), max_position_embeddings=32, **SIZES))


def with_trained_lora(model):
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero when new: without this an adapter that stays on would change nothing
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    return model


@pytest.mark.parametrize("make", [tiny_bert, tiny_distilbert], ids=["bert", "distilbert"])
def test_a_saved_encoder_loads_by_path_and_gives_the_mean_of_its_hidden_states(tmp_path, make):
    model = make().eval()
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    encoder = TextEncoder.from_pretrained(str(tmp_path), batch_size=3)
    vectors = encoder.encode(TEXTS)
    assert vectors.shape == (4, 16) == (len(TEXTS), encoder.dimension)
    assert vectors.dtype == torch.float32
    # "they liked the film a lot" is [CLS] they liked the film a lot [SEP], word ids by hand
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([[2, 4, 5, 7, 8, 9, 10, 3]])).last_hidden_state
    torch.testing.assert_close(vectors[0], hidden[0].mean(0), atol=1e-5, rtol=1e-4)


def test_masked_mean_by_hand():
    hidden = torch.tensor([[[1.0, 10.0], [3.0, 30.0], [100.0, 100.0]], [[7.0, 8.0], [100.0, 100.0], [100.0, 100.0]]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert masked_mean(hidden, mask).tolist() == [[2.0, 20.0], [7.0, 8.0]]


@pytest.mark.parametrize("make", [tiny_bert, tiny_distilbert, tiny_llama], ids=["bert", "distilbert", "llama"])
def test_a_batch_of_different_lengths_equals_one_by_one(make):
    encoder = TextEncoder(make().requires_grad_(False), tiny_tokenizer(), batch_size=4)
    together = encoder.encode(TEXTS)
    for i, text in enumerate(TEXTS):
        torch.testing.assert_close(together[i], encoder.encode([text])[0], atol=1e-5, rtol=1e-4)


def test_the_encoder_half_of_an_encoder_decoder_model(tmp_path):
    config = T5Config(vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    torch.manual_seed(0)
    T5Model(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    vector = TextEncoder.from_pretrained(str(tmp_path)).encode(["film"])[0]
    with torch.no_grad():
        reference = T5EncoderModel.from_pretrained(tmp_path).eval()(torch.tensor([[2, 8, 3]])).last_hidden_state[0]
    torch.testing.assert_close(vector, reference.mean(0), atol=1e-5, rtol=1e-4)


def test_the_policy_as_encoder_has_its_adapter_off_and_is_left_as_it_was():
    policy = with_trained_lora(tiny_llama())
    policy.train()
    policy.base_model.model.lm_head.eval()  # a module that its owner keeps in eval mode stays there
    before = {name: (p.requires_grad, p.clone()) for name, p in policy.named_parameters()}
    base = tiny_llama().requires_grad_(False)
    expected = TextEncoder(base, tiny_tokenizer()).encode(TEXTS)
    torch.testing.assert_close(TextEncoder(policy, tiny_tokenizer()).encode(TEXTS), expected)
    # also where TRL put LoRA on the model after the encoder was built around it
    late = tiny_llama().requires_grad_(False)
    encoder = TextEncoder(late, tiny_tokenizer())
    with_trained_lora(late)
    torch.testing.assert_close(encoder.encode(TEXTS), expected)
    assert policy.training
    assert not policy.base_model.model.lm_head.training
    ids = torch.tensor([[2, 4, 5]])
    assert not torch.allclose(policy.eval()(ids).logits, base(ids).logits)  # the adapter is on again
    for name, parameter in policy.named_parameters():
        assert parameter.requires_grad == before[name][0], name
        assert torch.equal(parameter, before[name][1]), name


def test_frozen_base_restores_the_model_after_an_error():
    policy = with_trained_lora(tiny_llama()).train()
    ids = torch.tensor([[2, 4, 5]])
    expected = policy(ids).logits
    with pytest.raises(RuntimeError, match="in the middle"), frozen_base(policy):
        raise RuntimeError("in the middle")
    assert policy.training
    torch.testing.assert_close(policy(ids).logits, expected)
    assert any(p.requires_grad for p in policy.parameters())


def test_gradient_checkpointing_changes_nothing():
    policy = with_trained_lora(tiny_llama())
    expected = TextEncoder(policy, tiny_tokenizer()).encode(TEXTS)
    policy.gradient_checkpointing_enable()
    policy.enable_input_require_grads()
    policy.train()
    torch.testing.assert_close(TextEncoder(policy, tiny_tokenizer()).encode(TEXTS), expected)


def test_a_model_that_could_be_trained_is_refused():
    with pytest.raises(ValueError, match=r"text encoder must not change.*requires_grad_\(False\)"):
        TextEncoder(tiny_llama(), tiny_tokenizer())


def test_texts_that_are_too_long_are_cut_counted_and_said_once():
    encoder = TextEncoder(tiny_bert().requires_grad_(False), tiny_tokenizer(), max_length=4)
    with pytest.warns(UserWarning, match="2 of 4 texts are longer than 4 tokens"):
        # kept of the first and the third: [CLS] they liked the
        vectors = encoder.encode(["they liked the film", "film", "they liked the lot", "they"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.encode(["they liked film the film"])
    assert encoder.truncated == 3
    torch.testing.assert_close(vectors[0], vectors[2])


def test_positions_limit_the_length():
    encoder = TextEncoder(tiny_bert().requires_grad_(False), tiny_tokenizer())
    assert encoder.max_length == 32
    with pytest.warns(UserWarning, match="longer than 32 tokens"):
        assert encoder.encode(["film " * 40_000]).shape == (1, 16)


def test_empty_inputs_are_zero_vectors():
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.Sequence([])
    encoder = TextEncoder(tiny_bert().requires_grad_(False), tokenizer)
    vectors = encoder.encode(["", "film", " "])
    assert vectors[0].abs().sum() == 0 == vectors[2].abs().sum()
    assert vectors[1].abs().sum() > 0
    assert encoder.encode([]).shape == (0, 16)


@pytest.mark.parametrize("control", ["[SEP]", "[CLS]", "[PAD]"])
def test_control_tokens_in_a_text_do_not_act(control):
    encoder = TextEncoder(tiny_bert().requires_grad_(False), tiny_tokenizer())
    torch.testing.assert_close(encoder.encode([f"they {control} liked"]), encoder.encode(["they liked"]))


def count_rows(encoder):
    rows = []
    encoder.model.register_forward_pre_hook(
        lambda m, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    return rows


def test_equal_texts_are_encoded_once():
    encoder = TextEncoder(tiny_bert().requires_grad_(False), tiny_tokenizer())
    rows = count_rows(encoder)
    vectors = encoder.encode(["film", "they", "film", "film"])
    assert sum(rows) == 2
    assert torch.equal(vectors[0], vectors[3])
    assert not torch.equal(vectors[0], vectors[1])


def test_the_cache_serves_a_second_encoder_without_a_forward_pass(tmp_path):
    first = TextEncoder(tiny_bert().requires_grad_(False), tiny_tokenizer(), cache_dir=tmp_path)
    expected = torch.cat([first.encode(TEXTS[:2]), first.encode(TEXTS[2:])])
    second = TextEncoder(tiny_bert().requires_grad_(False), tiny_tokenizer(), cache_dir=tmp_path)
    rows = count_rows(second)
    assert torch.equal(second.encode(TEXTS), expected)
    assert rows == []
    first.encode(["a lot"])  # written after the second one has read the folder
    second.encode(["a lot"])
    assert rows == []
    assert not list(tmp_path.rglob("*.tmp"))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1


def test_the_cache_of_a_process_is_split_into_shards(tmp_path, monkeypatch):
    monkeypatch.setattr("rlrec.encoders.SHARD_ROWS", 2)
    first = TextEncoder(tiny_bert().requires_grad_(False), tiny_tokenizer(), cache_dir=tmp_path)
    expected = torch.cat([first.encode([text]) for text in TEXTS])
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    second = TextEncoder(tiny_bert().requires_grad_(False), tiny_tokenizer(), cache_dir=tmp_path)
    rows = count_rows(second)
    assert torch.equal(second.encode(TEXTS), expected)
    assert rows == []


def key_and_vector(number):
    return number.to_bytes(16, "big"), torch.tensor([float(number), 1.0])


def use_cache(folder, first):
    """Adds 60 vectors one by one, looking around after each; half of them are the other process's too."""
    cache = EmbeddingCache(folder)
    for number in range(first, first + 60):
        cache.add(dict([key_and_vector(number)]))
        found = cache.lookup([key_and_vector(other)[0] for other in range(90)])
        assert all(torch.equal(vector, key_and_vector(int.from_bytes(key, "big"))[1]) for key, vector in found.items())


def test_two_processes_share_a_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("rlrec.encoders.SHARD_ROWS", 7)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=use_cache, args=(tmp_path, first)) for first in (0, 30)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0]
    found = EmbeddingCache(tmp_path).lookup([key_and_vector(number)[0] for number in range(90)])
    assert [int(vector[0]) for vector in found.values()] == list(range(90))
    assert len(list(tmp_path.iterdir())) == 18  # 60 rows in shards of 7, twice, and nothing temporary


def test_the_fingerprint_tells_models_apart_but_not_adapters():
    tokenizer = tiny_tokenizer()
    base = TextEncoder(tiny_llama().requires_grad_(False), tokenizer).fingerprint()
    assert TextEncoder(with_trained_lora(tiny_llama()), tokenizer).fingerprint() == base
    other = tiny_llama().requires_grad_(False)
    other.model.layers[1].mlp.up_proj.weight[0, 0] += 1e-3
    assert TextEncoder(other, tokenizer).fingerprint() != base
    assert TextEncoder(tiny_llama().requires_grad_(False), tokenizer, max_length=8).fingerprint() != base
    encoder = TextEncoder(tiny_llama().requires_grad_(False), tokenizer)
    encoder.encode(TEXTS)  # leaves state in the tokenizer
    assert encoder.fingerprint() == base
