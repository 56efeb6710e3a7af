"""The embedded frozen LLM for SELLER and the rows beside it: a small word-level Llama, trained on the spot.

A large language model can read a prompt and knows what words mean; this one is taught so much on invented users, whose
history, target and reasons are drawn at random from the catalogue. So it writes the ground truth's language, takes
from the prompt what stands there, and reads a vector in a placeholder that is near one of its words, or near the sum
of up to three. It knows no user and no sequence that anybody had: what is true beyond the prompt, adapters must tell.

Invented users see all the prompts of `SellerPrompts`, with two vectors, one and none, so that one frozen LLM serves
every row of the table.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from accelerate import PartialState
from tqdm.auto import tqdm
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from rlrec.data.prompts import category_words
from rlrec.policies.injection import PLACEHOLDER, encode_prompts
from rlrec.policies.tiny import (
    RAMP_STEPS,
    TinyConfig,
    answered,
    bootstrap_optimizer,
    build_tokenizer,
    cached_bootstrap,
    small_llama,
    take_step,
)
from rlrec.seller.ground_truth import template
from rlrec.seller.prompts import SellerPrompts

VERSION = 1  # part of the cache key: raise it when the bootstrap changes
READ = ("title", "categories", "description")
LONGEST_HISTORY = 12
RELATED = 0.5  # of the history's items share a category with the target
HINTS = 3  # words at most that a placeholder stands for
LARGEST_VOCABULARY = 8000  # words of descriptions, the most frequent
WORD = re.compile(r'[^\s",.<>]+|[,.]')


def embedded_llm(
    items: pl.DataFrame, moods: Sequence[str], prompts: SellerPrompts, config: TinyConfig | None = None
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """The embedded LLM of a catalogue, from the cache where it was trained before; one rank trains, others wait.

    Args:
        items: title, categories and description of each item; no interaction is read.
        moods: words that a reason can be beside a category, or none; an item has those that its description names.
        prompts: in the style and domain of the run; ablations of one run share the model.
        config: sizes and steps (`template_steps`, `batch_size`); heads share nothing (multi-head attention).
    """
    config = config or TinyConfig()
    prompts = SellerPrompts(prompts.style, prompts.domain)
    rows, rng = items.select(READ).to_dicts(), np.random.default_rng(0)
    users = InventedUsers(rows, moods)
    drawn = [_drawn_text(users.draw(rng), prompts, rng) for _ in range(10)]  # another template is another language
    content = [VERSION, asdict(config), repr(prompts), rows, list(moods), drawn]

    def train():
        return bootstrap(rows, moods, prompts, config, PartialState().is_main_process)

    with PartialState().main_process_first():
        return cached_bootstrap(LlamaForCausalLM, content, train)


def bootstrap(
    items: Sequence[Mapping], moods: Sequence[str], prompts: SellerPrompts, config: TinyConfig, progress: bool = True
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train tokenizer and model for `config.template_steps` steps."""
    torch.manual_seed(config.seed)
    rng, users = np.random.default_rng(config.seed), InventedUsers(items, moods)
    tokenizer = build_tokenizer([], _vocabulary(users, prompts, rng))
    model = small_llama(LlamaForCausalLM, tokenizer, config)
    optimizer = bootstrap_optimizer(model, config)
    with tqdm(total=config.template_steps, desc="Bootstrapping the embedded LLM", disable=not progress) as bar:
        for step in range(config.template_steps):
            batch = [users.draw(rng) for _ in range(config.batch_size)]
            rate = config.learning_rate * min(1, (step + 1) / RAMP_STEPS) * (1 - step / config.template_steps)
            take_step(model, optimizer, _loss(model, tokenizer, batch, prompts, rng), rate, bar)
    return model.eval(), tokenizer


class InventedUsers:
    """Samples that nobody made: items of the catalogue at random, half of them akin to the target.

    Args:
        items: title, categories, description.
        moods: that descriptions may name.
    """

    def __init__(self, items: Sequence[Mapping], moods: Sequence[str]):
        self.items, self.by_category, self.moods = items, defaultdict(list), []
        for number, item in enumerate(items):
            named = set(WORD.findall(item["description"] or ""))
            self.moods.append([mood for mood in moods if mood in named])
            for category in item["categories"] or []:
                self.by_category[category].append(number)

    def draw(self, rng: np.random.Generator) -> dict:
        """A row as `sequence_samples` has it, as far as prompts and `template` read it."""
        target = int(rng.integers(len(self.items)))
        item, categories = self.items[target], list(self.items[target]["categories"] or [])
        history = rng.integers(len(self.items), size=int(rng.integers(1, LONGEST_HISTORY + 1)))
        for place in np.flatnonzero(rng.random(len(history)) < RELATED) if categories else ():
            akin = self.by_category[categories[rng.integers(len(categories))]]
            history[place] = akin[rng.integers(len(akin))]
        chosen = [self.items[number] for number in history]
        mood, reason = (
            [words[rng.integers(len(words))]] if words else [] for words in (self.moods[target], categories)
        )
        sequence = [name for each in (*chosen, item) for name in (each["categories"] or [])[:3]]
        kept = rng.random(len(sequence)) < rng.random()
        return {
            **item,
            "history_titles": [each["title"] for each in chosen],
            "history_categories": [each["categories"] or [] for each in chosen],
            "category_sequence": [name for name, keep in zip(sequence, kept) if keep] or sequence[-1:],
            "reasons": [*mood, *reason] if mood else [],
        }


def _drawn_text(row: Mapping, prompts: SellerPrompts, rng: np.random.Generator) -> tuple[str, str]:
    """One of the prompts of a row, and its answer."""
    forms = (
        prompts.prompt,
        replace(prompts, vectors=int(rng.integers(3)), category_texts=bool(rng.random() < 0.8)).prompt,
        prompts.xrec,
        lambda row: prompts.pepler(),
    )
    return forms[rng.integers(len(forms))](row), prompts.answer(*template(row, prompts.domain))


def _vocabulary(users: InventedUsers, prompts: SellerPrompts, rng: np.random.Generator, draws: int = 500) -> list[str]:
    """The words of prompts and answers, of all categories, and the most frequent ones of descriptions."""
    texts = [text for _ in range(draws) for text in _drawn_text(users.draw(rng), prompts, rng)]
    words = {word for text in texts for word in WORD.findall(text.replace(PLACEHOLDER, " "))}
    for category in users.by_category:
        words |= {*category_words([category]), *WORD.findall(category)}
    described = Counter(word for item in users.items for word in WORD.findall(item["description"] or ""))
    words |= {word for word, _ in described.most_common(LARGEST_VOCABULARY)}
    return [",", ".", *sorted(words - {",", "."})]


def _loss(
    model, tokenizer, batch: Sequence[Mapping], prompts: SellerPrompts, rng: np.random.Generator
) -> torch.Tensor:
    """Mean cross entropy of the answers' tokens; half of the placeholders stand for words of the answer."""
    drawn = [_drawn_text(row, prompts, rng) for row in batch]
    placeholder = len(tokenizer)
    asked = encode_prompts(tokenizer, [prompt for prompt, _ in drawn], placeholder)
    answers = tokenizer([f"{answer} </s>" for _, answer in drawn], add_special_tokens=False)["input_ids"]
    ids, target = answered(asked, answers)
    hints = torch.zeros(*ids.shape, HINTS, dtype=torch.long)
    for i, (row, p, a) in enumerate(zip(batch, asked, answers)):
        telling = _telling(row, tokenizer, a)
        for place in [k for k, token in enumerate(p) if token == placeholder and telling and rng.random() < 0.5]:
            count = int(rng.integers(1, min(HINTS, len(telling)) + 1))
            hints[i, place, :count] = torch.tensor(rng.permutation(telling)[:count])
    embedding = model.get_input_embeddings()
    vectors = embedding(ids.masked_fill(ids == placeholder, 0)) + (embedding(hints) * (hints > 0)[..., None]).sum(2)
    hidden = model.model(inputs_embeds=vectors, attention_mask=(ids != 0).long()).last_hidden_state[:, :-1]
    return F.cross_entropy(model.lm_head(hidden[target[:, 1:]]), ids[:, 1:][target[:, 1:]])


def _telling(row: Mapping, tokenizer, answer: Sequence[int]) -> list[int]:
    """The different words of an answer that are not the template's: of its categories, the last one's, and moods."""
    names = [*(row["categories"] or []), *(row["history_categories"] or [[]])[-1], *row["reasons"]]
    words = [word for name in names for word in WORD.findall(name)]
    return sorted(set(tokenizer.convert_tokens_to_ids(words)) & set(answer)) if words else []
