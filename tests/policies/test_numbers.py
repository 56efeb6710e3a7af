"""A tiny model whose next-token logits are known."""

import math
from types import SimpleNamespace

import pytest
import torch

from rlrec.policies.numbers import expected_numbers, number_tokens
from rlrec.policies.tiny import build_tokenizer

TOKENIZER = build_tokenizer([], ["stars", "many", "1", "2", "3"])


class Certain:
    """After "many" 1 is three times as likely as 3, and 2 impossible; after "stars" all three are equal."""

    device = torch.device("cpu")

    def __call__(self, input_ids, attention_mask, position_ids, use_cache, logits_to_keep):
        assert (use_cache, logits_to_keep) == (False, 1)  # the logits of every prompt's every token do not fit a GPU
        logits = torch.zeros(*input_ids.shape, len(TOKENIZER))
        one, two = TOKENIZER.convert_tokens_to_ids(["1", "2"])
        many = input_ids == TOKENIZER.convert_tokens_to_ids("many")
        logits[..., one] = torch.where(many, math.log(3), 0.0)
        logits[..., two] = torch.where(many, -torch.inf, 0.0)
        assert (position_ids[attention_mask == 1] == attention_mask.cumsum(1)[attention_mask == 1] - 1).all()
        return SimpleNamespace(logits=logits)


def test_the_mean_under_the_probabilities_of_the_numbers_alone():
    prompts = ["many", "stars", "stars stars many"]  # left-padded together
    expected = expected_numbers(Certain(), TOKENIZER, prompts, [1, 2, 3], batch_size=2)
    assert expected.tolist() == pytest.approx([1.5, 2.0, 1.5])


def test_a_number_without_a_token_is_named():
    assert number_tokens(TOKENIZER, [2]) == {2: [TOKENIZER.convert_tokens_to_ids("2")]}
    with pytest.raises(ValueError, match="has no single token for the number 10"):
        number_tokens(TOKENIZER, [1, 10])
