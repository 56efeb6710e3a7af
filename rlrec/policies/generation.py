"""Writing explanations with a policy outside of training: batched, sharded over ranks, with progress."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlrec.files import read_json, replacing
from rlrec.policies.soft_prompt import soft_prompt_of

# The policy's own distribution, as in PPO's rollouts: what is not said here would come from the checkpoint's
# generation_config.json, a penalty for words of the prompt among it
SAMPLING = {"do_sample": True, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}


def tokenize_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str | list[dict]]) -> list[list[int]]:
    """Token ids of each prompt; control-token spellings inside the text stay text.

    Raises:
        ValueError: if prompts are conversational and the tokenizer has no chat template.
    """
    if isinstance(prompts[0], str):
        return tokenizer(list(prompts), split_special_tokens=True)["input_ids"]
    if tokenizer.chat_template is None:
        raise ValueError(
            f"The tokenizer of {tokenizer.name_or_path!r} has no chat template, but the prompts are conversational; "
            "set --conversational false, or choose a chat model."
        )
    encoded = tokenizer.apply_chat_template(
        list(prompts), add_generation_prompt=True, tokenize=True, return_dict=True, sanitize_control_tokens=True
    )
    return encoded["input_ids"]


def generate_explanations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | list[dict]],
    *,
    consumers: Sequence[str] | None = None,
    num_generations: int = 1,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    batch_size: int = 256,
    batch_tokens: int | None = None,
    seed: int = 0,
    progress: str | None = "Writing explanations",
    keep: Path | None = None,
    on_batch: Callable[[list[int], torch.Tensor], None] | None = None,
) -> list[list[str]]:
    """Sample `num_generations` explanations of each prompt (all ranks share the work and get all the texts).

    Args:
        model: causal LM or PeftModel; its adapter state is left as it is (disable it for pi_init).
        tokenizer: left padding is used whatever its setting.
        prompts: plain texts, or conversations for a chat model.
        consumers: the user id of each prompt, for a model with a soft prompt (see `rlrec.policies.soft_prompt`).
        num_generations: samples per prompt.
        max_new_tokens: longest explanation, in tokens.
        temperature: sampling temperature.
        batch_size: sequences generated at once on one rank.
        batch_tokens: fewer at once where prompts are long: at most so many tokens, padding and `max_new_tokens`
            included (one sequence may have more). Which texts share a batch decides who gets which random draw, so
            the texts are others than without, and equally likely.
        seed: the texts depend on it, on what shares a batch, and on nothing drawn before.
        progress: text of the progress bar, `None` for none.
        keep: where unfinished work is kept (see `Unfinished`); the policy must be the same when it goes on.
        on_batch: called with the numbers of a batch's prompts and their new tokens (B, T), on the rank that wrote.

    Returns:
        One list of `num_generations` texts per prompt.

    Raises:
        ValueError: conversations without a chat template; consumers without a soft prompt, or the other way round.
    """
    soft_prompt = soft_prompt_of(model)
    if (consumers is None) != (soft_prompt is None):
        words = ("a", "are missing") if consumers is None else ("no", "were given")
        raise ValueError("The model has {} soft prompt, but the consumers of the prompts {}.".format(*words))
    ids = tokenize_prompts(tokenizer, prompts)
    if soft_prompt is not None:
        ids = soft_prompt.prepend(ids, consumers)
    sampling = SAMPLING | {"temperature": temperature}

    def sample(rows: list[int], **padded: torch.Tensor) -> torch.Tensor:
        sequences = model.generate(
            **padded, **sampling, max_new_tokens=max_new_tokens, pad_token_id=tokenizer.pad_token_id
        )
        written = sequences[:, padded["input_ids"].shape[1] :]
        if on_batch is not None:
            on_batch(rows, written)
        return written

    return write_shared(
        model,
        tokenizer,
        ids,
        sample,
        copies=num_generations,
        batch_size=batch_size,
        batch_tokens=batch_tokens,
        new_tokens=max_new_tokens,
        seed=seed,
        progress=progress,
        unfinished=None if keep is None else Unfinished(keep, [max_new_tokens, temperature, consumers]),
    )


@torch.no_grad()
def write_shared(
    model,
    tokenizer: PreTrainedTokenizerBase,
    ids: Sequence[list[int]],
    generate: Callable[..., torch.Tensor],
    *,
    copies: int = 1,
    batch_size: int = 64,
    batch_tokens: int | None = None,
    new_tokens: int = 0,
    seed: int = 0,
    progress: str | None = None,
    unfinished: "Unfinished | None" = None,
) -> list[list[str]]:
    """`copies` texts for each of N token sequences; ranks share the work, and all get all texts.

    Args:
        model: anything with training, config, device, eval and train.
        ids: N prompts as tokens; long ones come first, so that a batch has little padding.
        generate: (numbers of the prompts, input_ids=..., attention_mask=...), padded on the left -> new tokens (B, T).
        batch_tokens, new_tokens: see `batches`.
        seed: the texts depend on it, on what shares a batch, and on nothing drawn before.
        unfinished: what an earlier call has left, and where this one leaves what it has.
    """
    state = PartialState()
    order = sorted((i for i in range(len(ids)) for _ in range(copies)), key=lambda i: -len(ids[i]))
    mine = order[state.process_index :: state.num_processes]
    parts = batches([len(ids[i]) for i in mine], batch_size, batch_tokens, new_tokens)
    devices, texts = [model.device] if model.device.type == "cuda" else [], []
    with torch.random.fork_rng(devices=devices), evaluation_mode(model):
        torch.manual_seed(seed * 1_000_003 + state.process_index)
        if unfinished is not None:
            texts = unfinished.resume([ids, mine, [len(part) for part in parts], seed], devices)
        for part in tqdm(parts, desc=progress, disable=progress is None or not state.is_main_process):
            if part.start < len(texts):
                continue  # an earlier call has written them
            rows = mine[part.start : part.stop]
            batch = [{"input_ids": ids[i]} for i in rows]
            padded = tokenizer.pad(batch, padding=True, padding_side="left", return_tensors="pt").to(model.device)
            written = generate(rows, input_ids=padded["input_ids"], attention_mask=padded["attention_mask"])
            texts += tokenizer.batch_decode(written, skip_special_tokens=True)
            if unfinished is not None:
                unfinished.save(texts, devices)
    gathered = [[] for _ in ids]
    for i, text in gather_object(list(zip(mine, texts, strict=True))):
        gathered[i].append(text.strip())
    return gathered


def batches(lengths: Sequence[int], batch_size: int, batch_tokens: int | None = None, new_tokens: int = 0):
    """Ranges of neighbours that share a batch: `batch_size` at most, and `batch_tokens` with padding.

    Args:
        lengths: tokens of each prompt, the longest first.
        batch_tokens: of prompts and new tokens, `None` for any number; a sequence alone may have more.
        new_tokens: of one sequence.

    >>> batches([9, 8, 4, 2, 2], batch_size=3)
    [range(0, 3), range(3, 5)]
    >>> batches([9, 8, 4, 2, 2], batch_size=3, batch_tokens=15, new_tokens=1)
    [range(0, 1), range(1, 2), range(2, 5)]
    """
    parts, start = [], 0
    while start < len(lengths):
        count = batch_size if batch_tokens is None else min(batch_size, batch_tokens // (lengths[start] + new_tokens))
        parts.append(range(start, min(start + max(count, 1), len(lengths))))
        start = parts[-1].stop
    return parts


class Unfinished:
    """The texts that a call of `write_shared` has written so far, with the random state behind them, in one file per
    rank: the same call after a kill goes on there and writes what it would have written.

    Args:
        path: the files' name without their ending. Whoever uses it calls `forget` when the texts lie elsewhere.
        settings: what the texts depend on besides prompts, order and seed; things that become JSON. The policy is not
            told: one path per policy.
        every: seconds between two savings.
    """

    def __init__(self, path: Path, settings: Sequence = (), every: float = 30.0):
        state = PartialState()
        self.path = path.with_name(f"{path.name}-rank{state.process_index}-of-{state.num_processes}.unfinished")
        self.settings, self.every, self._digest, self._saved = list(settings), every, "", time.monotonic()

    def resume(self, asked: Sequence, devices: Sequence[torch.device]) -> list[str]:
        """The texts written before, none where others were `asked` for; sets the random state behind them."""
        self._digest = hashlib.sha256(json.dumps([asked, self.settings]).encode()).hexdigest()
        left = read_json(self.path) if self.path.is_file() else {}
        if left.get("asked") != self._digest:
            return []
        states = [torch.tensor(list(bytes.fromhex(state)), dtype=torch.uint8) for state in left["random"]]
        torch.random.set_rng_state(states[0])
        for device, random in zip(devices, states[1:], strict=True):
            torch.cuda.set_rng_state(random, device)
        return left["texts"]

    def save(self, texts: list[str], devices: Sequence[torch.device]) -> None:
        """Keep the texts, if it is time."""
        if time.monotonic() - self._saved < self.every:
            return
        states = [torch.random.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]
        left = {"asked": self._digest, "random": [bytes(state.tolist()).hex() for state in states], "texts": texts}
        with replacing(self.path) as temporary:
            temporary.write_text(json.dumps(left), encoding="utf-8")
        self._saved = time.monotonic()

    @staticmethod
    def forget(path: Path) -> None:
        """Delete the files of all ranks."""
        for file in [*path.parent.glob(f"{path.name}-rank*.unfinished"), *path.parent.glob(f".{path.name}-rank*")]:
            file.unlink(missing_ok=True)


@contextmanager
def evaluation_mode(model):
    """Evaluation mode with the KV cache on (gradient checkpointing turns it off), put back afterwards."""
    training, use_cache = model.training, model.config.use_cache
    model.eval()
    model.config.use_cache = True
    try:
        yield
    finally:
        model.train(training)
        model.config.use_cache = use_cache
