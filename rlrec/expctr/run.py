"""One ExpCTR run: data, policies, encoder and CTR data, held together so that the recipe shows the loop alone."""

import copy
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
from accelerate import PartialState

from rlrec.alternating import PolicyStage, train_policy_stage
from rlrec.arguments import DataArguments, PolicyArguments
from rlrec.encoders import TextEncoder
from rlrec.evaluation import heuristic_rows, heuristic_scores, shuffled_partners
from rlrec.expctr import rows as table
from rlrec.expctr.arguments import ExpCTRArguments
from rlrec.expctr.rows import FEATURES, CTRData, Explained
from rlrec.experiment import claim_folder, load_policies, load_samples
from rlrec.explanations import ExplanationStore
from rlrec.ppo import PPOConfig
from rlrec.results import write_log_history, write_predictions, write_results

# What a finished run may be started again with, for more rows and controls
EVALUATION = ("ctr_fits", "more_lc", "scoring_batch", "shuffled_labels")
PPO_SETTINGS = (
    *("learning_rate", "lr_scheduler_type", "max_steps", "generation_batch_size", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "num_generations", "num_iterations", "max_completion_length", "temperature"),
    *(
        "beta",
        "gamma",
        "lam",
        "reward_clip",
        "reward_weights",
        "normalize_rewards",
        "baseline",
        "loss_type",
        "vf_coef",
    ),
)


class ExpCTRRun:
    """Loads what a run needs, trains and explains on demand, collects rows, and writes the results.

    Everything lies below `ppo.output_dir`: stages/, explanations/, logs/, results.json, predictions.parquet and the
    reports. A second run with the same folder picks up what the first has finished.

    Args:
        arguments, data, policy, ppo: parsed arguments; `ppo.seed` is the seed of everything.
        resolve_reward: (name, **context) -> reward function (`reward_models.resolve_reward`).
        make_scorer: (model, tokenizer, template, temperature, batch_size) -> LC scorer with `margins`.

    Raises:
        ValueError, OSError: settings, data or model that cannot be used; nothing has been trained by then but the
            embedded policy.
    """

    def __init__(
        self,
        arguments: ExpCTRArguments,
        data: DataArguments,
        policy: PolicyArguments,
        ppo: PPOConfig,
        resolve_reward: Callable,
        make_scorer: Callable,
    ):
        self.started = time.time()
        self.arguments, self.ppo, self.seed = arguments, ppo, ppo.seed
        self.policy_arguments = policy
        self.resolve_reward, self.make_scorer = resolve_reward, make_scorer
        self.output, self.state = Path(ppo.output_dir), PartialState()
        self._check_reward_weights()
        self.prepared, self.samples = load_samples(data, self.seed, self.state.print)
        table.check_samples(self.samples, ppo.generation_batch_size // ppo.num_generations, arguments.ic_folds)
        self.held_out = pl.concat([self.samples.filter(pl.col("split") == s) for s in ("validation", "test")])
        splits, users = self.held_out["split"].to_list(), self.held_out["user_id"].to_list()
        self.partners = shuffled_partners(splits, self.seed, users)
        settings = asdict(arguments) | asdict(data) | asdict(policy) | self._ppo_settings() | {"seed": self.seed}
        claim_folder(self.output, {name: value for name, value in settings.items() if name not in EVALUATION})
        self.policies, self.template = load_policies(policy, self.prepared, self.samples, self.seed)
        self.data = CTRData.build(self.samples)
        self.encoder = self._load_encoder()
        self.rows, self.scores, self.texts, self.controls = {}, {}, {}, {}

    def _check_reward_weights(self) -> None:
        weights = self.ppo.reward_weights
        for names in (self.arguments.reward_funcs, self.arguments.ic_reward_funcs) if weights else ():
            if len(names) != len(weights):
                raise ValueError(f"There are {len(weights)} reward_weights for the rewards {', '.join(names)}.")

    def _load_encoder(self) -> TextEncoder:
        name, batch_size = self.arguments.encoder, self.arguments.scoring_batch
        if name == "policy":
            base = self.policies.load_base().requires_grad_(False).eval().to(self.state.device)
            return TextEncoder(base, self.policies.tokenizer, batch_size)
        cache = self.output / "embeddings"
        return TextEncoder.from_pretrained(name, device=str(self.state.device), batch_size=batch_size, cache_dir=cache)

    def train(
        self,
        stage: str,
        reward_names: list[str],
        epochs: float,
        adapter: Path | None = None,
        round: int = 0,
        learning_rate: float | None = None,
        samples: pl.DataFrame | None = None,
        **context,
    ) -> PolicyStage:
        """PPO against the named rewards, from a fresh adapter or from a trained one; `context` goes to the rewards."""
        arguments, samples = self.arguments, self.samples if samples is None else samples
        config = copy.copy(self.ppo)
        config.learning_rate = learning_rate or config.learning_rate
        if "recommender" in context:
            context |= {
                "vocabulary": self.data.vocabulary,
                "ic_shift": arguments.ic_shift,
                "ic_accuracy": arguments.ic_accuracy,
                "ic_baseline": arguments.ic_baseline,
            }

        def make_rewards(policy):
            shared = {"model": policy, "tokenizer": self.policies.tokenizer, "template": self.template.ctr}
            shared |= {"lc_temperature": arguments.lc_temperature, "lc_form": arguments.lc_form}
            return [self.resolve_reward(n, **shared, encoder=self.encoder, **context) for n in reward_names]

        self.state.print(f"Stage {stage}: PPO against {', '.join(reward_names)}")
        finished = train_policy_stage(
            self.output / "stages" / stage,
            load_policy=lambda: self.policies.load(adapter),
            tokenizer=self.policies.tokenizer,
            dataset=self.template.dataset(samples.filter(pl.col("split") == "train")),
            make_rewards=make_rewards,
            config=config,
            num_train_epochs=epochs,
            round=round,
        )
        if self.state.is_main_process:
            write_log_history(self.output, stage, finished.log_history)
        return finished

    def explain(self, name: str, adapter: Path | None = None, restrict_titles: bool = True) -> Explained:
        """Explanations of the validation and test samples by the policy with this adapter (pi_init without one).

        `restrict_titles=False` takes the embedded policy's restriction off, to show what it does.
        """
        return self._explain(name, self.held_out, self.arguments.num_explanations, adapter, restrict_titles)

    def untuned_explanations(self) -> ExplanationStore:
        """One explanation of each training sample by pi_init: what do embeddings of untuned text do?"""
        training = self.data.samples["train"]
        written = self._explain("icl_train", training, 1)
        store = ExplanationStore()
        keys = training.select("user_id", "item_id").iter_rows(named=True)
        store.update({**key, "text": texts[0]} for key, texts in zip(keys, written.texts))
        return store

    def _explain(
        self, name: str, samples: pl.DataFrame, count: int, adapter: Path | None = None, restrict_titles: bool = True
    ) -> Explained:
        tokenizer = self.policies.tokenizer

        def load():
            policy = self.policies.load(adapter).to(self.state.device)
            if not restrict_titles:
                policy.get_base_model().config.restrict_titles = False
            scoring_batch = self.arguments.scoring_batch
            return policy, self.make_scorer(policy, tokenizer, self.template.ctr, batch_size=scoring_batch)

        return table.explain(
            self.output / "explanations" / f"{name}.parquet",
            samples,
            self.template.rows(samples),
            tokenizer,
            load,
            num_explanations=count,
            max_new_tokens=self.ppo.max_completion_length,
            batch_size=self.arguments.generation_batch,
            seed=self.seed,
        )

    def fit_recommender(self, store: ExplanationStore, held_out: Explained):
        """Stage 2: DeepFM on ids and the kept explanations; `held_out` gives those of the validation samples."""
        validation = [texts[0] for texts in held_out.texts[: len(self.data.samples["validation"])]]
        folds = self.arguments.ic_folds or None
        self.state.print(f"Stage 2: DeepFM on ids and {len(store):,} explanations")
        return table.fit_recommender(self.data, store, self.encoder, folds, self.seed, validation)

    def add_heuristics(self) -> None:
        """The rows that need no text: heuristics, and DeepFM with and without them as features."""
        self.rows |= heuristic_rows(self.samples)
        self.scores |= heuristic_scores(self.samples)
        for features in ((), ("like_rate",), ("item_mean",), FEATURES):
            name = "_".join(("deepfm", *features))
            self.rows[name], self.scores[name] = self._ctr_row(features)

    def add_llm_rows(self, **explained: Explained) -> None:
        """ExpCTR-LLM: the frozen LLM's scores of these explanations."""
        for name, written in explained.items():
            rows, scores = table.explanation_rows(name, self.held_out, written)
            self.rows |= rows
            self.scores |= scores
            first_test = len(self.data.samples["validation"])
            self.texts[name] = [texts[0] for texts in written.texts[first_test:]]

    def add_ctr_rows(self, **stored: tuple[ExplanationStore, Explained]) -> None:
        """ExpCTR-Aug: DeepFM trained on the kept explanations, tested with one and with the mean of several."""
        for name, (store, written) in stored.items():
            for count in dict.fromkeys((1, self.arguments.num_explanations)):
                z = table.embed(self.data, store, written, self.encoder, count)
                for features in ((), FEATURES):
                    row = "_".join((name, *features, *([f"mean{count}"] if count > 1 else [])))
                    self.rows[row], self.scores[row] = self._ctr_row(features, z)

    def add_unrestricted_rows(self, adapter: Path) -> None:
        """The embedded policy without its restriction, before and after training."""
        if self.policy_arguments.model_name_or_path == "tiny" and self.policy_arguments.restrict_titles:
            before = self.explain("icl_unrestricted", restrict_titles=False)
            after = self.explain("unrestricted", adapter, restrict_titles=False)
            self.add_llm_rows(icl_unrestricted=before, expctr_llm_unrestricted=after)

    def add_control(self, name: str, written: Explained, shuffled: bool = False) -> None:
        """AUC of a control's explanations; `shuffled` gives every sample those of another user."""
        rows, _ = table.explanation_rows(name, self.held_out, written, self.partners if shuffled else None)
        self.controls[name] = {
            "auc" if row == name else row.removeprefix(f"{name}_"): m["auc"] for row, m in rows.items()
        }

    def finish(self) -> None:
        """Write results.json, predictions.parquet, tables, pictures, case study and model card; print the tables."""
        if not self.state.is_main_process:
            return
        from rlrec.reports import report, tables_markdown

        dataset = self.prepared.metadata
        write_predictions(self.output, self.data.samples["test"], self.scores, self.texts)
        write_results(
            self.output,
            system="expctr",
            dataset=dataset["name"],
            seed=self.seed,
            rows=self.rows,
            controls=self.controls,
            details={
                "base_model": self.policy_arguments.model_name_or_path,
                "encoder": self.arguments.encoder,
                "dataset_license": dataset["licence"],
                "dataset_size": {split: len(part) for split, part in self.data.samples.items()},
                "positive_rate": self.samples["label"].mean(),
                "hyperparameters": asdict(self.arguments) | asdict(self.policy_arguments) | self._ppo_settings(),
            },
            wall_time=time.time() - self.started,
        )
        print("\n" + tables_markdown([self.output]))
        for path in report([self.output], self.output / "report"):
            print(f"wrote {path}")

    def _ppo_settings(self) -> dict:
        return {name: getattr(self.ppo, name) for name in PPO_SETTINGS}

    def _ctr_row(self, features, z=None) -> tuple[dict[str, float], np.ndarray]:
        data = CTRData.build(self.samples, features) if features else self.data
        return table.ctr_row(data, z, self.arguments.ctr_fits, self.seed)
