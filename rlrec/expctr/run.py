"""One ExpCTR run: data, policies, encoder and CTR data, held together so that the recipe shows the loop alone."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from rlrec.alternating import PolicyStage
from rlrec.arguments import DataArguments, PolicyArguments
from rlrec.data.prompts import PromptTemplate
from rlrec.data.splits import expctr_samples
from rlrec.evaluation import check_explanations, heuristic_rows, heuristic_scores, shuffled_partners
from rlrec.expctr import rows as table
from rlrec.expctr.arguments import ExpCTRArguments
from rlrec.expctr.rows import FEATURES, Explained
from rlrec.experiment import PPORun, describe_samples, load_policies, load_prepared
from rlrec.explanations import ExplanationStore
from rlrec.policies.grammars import VerdictGrammar
from rlrec.ppo import PPOConfig
from rlrec.recommenders import SplitData


class ExpCTRRun(PPORun):
    """Loads what a run needs, trains and explains on demand, collects rows, and writes the results.

    Args:
        arguments, data, policy, ppo, resolve_reward: see `PPORun`.
        make_scorer: (model, tokenizer, template, temperature, batch_size) -> LC scorer with `margins`.

    Raises:
        ValueError, OSError: settings, data or model that cannot be used; nothing has been trained by then but the
            embedded policy.
    """

    system = "expctr"
    evaluation = ("ctr_fits", "more_lc", "scoring_batch", "shuffled_labels", *PPORun.evaluation)

    def __init__(
        self,
        arguments: ExpCTRArguments,
        data: DataArguments,
        policy: PolicyArguments,
        ppo: PPOConfig,
        resolve_reward: Callable,
        make_scorer: Callable,
    ):
        super().__init__(arguments, data, policy, ppo, resolve_reward)
        self.make_scorer = make_scorer
        self.check_reward_weights(arguments.reward_funcs, arguments.ic_reward_funcs)
        self.prepared, self.samples = load_samples(data, self.seed, self.state.print)
        table.check_samples(self.samples, ppo.generation_batch_size // ppo.num_generations, arguments.ic_folds)
        self.held_out = pl.concat([self.samples.filter(pl.col("split") == s) for s in ("validation", "test")])
        splits, users = self.held_out["split"].to_list(), self.held_out["user_id"].to_list()
        self.partners = shuffled_partners(splits, self.seed, users)
        self.claim_folder()
        training = self.samples.filter(pl.col("split") == "train")
        self.policies, self.template = load_policies(
            policy, self.prepared, training, self.seed, PromptTemplate, VerdictGrammar
        )
        self.data = SplitData.build(self.samples)
        self.open_encoder()

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
        if "recommender" in context:
            context |= {
                "vocabulary": self.data.vocabulary,
                "ic_shift": arguments.ic_shift,
                "ic_accuracy": arguments.ic_accuracy,
                "ic_baseline": arguments.ic_baseline,
            }

        def make_context(policy) -> dict:
            shared = {"model": policy, "tokenizer": self.policies.tokenizer, "template": self.template.ctr}
            shared |= {"lc_temperature": arguments.lc_temperature, "lc_form": arguments.lc_form}
            return {**shared, **context}

        return self.train_stage(
            stage,
            reward_names,
            make_context,
            load_policy=lambda: self.policies.load(adapter),
            tokenizer=self.policies.tokenizer,
            dataset=lambda: self.template.dataset(samples.filter(pl.col("split") == "train")),
            epochs=epochs,
            round=round,
            learning_rate=learning_rate,
        )

    def off_format(self, texts: Sequence[str], rows: Sequence[dict]) -> list[str | None]:
        """What of ExpCTR's form each text lacks: a citation, a verdict, its end ..."""
        columns = ([row[name] for row in rows] for name in ("history_titles", "history_labels", "title"))
        return check_explanations(texts, *columns)["malformed"].to_list()

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
            batch_tokens=self.arguments.generation_tokens,
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
        self.write(self.prepared, self.data.samples)

    def _ctr_row(self, features, z=None) -> tuple[dict[str, float], np.ndarray]:
        data = SplitData.build(self.samples, features) if features else self.data
        return table.ctr_row(data, z, self.arguments.ctr_fits, self.seed)


def load_samples(arguments: DataArguments, seed: int, progress=print):
    """The prepared dataset that the arguments name, and ExpCTR's samples drawn from it."""
    prepared = load_prepared(arguments, seed, progress)
    samples = expctr_samples(
        prepared.interactions,
        prepared.items,
        threshold=prepared.metadata["threshold"] if arguments.threshold is None else arguments.threshold,
        label_rule=arguments.label_rule or prepared.metadata["label_rule"],
        num_samples=arguments.num_samples,
        history_length=arguments.history_length,
        min_history=arguments.min_history,
        seed=seed,
    )
    progress(describe_samples(prepared, samples))
    return prepared, samples
