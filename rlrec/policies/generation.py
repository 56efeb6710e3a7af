"""Writing explanations with a policy outside of training: batched, sharded over ranks, with progress."""

from collections.abc import Callable, Sequence
from contextlib import contextmanager

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlrec.policies.soft_prompt import soft_prompt_of


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
    seed: int = 0,
    progress: str | None = "Writing explanations",
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
        seed: the texts depend on it and on nothing drawn before.
        progress: text of the progress bar, `None` for none.
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
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}

    def sample(rows: list[int], **padded: torch.Tensor) -> torch.Tensor:
        sequences = model.generate(
            **padded, **sampling, max_new_tokens=max_new_tokens, pad_token_id=tokenizer.pad_token_id
        )
        written = sequences[:, padded["input_ids"].shape[1] :]
        if on_batch is not None:
            on_batch(rows, written)
        return written

    return write_shared(
        model, tokenizer, ids, sample, copies=num_generations, batch_size=batch_size, seed=seed, progress=progress
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
    seed: int = 0,
    progress: str | None = None,
) -> list[list[str]]:
    """`copies` texts for each of N token sequences; ranks share the work, and all get all texts.

    Args:
        model: anything with training, config, device, eval and train.
        ids: N prompts as tokens; long ones come first, so that a batch has little padding.
        generate: (numbers of the prompts, input_ids=..., attention_mask=...), padded on the left -> new tokens (B, T).
        seed: the texts depend on it and on nothing drawn before.
    """
    state = PartialState()
    order = sorted((i for i in range(len(ids)) for _ in range(copies)), key=lambda i: -len(ids[i]))
    mine = order[state.process_index :: state.num_processes]
    texts = []
    forked = torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else [])
    with forked, evaluation_mode(model):
        torch.manual_seed(seed * 1_000_003 + state.process_index)
        starts = range(0, len(mine), batch_size)
        for start in tqdm(starts, desc=progress, disable=progress is None or not state.is_main_process):
            rows = mine[start : start + batch_size]
            batch = [{"input_ids": ids[i]} for i in rows]
            padded = tokenizer.pad(batch, padding=True, padding_side="left", return_tensors="pt").to(model.device)
            written = generate(rows, input_ids=padded["input_ids"], attention_mask=padded["attention_mask"])
            texts += tokenizer.batch_decode(written, skip_special_tokens=True)
    gathered = [[] for _ in ids]
    for i, text in gather_object(list(zip(mine, texts, strict=True))):
        gathered[i].append(text.strip())
    return gathered


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
