"""The two tokens around an explanation: added to a tokenizer and a model, and trained with a LoRA adapter."""

import copy

import torch
from peft import LoraConfig
from tokenizers import AddedToken
from transformers import PreTrainedModel, PreTrainedTokenizerBase

EXPLANATION_START, EXPLANATION_END = "<exp_start>", "<exp_end>"


def marker_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Ids of the two markers.

    Raises:
        ValueError: a marker that is not one token of the tokenizer.
    """
    vocabulary = tokenizer.get_vocab()
    if missing := [marker for marker in (EXPLANATION_START, EXPLANATION_END) if marker not in vocabulary]:
        raise ValueError(
            f"The tokenizer '{tokenizer.name_or_path}' has no token {' and '.join(missing)}: call "
            "rlrec.trail.markers.add_markers(model, tokenizer) before the adapter is put on the model."
        )
    return vocabulary[EXPLANATION_START], vocabulary[EXPLANATION_END]


def add_marker_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make each marker one token of `tokenizer`.

    They are ordinary added tokens, not special ones: `decode(..., skip_special_tokens=True)` keeps them in the text,
    where the answer's parser looks for them.
    """
    markers = (EXPLANATION_START, EXPLANATION_END)
    tokenizer.add_tokens([AddedToken(marker, normalized=False, special=False) for marker in markers])


def add_markers(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make each marker one token of `tokenizer` and give `model` rows for them; nothing changes where they are there.

    A new row, of the input and of the output embedding, is the mean of the rows of the pieces that the marker's text
    was split into before. No loss of TRAIL trains a model to write the markers, so a model that wrote them as pieces
    should find the new tokens about as likely; and no random number is drawn, so that a reloaded base is equal. Where
    the tokenizer has them, the model is taken to have them too: give every newly loaded base a tokenizer without.
    """
    vocabulary = tokenizer.get_vocab()
    new = [marker for marker in (EXPLANATION_START, EXPLANATION_END) if marker not in vocabulary]
    pieces = [tokenizer(marker, add_special_tokens=False)["input_ids"] for marker in new]
    add_marker_tokens(tokenizer)
    if len(tokenizer) > model.get_input_embeddings().weight.size(0):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    with torch.no_grad():
        for marker, parts in zip(new, pieces):
            for layer in layers:
                if layer is not None:
                    layer.weight[tokenizer.convert_tokens_to_ids(marker)] = layer.weight[parts].mean(dim=0)


def train_markers(lora: LoraConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> LoraConfig:
    """A copy of `lora` with which the markers' rows, input and output, are trained and saved in the adapter.

    Not of an output layer with a bias, which PEFT would leave out.
    """
    lora = copy.deepcopy(lora)
    indices = lora.trainable_token_indices or {}
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    layers = {id(layer) for layer in layers if getattr(layer, "bias", None) is None}
    names = [name.rsplit(".", 1)[-1] for name, layer in model.named_modules() if id(layer) in layers]
    if not isinstance(indices, dict):
        indices = {names[0]: list(indices)}
    ids = marker_ids(tokenizer)
    lora.trainable_token_indices = {**indices, **{n: sorted({*indices.get(n, []), *ids}) for n in names}}
    return lora


def paper_lora(rank: int = 8) -> LoraConfig:
    """The paper's adapter (Table 5): rank 8, alpha twice the rank, dropout 0.05, on q, v and o."""
    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.05,
        bias="none",
        target_modules=["q_proj", "v_proj", "o_proj"],
        task_type="CAUSAL_LM",
    )
