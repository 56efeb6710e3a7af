"""The embedded policy for TRAIL: a small Llama that reads compact prompts, trained on the spot without a label.

It learns two things at once. To explain: prompts of training samples and of invented histories, with a score before
the drawn explanation (`TrendGrammar`) that is no target. To guess what comes next: invented histories alone, of series
that drift, fade, have years and bursts, and their next count. No count of the data is ever a target, and categories
and names say nothing about an invented history; the description's dates, invented too, mean what they say. Before
TRAIL's training it knows about tomorrow what anyone knows who can read and has seen many series, but none of these.

A number is one token, and the tokens of numbers start near those of their neighbours (waves in the logarithm, of eight
lengths): 0.1 million parameters do not find out from a few thousand histories that 34 is nearly 40.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from peft import LoraConfig
from torch.utils.data import DataLoader, IterableDataset
from tqdm.auto import tqdm
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from rlrec.policies.loading import EMBEDDED, Policies, check_lora
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
from rlrec.trail.grammar import TrendGrammar
from rlrec.trail.markers import EXPLANATION_END, EXPLANATION_START
from rlrec.trail.prompts import COMPACT_WINDOWS, DATE, MONTHS

VERSION = 5  # part of the cache key: raise it when the bootstrap changes
READ = ("categories", "description", "window_start", "history", "history_cut")
WAVES = 8
VOCABULARY, LEAST = 1000, 20  # words of descriptions: at most, and how often in the training prompts
GUESSES = 0.5  # weight of the guesses' loss beside the explanations'


def embedded_trend_policies(
    rows: Sequence[Mapping], grammar: TrendGrammar, config: TinyConfig, lora: LoraConfig
) -> Policies:
    """The embedded policy of these rows, from the cache where it was trained before; one rank trains, others wait.

    Args:
        rows: training samples; their labels are not read.
        grammar: of the explanations, with the compact prompts.
        config: sizes and steps (`template_steps`).
        lora: the adapter of TRAIL's training.
    """
    content = [VERSION, asdict(config), repr(grammar), [[row[name] for name in READ] for row in rows]]

    def load(progress: bool = False):
        return cached_bootstrap(LlamaForCausalLM, content, lambda: bootstrap(rows, grammar, config, progress))

    check_lora(lora, EMBEDDED)
    with PartialState().main_process_first():
        _, tokenizer = load(progress=PartialState().is_main_process)
    return Policies(lambda: load()[0], tokenizer, lora)


def bootstrap(
    rows: Sequence[Mapping], grammar: TrendGrammar, config: TinyConfig, progress: bool = True
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train tokenizer and policy for `config.template_steps` steps."""
    torch.manual_seed(config.seed)
    prompts = grammar.prompts
    categories = sorted({word for row in rows for word in prompts.category_words(row)})
    counts = Counter(word for row in rows for word in prompts.prompt(row).split())
    frequent = sorted(word for word, count in counts.most_common(VOCABULARY) if count >= LEAST)
    tokenizer = build_tokenizer([], [*grammar.words, EXPLANATION_START, EXPLANATION_END, *categories, *frequent])
    tokenizer.add_tokens([EXPLANATION_START, EXPLANATION_END])  # known already: now they are never taken apart
    model = small_llama(LlamaForCausalLM, tokenizer, config)
    _place_numbers(model, tokenizer, prompts.scale, config.embedding_std)
    optimizer = bootstrap_optimizer(model, config)
    lessons = DataLoader(_Lessons(rows, grammar, tokenizer, config), batch_size=None, num_workers=1)  # made beside
    with tqdm(total=config.template_steps, desc="Bootstrapping the embedded policy", disable=not progress) as bar:
        for step, (told, guessed) in enumerate(lessons):
            loss = _loss(model, *told) + GUESSES * _loss(model, *guessed)
            rate = config.learning_rate * min(1, (step + 1) / RAMP_STEPS) * (1 - step / config.template_steps)
            take_step(model, optimizer, loss, rate, bar)
    return model.eval(), tokenizer


class _Lessons(IterableDataset):
    """The batches of the bootstrap: explanations to learn, and series whose next count is to be guessed."""

    def __init__(self, rows: Sequence[Mapping], grammar: TrendGrammar, tokenizer, config: TinyConfig):
        self.rows, self.grammar, self.tokenizer, self.config = rows, grammar, tokenizer, config

    def __iter__(self) -> Iterator[tuple[tuple[torch.Tensor, torch.Tensor], ...]]:
        rng, prompts, half = np.random.default_rng(self.config.seed), self.grammar.prompts, self.config.batch_size // 2
        for _ in range(self.config.template_steps):
            drawn = [self.rows[i] for i in rng.integers(len(self.rows), size=3 * half)]
            told = [row if i % 3 else _invented(row, prompts.max_count, rng)[0] for i, row in enumerate(drawn[:half])]
            texts = [_explaining(prompts, self.grammar, row, rng) for row in told]
            guesses = [_invented(row, prompts.max_count, rng) for row in drawn[half:]]
            numbers = [(prompts.prompt(row), prompts.score(count)) for row, count in guesses]
            yield self._encoded(texts), self._encoded(numbers)

    def _encoded(self, texts: Sequence[tuple[str, str]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids (B, L), padded on the right, and which of them are the second parts'."""
        given = self.tokenizer([start for start, _ in texts])["input_ids"]
        answers = self.tokenizer([answer for _, answer in texts], add_special_tokens=False)["input_ids"]
        return answered(given, answers)


def _explaining(prompts, grammar: TrendGrammar, row: Mapping, rng: np.random.Generator) -> tuple[str, str]:
    """Prompt with a label-blind score, and the explanation that follows it."""
    score = prompts.score(grammar.score(row))
    answer = prompts.answer(score, grammar.draw(row, rng))
    return f"{prompts.prompt(row)} {score}", f"{answer.removeprefix(score)} </s>"


def _loss(model, ids: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of the target tokens."""
    hidden = model.model(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state[:, :-1]
    return F.cross_entropy(model.lm_head(hidden[target[:, 1:]]), ids[:, 1:][target[:, 1:]])


def _invented(row: Mapping, largest: int, rng: np.random.Generator) -> tuple[dict, int]:
    """`row` with a history that nobody had, and the count that comes next.

    The logarithm of what is to be expected is a level, anything up to `largest`, with a random walk, a wave of twelve
    windows, a launch that fades, and bursts of one window. The dates of the description are invented too, and mean
    what they say: the wave is highest in its months, and the history begins with the month that has a year.
    """
    length = int(rng.integers(COMPACT_WINDOWS + 1))
    cut = int(rng.integers(18)) if length == COMPACT_WINDOWS else 0
    end = datetime.fromtimestamp(row["window_start"], timezone.utc)
    end = 12 * end.year + end.month - 1
    wait = 0 if length else int(rng.choice([0, rng.integers(1, 24)]))  # windows still to come before the first
    high = []

    def date(match) -> str:
        if match[2] is None:
            high.append(int(rng.integers(12)))
            return MONTHS[high[-1]]
        year, month = divmod(end - length - cut + wait, 12)
        return f"{MONTHS[month]} {year}"

    description, dated = DATE.sub(date, row["description"] or ""), DATE.search(row["description"] or "")
    time = np.arange(length + 1)
    months = (end - length + time)[:, None] - np.array(high or [rng.uniform(0, 12)])
    wave = np.maximum(0, np.cos(months * np.pi / 6)) ** rng.choice([1, 3, 6])
    level = rng.uniform(np.log(0.1), np.log(largest + 1))
    if not length:  # nobody came so far: nobody will, unless it begins now
        level = rng.uniform(np.log(0.3), np.log(100)) if dated and not wait else rng.uniform(np.log(0.01), -1)
    walk = rng.normal(0, rng.choice([0.0, 0.1, 0.3]), len(time)).cumsum()
    fade = rng.choice([0.0, 1.0]) * rng.uniform(0, 2) * np.exp(-rng.uniform(0.05, 0.8) * (time + cut))
    burst = np.where(rng.random(len(time)) < 0.1, np.log(rng.uniform(1.5, 6, len(time))), 0)
    logs = level + walk + rng.uniform(0, 2.5) * wave.mean(1) + fade + burst - 0.5
    counts = np.minimum(rng.poisson(np.exp(np.minimum(logs, np.log(largest + 1)))), largest).tolist()
    return {**row, "description": description, "history": counts[:-1], "history_cut": cut}, counts[-1]


def _place_numbers(model, tokenizer, numbers: Sequence[int], std: float) -> None:
    ids = tokenizer.convert_tokens_to_ids([str(number) for number in numbers])
    phases = torch.tensor(numbers).log1p()[:, None] * 2.0 ** torch.arange(-1, WAVES - 1)
    waves = torch.cat((phases.sin(), phases.cos()), dim=1) * std * 2**0.5
    with torch.no_grad():
        model.get_input_embeddings().weight[ids, : waves.shape[1]] = waves
