"""Tiny random checkpoints, saved as a local folder each: what the text metrics load."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

WORDS = ["[PAD]", "[UNK]", "<s>", "</s>", "good", "great", "gift", "card", "rooms", "pool", "they", "liked", "the"]
WORDS += ["and", "is", "nice"]
NAMES = ["input_ids", "token_type_ids", "attention_mask"]
BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
BERT |= {"vocab_size": len(WORDS), "max_position_embeddings": 32, "initializer_range": 0.5}


def build_tokenizer(special=True):
    """Words split at spaces; <s> and </s> around a text (between pairs too) where `special`."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if special:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 2), ("</s>", 3)]
        )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=NAMES, **names)


def save(model, folder, special=True):
    model.save_pretrained(folder)
    build_tokenizer(special).save_pretrained(folder)
    return folder


def save_bert(folder):
    torch.manual_seed(0)
    return save(BertModel(BertConfig(**BERT)), folder)


def save_bleurt(folder, num_labels=1):
    torch.manual_seed(1)
    return save(BertForSequenceClassification(BertConfig(**BERT, num_labels=num_labels)), folder)


def save_bart(folder):
    torch.manual_seed(2)
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes |= {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 32}
    tokens = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 3}
    config = BartConfig(vocab_size=len(WORDS), init_std=0.5, **sizes, **tokens)
    return save(BartForConditionalGeneration(config), folder)


def save_gpt2(folder):
    torch.manual_seed(3)
    config = GPT2Config(vocab_size=len(WORDS), n_embd=16, n_layer=1, n_head=2, n_positions=32, initializer_range=0.5)
    return save(GPT2LMHeadModel(config), folder, special=False)
