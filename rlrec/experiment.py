"""From arguments to samples and policies: what every recipe does first."""

import json
from collections.abc import Mapping
from pathlib import Path

import polars as pl
from accelerate import PartialState
from peft import LoraConfig

from rlrec.arguments import DataArguments, PolicyArguments
from rlrec.data import PreparedDataset, prepare
from rlrec.data.prompts import PromptTemplate, category_words
from rlrec.data.splits import expctr_samples
from rlrec.policies.loading import Policies, embedded_policies, pretrained_policies
from rlrec.policies.tiny import TinyConfig
from rlrec.results import to_json, write_text_atomic


def claim_folder(folder: Path, settings: Mapping) -> None:
    """Note a run's settings in its folder, or check that the run which began there had the same ones.

    Raises:
        ValueError: it had others, so that resuming would mix two runs.
    """
    path, settings = folder / "settings.json", json.loads(to_json(settings))
    state = PartialState()
    with state.main_process_first():
        if not path.is_file():
            write_text_atomic(path, to_json(settings) + "\n")
    before = json.loads(path.read_text(encoding="utf-8"))
    changed = [name for name in sorted({*before, *settings}) if before.get(name) != settings.get(name)]
    if changed:
        name = changed[0]
        others = f" (and {len(changed) - 1} more settings differ)" if len(changed) > 1 else ""
        raise ValueError(
            f"{folder} holds a run with {name} = {before.get(name)!r}, not {settings.get(name)!r}{others}; give "
            "another --output_dir, or delete that folder."
        )


def load_samples(arguments: DataArguments, seed: int, progress=print) -> tuple[PreparedDataset, pl.DataFrame]:
    """The prepared dataset that the arguments name, and ExpCTR's samples drawn from it."""
    if arguments.data_dir is not None:
        prepared = PreparedDataset.load(arguments.data_dir)
    else:
        prepared = prepare(
            arguments.dataset,
            arguments.raw_dir,
            threshold=arguments.threshold,
            label_rule=arguments.label_rule or "gt",
            k_core=arguments.k_core,
            category=arguments.category,
            zip_codes=arguments.zip_codes,
            num_users=arguments.num_users,
            num_items=arguments.num_items,
            interactions_per_user=arguments.interactions_per_user,
            seed=seed,
            progress=progress,
        )
    threshold = prepared.metadata["threshold"] if arguments.threshold is None else arguments.threshold
    samples = expctr_samples(
        prepared.interactions,
        prepared.items,
        threshold=threshold,
        label_rule=arguments.label_rule or prepared.metadata["label_rule"],
        num_samples=arguments.num_samples,
        history_length=arguments.history_length,
        min_history=arguments.min_history,
        seed=seed,
    )
    counts = dict(samples.group_by("split").len().iter_rows())
    progress(
        f"{prepared.metadata['name']}: {len(samples):,} samples ({counts['train']:,} / {counts['validation']:,} / "
        f"{counts['test']:,}), {samples['label'].mean():.1%} positive"
    )
    return prepared, samples


def load_policies(
    arguments: PolicyArguments, prepared: PreparedDataset, samples: pl.DataFrame, seed: int
) -> tuple[Policies, PromptTemplate]:
    """The policies and the prompt template that go with the model's name."""
    domain = prepared.metadata["domain"]
    targets = arguments.lora_target_modules
    lora = LoraConfig(
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=targets if targets == "all-linear" else targets.split(","),
        task_type="CAUSAL_LM",
    )
    if arguments.model_name_or_path != "tiny":
        policies = pretrained_policies(
            arguments.model_name_or_path,
            lora,
            revision=arguments.model_revision,
            dtype=arguments.dtype,
            attn_implementation=arguments.attn_implementation,
        )
        has_template = policies.tokenizer.chat_template is not None
        conversational = has_template if arguments.conversational is None else arguments.conversational
        if conversational and not has_template:
            raise ValueError(
                f"conversational is set, but the tokenizer of {arguments.model_name_or_path} has no chat template; "
                "leave it out, or choose a chat model."
            )
        return policies, PromptTemplate(arguments.prompt_style or "paper", domain, conversational)
    template = PromptTemplate(arguments.prompt_style or "compact", domain, False, arguments.history_categories)
    items = prepared.items
    catalogue = [
        (t, c or [], category_words(c)) for t, c in zip(items["title"].to_list(), items["categories"].to_list())
    ]
    config = TinyConfig(
        warmup_steps=arguments.warmup_steps_copy,
        template_steps=arguments.template_steps,
        restrict_titles=arguments.restrict_titles,
        seed=seed,
    )
    rows = template.rows(samples.filter(pl.col("split") == "train"))
    return embedded_policies(rows, catalogue, template.generation, template.ctr, domain, config, lora), template
