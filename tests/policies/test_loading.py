"""One way to a policy, embedded or from a Hugging Face folder."""

import pytest
import torch
from peft import LoraConfig, PeftModel
from tiny_hugging_face import CHAT_TEMPLATE, build_tokenizer, write_llama
from transformers import LlamaForCausalLM

from rlrec.policies.loading import Policies, embedded_policies, pretrained_policies
from rlrec.policies.tiny import TinyPolicy

LORA = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
IDS = torch.tensor([[1, 5, 6, 7]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_llama(tmp_path_factory.mktemp("llama"), build_tokenizer(CHAT_TEMPLATE))


@pytest.fixture(params=["embedded", "pretrained"])
def policies(request, small_policies, folder):
    return small_policies if request.param == "embedded" else pretrained_policies(folder, LORA, dtype="float32")


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def test_a_fresh_adapter_changes_nothing_and_alone_can_be_trained(policies):
    policy = policies.load()
    assert isinstance(policy, PeftModel)
    assert torch.equal(logits(policy), logits(policies.load_base()))
    trainable = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
    assert trainable
    assert all("lora_" in name for name in trainable)


def test_a_saved_adapter_comes_back_trainable(policies, tmp_path):
    policy = policies.load()
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    policy.save_pretrained(tmp_path)
    again = policies.load(tmp_path)
    assert torch.equal(logits(again), logits(policy))
    assert not torch.equal(logits(again), logits(policies.load_base()))
    assert any(parameter.requires_grad for parameter in again.parameters())


def test_every_load_is_a_new_model(policies):
    first, second = policies.load(), policies.load()
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    assert torch.equal(logits(second), logits(policies.load_base()))


def test_the_embedded_policy_is_restricted(small_policies):
    assert isinstance(small_policies.load_base(), TinyPolicy)
    assert small_policies.load_base().config.restrict_titles is True


def test_pretrained_options(folder):
    policies = pretrained_policies(folder, LORA, dtype="bfloat16", attn_implementation="eager")
    base = policies.load_base()
    assert base.dtype == torch.bfloat16
    assert base.config._attn_implementation == "eager"
    assert policies.tokenizer.padding_side == "left"
    assert policies.tokenizer.chat_template == CHAT_TEMPLATE


def test_a_missing_pad_token_is_the_end_token():
    tokenizer = build_tokenizer()
    tokenizer.pad_token = None
    assert Policies(lambda: None, tokenizer, LORA).tokenizer.pad_token == "<|eot|>"


def test_no_such_model(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        pretrained_policies(str(tmp_path / "nowhere"), LORA)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (LoraConfig(target_modules=["query"], task_type="CAUSAL_LM"), "Target modules {'query'} not found"),
        (LoraConfig(r=0, target_modules="all-linear", task_type="CAUSAL_LM"), "`r` should be a positive integer"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_before_a_weight_is_loaded(folder, lora, message, monkeypatch):
    monkeypatch.setattr(LlamaForCausalLM, "from_pretrained", None)
    with pytest.raises(ValueError, match=r"The adapter \(--lora_\.\.\.\) does not fit a llama model: ") as error:
        pretrained_policies(folder, lora)
    assert message in str(error.value)
    with pytest.raises(ValueError, match="does not fit a llama model"):
        embedded_policies([], [], None, None, None, None, lora)
