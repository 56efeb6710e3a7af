"""Direct recommendation by the LLM, without explanations (RecPIE, Table 7): its own guess of the rating.

The paper prints neither prompt nor decoding. Here the LLM is asked for a number of stars, and the prediction is the
mean of the possible ratings under the probabilities of their first tokens, which uses more of what it knows than one
sampled number. The LLM is not trained for it.
"""

from collections.abc import Mapping, Sequence

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlrec.policies.generation import tokenize_prompts

DIRECT = (
    "The consumer's consumption history includes {history}. How many stars, from {low} to {high}, would this consumer "
    "give {title}? Answer with one number."
)


def rating_tokens(tokenizer: PreTrainedTokenizerBase, ratings: Sequence[int]) -> dict[int, list[int]]:
    """{rating: ids of the tokens that spell it alone}, with or without white space before it.

    Raises:
        ValueError: a rating is no single token of this tokenizer.
    """
    vocabulary = tokenizer.get_vocab()
    found = {
        rating: [
            vocabulary[token] for token in (f"{space}{rating}" for space in ("", "Ġ", "▁")) if token in vocabulary
        ]
        for rating in ratings
    }
    for rating, ids in found.items():
        if not ids:
            raise ValueError(
                f"The tokenizer of {tokenizer.name_or_path!r} has no single token for the rating {rating}: leave "
                "'direct' out of --robustness, or choose another model."
            )
    return found


@torch.no_grad()
def direct_ratings(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | list[Mapping]],
    ratings: Sequence[int],
    batch_size: int = 64,
) -> torch.Tensor:
    """(N,) expected ratings in stars.

    Args:
        model: a causal LM, in evaluation mode.
        prompts: each asks for a number.
        ratings: the possible ratings.
    """
    tokens = rating_tokens(tokenizer, ratings)
    stars = torch.tensor([float(rating) for rating in tokens])
    out = []
    for start in tqdm(range(0, len(prompts), batch_size), desc="Direct recommendation"):
        ids = tokenize_prompts(tokenizer, prompts[start : start + batch_size])
        batch = tokenizer.pad([{"input_ids": i} for i in ids], padding_side="left", return_tensors="pt").to(
            model.device
        )
        positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        logits = model(**batch, position_ids=positions).logits[:, -1].float().cpu()
        scores = torch.stack([logits[:, spellings].logsumexp(1) for spellings in tokens.values()], dim=1)
        out.append(scores.softmax(1) @ stars)
    return torch.cat(out)
