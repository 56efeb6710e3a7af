"""Small random LLMs of the supported families, and an adapter of two vectors, for tests of injection."""

import torch
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rlrec.policies.injection import InjectedLLM

VOCAB, WIDTH = 20, 32
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.2,  # so that the logits differ
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
KINDS = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "llama, grouped": (LlamaForCausalLM, LlamaConfig, {"num_key_value_heads": 2}),
    "mistral": (MistralForCausalLM, MistralConfig, {"num_key_value_heads": 2, "sliding_window": None}),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, {"num_key_value_heads": 2}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {"num_key_value_heads": 2, "head_dim": 16}),  # Q is 64 wide
}


class TwoVectors(nn.Linear):
    """state (B, 3) -> (B, 2, WIDTH)."""

    def __init__(self, settings: dict | None = None):
        super().__init__(3, 2 * WIDTH)
        self.settings = settings

    def forward(self, state):
        return super().forward(state).view(len(state), 2, -1)


def language_model(kind: str = "llama", seed: int = 0, **changes):
    torch.manual_seed(seed)
    model, config, sizes = KINDS[kind]
    return model(config(**{**SIZES, **sizes, **changes})).eval()


def injected(kind: str = "llama", inject: bool = True, **changes) -> InjectedLLM:
    llm = language_model(kind, **changes)
    torch.manual_seed(1)
    return InjectedLLM(llm, TwoVectors(), inject).eval()
