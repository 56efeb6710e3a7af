"""One TRAIL run: windows, texts, policies and the rows of its table, held together so that the recipe shows the steps.

Paper: "Following the TRAIL" (2026), section 4 and appendix A. Departures beside those of the modules it calls:

1. The explanations to train on are written once, by the untuned model (or drawn from the embedded grammar); they do
   not change while the model learns.
2. Early stopping looks at L_sup of the validation window, not at the sum: L_con depends on who shares a batch. The
   ablation without L_sup has no such signal and keeps its last step.
"""

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import EarlyStoppingCallback, set_seed

from rlrec.alternating import PolicyStage, finish_stage
from rlrec.arguments import DataArguments, PolicyArguments
from rlrec.evaluation.ranking import (
    PER_USER,
    cold_or_warm,
    group_metrics,
    jaccard,
    random_expectation,
    rank_items,
    ranking_metrics,
)
from rlrec.experiment import OPTIMIZER_SETTINGS, Run, load_pretrained, lora_config
from rlrec.policies.loading import Policies
from rlrec.policies.numbers import expected_numbers, number_tokens
from rlrec.policies.tiny import TinyConfig
from rlrec.results import to_json, write_log_history, write_parquet_atomic, write_text_atomic
from rlrec.trail.arguments import TRAILArguments
from rlrec.trail.baselines import (
    choose_windows,
    last_window_popularity,
    moving_average,
    total_popularity,
    true_popularity,
)
from rlrec.trail.config import TRAILConfig
from rlrec.trail.embedded import embedded_trend_policies
from rlrec.trail.grammar import TrendGrammar
from rlrec.trail.markers import add_marker_tokens, add_markers
from rlrec.trail.output import Answer, summarise_answers
from rlrec.trail.pare import fit_pare
from rlrec.trail.prompts import TrendPrompts
from rlrec.trail.trainer import TRAILTrainer, check_batches
from rlrec.trail.trends import check_trends, summarise_trends, trend_classes
from rlrec.trail.windows import load_windows
from rlrec.trail.writing import draw_answers, training_rows, write_answers

TEXT_METRICS = ("trend_accuracy", "peak_accuracy", "direction_accuracy", "with_trend_claims")


class TRAILRun(Run):
    """Loads what a run needs, writes explanations, trains, ranks, collects rows, and writes the results.

    Args:
        arguments, data, policy, config: see `Run`.

    Raises:
        ValueError, OSError: settings, data or model that cannot be used.
    """

    system = "trail"
    evaluation = ("ablations", "lora_ranks", "few_shot", "scoring_batch", "generation_batch")
    trainer_settings = (
        *OPTIMIZER_SETTINGS,
        *("num_train_epochs", "max_length", "supervise_score_end"),
        *("lambda_con", "temperature", "num_positives", "cosine", "projection_size", "projection_dropout"),
        *("alpha", "beta", "gamma", "sigma", "z_normalise"),
    )

    def __init__(self, arguments: TRAILArguments, data: DataArguments, policy: PolicyArguments, config: TRAILConfig):
        super().__init__(arguments, data, policy, config)
        if arguments.few_shot and policy.model_name_or_path == "tiny":
            raise ValueError("few_shot is set, but the embedded policy reads one sample at a time: leave it out.")
        if policy.prompt_style == "paper" and policy.model_name_or_path == "tiny":
            raise ValueError("prompt_style is 'paper', but the embedded policy reads compact prompts: leave it out.")
        check_batches(config, self.state.num_processes)
        self.prepared, self.popularity = load_windows(arguments, data, self.seed, self.state.print)
        items = self.prepared.items.select("item_id", "title", "categories", "description")
        joined = self.popularity.samples.join(items, on="item_id", how="left", maintain_order="left")
        self.samples = {split: joined.filter(pl.col("split") == split) for split in ("train", "validation", "test")}
        training = _thinned(self.samples["train"], arguments.unseen_share, self.seed)
        self.samples["train"] = _at_most(training, data.num_samples, self.seed)
        self.state.print(self._described())
        self.claim_folder()
        self.policies, self.prompts = self._load_policies()
        if arguments.score == "expected":
            self.prompts.until_score(self.samples["test"].row(0, named=True))  # refuses conversations
            self.numbers = self.prompts.scale
            number_tokens(self.policies.tokenizer, self.numbers)
        self.users: pl.DataFrame | None = None
        self.counts: dict[str, Mapping] = {}
        self.written: dict[str, pl.Series] = {}  # scores as they stand in the answers

    # -- the steps ----------------------------------------------------------------------------------------------------
    def add_baselines(self) -> None:
        """Rows that no language model makes: counts, PARE and the upper bound."""
        test, validation = self.samples["test"], self.samples["validation"]
        candidates = {window: rows["item_id"].to_list() for (window,), rows in test.group_by("window")}
        self.rows["random"] = random_expectation(candidates, self.popularity.interactions)
        span = choose_windows(validation, self.popularity.interactions)
        self.controls["moving_average_windows"] = span
        pare = fit_pare(self.popularity.samples, self.prepared.items, seed=self.seed)
        for row, scores in (
            ("last_window", last_window_popularity(test)),
            ("moving_average", moving_average(test, span)),
            ("total_popularity", total_popularity(test)),
            ("pare", pare.predict(test)),
            ("upper_bound", true_popularity(test)),
        ):
            self._add_ranking(row, np.asarray(scores, dtype=float))

    def write_explanations(self) -> dict[str, Dataset]:
        """Rows to train on and to validate with: prompts, and answers with the true score and the untuned text."""
        datasets, rows_of = {}, {row: i for i, row in enumerate(self.prepared.items["item_id"])}
        for split in ("train", "validation"):
            samples = self.samples[split]
            if self.policy_arguments.model_name_or_path == "tiny":
                answers = draw_answers(samples, TrendGrammar(self.prompts), seed=self.seed)
            else:
                answers = self._answers(samples, "untuned", None)
            rows, self.counts[split] = training_rows(samples, answers, self.prompts)
            if not rows:
                raise ValueError(
                    f"None of the {len(samples)} {split} samples got an explanation that could be used "
                    f"({self.counts[split]}): the untuned model does not write the JSON that it is asked for."
                )
            kept = ("prompt", "completion", "history", "change_rate")
            datasets[split] = Dataset.from_list(
                [{name: row[name] for name in kept} | {"item_index": rows_of[row["item_id"]]} for row in rows]
            )
        return datasets

    def train(self, name: str, datasets: Mapping[str, Dataset], rank: int | None = None, **changes) -> Path:
        """Fine-tune the untuned model (eq. 10); `changes` of the trainer's configuration make an ablation."""
        stage = PolicyStage(self.output / "stages" / name)
        if not stage.done:
            self.state.print(f"Stage {name}: {len(datasets['train']):,} answers")
            config = dataclasses.replace(self.config, output_dir=str(stage.folder), **changes)
            config = dataclasses.replace(config, **_evaluation(config))
            set_seed(self.seed)
            trainer = TRAILTrainer(
                self.policies.load_base(),
                config,
                datasets["train"],
                eval_dataset=datasets["validation"],
                processing_class=self.policies.tokenizer,
                item_embeddings=self._item_embeddings() if config.lambda_con else None,
                peft_config=_with_rank(self.policies.lora, rank),
                callbacks=[EarlyStoppingCallback(self.arguments.patience)] if config.supervise else [],
            )
            prepared = trainer.prepared
            finish_stage(stage, trainer)
            if self.state.is_main_process:
                write_text_atomic(stage.folder / "prepared.json", to_json(prepared) + "\n")
        if self.state.is_main_process:
            write_log_history(self.output, name, stage.log_history)
        return stage.adapter

    def add_row(self, name: str, adapter: Path | None, few_shot: int = 0) -> None:
        """Answers to the test samples, the list they make, and how true their explanations are."""
        test = self.samples["test"]
        answers = self._answers(test, name, adapter, few_shot)
        scores = answers["score"].cast(pl.Float64).to_numpy()
        if self.arguments.score == "expected":
            scores = self._expected(adapter)
        self.texts[name] = answers["explanation"].to_list()
        self.written[name] = answers["score"]
        self._add_ranking(name, scores)
        counted = summarise_answers(Answer(**row) for row in answers.select(Answer._fields).iter_rows(named=True))
        shares = {key: counted[key] / counted["answers"] for key in ("malformed", "repaired", "cut")}
        shown = [self.prompts.shown(row) for row in test.iter_rows(named=True)]
        checks = check_trends(answers["explanation"], shown, test["window_start"], self.arguments.window_days)
        told = summarise_trends(checks)
        self.rows[name] |= shares | {metric: told[metric] for metric in TEXT_METRICS}

    def finish(self) -> None:
        """Write the results, users.parquet and explanations.parquet, tables, pictures and model card."""
        if self.state.is_main_process:
            write_parquet_atomic(self.output / "users.parquet", self.users)
            judged = (
                self.samples["test"]
                .select("description", "history", "window_start", "popularity")
                .with_columns(score=self.written["trail"], explanation=pl.Series(self.texts["trail"], dtype=pl.String))
            )
            write_parquet_atomic(self.output / "explanations.parquet", judged)
        self.write(self.prepared, self.samples, popularity=self.popularity.metadata, dropped=self.counts)

    # -- parts --------------------------------------------------------------------------------------------------------
    def _described(self) -> str:
        sizes = " / ".join(f"{len(part):,}" for part in self.samples.values())
        name, windows = self.prepared.metadata["name"], self.popularity.metadata["windows"]
        return f"{name}: {windows} windows of {self.arguments.window_days} days, {sizes} samples"

    def _load_policies(self) -> tuple[Policies, TrendPrompts]:
        arguments, policy = self.arguments, self.policy_arguments
        embedded = policy.model_name_or_path == "tiny"
        prompts = TrendPrompts(
            policy.prompt_style or ("compact" if embedded else "paper"),
            self.prepared.metadata["domain"],
            max_history=arguments.max_history,
            window_days=arguments.window_days,
            template_file=arguments.template_file,
        )
        if embedded:
            config = TinyConfig(template_steps=policy.template_steps, batch_size=64, seed=self.seed)
            rows = self.samples["train"].to_dicts()
            return embedded_trend_policies(rows, TrendGrammar(prompts), config, lora_config(policy)), prompts
        policies, conversational = load_pretrained(policy)
        return with_markers(policies), dataclasses.replace(prompts, conversational=conversational)

    def _item_embeddings(self) -> np.ndarray:
        """(M, d) of the items' texts, as the paper's prompt describes them; zeros for items without any."""
        texts = [" ".join(filter(None, (row["title"], *(row["categories"] or []), row["description"])))
                 for row in self.prepared.items.iter_rows(named=True)]  # fmt: skip
        return self.load_encoder(self.policies, self.arguments.encoder).encode(texts).cpu().numpy()

    def _load(self, adapter: Path | None):
        base = self.policies.load_base()
        model = base if adapter is None else PeftModel.from_pretrained(base, adapter)
        return model.eval().to(self.state.device)

    def _answers(self, samples: pl.DataFrame, name: str, adapter: Path | None, few_shot: int = 0) -> pl.DataFrame:
        return write_answers(
            self.output / "explanations" / name,
            samples,
            self.prompts,
            self.policies.tokenizer,
            lambda: self._load(adapter),
            max_new_tokens=self.arguments.max_new_tokens,
            batch_size=self.arguments.generation_batch,
            temperature=self.arguments.temperature_at_inference,
            seed=self.seed,
            examples=self._examples(few_shot) if few_shot else (),
        )

    def _examples(self, count: int) -> list[tuple[dict, str]]:
        """`count` warm training samples, chosen by the seed, with answers that hold their true score."""
        warm = self.samples["train"].filter(pl.col("users_before") > 0)
        rows = warm.sample(min(count, len(warm)), seed=self.seed, shuffle=True)
        answers = self._answers(rows, "untuned", None)
        kept, _ = training_rows(rows, answers, self.prompts)
        return [(row, _content(row["completion"])) for row in kept]

    def _expected(self, adapter: Path | None) -> np.ndarray:
        prompts = [self.prompts.until_score(row) for row in self.samples["test"].iter_rows(named=True)]
        model, size = self._load(adapter), self.arguments.scoring_batch
        return expected_numbers(model, self.policies.tokenizer, prompts, self.numbers, size).numpy()

    def _add_ranking(self, row: str, scores: np.ndarray) -> None:
        """HR, NDCG and Jaccard of the lists that `scores` (N test samples,) make, in all and by group of items."""
        test, interactions = self.samples["test"], self.popularity.interactions
        lists = rank_items(test, scores)
        means, users = ranking_metrics(lists, interactions)
        overlap, _ = jaccard(lists, test.select("window", "item_id", "popularity"))
        self.scores[row], self.rows[row] = scores, means | overlap
        for groups in (cold_or_warm(test), trend_classes(test)):
            for group, (of_group, _) in group_metrics(lists, interactions, groups).items():
                self.rows[row] |= {f"{metric}/{group}": of_group[metric] for metric in PER_USER}
        values = users.select(pl.col(metric).alias(f"{metric}_{row}") for metric in PER_USER)
        keys = users.select("window", "user_id", "items")
        self.users = pl.concat([keys if self.users is None else self.users, values], how="horizontal")


def _thinned(samples: pl.DataFrame, share: float, seed: int) -> pl.DataFrame:
    """All samples but those of items that nobody has had yet, of which `share` are kept."""
    drawn = pl.Series(np.random.default_rng(seed).random(len(samples)))
    return samples.filter((pl.col("users_before") > 0) | (pl.col("popularity") > 0) | (drawn < share))


def _at_most(samples: pl.DataFrame, count: int | None, seed: int) -> pl.DataFrame:
    """`count` of the samples, in their order."""
    if count is None or len(samples) <= count:
        return samples
    chosen = np.random.default_rng(seed).choice(len(samples), size=count, replace=False)
    return samples[np.sort(chosen)]


def _evaluation(config: TRAILConfig) -> dict:
    """Evaluate whenever a checkpoint is saved; keep the one with the least L_sup, where that is trained."""
    evaluate = {"eval_strategy": config.save_strategy, "eval_steps": config.save_steps}
    if not config.supervise:
        return evaluate
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss_sup", "greater_is_better": False}
    return evaluate | best


def _with_rank(lora: LoraConfig, rank: int | None) -> LoraConfig:
    """The adapter with another rank, its alpha in proportion; itself without one."""
    lora = copy.deepcopy(lora)
    if rank is not None:
        lora.lora_alpha, lora.r = lora.lora_alpha * rank // lora.r, rank
    return lora


def with_markers(policies: Policies) -> Policies:
    """Policies whose tokenizer has the two markers, and every base that they load as well, with the same rows."""
    load, without = policies.load_base, copy.deepcopy(policies.tokenizer)
    add_marker_tokens(policies.tokenizer)

    def load_base():
        model = load()
        add_markers(model, copy.deepcopy(without))
        return model

    return Policies(load_base, policies.tokenizer, policies.lora)


def _content(completion) -> str:
    return completion if isinstance(completion, str) else completion[-1]["content"]
