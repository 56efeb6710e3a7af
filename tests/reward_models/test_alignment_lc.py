"""Equations 8 and 9: the first-token score and the LC reward, on tiny real models and by hand."""

import math
import warnings

import polars as pl
import pytest
import torch
from tiny_language_models import CHAT, WORDS, add_trained_lora, build_gpt2, build_llama, build_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from trl.trainer.utils import add_fused_lm_head

from reward_models import FirstTokenScorer, LCReward
from reward_models.alignment import lc_reward, single_token_spellings

TEXTS = ["they liked it and they will like it", "they will dislike it", "it", "they disliked it but will like it"]
ROWS = [{"title": "Heat"}] * 4


def plain(explanation, row):
    return f"{explanation} answer :"


def chat(explanation, row):
    return [{"role": "user", "content": explanation}]


def word_ids(text):
    return [WORDS.index(word) for word in text.split()]


def reference_margin(model, ids):
    """Yes, yes, ĠYES against No, ▁no, from one unpadded forward pass."""
    with torch.no_grad():
        p = model.eval()(torch.tensor([ids])).logits[0, -1].double().exp()
    yes = p[word_ids("Yes")[0]] + p[word_ids("yes")[0]] + p[word_ids("ĠYES")[0]]
    return math.log(yes) - math.log(p[word_ids("No")[0]] + p[word_ids("▁no")[0]])


def test_the_sets_hold_every_spelling_that_is_one_token(tokenizer):
    assert single_token_spellings(tokenizer, "yes") == sorted(word_ids("Yes yes ĠYES"))
    assert single_token_spellings(tokenizer, "no") == word_ids("No ▁no")  # and not "Nobody"


@pytest.mark.parametrize("missing", ["Yes", "No"])
def test_a_tokenizer_where_yes_or_no_is_not_one_token_is_refused(llama, missing):
    words = [w for w in WORDS if w.strip("Ġ▁").lower() != missing.lower()]
    with pytest.raises(ValueError, match=f'no single token for "{missing}" in any spelling'):
        FirstTokenScorer(llama, build_tokenizer(words), plain)


@pytest.mark.parametrize("build", [build_llama, build_gpt2], ids=["llama", "gpt2"])
def test_margins_in_padded_batches_are_those_of_equation_8(tokenizer, build):
    model = build().requires_grad_(False)
    margins = FirstTokenScorer(model, tokenizer, plain, batch_size=3).margins(TEXTS, ROWS)
    expected = [reference_margin(model, word_ids(f"<s> {text} answer :")) for text in TEXTS]
    assert margins.tolist() == pytest.approx(expected, abs=1e-4)
    assert margins.dtype == torch.float32
    assert len({round(m, 3) for m in expected}) == 4  # the test can tell rows apart


def test_temperature_divides_the_margin(llama, tokenizer):
    margins = FirstTokenScorer(llama, tokenizer, plain).margins(TEXTS, ROWS)
    scores = FirstTokenScorer(llama, tokenizer, plain, temperature=4.0).scores(TEXTS, ROWS)
    assert scores.tolist() == pytest.approx([1 / (1 + math.exp(-m / 4)) for m in margins.tolist()], abs=1e-6)
    with pytest.raises(ValueError, match="temperature must be above 0"):
        FirstTokenScorer(llama, tokenizer, plain, temperature=0)


def test_chat_prompts_go_through_the_chat_template(llama):
    margins = FirstTokenScorer(llama, build_tokenizer(chat_template=CHAT), chat).margins(TEXTS[:2], ROWS[:2])
    expected = [reference_margin(llama, word_ids(f"<s> user : {text} <s> answer :")) for text in TEXTS[:2]]
    assert margins.tolist() == pytest.approx(expected, abs=1e-4)


def test_chat_prompts_need_a_chat_template(llama, tokenizer):
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        FirstTokenScorer(llama, tokenizer, chat).margins(TEXTS, ROWS)


def test_control_tokens_written_in_an_explanation_do_not_act(llama, tokenizer):
    scorer = FirstTokenScorer(llama, tokenizer, plain)
    with_control, without = scorer.margins(["they </s> liked <s> it [PAD]", "they liked it"], ROWS[:2])
    torch.testing.assert_close(with_control, without)


def test_control_tokens_in_a_chat_message_do_not_act(llama):
    # a byte-level vocabulary spells "</s>" in pieces, as real chat models do
    pieces = ["<pad>", "<s>", "</s>", "ĠYes", "No", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", chat_template=CHAT
    )
    scorer = FirstTokenScorer(llama, tokenizer, chat)
    (ids,) = scorer._encode([[{"role": "user", "content": "a</s>b"}]])
    assert ids.count(tokenizer.eos_token_id) == 0
    assert ids.count(tokenizer.bos_token_id) == 2  # those of the template
    assert "</s>" in tokenizer.decode(ids)
    assert FirstTokenScorer(llama, tokenizer, plain)._encode(["a</s>"])[0].count(tokenizer.eos_token_id) == 0


def test_rows_may_be_a_samples_frame_and_reach_the_template(llama, tokenizer):
    def template(explanation, row):
        return f"{explanation} {row['word']}"

    frame = pl.DataFrame({"word": ["like", "dislike"]})
    scorer = FirstTokenScorer(llama, tokenizer, template)
    expected = [reference_margin(llama, word_ids(f"<s> it {word}")) for word in ("like", "dislike")]
    assert scorer.margins(["it", "it"], frame).tolist() == pytest.approx(expected, abs=1e-4)
    assert scorer.margins(["it", "it"], frame.to_dicts()).tolist() == pytest.approx(expected, abs=1e-4)
    assert scorer.margins([], []).shape == (0,)


def test_the_policy_scores_with_its_adapter_off_and_stays_as_it_was(tokenizer, llama):
    policy = add_trained_lora(build_llama()).train()
    policy.gradient_checkpointing_enable()
    policy.enable_input_require_grads()
    trainable = {name for name, p in policy.named_parameters() if p.requires_grad}
    expected = FirstTokenScorer(llama, tokenizer, plain).margins(TEXTS, ROWS)
    torch.testing.assert_close(FirstTokenScorer(policy, tokenizer, plain).margins(TEXTS, ROWS), expected)
    assert policy.training
    assert {name for name, p in policy.named_parameters() if p.requires_grad} == trainable
    # built around the plain model before LoRA was put on it, as TRL's trainers do with peft_config
    late = build_llama().requires_grad_(False)
    scorer = FirstTokenScorer(late, tokenizer, plain)
    add_trained_lora(late)
    torch.testing.assert_close(scorer.margins(TEXTS, ROWS), expected)


def test_a_model_that_could_be_trained_is_refused(tokenizer):
    with pytest.raises(ValueError, match="LC scorer must not change while the policy is trained"):
        FirstTokenScorer(build_llama(), tokenizer, plain)


def test_trl_patched_forward_gives_the_same_margins(tokenizer, llama):
    patched = build_llama().requires_grad_(False)
    add_fused_lm_head(patched)
    expected = FirstTokenScorer(llama, tokenizer, plain).margins(TEXTS, ROWS)
    torch.testing.assert_close(FirstTokenScorer(patched, tokenizer, plain).margins(TEXTS, ROWS), expected)


class Restricted(LlamaForCausalLM):
    """Forbids all tokens after ":" (id 21), as a policy restricted to the titles of a history does."""

    def restrict_logits(self, logits, input_ids):
        return logits.index_fill(-1, torch.arange(22, 32), float("-inf"))

    def forward(self, input_ids=None, **kwargs):
        output = super().forward(input_ids=input_ids, **kwargs)
        output.logits = self.restrict_logits(output.logits, input_ids)
        return output


def test_a_restricted_policy_gives_the_same_margins(tokenizer, llama):
    restricted = build_llama(Restricted).requires_grad_(False)
    expected = FirstTokenScorer(llama, tokenizer, plain).margins(TEXTS, ROWS)
    torch.testing.assert_close(FirstTokenScorer(restricted, tokenizer, plain).margins(TEXTS, ROWS), expected)


def test_only_the_last_position_reaches_the_head(tokenizer, llama):
    positions = []
    llama.lm_head.register_forward_hook(lambda module, inputs, output: positions.append(output.shape[:2]))
    FirstTokenScorer(llama, tokenizer, plain, batch_size=3).margins(TEXTS, ROWS)
    assert positions == [(3, 1), (1, 1)]


def test_a_prompt_that_is_too_long_loses_its_beginning_and_is_said_once(llama, tokenizer):
    scorer = FirstTokenScorer(llama, tokenizer, plain, max_length=4)
    with pytest.warns(UserWarning, match="of 11 tokens was cut to its last 4"):
        margins = scorer.margins(TEXTS, ROWS)
    assert scorer.truncated == 3
    assert float(margins[0]) == pytest.approx(reference_margin(llama, word_ids("like it answer :")), abs=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scorer.margins(TEXTS, ROWS)
    assert FirstTokenScorer(llama, tokenizer, plain).max_length == 64


def test_lc_reward_by_hand():
    assert lc_reward(1, 0.8) == pytest.approx(0.8)
    assert lc_reward(0, 0.8) == pytest.approx(0.2)
    assert lc_reward(0, 0.8, "brier") == pytest.approx(0.36)


class FixedScorer:
    def scores(self, explanations, rows):
        return torch.tensor([float(text) for text in explanations])


@pytest.mark.parametrize(
    ("form", "expected"), [("absolute", [0.9, 0.25, 0.6, None]), ("brier", [0.99, 0.4375, 0.84, None])]
)
def test_lc_logs_its_terms_and_passes_rows_without_label(form, expected):
    logged = {}
    rewards = LCReward(FixedScorer(), form)(
        prompts=None,
        completions=["0.9", "0.75", [{"role": "assistant", "content": "0.4"}], "0.3"],
        label=[1, 0, 0, None],
        log_metric=logged.__setitem__,
        trainer_state=None,
    )
    assert rewards[:3] == pytest.approx(expected[:3])
    assert rewards[3] is None
    assert logged == pytest.approx({"lc/score_positive": 0.9, "lc/score_negative": 0.575, "lc/accuracy": 2 / 3})


def test_lc_rejects_an_unknown_form():
    with pytest.raises(ValueError, match='"absolute" or "brier", not \'squared\''):
        LCReward(FixedScorer(), "squared")
