"""Explanations of samples by a policy, kept in files: what was written once is read the next time."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
from accelerate import PartialState
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from rlrec.explanations import ExplanationStore
from rlrec.policies.generation import Unfinished, generate_explanations
from rlrec.policies.soft_prompt import soft_prompt_of
from rlrec.recpie.prompts import ExplanationPrompts


def write_explanations(
    path: Path,
    samples: pl.DataFrame,
    prompts: ExplanationPrompts,
    tokenizer: PreTrainedTokenizerBase,
    load_policy: Callable[[], PeftModel],
    *,
    count: int,
    max_new_tokens: int,
    batch_size: int,
    batch_tokens: int | None = None,
    seed: int,
    round: int = 0,
) -> list[ExplanationStore]:
    """`count` explanations of each sample and side, one store per draw, in the files `path`-0.parquet, ...

    Args:
        load_policy: gives the policy, with its soft prompt if it has one; not called where all files are there.
    """
    files = [path.with_name(f"{path.name}-{draw}.parquet") for draw in range(count)]
    if not all(file.is_file() for file in files):
        policy, rows = load_policy(), prompts.rows(samples)
        texts = generate_explanations(
            policy,
            tokenizer,
            [row["prompt"] for row in rows],
            consumers=None if soft_prompt_of(policy) is None else [row["user_id"] for row in rows],
            num_generations=count,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            batch_tokens=batch_tokens,
            seed=seed,
            progress=f"Writing {count} x {len(rows):,} explanations ({path.name.replace('_', ' ')})",
            keep=path,
        )
        if PartialState().is_main_process:
            for draw, file in enumerate(files):
                store = ExplanationStore()
                keys = ("user_id", "item_id", "side")
                store.update(
                    {**{key: row[key] for key in keys}, "text": written[draw], "round": round}
                    for row, written in zip(rows, texts)
                )
                store.save(file)
            Unfinished.forget(path)
        PartialState().wait_for_everyone()
    return [ExplanationStore.load(file) for file in files]
