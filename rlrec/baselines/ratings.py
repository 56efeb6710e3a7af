"""The rows beside RecPIE in its Table 2 that are no part of its own run: recommenders, PETER, TALLRec,
EFM and MTER (`aspects.py`).

They have the samples of RecPIE's run with the same settings and seed, and each the same tuning budget (`tuning.py`).
The paper's direct recommendation by the LLM (Table 7) is a row of RecPIE's own run. Departures:

1. Recommenders get the mean squared error of scaled ratings, and sequence models the ratings of their history; with
   RecPIE's `objective` "binary" they get labels.
2. PETER learns reviews, and where the dataset has none, or an empty one, the template sentences of SELLER's offline
   ground truth.
3. UniSRec's item texts are title, categories and description, encoded by RecPIE's encoder.
"""

import dataclasses
import functools

import numpy as np

from rlrec import recommenders
from rlrec.baselines import aspects
from rlrec.baselines.peter import fit_peter, peter_data
from rlrec.baselines.run import Baselines, by_split
from rlrec.baselines.tallrec import calibrated_ratings
from rlrec.baselines.tuning import TableRow, fit_recommender, tune
from rlrec.data.prompts import PromptTemplate
from rlrec.evaluation.ratings import rating_metrics
from rlrec.experiment import load_policies
from rlrec.policies.grammars import ContrastiveGrammar
from rlrec.recommenders import SplitData
from rlrec.recpie.prompts import ExplanationPrompts
from rlrec.recpie.run import load_samples
from rlrec.seller.features import item_states
from rlrec.seller.ground_truth import FIELDS, write_by_template

# row -> class of rlrec.recommenders, and whether it reads the history
MODELS = {
    "sasrec": ("PointwiseSASRec", True),
    "din": ("DIN", True),
    "bert4rec": ("PointwiseBERT4Rec", True),
    "unisrec": ("UniSRec", True),
    "ncf": ("NCF", False),
}


class RatingBaselines(Baselines):
    """Rows of RecPIE's Table 2 on the samples of RecPIE's run; see `Baselines`."""

    system = "recpie"
    names = (*MODELS, "peter", "tallrec", *aspects.ROWS)
    system_settings = ("training_fraction", "objective", "encoder")

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.prepared, self.all_samples = load_samples(
            self.arguments, self.data_arguments, self.seed, self.state.print
        )
        self.low, self.high = self.prepared.metadata["rating_scale"]
        self.samples = by_split(self.all_samples)
        self.target = "target" if self.arguments.objective == "rating" else "label"
        if not self.baselines.rows and not aspects.has_opinions(self.all_samples):
            self.names = tuple(row for row in self.names if row not in aspects.ROWS)
            self.state.print(f"Left out: {', '.join(aspects.ROWS)}, which learn from reviews; there are none.")
        self.begin()
        self.policies = None
        if {"tallrec", "unisrec"} & {*self.unfinished}:
            self._load_policies()

    def make_row(self, row: str) -> TableRow:
        if row == "tallrec":
            targets = self.samples["validation"][self.target].to_numpy()
            return self.tallrec_row(self._metrics, functools.partial(calibrated_ratings, targets))
        if row in aspects.ROWS:
            return self._aspect_row(row)
        options = {"fits": self.baselines.fits, "seed": self.seed, "workers": self.baselines.workers}
        if row == "peter":
            data = peter_data(self._texts(), self.samples, self.target)
            fit_once = functools.partial(fit_peter, data, epochs=self.baselines.grid_epochs)
        else:
            fit_once = self._recommender(row)
        return tune(fit_once, self.baselines.grid, self._metrics, **options)

    # -- parts --------------------------------------------------------------------------------------------------------
    def _aspect_row(self, row: str) -> TableRow:
        parses = {"conllu": self.baselines.conllu, "spacy_model": self.baselines.spacy_model}
        triples = aspects.opinion_triples(self.samples["train"], **parses)
        return aspects.aspect_row(row, self.all_samples, triples, rating_scale=(self.low, self.high), seed=self.seed)

    def _metrics(self, predictions: np.ndarray) -> dict[str, float]:
        targets, labels = (self.samples["test"][column].to_numpy() for column in (self.target, "label"))
        return rating_metrics(targets, predictions, labels, self.high - self.low)

    def _recommender(self, row: str) -> functools.partial:
        name, history = MODELS[row]
        options = {"target": self.target, "use_categories": self.baselines.use_categories}
        settings, texts = {"objective": self.arguments.objective}, None
        if history:
            labels = "history_targets" if self.target == "target" else "history_labels"
            options |= {"use_history": True, "use_history_labels": True, "history_labels_column": labels}
            settings["max_length"] = self.data_arguments.history_length
        data = SplitData.build(self.all_samples, **options)
        if row == "unisrec":
            encoder = self.load_encoder(self.policies, self.arguments.encoder)
            texts = item_states(self.prepared.items, data.vocabulary.items, encoder)
            settings["text_dim"] = texts.shape[1]
        data = dataclasses.replace(data, samples={})  # workers get tensors alone
        kind, epochs = getattr(recommenders, name), self.baselines.grid_epochs
        return functools.partial(fit_recommender, data, kind, settings, item_texts=texts, epochs=epochs)

    def _texts(self) -> list[str]:
        """Of the training samples."""
        training = self.samples["train"]
        templates = write_by_template(training, self.prepared.metadata["domain"])
        texts = [" ".join(texts) for texts in templates.select(FIELDS).iter_rows()]
        if "review" in training.columns:
            texts = [review or text for review, text in zip(training["review"], texts)]
        return texts

    def _load_policies(self) -> None:
        """RecPIE's base LLM. In the compact style its question is RecPIE's own prompt, which ends with "good"."""

        def make_template(style, domain, conversational, _):
            scale = self.low, self.high
            return ExplanationPrompts("contrastive", style, domain, conversational, scale)

        self.policies, template = load_policies(
            self.policy_arguments, self.prepared, self.samples["train"], self.seed, make_template, ContrastiveGrammar
        )
        question = PromptTemplate("paper", template.domain, template.conversational).question
        if template.style == "compact":
            question = functools.partial(_compact_question, template)
        self.questions = self.policies, question


def _compact_question(template: ExplanationPrompts, row: dict) -> str | list[dict]:
    return template.generation({**row, "side": "pos"})
