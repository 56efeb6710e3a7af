"""From arguments to data and policies, and the run that holds them together: what the recipes have in common."""

import copy
import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import polars as pl
from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import TrainingArguments
from transformers.integrations import unset_hf_deepspeed_config

from rlrec.alternating import PolicyStage, train_policy_stage
from rlrec.arguments import DataArguments, PolicyArguments
from rlrec.data import PreparedDataset, prepare
from rlrec.data.prompts import category_words
from rlrec.encoders import TextEncoder
from rlrec.files import noted_checksum, read_json
from rlrec.policies.loading import Policies, embedded_policies, pretrained_policies
from rlrec.policies.tiny import Grammar, TinyConfig
from rlrec.ppo import PPOConfig
from rlrec.ppo.vllm import check_command
from rlrec.results import to_json, write_log_history, write_predictions, write_results, write_text_atomic

OPTIMIZER_SETTINGS = (
    *("learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "max_grad_norm", "optim", "bf16", "fp16"),
    *("adam_beta1", "adam_beta2", "adam_epsilon", "max_steps", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "lr_scheduler_kwargs", "optim_args", "neftune_noise_alpha"),
)
# Of the settings that a trainer adds to transformers' own: where and how it runs, what it prints, when it gives up
WITHOUT_EFFECT = (
    *("use_vllm", "vllm_mode", "vllm_server", "vllm_group", "vllm_gpu", "vllm_tensor", "vllm_model_impl"),
    *("vllm_enable_sleep", "use_transformers_", "transformers_continuous", "ds3_", "cache_implementation"),
    *("log_", "num_completions_to_print", "dataset_num_proc", "activation_offloading", "model_init_kwargs"),
    *("on_reward_error", "reward_failure_budget", "reward_timeout"),
    "steps_per_generation",  # generation_batch_size says it, and TRL takes one of the two
)
OWN_BASE = ("policy", "policy_words")  # encoders that are the policy's own base


class Run:
    """What the runs of all systems share: where they write, what they train with, the rows they collect.

    Everything lies below one folder: stages/, explanations/, logs/, results.json, predictions.parquet and the reports.
    A second run with the same folder picks up what the first has finished.

    Args:
        arguments: the system's own, with encoder and scoring_batch.
        data, policy: the other parsed arguments.
        config: the trainer's; its `output_dir` holds everything, its `seed` is the seed of everything.

    Attributes:
        rows, scores, texts, controls: of the results: {row: metrics}, {row: test predictions}, {row: test texts}.
    """

    system = ""
    evaluation: tuple[str, ...] = ()  # settings with which a finished run may be started again
    trainer_settings: tuple[str, ...] = ()  # of the trainer's configuration, those that results.json tells
    policies: Policies  # set by the subclass
    _encoder: TextEncoder | None = None

    def __init__(self, arguments, data: DataArguments, policy: PolicyArguments, config: TrainingArguments):
        self.started = time.time()
        unset_hf_deepspeed_config()  # under ZeRO-3 models are loaded whole; a trainer shards its own
        self.arguments, self.config, self.seed = arguments, config, config.seed
        self.data_arguments, self.policy_arguments = data, policy
        self.output, self.state = Path(config.output_dir), PartialState()
        self.rows, self.scores, self.texts, self.controls = {}, {}, {}, {}

    @property
    def hyperparameters(self) -> dict:
        """The system's, the policy's and the trainer's settings."""
        trainer = {name: getattr(self.config, name) for name in self.trainer_settings}
        return asdict(self.arguments) | asdict(self.policy_arguments) | trainer

    @property
    def compared_settings(self) -> dict:
        """Settings that a run which goes on must have in common with the one that began, besides data and seed."""
        return training_settings(self.config) | self.hyperparameters

    def claim_folder(self) -> None:
        """Note settings and data in the output folder, or check that the run which began there had the same ones."""
        settings = self.compared_settings | asdict(self.data_arguments)
        settings |= {"seed": self.seed, **self._data_checksums()}
        claim_folder(self.output, {name: value for name, value in settings.items() if name not in self.evaluation})

    def _data_checksums(self) -> dict[str, str]:
        """Of the prepared dataset's files: their folder may hold other data when the run goes on."""
        folder = self.data_arguments.data_dir
        files = [] if folder is None else [Path(folder) / f"{name}.parquet" for name in ("interactions", "items")]
        found = {f"data_dir/{file.name}": noted_checksum(file) for file in files}
        return {name: checksum for name, checksum in found.items() if checksum is not None}

    @property
    def shares_base(self) -> bool:
        """Whether the text encoder is the policy's own frozen base, of which one copy is enough in training."""
        return self.arguments.encoder in OWN_BASE

    @property
    def encoder(self) -> TextEncoder:
        """The text encoder, loaded when it is asked for and kept until `let_go_of_encoder`."""
        if self._encoder is None:
            self._encoder = self.load_encoder(self.policies, self.arguments.encoder)
        return self._encoder

    def open_encoder(self) -> None:
        """Load an encoder that is a model of its own: a name that nobody has is told before anything is trained."""
        if not self.shares_base:
            self._encoder = self.load_encoder(self.policies, self.arguments.encoder)

    def let_go_of_encoder(self) -> None:
        """Before a policy is trained: an encoder that reads its base would be a second copy of that in memory."""
        if self.shares_base:
            self._encoder = None

    def load_encoder(self, policies: Policies, name: str) -> TextEncoder:
        """The frozen text encoder called `name`: "policy" for the base model's own hidden states, "policy_words" for
        the mean of its input embeddings."""
        batch_size = self.arguments.scoring_batch
        if name in OWN_BASE:
            base = policies.load_base().requires_grad_(False).eval().to(self.state.device)
            return TextEncoder(base, policies.tokenizer, batch_size, words_only=name == "policy_words")
        cache = self.output / "embeddings"
        return TextEncoder.from_pretrained(name, device=str(self.state.device), batch_size=batch_size, cache_dir=cache)

    def write(self, prepared: PreparedDataset, samples: Mapping[str, pl.DataFrame], **details) -> None:
        """Write results.json, predictions.parquet, tables, pictures and model card, and print the tables."""
        if not self.state.is_main_process:
            return
        from rlrec.reports import report, tables_markdown

        write_predictions(self.output, samples["test"], self.scores, self.texts)
        if "label" in samples["test"].columns:
            details["positive_rate"] = pl.concat([part["label"] for part in samples.values()]).mean()
        write_results(
            self.output,
            system=self.system,
            dataset=prepared.metadata["name"],
            seed=self.seed,
            rows=self.rows,
            controls=self.controls,
            details={
                "base_model": self.policy_arguments.model_name_or_path,
                "encoder": self.arguments.encoder,
                "dataset_license": prepared.metadata["licence"],
                "dataset_size": {split: len(part) for split, part in samples.items()},
                "hyperparameters": self.hyperparameters,
                **details,
            },
            wall_time=time.time() - self.started,
        )
        print("\n" + tables_markdown([self.output]))
        for path in report([self.output], self.output / "report"):
            print(f"wrote {path}")


class PPORun(Run):
    """A run whose policy is trained by PPO.

    Args:
        arguments, data, policy, ppo: see `Run`.
        resolve_reward: (name, **context) -> reward function (`reward_models.resolve_reward`).
    """

    evaluation = ("preflight", "allow_custom_rewards")
    trainer_settings = (
        *OPTIMIZER_SETTINGS,
        *("generation_batch_size", "num_generations", "num_iterations", "max_completion_length", "temperature"),
        *("top_k", "top_p", "beta", "gamma", "lam", "reward_clip", "reward_weights", "normalize_rewards"),
        *("baseline", "loss_type", "vf_coef", "ref_policy", "epsilon", "cliprange_value", "value_learning_rate"),
        "whiten_advantages",
    )

    def __init__(
        self, arguments, data: DataArguments, policy: PolicyArguments, ppo: PPOConfig, resolve_reward: Callable
    ):
        super().__init__(arguments, data, policy, ppo)
        check_command(ppo, policy.model_name_or_path, getattr(arguments, "soft_prompt", False))
        self.ppo, self.resolve_reward = ppo, resolve_reward

    def check_reward_weights(self, *reward_names: Sequence[str]) -> None:
        """Raise ValueError unless there are as many weights as rewards."""
        weights = self.ppo.reward_weights
        for names in reward_names if weights else ():
            if len(names) != len(weights):
                raise ValueError(f"There are {len(weights)} reward_weights for the rewards {', '.join(names)}.")

    off_format: Callable[[Sequence[str], Sequence[dict]], list[str | None]] | None = None  # of `preflight`

    @property
    def shares_base(self) -> bool:
        """As above, but where the policy's weights are split over processes: every pass is a joint one then, and ranks
        have different numbers of new texts."""
        return super().shares_base and not self.ppo.splits_weights

    def stage_encoder(self, policy: PeftModel) -> TextEncoder:
        """The text encoder for the rewards of a stage that trains `policy`; one frozen base serves both, if it can."""
        if not self.shares_base:
            return self.encoder
        words_only = self.arguments.encoder == "policy_words"
        return TextEncoder(policy, self.policies.tokenizer, self.arguments.scoring_batch, words_only=words_only)

    def train_stage(
        self,
        stage: str,
        reward_names: Sequence[str],
        make_context: Callable[[PeftModel], Mapping],
        *,
        load_policy: Callable[[], PeftModel],
        tokenizer,
        dataset: Callable[[], Dataset],
        epochs: float,
        round: int = 0,
        learning_rate: float | None = None,
        seed: int | None = None,
    ) -> PolicyStage:
        """PPO against the named rewards, each built from `make_context(policy)` and the stage's encoder; resumable,
        and skipped once done."""
        config = copy.copy(self.ppo)
        config.seed = self.seed if seed is None else seed
        config.learning_rate = learning_rate or config.learning_rate
        folder = self.output / "stages" / stage
        self.let_go_of_encoder()

        def make_rewards(policy) -> list[Callable]:
            context = {"encoder": self.stage_encoder(policy), **make_context(policy)}
            return [self.resolve_reward(name, **context) for name in reward_names]

        parts = {
            "load_policy": load_policy,
            "tokenizer": tokenizer,
            "dataset": dataset,
            "make_rewards": make_rewards,
            "config": config,
            "num_train_epochs": epochs,
        }
        self.state.print(f"Stage {stage}: PPO against {', '.join(reward_names)}")
        if self.arguments.preflight:
            from rlrec.preflight import preflight

            report = self.output / "preflight" / f"{stage}.json"
            preflight(folder, report, self.arguments.preflight, off_format=self.off_format, **parts)
        finished = train_policy_stage(folder, **parts, round=round)

        if self.state.is_main_process:
            write_log_history(self.output, stage, finished.log_history)
        return finished


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
    before = read_json(path)
    # Other versions, of this package and of TRL, have fewer settings or more
    changed = [name for name in sorted(before.keys() & settings.keys()) if before[name] != settings[name]]
    if changed:
        name = changed[0]
        others = f" (and {len(changed) - 1} more settings differ)" if len(changed) > 1 else ""
        raise ValueError(
            f"{folder} holds a run with {name} = {before.get(name)!r}, not {settings.get(name)!r}{others}; give "
            "another --output_dir, or delete that folder."
        )


def training_settings(config: TrainingArguments) -> dict:
    """What of a trainer's configuration changes what is trained, whatever its class adds to transformers' among it."""
    shared = {field.name for field in dataclasses.fields(TrainingArguments)}
    own = (field.name for field in dataclasses.fields(config) if field.name not in shared)
    names = (*OPTIMIZER_SETTINGS, *(name for name in own if not name.startswith(WITHOUT_EFFECT)))
    return {name: getattr(config, name) for name in names}


def load_prepared(arguments: DataArguments, seed: int, progress=print, **options) -> PreparedDataset:
    """The prepared dataset that the arguments name; `options` are more of `prepare`'s."""
    if arguments.data_dir is not None:
        return PreparedDataset.load(arguments.data_dir)
    return prepare(
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
        **options,
    )


def describe_samples(prepared: PreparedDataset, samples: pl.DataFrame) -> str:
    """One line with the numbers of samples."""
    counts = dict(samples.group_by("split").len().iter_rows())
    return (
        f"{prepared.metadata['name']}: {len(samples):,} samples ({counts['train']:,} / "
        f"{counts.get('validation', 0):,} / {counts['test']:,}), {samples['label'].mean():.1%} positive"
    )


def lora_config(arguments: PolicyArguments) -> LoraConfig:
    """The adapter that the arguments describe."""
    targets = arguments.lora_target_modules
    return LoraConfig(
        r=arguments.lora_r,
        lora_alpha=arguments.lora_alpha,
        lora_dropout=arguments.lora_dropout,
        target_modules=targets if targets == "all-linear" else targets.split(","),
        task_type="CAUSAL_LM",
    )


def load_pretrained(arguments: PolicyArguments) -> tuple[Policies, bool]:
    """The Hugging Face model that the arguments name, and whether its prompts are conversations."""
    policies = pretrained_policies(
        arguments.model_name_or_path,
        lora_config(arguments),
        revision=arguments.model_revision,
        dtype=arguments.dtype,
        attn_implementation=arguments.attn_implementation,
    )
    return policies, policies.is_conversational(arguments.conversational)


def load_policies(
    arguments: PolicyArguments,
    prepared: PreparedDataset,
    training: pl.DataFrame,
    seed: int,
    make_template: Callable,
    make_grammar: Callable[[str], Grammar],
):
    """The policies and the prompt template that go with the model's name.

    Args:
        training: the training samples, on which the embedded policy is bootstrapped without their labels.
        make_template: (style, domain, conversational, history_categories) -> template (rows, generation, maybe ctr).
        make_grammar: domain -> the embedded policy's grammar.
    """
    domain = prepared.metadata["domain"]
    if arguments.model_name_or_path != "tiny":
        template = make_template(arguments.prompt_style or "paper", domain, False, arguments.history_categories)
        policies, conversational = load_pretrained(arguments)
        return policies, dataclasses.replace(template, conversational=conversational)
    template = make_template(arguments.prompt_style or "compact", domain, False, arguments.history_categories)
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
    rows = template.rows(training)
    grammar = make_grammar(domain)
    ctr = getattr(template, "ctr", None)  # RecPIE asks its policy for no verdict
    return embedded_policies(
        rows, catalogue, template.generation, ctr, grammar, config, lora_config(arguments)
    ), template
