"""One RecPIE run: data, policies, encoder and recommenders, held together so that the recipe shows the loop alone.

RecPIE, Algorithm 1 and section 5. Departures:

1. The loop starts with the recommendation component, on explanations by the untuned LLM: the reward of an untrained
   recommender would teach nothing.
2. The reward comes from models that were not trained on the row (`folds`); the recommender whose consumer table is the
   soft prompt is trained on all rows and goes on from its weights of the round before, as in Algorithm 1.
3. "Converged": the mean reward of the PPO pass and the recommender's validation loss both changed by less than
   `tolerance` since the round before. The paper says "until both converge".
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import torch

from rlrec.arguments import DataArguments, PolicyArguments, one_sentence
from rlrec.data.splits import recpie_samples
from rlrec.encoders import TextEncoder
from rlrec.experiment import describe_samples, load_policies, load_prepared
from rlrec.explanations import ExplanationStore
from rlrec.files import read_frame, read_json
from rlrec.policies.generation import generate_explanations
from rlrec.policies.grammars import ContrastiveGrammar
from rlrec.policies.numbers import expected_numbers
from rlrec.policies.soft_prompt import SoftPrompt, attach_soft_prompt
from rlrec.ppo import PPOConfig
from rlrec.ppo.sampler import check_pairs
from rlrec.recommenders import (
    NCF,
    CrossFit,
    SelfAttentiveGRU,
    cross_fit,
)
from rlrec.recommenders.base import interaction_names
from rlrec.recommenders.fitting import MINIMUM_VALIDATION_ROWS
from rlrec.recpie import writing
from rlrec.recpie.arguments import RecPIEArguments
from rlrec.recpie.prompts import DESCRIBE, DIRECT, ExplanationPrompts
from rlrec.recpie.rows import Explanations, RecPIERows, category_share
from rlrec.results import to_json, write_parquet_atomic, write_text_atomic

# rows whose name in the tables is longer than the variant's
ROWS = {
    "positive": "positive_only",
    "aspects": "aspect_terms",
    "profile": "profile_augmentation",
    "summary": "history_summarization",
    "alternative": "alternative_wording",
}


class RecPIERun(RecPIERows):
    """Loads what a run needs, trains and explains on demand, collects rows, and writes the results.

    Raises:
        ValueError, OSError: settings, data or model that cannot be used; nothing has been trained by then but the
            embedded policy.
    """

    system = "recpie"
    evaluation = (
        "recommender_fits",
        "robustness",
        "more_variants",
        "scoring_batch",
        "fit_workers",
        *RecPIERows.evaluation,
    )

    def __init__(
        self,
        arguments: RecPIEArguments,
        data: DataArguments,
        policy: PolicyArguments,
        ppo: PPOConfig,
        resolve_reward: Callable,
    ):
        super().__init__(arguments, data, policy, ppo, resolve_reward)
        self.check_reward_weights(arguments.reward_funcs)
        if "direct" in arguments.robustness and policy.model_name_or_path == "tiny":
            raise ValueError("robustness names 'direct', but the embedded policy knows no ratings: leave it out.")
        self.prepared, self.samples = load_samples(arguments, data, self.seed, self.state.print)
        scale = tuple(self.prepared.metadata["rating_scale"])
        self.stars = scale[1] - scale[0]
        self.data = self._split_data(use_history=True)
        self._check_sizes()
        self.claim_folder()

        def prompts(variant):
            def make(style, domain, conversational, _):
                return ExplanationPrompts(variant, style, domain, conversational, scale)

            return make

        training = self.data.samples["train"]
        self.policies, template = load_policies(
            policy, self.prepared, training, self.seed, prompts("contrastive"), ContrastiveGrammar
        )
        self.prompts = {
            variant: dataclasses.replace(template, variant=variant)
            for variant in (arguments.variant, *arguments.more_variants)
        }
        self.open_encoder()

    # -- Algorithm 1 --------------------------------------------------------------------------------------------------
    def begin(self, variant: str) -> Explanations:
        """The explanations by the untuned LLM, without soft prompt, since no consumer table has been trained."""
        if variant == "profile":
            self._describe_items(self.prompts[variant])
        name = "recpie" if variant == self.arguments.variant else f"recpie_{ROWS.get(variant, variant)}"
        explanations = Explanations(name, self.prompts[variant], ExplanationStore(), [])
        explanations.training = self._write_explanations(explanations, "bootstrap", training=True)
        return explanations

    def train_policy(self, explanations: Explanations) -> None:
        """Explanation component, lines 3 to 10: one PPO pass with the recommender fixed."""
        arguments, number = self.arguments, len(explanations.rounds)
        name = f"{explanations.name}_round_{number}"
        context = {
            "recommender": explanations.rewarding,
            "vocabulary": self.data.vocabulary,
            "sides": explanations.sides,
            "recpie_baseline": arguments.recpie_baseline,
            "store": explanations.training,
        }
        before = explanations.adapter
        stage = self.train_stage(
            name,
            arguments.reward_funcs,
            lambda policy: context,
            load_policy=lambda: self._load_policy(explanations, before, going_on=True),
            tokenizer=self.policies.tokenizer,
            dataset=lambda: explanations.prompts.dataset(self.data.samples["train"]),
            epochs=arguments.ppo_epochs,
            round=number,
            seed=self.seed + 100_003 * number,  # every round has an order of its own, also of a part of the data
        )
        explanations.adapter = stage.adapter
        explanations.training.merge(stage.explanations())
        last = number == arguments.rounds or arguments.tolerance > 0  # with a tolerance, any round may be
        self._write_explanations(explanations, f"round_{number}", training=arguments.num_explanations > 1 and last)
        explanations.rounds.append({"round": number, "policy_loss": _policy_loss(stage.log_history)})

    def fit_recommender(self, explanations: Explanations) -> None:
        """Recommendation component, lines 11 to 21: E epochs with the policy fixed, and the models that reward."""
        if not explanations.rounds:
            explanations.rounds.append({"round": 0, "policy_loss": None})
        round_ = explanations.rounds[-1]
        folder = self.output / "recommenders" / explanations.name / f"round_{round_['round']}"
        z = self._embed(explanations)
        self.state.print(f"Round {round_['round']}: recommender on {len(explanations.training):,} explanations")
        with self.state.main_process_first():
            if not (folder / "losses.json").is_file():
                self._fit_and_save(folder, explanations, z)
        explanations.recommender = SelfAttentiveGRU.from_pretrained(folder / "recommender")
        explanations.rewarding = explanations.recommender
        if self._rewards_again(explanations):
            explanations.rewarding = CrossFit.from_pretrained(folder / "folds", SelfAttentiveGRU)
        round_ |= read_json(folder / "losses.json")

    def converged(self, explanations: Explanations) -> bool:
        """Line 22: whether both losses have (almost) stopped changing, or the rounds are used up."""
        rounds, tolerance = explanations.rounds, self.arguments.tolerance
        if len(rounds) > self.arguments.rounds:
            return True
        if len(rounds) < 3:  # round 0 has no policy loss
            return False
        changes = [abs(rounds[-1][loss] - rounds[-2][loss]) for loss in ("policy_loss", "recommender_loss")]
        return max(changes) < tolerance

    def add_robustness_rows(self) -> None:
        """Ablations 1 and 3, and the other recommender, with the explanations of the main variant."""
        explanations, wanted = self.finished["recpie"], self.arguments.robustness
        slots = len(explanations.sides)
        if "free" in wanted:
            self._add_fits("recpie_free", self._make_model(explanation_slots=slots, free_explanations=True))
        if "llm_embeddings" in wanted:
            encoder = self._tuned_encoder(explanations)
            z = self._embed(explanations, encoder=encoder)
            self._add_fits("recpie_llm_embeddings", self._make_model(explanations, encoder=encoder), z)
        if "direct" in wanted:
            self._add_direct_row(explanations)
        if "ncf" in wanted:
            self._add_fits("ncf", self._make_model(kind=NCF))
            self._add_fits("recpie_ncf", self._make_model(explanations, kind=NCF), self._embed(explanations))

    def finish(self) -> None:
        """Write results.json, predictions.parquet, tables, pictures and model card; print the tables."""
        self.collect_rows()
        self.write(
            self.prepared,
            self.data.samples,
            rounds={name: explanations.rounds for name, explanations in self.finished.items()},
            training_fraction=self.arguments.training_fraction,
            loss_type=self.ppo.loss_type,
        )

    # -- parts --------------------------------------------------------------------------------------------------------
    def _check_sizes(self) -> None:
        """Raise ValueError for variants and sizes that would fail later on, before anything is written or trained."""
        arguments, ppo, style = self.arguments, self.ppo, self.policy_arguments.prompt_style
        training, validation = (len(self.data.samples[split]) for split in ("train", "validation"))
        for variant in (arguments.variant, *arguments.more_variants):
            default = "compact" if self.policy_arguments.model_name_or_path == "tiny" else "paper"
            sides = len(ExplanationPrompts(variant, style or default).sides)
            if sides == 2:
                check_pairs([], ppo.per_device_train_batch_size * ppo.steps_per_generation, ppo.num_generations)
            rollout = ppo.generation_batch_size // ppo.num_generations
            if training * sides < rollout:
                raise ValueError(
                    f"There are {training} training samples with {sides} explanations each, and one rollout takes "
                    f"{rollout}: the dataset is too small, or per_device_train_batch_size too large."
                )
        if training < arguments.folds:
            raise ValueError(f"There are {training} training samples, and folds is {arguments.folds}: take fewer.")
        if validation < MINIMUM_VALIDATION_ROWS:
            raise ValueError(
                f"There are {validation} validation samples, and early stopping needs {MINIMUM_VALIDATION_ROWS}: the "
                "dataset is too small."
            )

    def _add_direct_row(self, explanations: Explanations) -> None:
        low, high = self.prepared.metadata["rating_scale"]
        test = self.data.samples["test"]
        prompts = [explanations.prompts.asking(row, DIRECT) for row in test.iter_rows(named=True)]
        model = self.policies.load_base().eval().to(self.state.device)
        ratings = range(round(low), round(high) + 1)
        size, tokenizer = self.arguments.scoring_batch, self.policies.tokenizer
        stars = expected_numbers(model, tokenizer, prompts, ratings, size, progress="Direct recommendation")
        self.scores["llm_direct"] = ((stars - low) / (high - low)).numpy()
        self.rows["llm_direct"] = self._metrics(self.data.targets["test"].numpy(), self.scores["llm_direct"])

    def _fit_and_save(self, folder: Path, explanations: Explanations, z) -> None:
        make_model = self._make_model(explanations)
        torch.manual_seed(self.seed)
        recommender = make_model()
        if explanations.recommender is not None:
            recommender.load_state_dict(explanations.recommender.state_dict())
        result = self.data.fit(recommender, z, seed=self.seed, **self._fit_options)
        recommender.save_pretrained(folder / "recommender", self.data.vocabulary)
        if self._rewards_again(explanations):
            crossed = cross_fit(
                make_model,
                *self.data.rows("train", z),
                groups=interaction_names(self.data.samples["train"]),
                folds=self.arguments.folds,
                validation=self.data.rows("validation", z),
                seed=self.seed,
                workers=self.arguments.fit_workers,
                **self._fit_options,
            )
            crossed.save_pretrained(folder / "folds")
        best = result.history[result.best_epoch - 1]
        loss = best["validation_rmse"] ** 2 if "validation_rmse" in best else best["validation_log_loss"]
        write_text_atomic(folder / "losses.json", to_json({"recommender_loss": loss}) + "\n")

    def _rewards_again(self, explanations: Explanations) -> bool:
        """Whether out-of-fold models are wanted: the last round's would reward nobody."""
        return self.arguments.folds > 0 and explanations.rounds[-1]["round"] < self.arguments.rounds

    def _load_policy(self, explanations: Explanations, adapter: Path | None, going_on: bool = False):
        """The policy with its soft prompt; `going_on` accepts that the recommender has trained the table further."""
        policy = self.policies.load(adapter).to(self.state.device)
        if not self.arguments.soft_prompt or explanations.recommender is None:
            return policy
        table, users = explanations.recommender.consumer_table, self.data.vocabulary.users
        if adapter is None:
            soft_prompt = SoftPrompt.for_model(policy, table, users, self.seed)
        else:
            with one_sentence(ValueError):  # the folder holds files of another run
                soft_prompt = SoftPrompt.load(adapter, table, users, table_went_on=going_on)
        return attach_soft_prompt(policy, soft_prompt)

    def _write_explanations(self, explanations: Explanations, name: str, training: bool) -> ExplanationStore | None:
        """`num_explanations` draws for the held-out samples and, if asked for, the training ones: their first."""
        parts = {"held_out": pl.concat([self.data.samples[s] for s in ("validation", "test")], how="vertical")}
        if training:
            parts["training"] = self.data.samples["train"]
        stores = {
            part: writing.write_explanations(
                self.output / "explanations" / f"{explanations.name}_{name}_{part}",
                samples,
                explanations.prompts,
                self.policies.tokenizer,
                lambda: self._load_policy(explanations, explanations.adapter),
                count=self.arguments.num_explanations,
                max_new_tokens=self.ppo.max_completion_length,
                batch_size=self.arguments.generation_batch,
                batch_tokens=self.arguments.generation_tokens,
                seed=self.seed,
                round=len(explanations.rounds),
            )
            for part, samples in parts.items()
        }
        explanations.held_out, explanations.training_draws = stores["held_out"], stores.get("training", [])
        return explanations.training_draws[0] if training else None

    def _describe_items(self, prompts: ExplanationPrompts) -> None:
        """The variant "profile": the untuned LLM's description of each item becomes a column of the samples."""
        path, items = self.output / "explanations" / "profiles.parquet", self.prepared.items
        if not path.is_file():
            named = items.filter(pl.col("item_id").is_in(self.samples["item_id"].unique().implode()))
            blank = {"history_titles": [], "history_ratings": []}
            texts = generate_explanations(
                self.policies.load().to(self.state.device),
                self.policies.tokenizer,
                [prompts.asking(blank | {"title": title}, DESCRIBE) for title in named["title"]],
                max_new_tokens=self.ppo.max_completion_length,
                batch_size=self.arguments.generation_batch,
                batch_tokens=self.arguments.generation_tokens,
                seed=self.seed,
                progress=f"Describing {len(named):,} items",
            )
            if self.state.is_main_process:
                profiles = named.select("item_id").with_columns(description=pl.Series([t[0] for t in texts]))
                write_parquet_atomic(path, profiles)
            self.state.wait_for_everyone()
        profiles = read_frame(path)
        for split, part in self.data.samples.items():
            part = part.drop("description", strict=False)
            self.data.samples[split] = part.join(profiles, on="item_id", how="left", maintain_order="left")

    def _tuned_encoder(self, explanations: Explanations) -> TextEncoder:
        """Ablation 3: the LLM that wrote the explanations, adapter and all, encodes them."""
        tuned = self.policies.load(explanations.adapter).merge_and_unload()
        tuned = tuned.requires_grad_(False).eval().to(self.state.device)
        return TextEncoder(tuned, self.policies.tokenizer, self.arguments.scoring_batch)


def _policy_loss(log_history: list[dict]) -> float:
    """1 - the mean reward (eq. 4 where it is logged) over the last quarter of a PPO pass."""
    name = "recpie/reward" if any("recpie/reward" in record for record in log_history) else "reward"
    rewards = [record[name] for record in log_history if name in record]
    last = rewards[-max(1, len(rewards) // 4) :]
    return 1.0 - float(np.mean(last))


def load_samples(arguments: RecPIEArguments, data: DataArguments, seed: int, progress=print):
    """The prepared dataset that the arguments name, and RecPIE's samples drawn from it."""
    prepared = load_prepared(data, seed, progress)
    samples = recpie_samples(
        prepared.interactions,
        prepared.items,
        rating_scale=tuple(prepared.metadata["rating_scale"]),
        threshold=4.0 if data.threshold is None else data.threshold,
        label_rule=data.label_rule or "ge",
        history_length=data.history_length,
        min_history=data.min_history,
        num_samples=data.num_samples,
        training_fraction=arguments.training_fraction,
        seed=seed,
    )
    shares = pl.Series("category_share", [category_share(row) for row in samples.iter_rows(named=True)])
    samples = samples.with_columns(shares)
    progress(describe_samples(prepared, samples))
    return prepared, samples
