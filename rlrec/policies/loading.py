"""One way to get a policy, embedded or from Hugging Face: a frozen base with a LoRA adapter on it."""

import copy
import os
from collections.abc import Callable, Mapping, Sequence

import torch
from accelerate import PartialState
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlrec.policies.tiny import Grammar, TinyConfig, load_tiny

# Of what kind the embedded policies are, whatever their size
EMBEDDED = LlamaConfig(vocab_size=8, hidden_size=64, intermediate_size=64, num_hidden_layers=1)


class Policies:
    """Loads the same base again and again, with a new or a trained adapter.

    Every stage of an alternating run starts from files: what a resumed run loads is what an uninterrupted one loads,
    and no trainer's patches or sharding outlive it.

    Args:
        load_base: gives the base model, newly loaded.
        tokenizer: its tokenizer, with a pad token.
        lora: the adapter put on the base where none is loaded.
    """

    def __init__(self, load_base: Callable[[], PreTrainedModel], tokenizer: PreTrainedTokenizerBase, lora: LoraConfig):
        self.load_base, self.tokenizer, self.lora = load_base, tokenizer, lora
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token

    def load(self, adapter: str | os.PathLike | None = None) -> PeftModel:
        """The base with a fresh adapter (the policy pi_init), or with the one saved in the folder `adapter`."""
        base = self.load_base()
        if adapter is None:
            return get_peft_model(base, self.lora)
        return PeftModel.from_pretrained(base, adapter, is_trainable=True)

    def is_conversational(self, wanted: bool | None) -> bool:
        """Whether prompts are conversations: as `wanted`, or (None) where the tokenizer has a chat template.

        Raises:
            ValueError: conversations are wanted of a model without a template.
        """
        has_template = self.tokenizer.chat_template is not None
        if wanted and not has_template:
            raise ValueError(
                f"conversational is set, but the tokenizer of {self.tokenizer.name_or_path} has no chat template; "
                "leave it out, or choose a chat model."
            )
        return has_template if wanted is None else wanted


def check_lora(lora: LoraConfig, config: PreTrainedConfig) -> None:
    """Raise ValueError unless the adapter fits models of this configuration; no weight is loaded or made."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        try:
            get_peft_model(model, copy.deepcopy(lora))
        except ValueError as error:
            raise ValueError(f"The adapter (--lora_...) does not fit a {config.model_type} model: {error}") from error


def embedded_policies(
    rows: Sequence[Mapping],
    catalogue: Sequence[tuple],
    generation: Callable[[Mapping], str],
    ctr: Callable[[str], str] | None,
    grammar: Grammar,
    config: TinyConfig,
    lora: LoraConfig,
) -> Policies:
    """The embedded policy (see `rlrec.policies.tiny.load_tiny`); one rank bootstraps, the others wait."""

    def load(progress: bool = False):
        return load_tiny(rows, catalogue, generation, ctr, grammar, config, progress=progress)

    check_lora(lora, EMBEDDED)
    with PartialState().main_process_first():
        _, tokenizer = load(progress=PartialState().is_main_process)
    return Policies(lambda: load()[0], tokenizer, lora)


def pretrained_policies(
    name_or_path: str,
    lora: LoraConfig,
    *,
    revision: str | None = None,
    dtype: str = "bfloat16",
    attn_implementation: str | None = None,
) -> Policies:
    """Any Hugging Face causal LM by name or path."""
    tokenizer = AutoTokenizer.from_pretrained(
        name_or_path, revision=revision, padding_side="left", trust_remote_code=False
    )
    check_lora(lora, AutoConfig.from_pretrained(name_or_path, revision=revision, trust_remote_code=False))
    options = {"revision": revision, "dtype": dtype, "trust_remote_code": False}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    return Policies(lambda: AutoModelForCausalLM.from_pretrained(name_or_path, **options), tokenizer, lora)
