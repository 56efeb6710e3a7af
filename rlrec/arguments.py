"""Command lines and configuration files of the recipes: one flat dataclass per concern, parsed by TRL's parser.

`--config` takes a path or the name of a packaged file (`expctr/ml-100k`); what stands on the command line wins over
the file, and the file over the defaults. Unknown keys fail, with the nearest known one named.
"""

import contextlib
import dataclasses
import difflib
import os
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import transformers
import yaml
from accelerate import PartialState
from trl import TrlParser

from rlrec.configs import load_config, packaged_configs
from rlrec.files import DamagedFile, storage_problem
from rlrec.ppo.rewards import RewardFailure

# Seconds that processes wait for each other: the main one fits recommenders, or asks an endpoint, while others wait
PATIENCE = 24 * 3600


@dataclass
class DataArguments:
    """Which interactions, and how they become samples."""

    dataset: str = field(
        default="simulated",
        metadata={
            "help": "Dataset name: simulated, simulated-hard, simulated-trends, ml-100k, ml-1m, ml-20m, "
            "book-crossing, amazon, douban-movies, google-local, yelp, tripadvisor, ..."
        },
    )
    data_dir: str | None = field(
        default=None, metadata={"help": "Folder written by recipes/prepare_data.py (instead of --raw_dir)."}
    )
    raw_dir: str | None = field(default=None, metadata={"help": "Folder with the official raw files of --dataset."})
    category: str | None = field(
        default=None, metadata={"help": "Amazon category, such as Gift_Cards, or Google Local's state."}
    )
    zip_codes: str | None = field(
        default=None, metadata={"help": "Google Local: only businesses with these zip codes, such as 94035-94043."}
    )
    k_core: int = field(default=0, metadata={"help": "Keep users and items with at least so many interactions."})
    threshold: float | None = field(
        default=None, metadata={"help": "Rating threshold of the label; default: the dataset's (4, Book-Crossing 5)."}
    )
    label_rule: str | None = field(
        default=None,
        metadata={
            "help": "'gt': rating > threshold (the paper's letter); 'ge': rating >= threshold; default: what "
            "--data_dir was prepared with, else 'gt'."
        },
    )
    num_samples: int | None = field(
        default=20_000,
        metadata={"help": "Samples over all splits (ExpCTR section 5.1.1: 20,000; Book-Crossing 40,000)."},
    )
    history_length: int = field(default=10, metadata={"help": "Longest history (ExpCTR section 5.1.1: 10)."})
    min_history: int = field(default=1, metadata={"help": "A target needs at least so many earlier interactions."})
    num_users: int = field(default=1000, metadata={"help": "Users of the simulated world."})
    num_items: int = field(default=300, metadata={"help": "Items of the simulated world."})
    interactions_per_user: int = field(default=30, metadata={"help": "Ratings per user of the simulated world."})

    def __post_init__(self):
        if self.label_rule not in (None, "gt", "ge"):
            raise ValueError(f"label_rule is {self.label_rule!r}, but must be 'gt' or 'ge'.")
        if self.num_samples is not None and self.num_samples < 1:
            raise ValueError(f"num_samples is {self.num_samples}, but must be at least 1.")
        if self.history_length < 1 or self.min_history < 0:
            raise ValueError(
                f"history_length is {self.history_length} and min_history {self.min_history}, but must be at least "
                "1 and 0."
            )


@dataclass
class PolicyArguments:
    """The language model that writes explanations, and its LoRA adapter."""

    model_name_or_path: str = field(
        default="tiny",
        metadata={
            "help": "'tiny' (the embedded policy, trained on the spot) or a Hugging Face causal LM's name or path."
        },
    )
    model_revision: str | None = field(default=None, metadata={"help": "Revision of a model from the Hub."})
    dtype: str = field(default="float32", metadata={"help": "float32, bfloat16 or float16."})
    attn_implementation: str | None = field(default=None, metadata={"help": "sdpa, flash_attention_2, ..."})
    conversational: bool | None = field(
        default=None, metadata={"help": "Chat prompts; default: whether the tokenizer has a chat template."}
    )
    prompt_style: str | None = field(
        default=None, metadata={"help": "'paper' or 'compact'; default: compact for 'tiny', paper otherwise."}
    )
    history_categories: int = field(default=0, metadata={"help": "Compact style: categories after a history title."})
    restrict_titles: bool = field(
        default=True, metadata={"help": "Embedded policy: only titles of the user's history can be written."}
    )
    warmup_steps_copy: int = field(
        default=1500, metadata={"help": "Embedded policy: longest copy warm-up; it ends when copying is learned."}
    )
    template_steps: int = field(default=400, metadata={"help": "Embedded policy: steps on the templates."})
    lora_r: int = field(default=16, metadata={"help": "LoRA rank (ExpCTR uses LoRA and names no rank)."})
    lora_alpha: int = field(default=32, metadata={"help": "LoRA alpha."})
    lora_dropout: float = field(default=0.0, metadata={"help": "LoRA dropout (PPO switches dropout off anyway)."})
    lora_target_modules: str = field(
        default="all-linear", metadata={"help": "'all-linear', or names separated by commas."}
    )

    def __post_init__(self):
        if self.prompt_style not in (None, "paper", "compact"):
            raise ValueError(f"prompt_style is {self.prompt_style!r}, but must be 'paper' or 'compact'.")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"dtype is {self.dtype!r}, but must be float32, bfloat16 or float16.")


@dataclass
class StageArguments:
    """What ExpCTR's and RecPIE's arguments share: checks before a stage of PPO, and writing in the evaluation."""

    preflight: int = field(
        default=0,
        metadata={
            "help": "Before each stage, try it on so many prompts, report what PPO would be given, and refuse "
            "settings that teach nothing (docs/preflight.md); 0: no."
        },
    )
    allow_custom_rewards: bool = field(
        default=False,
        metadata={
            "help": "Import rewards by dotted path that a YAML file names (docs/security.md); those on the command "
            "line always are."
        },
    )
    generation_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Of the generation_batch sequences that are generated at once in the evaluation, take fewer where "
            "prompts are long: at most so many tokens, padding included. Other random draws, so other texts."
        },
    )

    def __post_init__(self):
        if self.generation_tokens is not None and self.generation_tokens < 1:
            raise ValueError(f"generation_tokens is {self.generation_tokens}, but must be at least 1.")
        if self.preflight < 0:
            raise ValueError(f"preflight is {self.preflight}, but must be 0 (none) or a number of prompts.")


def parse_arguments(dataclass_types: Sequence[type], default_config: str, arguments: Sequence[str] | None = None):
    """Instances of `dataclass_types` from the command line and the configuration file.

    Args:
        dataclass_types: argument dataclasses.
        default_config: name of the packaged configuration used when `--config` is not given.
        arguments: command line without the program; default `sys.argv[1:]`.

    Raises:
        SystemExit: after printing one sentence, when a key is unknown, a value is wrong or the file is missing.
    """
    quiet_libraries()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    arguments = [part for a in arguments for part in (a.split("=", 1) if a.startswith("--config=") else [a])]
    parser = TrlParser(dataclass_types)
    parser.error = lambda message: parser.exit(2, f"error: {message}\n")  # without the usage of 300 options
    parser.description = f"Configurations: {', '.join(packaged_configs())} (default {default_config}), or a YAML file."
    known = [f.name for dataclass_type in dataclass_types for f in dataclasses.fields(dataclass_type) if f.init]
    if "--config" in arguments:
        position = arguments.index("--config")
        if position + 1 == len(arguments):
            parser.error("--config needs a name or a path behind it.")
        name = arguments[position + 1]
        arguments[position : position + 2] = []
    else:
        name = default_config
    try:
        values = load_config(name)
        for key in values:
            _check_known(key, known, f"configuration {name}")
            if key == "allow_custom_rewards":
                raise ValueError(f"Only the command line can say {key}: leave it out of the configuration {name}.")
        for argument in arguments:
            if argument.startswith("--") and argument not in ("--help", "-h"):
                _check_known(re.sub(r"^no_", "", argument[2:].partition("=")[0]), known, "command line")
        if "ddp_timeout" in known:
            values.setdefault("ddp_timeout", PATIENCE)
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(values, file)
            file.flush()
            parsed = parser.parse_args_and_config(["--config", file.name, *arguments])
        if not any(getattr(part, "allow_custom_rewards", False) for part in parsed):
            _check_rewards(values, arguments, name)
        _check_processes()
        return parsed
    except (ValueError, OSError) as error:
        parser.error(error)


@contextlib.contextmanager
def one_sentence(*errors: type[Exception]) -> Iterator[None]:
    """Ends the program with the sentence of an error in `errors` and exit code 2, without a traceback.

    For what the user gave: settings, data, rewards. A reward's own exception is told with the line that raised it.
    Damaged files, and a disk or folder that cannot be written, always end the program like that.
    """
    try:
        yield
    except Exception as error:
        storage = storage_problem(error)
        if storage is not None:
            error = OSError(
                f"{storage}; what was finished before is kept: make room or give access, and give the same command "
                "again."
            )
        elif not isinstance(error, (DamagedFile, *errors)):
            raise
        where = ""
        if isinstance(error, RewardFailure) and error.__cause__ is not None:
            frame = traceback.extract_tb(error.__cause__.__traceback__)[-1]
            where = f" ({frame.filename}, line {frame.lineno})"
        print(f"\nerror: {error}{where}", file=sys.stderr)  # a progress bar may stand on the current line
        raise SystemExit(2) from error


def quiet_libraries() -> None:
    """Leave the terminal to the run: no bar for loading a model's shards, no deprecations between two libraries."""
    transformers.utils.logging.disable_progress_bar()
    for module in ("transformers", "trl", "peft", "accelerate"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=module)


def _check_known(key: str, known: Sequence[str], where: str) -> None:
    key = key.replace("-", "_")
    if key not in known:
        near = difflib.get_close_matches(key, known, 1)
        raise ValueError(f"Unknown key {key!r} in the {where}" + (f"; did you mean {near[0]!r}?" if near else "."))


def _check_processes() -> None:
    """Refuse processes that do not know of each other: each would be the main one and write its files."""
    started, joined = int(os.environ.get("WORLD_SIZE", 1)), PartialState().num_processes
    if joined < started:
        raise ValueError(
            f"{started} processes were started, and work together as {joined}: add --use_cpu true where they run on "
            "CPUs, or start one process."
        )


def _check_rewards(values: dict, arguments: Sequence[str], where: str) -> None:
    """Refuse code that a file names: to import a module is to run it, and configurations come from other people."""
    given = {a[2:].partition("=")[0].replace("-", "_") for a in arguments if a.startswith("--")}
    for key in {"reward_funcs", "ic_reward_funcs"} & set(values) - given:
        names = values[key] if isinstance(values[key], list) else [values[key]]
        for name in names:
            if "." in str(name):
                raise ValueError(
                    f"{key} in the configuration {where} names the code {str(name)!r}, which would be imported: give "
                    f"--{key} on the command line, or --allow_custom_rewards if you trust that file and that module."
                )
