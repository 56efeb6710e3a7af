"""The recommenders of a RecPIE run and the rows of its table: fits without text, with explanations, and what of them.

RecPIE, section 5. Every row is a fresh fit (several, with different seeds), so that RecPIE and the recommender without
explanations differ in the explanations alone; the validation slice, which the paper does not have, stops it early.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from rlrec.encoders import TextEncoder
from rlrec.evaluation.ratings import rating_heuristics, rating_metrics
from rlrec.experiment import PPORun
from rlrec.explanations import ExplanationStore
from rlrec.policies.grammars import share
from rlrec.recommenders import (
    BERT4Rec,
    CrossFit,
    Recommender,
    SASRec,
    SelfAttentiveGRU,
    SplitData,
    fit_sequences,
    item_sequences,
    start_mean_of_fits,
)
from rlrec.recommenders.split_data import MeanOfFits
from rlrec.recpie.attention import write_attention
from rlrec.recpie.cosines import CosineRecorder, choose_pairs, write_cosines
from rlrec.recpie.prompts import ExplanationPrompts
from rlrec.recpie.quality import explanation_quality
from rlrec.recpie.uncertainty import write_uncertainty

FEATURES = ("like_rate", "item_mean")


@dataclass
class Explanations:
    """The explanations of one variant as they stand: what Algorithm 1 changes in its explanation component.

    Attributes:
        name: of its rows: "recpie", or "recpie_<variant>".
        prompts: of the variant.
        training: newest texts of the training samples.
        training_draws: texts of the training samples by the policy as it stands, one store per draw; none where the
            rows read one explanation.
        held_out: texts of the validation and test samples, one store per draw.
        adapter: of the policy; None before any training.
        recommender: the recommendation component w; its consumer table is the soft prompt.
        rewarding: the out-of-fold models that reward, or `recommender` itself.
        rounds: {round, policy_loss, recommender_loss} after each recommendation step.
    """

    name: str
    prompts: ExplanationPrompts
    training: ExplanationStore
    held_out: list[ExplanationStore]
    training_draws: list[ExplanationStore] = field(default_factory=list)
    adapter: Path | None = None
    recommender: Recommender | None = None
    rewarding: Recommender | CrossFit | None = None
    rounds: list[dict] = field(default_factory=list)

    @property
    def sides(self) -> tuple[str, ...]:
        return self.prompts.sides


def category_share(row: Mapping) -> float:
    """Share of liked items among those of the history with a category of the target, category by category, averaged:
    what the embedded policy reads in its prompt, as one number.

    >>> row = {"history_labels": [1, 0, 1], "history_categories": [["war"], ["war", "space"], ["space"]]}
    >>> category_share({**row, "categories": ["war", "music"]})
    0.5
    """
    history = list(zip(row["history_labels"], row["history_categories"]))
    of = [[label for label, categories in history if name in (categories or [])] for name in row["categories"] or []]
    return sum(map(share, of)) / len(of) if of else share(row["history_labels"])


class RecPIERows(PPORun):
    """A run whose subclass has set prepared, samples, data, stars and policies, and which collects the table's rows.

    Attributes:
        finished: {row: explanations} of the variants whose loop has ended.
        embedded: {row: embeddings of its explanations, by split}.
        models: {row: its first fit}, once `collect_rows` has been called.
    """

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.finished: dict[str, Explanations] = {}
        self.embedded: dict[str, dict[str, torch.Tensor]] = {}
        self.models: dict[str, Recommender] = {}
        self._started: dict[str, Callable[[], MeanOfFits]] = {}

    def add_rows_without_text(self) -> None:
        """The means, and the recommender without explanations, alone and with heuristics as context features."""
        for name, predictions in rating_heuristics(self.samples).items():
            self.scores[name] = predictions
            self.rows[name] = self._metrics(self.data.targets["test"].numpy(), predictions)
        self._add_fits("gru", self._make_model())
        data = self._split_data(dense_features=FEATURES, use_history=True)
        self._add_fits("gru_like_rate_item_mean", self._make_model(data=data), data=data)
        shares = ("category_share",)
        data = self._split_data(dense_features=shares, use_history=True)
        self._add_fits("gru_category_share", self._make_model(data=data), data=data)
        data = self._split_data(use_history=True, use_categories=True)
        if data.vocabulary.categories:
            self._add_fits("gru_categories", self._make_model(data=data), data=data)

    def add_row(self, name: str, explanations: Explanations) -> None:
        """A recommender that reads these explanations, and what they are worth as texts."""
        row = "_".join(filter(None, (explanations.name, name)))
        for count in dict.fromkeys((1, self.arguments.num_explanations)):
            z = self._embed(explanations, count)
            mean = f"{row}_mean{count}" if count > 1 else row
            self._add_fits(mean, self._make_model(explanations), z)
            self.embedded.setdefault(row, z)
        test = self.data.samples["test"]
        texts = {side: explanations.held_out[0].texts_for(test, side) for side in explanations.sides}
        self.texts |= {f"{row}_{side}": written for side, written in texts.items()}
        self.rows[row] |= explanation_quality(texts, test)
        if not name:
            self.controls[f"{row}_rounds"] = len(explanations.rounds) - 1
            self.finished[row] = explanations

    def collect_rows(self) -> None:
        """Wait for the fits of the rows that have been added, and fill in what they gave."""
        targets, batch = self.data.targets["test"].numpy(), self.data.batches["test"]
        for row, mean in self._started.items():
            metrics, self.scores[row], models = mean()
            self.rows[row] = metrics | self.rows[row]
            self.models[row] = models[0]
            if row in self.embedded:  # with other samples' explanations: what is left is not the explanations' doing
                z = self.embedded[row]["test"]
                other = z[torch.randperm(len(z), generator=torch.Generator().manual_seed(self.seed))]
                shuffled = [self._metrics(targets, model.predict(batch, other).numpy()) for model in models]
                self.controls[f"{row}_shuffled"] = {
                    metric: float(np.mean([one[metric] for one in shuffled])) for metric in ("rmse", "auc")
                }
        self._started.clear()

    def write_analyses(self) -> None:
        """What the paper's Figures 7, 8 and 9 are drawn from (docs/analyses.md), where there is enough data."""
        if not self.state.is_main_process:
            return
        self._write_cosines()
        self.collect_rows()
        test, (batch, targets, z) = self.data.samples["test"], self.data.rows("test", self.embedded["recpie"])
        model = self.models["recpie"]
        write_attention(self.output, test, model.attention(batch, z).mean(1).numpy(), model.token_names)
        # a constant's distance is no disagreement of models, so the means are left out
        fitted = {row: scores for row, scores in self.scores.items() if row not in rating_heuristics(self.samples)}
        write_uncertainty(self.output, test, targets.numpy(), fitted)

    # -- parts --------------------------------------------------------------------------------------------------------
    def _split_data(self, **options) -> SplitData:
        target = "target" if self.arguments.objective == "rating" else "label"
        return SplitData.build(self.samples, target=target, **options)

    def _metrics(self, targets: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        return rating_metrics(targets, predictions, self.data.samples["test"]["label"].to_numpy(), self.stars)

    @property
    def _fit_options(self) -> dict:
        return {
            "epochs": self.arguments.recommender_epochs,
            "batch_size": self.arguments.recommender_batch,
            "learning_rate": self.arguments.recommender_learning_rate,
        }

    def _make_model(
        self,
        explanations: Explanations | None = None,
        *,
        kind: type[Recommender] = SelfAttentiveGRU,
        data: SplitData | None = None,
        encoder: TextEncoder | None = None,
        **options,
    ) -> Callable[[], Recommender]:
        """A function that makes an untrained recommender, with slots for `explanations` if they are given."""
        sizes = (data or self.data).vocabulary.sizes()
        options |= {"objective": self.arguments.objective, "id_dropout": self.arguments.id_dropout}
        if explanations is not None:
            options["explanation_slots"] = len(explanations.sides)
            options["explanation_dim"] = (encoder or self.encoder).dimension
        return lambda: kind(**sizes, **options)

    def _add_fits(self, row: str, make_model, z=None, data: SplitData | None = None) -> None:
        """Start the fits of a row, beside what follows where there are several `fit_workers`."""
        arguments, data = self.arguments, data or self.data
        fits, workers = arguments.recommender_fits, arguments.fit_workers
        self.rows[row] = {}  # the tables have the rows in this order
        self._started[row] = start_mean_of_fits(
            data, make_model, self._metrics, z, fits, self.seed, workers, **self._fit_options
        )

    def _write_cosines(self) -> None:
        training = self.data.samples["train"]
        try:
            pairs = choose_pairs(training, self.prepared.items, seed=self.seed)
        except ValueError as no_pairs:  # items without categories, or all of one
            self.state.print(f"No cosines of item pairs (Figure 7): {no_pairs}")
            return
        explanations, options = self.finished["recpie"], self._fit_options
        recorder = CosineRecorder(pairs, self.data.vocabulary.items)
        for name, make_model, z in (
            ("RecPIE", self._make_model(explanations), self.embedded["recpie"]),
            ("without explanations", self._make_model(), None),
        ):
            torch.manual_seed(self.seed)
            self.data.fit(make_model(), z, seed=self.seed, on_epoch=recorder.on_epoch(name), **options)
        sequences = item_sequences(training, self.data.vocabulary.items)
        for kind in (SASRec, BERT4Rec):
            torch.manual_seed(self.seed)
            sequence_model = kind(self.data.vocabulary.sizes()["num_items"])
            record = recorder.on_epoch(kind.__name__)
            fit_sequences(sequence_model, sequences, epochs=options["epochs"], seed=self.seed, on_epoch=record)
        write_cosines(self.output, recorder.frame())

    def _embed(
        self, explanations: Explanations, count: int = 1, encoder: TextEncoder | None = None
    ) -> dict[str, torch.Tensor]:
        """(N, sides, d) by split: of one text, the newest of training samples, or the mean of `count` draws."""
        encoder, sides, parts = encoder or self.encoder, explanations.sides, self.data.samples
        drawn = dict.fromkeys(("validation", "test"), explanations.held_out)
        drawn["train"] = explanations.training_draws if count > 1 else [explanations.training]
        z = {}
        for split in parts:
            draws = [store.embeddings_for(parts[split], encoder, sides) for store in drawn[split][:count]]
            z[split] = torch.stack(draws).mean(0)
        return z
