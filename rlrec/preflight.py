"""Reward preflight: what a stage of PPO would be given, told before it is trained (`--preflight 64`).

The policy that the stage starts from writes completions of some training prompts, the stage's rewards score them, and
one update is tried and thrown away. The report says how the rewards spread, whether they follow the length, what is
malformed, and what time and memory the stage will take. Settings from which nothing can be learned are refused with
the reason. The random states are put back, so the run that follows draws what it would have drawn.

What is estimated, and how well: seconds grow in proportion to the completions, so a GPU that has room for larger
batches will need less; checkpoints, logging and what a recipe does between its stages are not in it.
"""

import asyncio
import contextlib
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from datasets import Dataset
from trl.data_utils import is_conversational
from trl.trainer.utils import is_async_callable

from rlrec.alternating import PolicyStage
from rlrec.policies.generation import generate_explanations, tokenize_prompts
from rlrec.policies.soft_prompt import soft_prompt_of
from rlrec.ppo import PPOConfig
from rlrec.ppo import advantages as adv
from rlrec.ppo.rewards import RewardFailure, RewardGuard
from rlrec.results import peak_memory, to_json, write_text_atomic
from rlrec.tables import markdown_table

ADAM_BYTES = 8  # two float32 moments per trained weight


class HopelessSettings(RewardFailure):
    """Settings from which PPO cannot learn anything; the message says why and what to change."""


def preflight(
    folder: Path,
    report_path: Path,
    count: int,
    *,
    load_policy: Callable,
    tokenizer,
    dataset: Callable[[], Dataset],
    make_rewards: Callable,
    config: PPOConfig,
    num_train_epochs: float,
    off_format: Callable[[Sequence[str], Sequence[dict]], list[str | None]] | None = None,
) -> dict | None:
    """Try a stage on `count` prompts, print and keep the report; None where the stage has begun already.

    Args:
        folder: of the stage.
        report_path: JSON file of the report.
        count: prompts (rows of the dataset), each with `config.num_generations` completions.
        load_policy, tokenizer, dataset, make_rewards, config, num_train_epochs: of `train_policy_stage`.
        off_format: (texts, rows) -> what is wrong with the form of each, or None; counted, and never a reason to
            refuse, since a policy may learn the form.

    Raises:
        HopelessSettings: see `hopeless`.
        RewardFailure: a reward function failed.
    """
    if PolicyStage(folder).done or any(folder.glob("checkpoint-*")):
        return None
    with random_states_kept():
        rows = dataset()
        steps = rollouts(len(rows), num_train_epochs, config)
        rows = [
            rows[i] for i in chosen_rows(len(rows), count, 2 if "pair_id" in rows.column_names else 1, config.seed)
        ]
        policy = load_policy().to(PartialState().device)
        texts, ids, seconds = sample(policy, tokenizer, rows, config)
        rows = [row for row in rows for _ in range(config.num_generations)]
        rewards, reward_seconds, metrics = score(make_rewards(policy), rows, texts, ids, config)
        update, forward = try_update(policy, tokenizer, rows, ids, config)
    lengths = [len(tokens) for tokens in ids]
    faults = [fault(text, n, config.max_completion_length) for text, n in zip(texts, lengths)]
    names, values = list(rewards), torch.tensor(list(rewards.values()), dtype=torch.float64).T  # (N, F)
    weights = torch.tensor(config.reward_weights or [1.0] * len(names), dtype=torch.float64)
    totals = adv.weighted_rewards(values, weights)
    per_completion = {"generation": seconds, **{f"reward {n}": s for n, s in reward_seconds.items()}}
    per_completion = {name: spent / len(texts) for name, spent in per_completion.items()}
    per_completion["update"] = update_seconds(update, forward, config)
    trained = sum(parameter.numel() for parameter in policy.parameters() if parameter.requires_grad)
    memory = peak_memory()
    report = {
        "prompts": len(rows) // config.num_generations,
        "completions": len(texts),
        "rewards": {
            name: described(column, lengths) for name, column in zip([*names, "total"], [*values.unbind(1), totals])
        },
        "metrics": metrics,
        "equal_rewards": equal_share(totals, config.num_generations),
        "malformed": sum(f is not None for f in faults) / len(faults),
        "faults": dict(Counter(filter(None, faults))),
        "off_format": dict(Counter(filter(None, off_format(texts, rows)))) if off_format else {},
        "tokens": float(np.mean(lengths)),
        "tokens_per_second": sum(lengths) / seconds,
        "seconds_per_completion": per_completion,
        "rollouts": steps,
        "completions_in_stage": steps * config.generation_batch_size,
        "stage_seconds": steps * config.generation_batch_size * sum(per_completion.values()),
        "memory_bytes": max(memory[name] for name in (set(memory) - {"process"}) or memory) + ADAM_BYTES * trained,
    }
    reason = hopeless(texts, faults, values, weights, config)
    if PartialState().is_main_process:
        print(preflight_table(folder.name, report))
        write_text_atomic(report_path, to_json(report | {"refused": reason}) + "\n")
    reasons = [told for told in gather_object([reason]) if told]  # all ranks go on, or none
    if reasons:
        raise HopelessSettings(f"Preflight of stage {folder.name}: {reasons[0]}")
    return report


# -- what PPO would be given: pure functions ----------------------------------------------------------------------


def hopeless(
    texts: Sequence[str], faults: Sequence[str | None], rewards: torch.Tensor, weights: torch.Tensor, config: PPOConfig
) -> str | None:
    """Why nothing can be learned from these N completions, in one sentence; None where something can.

    Args:
        texts, faults: completions, and what is wrong with each (`fault`) or None.
        rewards, weights: (N, F), NaN where a function gave None, and (F,).
        config: its reward_clip, normalize_rewards, baseline and num_generations are what rewards go through.
    """
    count, group_size = len(texts), config.num_generations
    if all(faults):
        kinds = ", ".join(f"{n} {kind}" for kind, n in Counter(faults).items())
        return (
            f"all {count} completions are malformed ({kinds}); raise max_completion_length "
            f"({config.max_completion_length}), or look at the prompts and at what ends the model's answers."
        )
    if count > 1 and len(set(texts)) == 1:
        return (
            f"all {count} completions are the same text ({texts[0][:60]!r}), so there is nothing to choose from; "
            f"raise temperature ({config.temperature:g}), or start from another policy."
        )
    totals = adv.weighted_rewards(rewards, weights)
    if totals.isnan().all():
        return f"all {count} rewards are None, so no completion is rewarded; check the columns that the rewards read."
    if spread(totals) == 0:
        return (
            f"all {count} rewards are equal ({totals[~totals.isnan()][0]:g}), so none is better than another; "
            "give another reward, or other reward_weights."
        )
    given = adv.normalize_rewards(totals) if config.normalize_rewards else totals
    if config.reward_clip is not None:
        given = given.clamp(-config.reward_clip, config.reward_clip)
        if spread(given) == 0:
            return (
                f"reward_clip {config.reward_clip:g} makes all {count} rewards equal (they lie between "
                f"{totals.nan_to_num(math.inf).min():g} and {totals.nan_to_num(-math.inf).max():g}); raise it, or set "
                "normalize_rewards."
            )
    if config.baseline == "group" and equal_share(given, group_size) == 1:
        return (
            f"the {group_size} completions of each of {count // group_size} prompts have equal rewards, and "
            "baseline='group' leaves nothing of them; raise num_generations or temperature, or set baseline='critic'."
        )
    return None


def described(rewards: torch.Tensor, lengths: Sequence[int]) -> dict[str, float | None]:
    """mean, sd, lowest and highest of rewards (N,), the share missing (NaN), and their correlation with the length.

    >>> found = described(torch.tensor([1.0, 2.0, 3.0, float("nan")]), [10, 20, 30, 5])
    >>> found["mean"], found["missing"], round(found["length_correlation"], 3)
    (2.0, 0.25, 1.0)
    """
    there = ~rewards.isnan()
    values = rewards[there]
    if not len(values):
        return {"mean": None, "sd": None, "lowest": None, "highest": None, "missing": 1.0, "length_correlation": None}
    spans = torch.as_tensor(lengths, dtype=values.dtype)[there]
    related = None
    if spread(values) > 0 and spread(spans) > 0:
        related = float(torch.corrcoef(torch.stack([values, spans]))[0, 1])
    return {
        "mean": float(values.mean()),
        "sd": float(values.std(correction=0)),
        "lowest": float(values.min()),
        "highest": float(values.max()),
        "missing": float((~there).double().mean()),
        "length_correlation": related,
    }


def spread(values: torch.Tensor) -> float:
    """Highest minus lowest of (N,), NaN left out; 0 where they differ by no more than float32's rounding."""
    values = values[~values.isnan()]
    if not len(values):
        return 0.0
    width = float(values.max() - values.min())
    return width if width > 1e-6 * max(1e-6, float(values.abs().max())) else 0.0


def equal_share(rewards: torch.Tensor, group_size: int) -> float:
    """Share of the groups of adjacent completions whose rewards are all equal; in groups of one there is nothing to
    compare, so it is the share of all completions at the most frequent reward.

    >>> equal_share(torch.tensor([1.0, 1.0, 1.0, 2.0]), 2), equal_share(torch.tensor([1.0, 1.0, 1.0, 2.0]), 1)
    (0.5, 0.75)
    """
    if group_size > 1:
        groups = rewards.view(-1, group_size)
        return sum(spread(group) == 0 for group in groups) / len(groups)
    values = rewards[~rewards.isnan()]
    if not len(values):
        return 1.0
    rounded = [f"{value:.6g}" for value in values.tolist()]
    return Counter(rounded).most_common(1)[0][1] / len(rounded)


def fault(text: str, tokens: int, longest: int) -> str | None:
    """What makes a completion useless whatever it is about: "empty", or "cut off" by the limit of `longest` tokens."""
    if not text.strip():
        return "empty"
    return "cut off" if tokens >= longest else None


def chosen_rows(rows: int, count: int, unit: int, seed: int) -> list[int]:
    """Numbers of about `count` of `rows` rows, drawn by `seed`; `unit` adjacent ones are drawn together.

    >>> chosen_rows(6, 100, 2, seed=0)
    [0, 1, 2, 3, 4, 5]
    """
    units = rows // unit
    drawn = np.random.default_rng(seed).permutation(units)[: max(1, min(units, count // unit))]
    return [int(number) * unit + place for number in sorted(drawn) for place in range(unit)]


def rollouts(rows: int, epochs: float, config: PPOConfig) -> int:
    """How many rollouts a stage has: whole ones alone, and never less than one."""
    if config.max_steps > 0:
        per_rollout = config.steps_per_generation * config.num_iterations / config.gradient_accumulation_steps
        return math.ceil(config.max_steps / per_rollout)
    return max(1, math.ceil(epochs * (rows * config.num_generations // config.generation_batch_size)))


def update_seconds(update: float, forward: float, config: PPOConfig) -> float:
    """Seconds per completion that PPO itself takes, from those of one mini-batch with and without gradients.

    Each rollout is passed `num_iterations` times with gradients; before, once through the reference (beta > 0), and
    once more for the old log-probabilities where these are not taken from generation.
    """
    before = (config.beta > 0) + bool(config.bf16 or config.fp16 or config.logprobs_from_generation is False)
    ranks = PartialState().num_processes
    return (config.num_iterations * update + before * forward) / (config.per_device_train_batch_size * ranks)


# -- what is tried ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def random_states_kept():
    """Puts the random states of Python, NumPy and torch (all devices) back to what they were."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def sample(policy, tokenizer, rows: list[dict], config: PPOConfig) -> tuple[list[str], list[list[int]], float]:
    """Texts and tokens (without what follows the end) of each row's completions, adjacent, and the seconds taken."""
    written: dict[int, list[list[int]]] = {}
    ends = {tokenizer.eos_token_id, tokenizer.pad_token_id}

    def record(numbers: list[int], tokens: torch.Tensor) -> None:
        for number, line in zip(numbers, tokens.tolist()):
            stop = next((place for place, token in enumerate(line) if token in ends), len(line))
            written.setdefault(number, []).append(line[:stop])

    started = time.perf_counter()
    texts = generate_explanations(
        policy,
        tokenizer,
        [row["prompt"] for row in rows],
        consumers=None if soft_prompt_of(policy) is None else [row["user_id"] for row in rows],
        num_generations=config.num_generations,
        max_new_tokens=config.max_completion_length,
        temperature=config.temperature,
        batch_size=min(config.generation_batch_size, 256),
        seed=config.seed,
        progress=None,
        on_batch=record,
    )
    seconds = time.perf_counter() - started
    gathered: dict[int, list[list[int]]] = {}
    for number, lines in gather_object(list(written.items())):
        gathered.setdefault(number, []).extend(lines)
    return [text for own in texts for text in own], [ids for n in range(len(rows)) for ids in gathered[n]], seconds


def score(
    functions: Sequence[Callable],
    rows: list[dict],
    texts: Sequence[str],
    ids: Sequence[list[int]],
    config: PPOConfig,
):
    """{name: rewards, NaN for None}, {name: seconds}, and the metrics that the functions log.

    They are called as TRL calls them, once for all completions. What fails is treated as in training: `reward_timeout`
    is in proportion to the completions, and with `on_reward_error="mask"` completions that failed have no reward.

    Raises:
        RewardFailure: on every rank, when one failed on any (for more completions than the budget, with "mask").
    """
    conversational = is_conversational({"prompt": rows[0]["prompt"]})
    completions = [[{"role": "assistant", "content": text}] if conversational else text for text in texts]
    columns = {name: [row[name] for row in rows] for name in rows[0] if name not in ("prompt", "completion_ids")}
    metrics: dict[str, float] = {}
    columns |= {"log_metric": metrics.__setitem__, "log_extra": lambda *_: None, "trainer_state": None}
    given = {"prompts": [row["prompt"] for row in rows], "completions": completions, "completion_ids": ids}
    share = config.per_device_train_batch_size * config.steps_per_generation  # completions that the timeout is for
    timeout = None if config.reward_timeout is None else config.reward_timeout * max(1.0, len(texts) / share)
    guard, rewards, seconds = RewardGuard(timeout), {}, {}
    for function in functions:
        name = getattr(function, "__name__", type(function).__name__)
        guarded, started = guard.wrap(function, name), time.perf_counter()
        answer = guarded(**given, **columns)
        answer = asyncio.run(answer) if is_async_callable(function) else answer
        seconds[name] = time.perf_counter() - started
        rewards[name] = [math.nan if value is None else value for value in answer]
    budget = config.reward_failure_budget if config.on_reward_error == "mask" else 0.0
    over = guard.failure if len(guard.failed) > budget * len(texts) else None
    failures = [told for told in gather_object([over]) if told]
    if failures:
        raise RewardFailure(failures[0]) from guard.cause
    for row in guard.failed:
        for values in rewards.values():
            values[row] = math.nan
    return rewards, seconds, metrics


def try_update(
    policy, tokenizer, rows: list[dict], ids: Sequence[list[int]], config: PPOConfig
) -> tuple[float, float]:
    """Seconds of a mini-batch of the stage's size with gradients, which are dropped, and without any."""
    size = config.per_device_train_batch_size
    prompts = tokenize_prompts(tokenizer, [row["prompt"] for row in rows[:size]])
    soft_prompt = soft_prompt_of(policy)
    if soft_prompt is not None:
        prompts = soft_prompt.prepend(prompts, [row["user_id"] for row in rows[:size]])
    sequences = [[*prompt, *tokens] for prompt, tokens in zip(prompts, ids)]
    sequences = [sequences[i % len(sequences)] for i in range(size)]  # as many as there will be, for the memory
    padded = tokenizer.pad(
        [{"input_ids": s} for s in sequences], padding=True, padding_side="left", return_tensors="pt"
    )
    padded = {name: padded[name].to(policy.device) for name in ("input_ids", "attention_mask")}
    if config.gradient_checkpointing:
        policy.gradient_checkpointing_enable()
        policy.enable_input_require_grads()
    width = max(1, max(map(len, ids[:size])))

    def passed() -> torch.Tensor:
        return policy(**padded, use_cache=False, logits_to_keep=width).logits.float().logsumexp(-1).sum()

    policy.train()
    passed().backward()  # the first pass pays for what later ones find ready
    spent = []
    for gradients in (True, False):
        started = time.perf_counter()
        with torch.set_grad_enabled(gradients):
            value = passed()
        if gradients:
            value.backward()
        value.item()  # waits for the device
        spent.append(time.perf_counter() - started)
    policy.zero_grad(set_to_none=True)
    return spent[0], spent[1]


# -- what is told -------------------------------------------------------------------------------------------------


def preflight_table(stage: str, report: dict) -> str:
    """The report as two Markdown tables."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.4g}"

    names = ("mean", "sd", "lowest", "highest", "missing", "length_correlation")
    rewards = [[name, *(number(found[key]) for key in names)] for name, found in report["rewards"].items()]
    counted = {**report["faults"], **{f"form: {kind}": n for kind, n in report["off_format"].items()}}
    kinds = ", ".join(f"{n} {kind}" for kind, n in counted.items())
    grouped = report["completions"] > report["prompts"]
    lines = [
        ["prompts, completions", f"{report['prompts']}, {report['completions']}"],
        ["groups of equal rewards" if grouped else "completions at one reward", f"{report['equal_rewards']:.1%}"],
        ["malformed completions", f"{report['malformed']:.1%}" + (f" ({kinds})" if kinds else "")],
        ["tokens per completion", f"{report['tokens']:.1f}"],
        ["tokens per second", f"{report['tokens_per_second']:.0f}"],
        *([f"{name}, seconds per completion", number(s)] for name, s in report["seconds_per_completion"].items()),
        ["completions in the stage", f"{report['completions_in_stage']:,} in {report['rollouts']:,} rollouts"],
        ["the stage's PPO, about", f"{report['stage_seconds'] / 60:.1f} minutes"],
        ["memory, at least", f"{report['memory_bytes'] / 2**30:.2f} GiB"],
    ]
    header = ["reward", "mean", "sd", "lowest", "highest", "missing", "correlation with length"]
    return f"\nPreflight of stage {stage}\n\n{markdown_table(header, rewards)}\n\n{markdown_table(['', ''], lines)}\n"
