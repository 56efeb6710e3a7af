"""The rows beside ExpCTR in its Table 1 that are no part of its own run: recommenders, and TALLRec.

They have the samples of ExpCTR's run with the same settings and seed, and each the same tuning budget (`tuning.py`).
Departures:

1. As in ExpCTR's own rows, recommenders read ids alone, and sequence models the history with its labels; categories
   only with `use_categories`.
2. The paper does not say how its baselines were tuned, or how large they are. Sizes here are the models' defaults.
"""

import dataclasses
import functools

import numpy as np

from rlrec import recommenders
from rlrec.baselines.run import Baselines, by_split
from rlrec.baselines.tallrec import probabilities
from rlrec.baselines.tuning import TableRow, fit_recommender, tune
from rlrec.data.prompts import PromptTemplate
from rlrec.evaluation import ctr_metrics
from rlrec.expctr.run import load_samples
from rlrec.experiment import load_policies
from rlrec.policies.grammars import VerdictGrammar
from rlrec.recommenders import SplitData

# row -> class of rlrec.recommenders, and whether it reads the history
MODELS = {
    "fm": ("FM", False),
    "dssm": ("DSSM", False),
    "deepfm": ("DeepFM", False),
    "autoint": ("AutoInt", False),
    "pnn": ("PNN", False),
    "xdeepfm": ("XDeepFM", False),
    "fignn": ("FiGNN", False),
    "dcn": ("DCN", False),
    "dcnv2": ("DCNv2", False),
    "din": ("DIN", True),
    "dien": ("DIEN", True),
    "caser": ("PointwiseCaser", True),
    "gru4rec": ("PointwiseGRU4Rec", True),
    "sasrec": ("PointwiseSASRec", True),
    "bert4rec": ("PointwiseBERT4Rec", True),
}


class ClickBaselines(Baselines):
    """Rows of ExpCTR's Table 1 on the samples of ExpCTR's run; see `Baselines`."""

    system = "expctr"
    names = (*MODELS, "tallrec")

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.prepared, self.all_samples = load_samples(self.data_arguments, self.seed, self.state.print)
        self.samples = by_split(self.all_samples)
        self.begin()
        if "tallrec" in self.unfinished:
            policies, template = load_policies(
                self.policy_arguments, self.prepared, self.samples["train"], self.seed, PromptTemplate, VerdictGrammar
            )
            self.questions = policies, template.question

    def make_row(self, row: str) -> TableRow:
        def metrics(predictions: np.ndarray) -> dict[str, float]:
            return ctr_metrics(self.samples["test"]["label"].to_numpy(), predictions)

        if row == "tallrec":
            return self.tallrec_row(metrics, probabilities)
        name, history = MODELS[row]
        options = {"use_history": True, "use_history_labels": True} if history else {}
        data = SplitData.build(self.all_samples, use_categories=self.baselines.use_categories, **options)
        data = dataclasses.replace(data, samples={})  # workers get tensors alone
        kind, epochs = getattr(recommenders, name), self.baselines.grid_epochs
        fit_once = functools.partial(fit_recommender, data, kind, {}, epochs=epochs)
        options = {"fits": self.baselines.fits, "seed": self.seed, "workers": self.baselines.workers}
        return tune(fit_once, self.baselines.grid, metrics, **options)
