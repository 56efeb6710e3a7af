"""Seconds per sample of training and of writing, measured side by side (SELLER, Table 5).

All systems do the same in turn, a few times over, and the median counts: what else the machine does meets all alike.
A training step is that of the run: features, forward, backward and Adam, in batches of its size. Each system writes
with the weights it was trained to, since how long a text is depends on them.
"""

import itertools
import statistics
import time
from collections.abc import Mapping, Sequence

import torch
from transformers import PreTrainedTokenizerBase

from rlrec.policies.injection import InjectedLLM
from rlrec.seller.trainer import Features, InjectedCollator, SELLERConfig, encode_rows, gather_features, write_texts

REPEATS = 3

System = tuple[InjectedLLM, Sequence[Mapping], Features, Sequence, Features]


def seconds_per_sample(
    systems: Mapping[str, System],
    tokenizer: PreTrainedTokenizerBase,
    config: SELLERConfig,
    *,
    max_new_tokens: int,
    batch_size: int,
    repeats: int = REPEATS,
) -> dict[str, dict[str, float]]:
    """{"training_seconds": {system: ...}, "inference_seconds": {system: ...}}.

    Args:
        systems: {name: (model, rows to train on as `SELLERTrainer` takes them, their features, prompts to write for,
            their features)}; a model whose adapter has no parameter is not trained.
        config: of the training.
        max_new_tokens, batch_size: of the writing.
    """
    seconds = {"training_seconds": {}, "inference_seconds": {}}
    for _, (name, (model, rows, features, prompts, prompt_features)) in itertools.product(
        range(repeats), systems.items()
    ):
        given = gather_features(prompt_features, torch.arange(len(prompts)))
        options = {"max_new_tokens": max_new_tokens, "batch_size": batch_size, "progress": None}
        start = _now(model)
        write_texts(model, tokenizer, prompts, given, **options)
        seconds["inference_seconds"].setdefault(name, []).append((_now(model) - start) / len(prompts))
        if any(parameter.requires_grad for parameter in model.adapter.parameters()):
            took = _training(model, rows, features, tokenizer, config)
            seconds["training_seconds"].setdefault(name, []).append(took)
    return {kind: {name: statistics.median(times) for name, times in each.items()} for kind, each in seconds.items()}


def _training(model: InjectedLLM, rows, features: Features, tokenizer, config: SELLERConfig) -> float:
    """Seconds per sample of one pass over `rows`, after which the model is as before."""
    before = {name: value.clone() for name, value in model.trained_state().items()}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=config.learning_rate)
    collate = InjectedCollator(tokenizer.pad_token_id, features)
    size, mixed = config.per_device_train_batch_size, torch.bfloat16 if config.bf16 else None
    encoded = encode_rows(rows, tokenizer, model.placeholder_id, config.max_length, features, "timed")
    model.train()
    start = _now(model)
    for first in range(0, len(encoded), size):
        batch = collate(encoded[first : first + size])
        told = {name: values.to(model.device) for name, values in batch.pop("features").items()}
        batch = {name: values.to(model.device) for name, values in batch.items()}
        with torch.autocast(model.device.type, dtype=mixed, enabled=mixed is not None):
            loss = model(**batch, features=told).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm or torch.inf)
        optimizer.step()
    took = (_now(model) - start) / len(encoded)
    model.eval()
    model.load_state_dict(before, strict=False)
    return took


def _now(model: InjectedLLM) -> float:
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter()
