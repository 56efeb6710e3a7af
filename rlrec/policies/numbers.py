"""The number that a language model would write next, as an expectation instead of one sample."""

from collections.abc import Mapping, Sequence

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlrec.policies.generation import tokenize_prompts


def number_tokens(tokenizer: PreTrainedTokenizerBase, numbers: Sequence[int]) -> dict[int, list[int]]:
    """{number: ids of the tokens that spell it alone}, with or without white space before it.

    Raises:
        ValueError: a number is no single token of this tokenizer.
    """
    vocabulary = tokenizer.get_vocab()
    found = {
        number: [
            vocabulary[token] for token in (f"{space}{number}" for space in ("", "Ġ", "▁")) if token in vocabulary
        ]
        for number in numbers
    }
    for number, ids in found.items():
        if not ids:
            raise ValueError(
                f"The tokenizer of {tokenizer.name_or_path!r} has no single token for the number {number}, whose "
                "probability is asked for: choose another model, or let it write its numbers."
            )
    return found


@torch.no_grad()
def expected_numbers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | list[Mapping]],
    numbers: Sequence[int],
    batch_size: int = 64,
    progress: str | None = None,
) -> torch.Tensor:
    """(N,) mean of `numbers` under their probabilities as the next token of each prompt.

    Args:
        model: a causal LM, in evaluation mode.
        prompts: each ends where a number is to follow.
        numbers: the possible answers.
        progress: text of the progress bar, None for none.
    """
    tokens = number_tokens(tokenizer, numbers)
    values = torch.tensor([float(number) for number in tokens])
    out = []
    for start in tqdm(range(0, len(prompts), batch_size), desc=progress, disable=progress is None):
        ids = tokenize_prompts(tokenizer, prompts[start : start + batch_size])
        batch = tokenizer.pad([{"input_ids": i} for i in ids], padding_side="left", return_tensors="pt").to(
            model.device
        )
        positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        output = model(**batch, position_ids=positions, use_cache=False, logits_to_keep=1)
        logits = output.logits[:, -1].float().cpu()
        scores = torch.stack([logits[:, spellings].logsumexp(1) for spellings in tokens.values()], dim=1)
        out.append(scores.softmax(1) @ values)
    return torch.cat(out)
