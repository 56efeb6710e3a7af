"""Bases of a Hugging Face model that lacks the markers."""

import torch
from peft import LoraConfig
from tiny_hugging_face import build_tokenizer, write_llama

from rlrec.policies.loading import pretrained_policies
from rlrec.trail.markers import marker_ids
from rlrec.trail.run import with_markers


def test_every_base_gets_the_same_rows(tmp_path):
    """The untuned model, the one that is trained and the one below a reloaded adapter are loaded one by one."""
    path = write_llama(tmp_path / "model", build_tokenizer())
    policies = with_markers(pretrained_policies(path, LoraConfig(), dtype="float32"))
    ids = list(marker_ids(policies.tokenizer))
    assert policies.tokenizer.tokenize("a<exp_start>b").count("<exp_start>") == 1
    torch.manual_seed(1)
    first = policies.load_base()
    torch.manual_seed(2)
    second = policies.load_base()
    for name, values in first.state_dict().items():
        assert torch.equal(values, second.state_dict()[name]), name
    plain = pretrained_policies(path, LoraConfig(), dtype="float32")
    pieces = plain.tokenizer("<exp_start>", add_special_tokens=False)["input_ids"]
    rows = plain.load_base().get_input_embeddings().weight
    assert torch.allclose(first.get_input_embeddings().weight[ids[0]], rows[pieces].mean(0))
