"""Answers of a policy to TRAIL's prompts, kept in files, and the explanations to train on that are made of them.

Paper: "Following the TRAIL" (2026), section 4.2 and appendix A.3. There are no true explanations; the paper trains on
answers that hold one all the same and does not say whose. Departures:

1. The explanation text in a training answer is the base model's own, written to the prompt that the answer follows
   (the embedded policy's is drawn from `TrendGrammar`). Kept is what could be read whole; the rest is counted.
2. The score in a training answer is the true popularity (eq. 9), not the base model's. So the text may argue for
   another number than the one before it. It is not rewritten: a text made to fit the label would leak it into the
   explanation, and eq. 9 gives the text no loss at all.
3. Appendix A.3 drops answers without both markers. No prompt asks a base model for them, so they are put in here, and
   an answer is dropped for having no explanation.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlrec.files import read_frame
from rlrec.policies.generation import generate_explanations
from rlrec.results import write_parquet_atomic
from rlrec.trail.grammar import TrendGrammar
from rlrec.trail.output import Answer
from rlrec.trail.prompts import TrendPrompts

CUT = "cut off"
KEYS = ("item_id", "window")
SCHEMA = {
    "item_id": pl.String,
    "window": pl.Int32,
    "score": pl.Float64,
    "explanation": pl.String,
    "problem": pl.String,
    "repaired": pl.Boolean,
    "cut": pl.Boolean,
    "text": pl.String,
}


def write_answers(
    folder: str | os.PathLike,
    samples: pl.DataFrame,
    prompts: TrendPrompts,
    tokenizer: PreTrainedTokenizerBase,
    load_policy: Callable[[], PreTrainedModel],
    *,
    max_new_tokens: int,
    batch_size: int,
    temperature: float = 1.0,
    seed: int = 0,
    part_size: int = 1000,
    examples: Sequence[tuple[Mapping, str]] = (),
) -> pl.DataFrame:
    """One answer to each sample's prompt; what was written before is read, what is missing is written part by part.

    All ranks share the work on each part, and the first writes it, atomically. A part's file is named after a hash of
    its prompts and settings, so that it is never taken for another's. The policy is not in it: one folder per policy.

    Args:
        folder: of the parts, seen by all ranks.
        samples: N rows with what `prompts` read, item_id and window.
        load_policy: gives the model; not called where nothing is missing.
        max_new_tokens, batch_size, temperature, seed: of `generate_explanations`.
        part_size: samples per file.
        examples: samples with their answers to put before each prompt (few-shot).

    Returns:
        A frame of N rows in the order of `samples` with the columns of `SCHEMA`: `text` as written, the rest as
        `Answer` has it.
    """
    asked = [prompts.few_shot(row, examples) if examples else prompts.prompt(row) for row in samples.to_dicts()]
    starts = range(0, len(asked), part_size)
    settings = [max_new_tokens, temperature, seed]
    files = [_file(Path(folder), start, asked[start : start + part_size], settings) for start in starts]
    state = PartialState()
    missing = [[number for number, file in enumerate(files) if not file.is_file()]]
    broadcast_object_list(missing)  # a rank that looks later may see files that another has just written
    policy = load_policy() if missing[0] else None
    for number in missing[0]:
        part = slice(starts[number], starts[number] + part_size)
        texts = generate_explanations(
            policy,
            tokenizer,
            asked[part],
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            batch_size=batch_size,
            seed=seed * 100_003 + number,
            progress=f"Writing answers, part {number + 1} of {len(files)}",
        )
        if state.is_main_process:
            write_parquet_atomic(files[number], _frame(samples[part], [text for (text,) in texts], prompts.parse))
    state.wait_for_everyone()
    return pl.concat([pl.DataFrame(schema=SCHEMA), *map(read_frame, files)])


def draw_answers(samples: pl.DataFrame, grammar: TrendGrammar, seed: int = 0) -> pl.DataFrame:
    """`write_answers` without a policy: label-blind scores and explanations from the grammar."""
    rng, prompts = np.random.default_rng(seed), grammar.prompts
    texts = [
        prompts.answer(prompts.score(grammar.score(row)), grammar.draw(row, rng))
        for row in samples.iter_rows(named=True)
    ]
    return _frame(samples, texts, prompts.parse)


def training_rows(
    samples: pl.DataFrame, answers: pl.DataFrame, prompts: TrendPrompts
) -> tuple[list[dict], dict[str, int]]:
    """Samples to train on: all their columns, `prompt`, `explanation`, and as `completion` the true score with it.

    Args:
        samples: training samples; `popularity` is read.
        answers: of `write_answers` or `draw_answers` to the same samples.

    Returns:
        The rows whose answer holds a whole explanation, and counts: samples, kept, and how many were dropped for
        each problem (`rlrec.trail.output.PROBLEMS`, or "cut off").

    Raises:
        ValueError: a sample without an answer.
    """
    rows, dropped = [], Counter()
    joined = samples.join(answers.select(*KEYS, "explanation", "problem", "cut"), on=KEYS, how="left")
    for row in joined.iter_rows(named=True):
        problem, cut = row.pop("problem"), row.pop("cut")
        if cut is None:
            raise ValueError(
                f"Item {row['item_id']!r} has no answer for window {row['window']}; write answers to all the samples."
            )
        if row["explanation"] is None or cut:
            dropped[CUT if cut else problem] += 1
            continue
        completion = prompts.answer(prompts.score(row["popularity"]), row["explanation"])
        if prompts.conversational:
            completion = [{"role": "assistant", "content": completion}]
        rows.append({**row, "prompt": prompts.prompt(row), "completion": completion})
    return rows, {"samples": samples.height, "kept": len(rows), **dropped}


def _file(folder: Path, start: int, asked: list, settings: list) -> Path:
    digest = hashlib.sha256(json.dumps([asked, settings]).encode()).hexdigest()[:16]
    return folder / f"answers-{start:08d}-{digest}.parquet"


def _frame(samples: pl.DataFrame, texts: Sequence[str], parse: Callable[[str], Answer]) -> pl.DataFrame:
    keys = samples.select(*KEYS).iter_rows(named=True)
    rows = [{**key, **parse(text)._asdict(), "text": text} for key, text in zip(keys, texts, strict=True)]
    return pl.DataFrame(rows, schema=SCHEMA)
