"""The embedded policy: a word-level tokenizer and a small Llama, trained on the spot, so that everything runs offline.

It is bootstrapped on label-blind templates: it learns to write well-formed explanations whose citations are true, and
to answer "Yes" or "No" to an explanation's verdict. It never sees a label, so its verdicts start near AUC 0.5; what is
predictive afterwards is what reinforcement learning has put there. `rlrec.policies.grammars` says what explanations
look like. Training has two parts: a copy warm-up on synthetic histories (without it only a quarter of the cited titles
are real), then the templates; the target at a title is the set of all titles that are as right there as the one drawn.

Decoding can be restricted to titles of the prompt's history (`restrict_titles`): the mask is part of the model's own
forward, so that sampling and log-probabilities agree.
"""

import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlrec.policies.grammars import POLARITY, ContrastiveGrammar, VerdictGrammar

Grammar = VerdictGrammar | ContrastiveGrammar
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
RAMP_STEPS = 50
JUDGED_LOSS, LEARNED_OVER = 0.04, 20  # judging is learned when the last 20 batches' mean loss is below
VERSION = 11  # part of the cache key: raise it when the bootstrap changes


@dataclass(frozen=True)
class TinyConfig:
    """Size and training of the embedded policy; every value was chosen on two CPU cores (docs/tiny_policy.md)."""

    hidden_size: int = 64
    num_layers: int = 2
    num_heads: int = 2
    embedding_std: float = 0.2
    warmup_steps: int = 1500  # at most; the warm-up ends when copying is learned, which takes 200 to 1,000
    template_steps: int = 400
    batch_size: int = 128
    learning_rate: float = 4e-3
    restrict_titles: bool = True
    seed: int = 0


class TinyPolicy(LlamaForCausalLM):
    """A Llama that, with `config.restrict_titles`, can only write titles that its prompt cites with a polarity word.

    Title tokens fill the id range `config.title_tokens = [first, end)`. A title is allowed where it stands in the
    context directly after one of `config.polarity_tokens`; the target's title does not, and cannot be cited.
    """

    def allowed_titles(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(B, L) token ids -> (B, number of titles) True where the context cites that title."""
        first, end = self.config.title_tokens
        polarity = torch.isin(input_ids[:, :-1], torch.tensor(self.config.polarity_tokens, device=input_ids.device))
        following = input_ids[:, 1:]
        cited = polarity & (following >= first) & (following < end)
        allowed = torch.zeros(len(input_ids), end - first, dtype=torch.bool, device=input_ids.device)
        rows = torch.arange(len(input_ids), device=input_ids.device)[:, None].expand_as(following)
        allowed[rows[cited], following[cited] - first] = True
        return allowed

    def restrict_logits(self, logits: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
        """(B, L, V) logits with the titles that `input_ids` (B, L) does not cite at -inf; as given if unrestricted."""
        return self._mask(logits.clone(), self.allowed_titles(input_ids)) if self.config.restrict_titles else logits

    def _mask(self, logits: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
        first, end = self.config.title_tokens
        logits[..., first:end].masked_fill_(~allowed[:, None], float("-inf"))  # in place: this tensor is large
        return logits

    @functools.wraps(LlamaForCausalLM.forward)  # `generate` reads the signature
    def forward(self, input_ids=None, past_key_values=None, **kwargs):
        output = super().forward(input_ids=input_ids, past_key_values=past_key_values, **kwargs)
        if not self.config.restrict_titles:
            return output
        if past_key_values is not None and past_key_values.get_seq_length() > input_ids.shape[1]:
            allowed = past_key_values.allowed_titles  # a decoding step: the context was seen in the first pass
        else:
            allowed = self.allowed_titles(input_ids)
            if output.past_key_values is not None:
                output.past_key_values.allowed_titles = allowed
        output.logits = self._mask(output.logits, allowed)
        return output


def build_tokenizer(titles: Sequence[str], words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A word-level tokenizer in which each quoted title is one token; titles take the last ids.

    >>> tokenizer = build_tokenizer(["Heat"], ["They", "liked", ","])
    >>> tokenizer.decode(tokenizer('They liked "Heat", "Antz"')["input_ids"])
    '<s> They liked "Heat", <unk>'
    """
    words = list(dict.fromkeys(words))
    quoted = list(dict.fromkeys(f'"{t}"' for t in titles))
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *words, *quoted])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    # "<" and ">" stand alone, so that "</s>" written in a text is not the control token
    words_and_titles = Regex(r'"[^"]*"|[^\s",.<>]+|[,.<>"]')
    backend.pre_tokenizer = pre_tokenizers.Split(words_and_titles, behavior="removed", invert=True)
    # A space before each token but commas and full stops; inside a title nothing changes
    spaced = decoders.Replace(Regex(r"^(?![,.])"), " ")
    backend.decoder = decoders.Sequence([spaced, decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def small_llama(kind: type[LlamaForCausalLM], tokenizer, config: TinyConfig, **options) -> LlamaForCausalLM:
    """An untrained Llama of the sizes of `config` for a tokenizer of `build_tokenizer`; `options` go to its config."""
    model = kind(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=int(config.hidden_size * 2.75),
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_heads,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            **options,
        )
    )
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=config.embedding_std)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    return model


class _Bootstrap:
    """The training batches of the bootstrap: copy warm-up, explanations, and verdicts for the LC scorer."""

    def __init__(self, tokenizer, rows, catalogue, generation, ctr, grammar, rng):
        self.tokenizer, self.rows, self.catalogue, self.rng = tokenizer, rows, catalogue, rng
        self.generation, self.ctr, self.grammar = generation, ctr, grammar
        self.answers = [tokenizer.convert_tokens_to_ids(a) for a in ("No", "Yes")]
        self.first_title = min(tokenizer.convert_tokens_to_ids(f'"{t}"') for t, *_ in catalogue)

    def synthetic_row(self) -> dict:
        """A history of random titles with random polarities, a random target, and a random side."""
        rng, sides, length = self.rng, self.grammar.sides, int(self.rng.integers(2, 11))
        drawn = [self.catalogue[i] for i in rng.integers(len(self.catalogue), size=length + 1)]
        return {
            "history_titles": [d[0] for d in drawn[:-1]],
            "history_categories": [d[1] for d in drawn[:-1]],
            "history_labels": rng.integers(2, size=length).tolist(),
            "title": drawn[-1][0],
            "categories": drawn[-1][1],
            "category_words": drawn[-1][2],
            "crowd": self.rows[rng.integers(len(self.rows))]["crowd"],
            "side": sides[rng.integers(len(sides))] if len(sides) > 1 else sides[0],
        }

    def practising(self, size: int, count: int = 6):
        """Prompts of synthetic rows followed by what the grammar practises, several times."""
        rows = [self.synthetic_row() for _ in range(size)]
        texts, right = zip(*(self.grammar.practice(row, self.rng, count) for row in rows))
        return self._batch(rows, texts, right, self.grammar.titles_alone)

    def explaining(self, size: int, synthetic: float = 0.5):
        """Prompts followed by a drawn explanation; all its tokens are targets."""
        rows = [
            self.synthetic_row() if self.rng.random() < synthetic else self.rows[self.rng.integers(len(self.rows))]
            for _ in range(size)
        ]
        drawn = [self.grammar.draw(row, self.rng) for row in rows]
        return self._batch(rows, [f"{d.text} </s>" for d in drawn], [[d.titles] if d.titles else [] for d in drawn])

    def judging(self, size: int):
        """Explanations followed by "Yes" or "No", whichever they deserve."""
        drawn = [self.grammar.draw(self.synthetic_row(), self.rng) for _ in range(size)]
        encoded = self.tokenizer([self.ctr(d.text) for d in drawn], padding=True, return_tensors="pt")
        return encoded, torch.tensor([self.answers[d.answer] for d in drawn])

    def _batch(self, rows, texts, titles, titles_alone: bool = False):
        """Right-padded ids, (B, L-1) target mask, and for each title target the set of right titles (K, titles).

        `titles[i]` has one list of right titles for each title in `texts[i]`, in order.
        """
        prompts = self.tokenizer([self.generation(row) for row in rows])["input_ids"]
        completions = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        ids, target = answered(prompts, completions)
        is_title = target & (ids >= self.first_title)
        right = torch.zeros(int(is_title.sum()), len(self.tokenizer) - self.first_title, dtype=torch.bool)
        for k, names in enumerate(names for row in titles for names in row):
            right[
                k, torch.tensor(self.tokenizer.convert_tokens_to_ids([f'"{n}"' for n in names])) - self.first_title
            ] = True
        return ids, (is_title if titles_alone else target), is_title, right


def answered(prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts with their answers: ids (B, L), padded on the right with 0, and which of them are the answers'.

    >>> answered([[1, 5], [1]], [[7], [8]])[0].tolist()
    [[1, 5, 7], [1, 8, 0]]
    """
    length = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers))
    ids = torch.zeros(len(prompts), length, dtype=torch.long)
    target = torch.zeros(len(prompts), length, dtype=torch.bool)
    for i, (prompt, answer) in enumerate(zip(prompts, answers)):
        ids[i, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        target[i, len(prompt) : len(prompt) + len(answer)] = True
    return ids, target


def _generation_loss(model, ids, target, is_title, right, first_title):
    hidden = model.model(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state[:, :-1]
    is_title, target = is_title[:, 1:], target[:, 1:]
    words = target & ~is_title
    loss, count = 0.0, target.sum()
    if words.any():
        loss = F.cross_entropy(model.lm_head(hidden[words]), ids[:, 1:][words], reduction="sum")
    logits = model.lm_head(hidden[is_title])
    chosen = logits[:, first_title:].masked_fill(~right, float("-inf")).logsumexp(-1)
    return (loss + (logits.logsumexp(-1) - chosen).sum()) / count


class _Recent:
    """The losses of the last batches of one part of the bootstrap."""

    def __init__(self, ability: str, setting: str, bound: float | None):
        self.ability, self.setting, self.bound, self.losses = ability, setting, bound, deque(maxlen=LEARNED_OVER)

    def learned(self, loss: torch.Tensor | None = None) -> bool:
        """Whether the part is learned, `loss` included."""
        if loss is not None:
            self.losses.append(loss.item())
        return len(self.losses) == LEARNED_OVER and float(np.mean(self.losses)) < self.bound

    def warn_unless_learned(self) -> None:
        if self.losses and not self.learned():  # no losses: the part was left out
            warnings.warn(
                f"The embedded policy has not learned to {self.ability}: the last batches' mean loss is "
                f"{np.mean(self.losses):.3f}, not below {self.bound}; raise {self.setting} or take another seed.",
                stacklevel=3,
            )


def bootstrap_optimizer(model: LlamaForCausalLM, config: TinyConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)


def take_step(model, optimizer, loss, learning_rate: float, bar) -> None:
    """One step of a bootstrap, told on its progress bar."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    bar.update()
    bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


def bootstrap(
    rows: Sequence[Mapping],
    catalogue: Sequence[tuple[str, Sequence[str], Sequence[str]]],
    generation: Callable[[Mapping], str],
    ctr: Callable[[str], str] | None,
    grammar: Grammar,
    config: TinyConfig | None = None,
    progress: bool = True,
) -> tuple[TinyPolicy, PreTrainedTokenizerFast]:
    """Train tokenizer and policy on label-blind templates (about two minutes on two CPU cores).

    Args:
        rows: training samples: history_titles, history_labels, history_categories, title, categories, category_words,
            crowd. The target's label is not read.
        catalogue: (title, categories, category words) of every item that can be cited or explained.
        generation: row -> generation prompt.
        ctr: explanation -> CTR prompt, to be answered by Yes or No; None: it learns no such prompt.
        grammar: of the explanations.
        config: sizes and steps.
        progress: show a progress bar.
    """
    config = config or TinyConfig()
    rng = np.random.default_rng(config.seed)
    torch.manual_seed(config.seed)
    sample_texts = [generation(row) for row in rows]
    if ctr is not None:
        sample_texts += [ctr(grammar.draw(row, rng).text) for row in rows]
    words = {w for text in sample_texts for w in re.findall(r'[^\s",.]+|[,.]', re.sub(r'"[^"]*"', " ", text))}
    words |= {w for _, categories, category_words in catalogue for w in (*categories, *category_words)}
    words = sorted(w for w in words if not re.search(r'[\s",.]', w) or w in ",.")
    tokenizer = build_tokenizer(
        [c[0] for c in catalogue], [*grammar.words, "Yes", "No", *grammar.domain.split(), ",", ".", *words]
    )
    first_title = tokenizer.convert_tokens_to_ids(f'"{catalogue[0][0]}"')
    model = small_llama(
        TinyPolicy,
        tokenizer,
        config,
        restrict_titles=False,  # the bootstrap learns the citations; the mask comes on afterwards
        title_tokens=[first_title, len(tokenizer)],
        polarity_tokens=tokenizer.convert_tokens_to_ids(list(POLARITY)),
    )
    optimizer = bootstrap_optimizer(model, config)
    data = _Bootstrap(tokenizer, rows, catalogue, generation, ctr, grammar, rng)
    total = config.warmup_steps + config.template_steps
    with tqdm(total=total, desc="Bootstrapping the embedded policy", disable=not progress) as bar:
        practising = _Recent("copy titles", "warmup_steps (--warmup_steps_copy)", grammar.practised_loss)
        judging = _Recent("answer its CTR prompt", "template_steps", JUDGED_LOSS)
        for step in range(config.warmup_steps):
            loss = _generation_loss(model, *data.practising(config.batch_size), data.first_title)
            take_step(model, optimizer, loss, config.learning_rate * min(1, (step + 1) / RAMP_STEPS), bar)
            if grammar.practised_loss is not None and practising.learned(loss):
                break
        bar.total = bar.n + config.template_steps
        for step in range(config.template_steps):
            loss = _generation_loss(model, *data.explaining(config.batch_size), data.first_title)
            if ctr is not None:
                encoded, answers = data.judging(config.batch_size // 2)
                hidden = model.model(**encoded).last_hidden_state[:, -1]
                judged = F.cross_entropy(model.lm_head(hidden), answers)
                judging.learned(judged)
                loss = loss + judged
            take_step(model, optimizer, loss, config.learning_rate * (1 - step / config.template_steps), bar)
    for part in (practising, judging):
        part.warn_unless_learned()
    model.config.restrict_titles = config.restrict_titles
    return model.eval(), tokenizer


def load_tiny(
    rows: Sequence[Mapping],
    catalogue: Sequence[tuple[str, Sequence[str], Sequence[str]]],
    generation: Callable[[Mapping], str],
    ctr: Callable[[str], str] | None,
    grammar: Grammar,
    config: TinyConfig | None = None,
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
) -> tuple[TinyPolicy, PreTrainedTokenizerFast]:
    """`bootstrap`, or the copy of an earlier bootstrap on exactly the same content.

    The key is a hash of everything that training reads: sizes and steps, catalogue, and the prompts and histories of
    the rows. `cache_dir`: see `cached_bootstrap`.
    """
    config = config or TinyConfig()
    read = [[generation(row), row["crowd"], row["category_words"], row["history_labels"]] for row in rows]
    content = [
        VERSION,
        asdict(config) | {"restrict_titles": None},
        repr(grammar),
        list(map(list, catalogue)),
        read,
        ctr and ctr(""),
    ]
    model, tokenizer = cached_bootstrap(
        TinyPolicy, content, lambda: bootstrap(rows, catalogue, generation, ctr, grammar, config, progress), cache_dir
    )
    model.config.restrict_titles = config.restrict_titles
    return model, tokenizer


def cached_bootstrap(
    kind: type[LlamaForCausalLM],
    content,
    train: Callable[[], tuple[LlamaForCausalLM, PreTrainedTokenizerFast]],
    cache_dir: str | os.PathLike | None = None,
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """What `train()` gives, or the copy of what it gave for the same `content` (anything that becomes JSON).

    `cache_dir` defaults to the environment's `RLREC_CACHE_DIR`, then to `~/.cache/rlrec`.
    """
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    root = Path(cache_dir or os.environ.get("RLREC_CACHE_DIR") or Path.home() / ".cache" / "rlrec") / "tiny"
    folder = root / key
    if not folder.exists():
        model, tokenizer = train()
        root.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=root))
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        try:
            partial.rename(folder)
        except OSError:  # another process finished the same bootstrap first
            shutil.rmtree(partial)
    return kind.from_pretrained(folder).eval(), PreTrainedTokenizerFast.from_pretrained(folder)
