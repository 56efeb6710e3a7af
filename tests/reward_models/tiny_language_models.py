"""A word-level tokenizer and tiny random models, built on the spot."""

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = ["[PAD]", "[UNK]", "<s>", "</s>", "Yes", "yes", "ĠYES", "No", "▁no", "Nobody", "they", "liked", "disliked"]
WORDS += ["will", "like", "dislike", "it", "and", "but", "answer", "user", ":"]
CHAT = (
    "{% for m in messages %}{{ '<s>' }} {{ m['role'] }} : {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>' }} answer :{% endif %}"
)


def build_tokenizer(words=None, chat_template=None):
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words or WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", chat_template=chat_template, **names)


def build_llama(model_class=LlamaForCausalLM):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
        initializer_range=0.5,
    )
    return model_class(config)


def build_gpt2():
    """A model with absolute positions: it notices padding that is counted."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=64, initializer_range=0.5)
    return GPT2LMHeadModel(config)


def add_trained_lora(model):
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero when new: without this an adapter that stays on would change nothing
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    return model
