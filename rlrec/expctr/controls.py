"""The controls of a finished ExpCTR run: its explanations read by DeepFM and by the frozen LLM that scored them."""

from pathlib import Path

import numpy as np
import polars as pl
from accelerate import PartialState

from rlrec.alternating import PolicyStage
from rlrec.arguments import DataArguments, PolicyArguments
from rlrec.controls import (
    OPINIONS,
    ORIGINAL,
    OTHERS,
    REFITTED,
    SENTIMENT,
    SHUFFLED_LABELS,
    TITLE,
    TRAINED,
    VERDICT,
    Reader,
    measured,
    stored_arguments,
)
from rlrec.evaluation.masking import mask_verdict_words, mask_verdicts, sentiment
from rlrec.evaluation.utility import mask_title, names_title
from rlrec.expctr import rows as table
from rlrec.expctr.arguments import ExpCTRArguments
from rlrec.expctr.run import ExpCTRRun
from rlrec.files import read_frame
from rlrec.ppo import PPOConfig

SCORER = "LC score"
MARGIN_TOLERANCE = 1e-2  # of a stored margin scored again; those of another model are off by whole units


class ReopenedExpCTR(ExpCTRRun):
    """A finished run, loaded to be read; nothing is trained but recommenders.

    Raises:
        FileNotFoundError, ValueError: files are missing, or the data are not those of the run.
    """

    def __init__(self, run_dir: Path, make_scorer, **changes):
        changes |= {"output_dir": str(run_dir), "report_to": [], "save_strategy": "no"}
        kinds = (ExpCTRArguments, DataArguments, PolicyArguments, PPOConfig)
        super().__init__(*stored_arguments(run_dir, kinds, **changes), None, make_scorer)
        name = "ic" if self.arguments.rounds == 1 else f"ic_{self.arguments.rounds}"
        self.written = self._read(name)
        stages = ["lc", "ic", *(f"ic_{n}" for n in range(2, self.arguments.rounds + 1))]
        self.store = PolicyStage(self.output / "stages" / stages[0]).explanations()
        for stage in stages[1:]:
            self.store.merge(PolicyStage(self.output / "stages" / stage).explanations())

    def claim_folder(self) -> None:
        """The folder stays as it is."""

    def reader(self, fits: int) -> Reader:
        """DeepFM, and the explanations that it reads: the first one of each sample."""
        data = self.data
        texts = {
            "train": [[text] for text in self.store.texts_for(data.samples["train"])],
            **self._first(self.written),
        }
        untuned, path = None, self.output / "explanations"
        if (path / "icl.parquet").is_file() and (path / "icl_train.parquet").is_file():
            training = [[texts[0]] for texts in read_frame(path / "icl_train.parquet")["explanation"]]
            untuned = {"train": training, **self._first(self._read("icl"))}
        return Reader(
            "DeepFM",
            data,
            texts,
            untuned,
            self.encoder,
            lambda width: lambda: table.make_model(data, width),
            mask_verdicts,
            fits=fits,
            seed=self.seed,
        )

    def scorer_controls(self) -> tuple[list[dict], list[str]]:
        """The frozen LLM reads the changed test explanations; where it is not the run's any more, the stored scores
        are all there is."""
        is_test = (self.held_out["split"] == "test").to_numpy()
        test = self.held_out.filter(pl.col("split") == "test")
        labels, users, titles = test["label"].to_numpy(), test["user_id"].to_list(), test["title"].to_list()
        texts = [texts[0] for texts, keep in zip(self.written.texts, is_test) if keep]
        original = self.written.margins[is_test, 0]
        rows, notes = [], []

        def add(control, margins, reader=SCORER, way=TRAINED, against=original, **more):
            found = measured(("auc",), labels, None, np.asarray(margins, dtype=float), against, users)
            rows.append({"control": control, "reader": reader, "way": way, "metrics": found, **more})

        add(ORIGINAL, original, against=None)
        add(OTHERS, self.written.margins[self.partners, 0][is_test], chance=True)
        add(SENTIMENT, [sentiment(text) for text in texts], "the number itself")
        if (self.output / "explanations" / "shuffled_labels.parquet").is_file():
            permuted = self._read("shuffled_labels").margins[is_test, 0]
            add(f"{SHUFFLED_LABELS}, policy retrained", permuted, way=REFITTED, chance=True)
        else:
            notes.append(
                "The policy was not retrained on permuted labels; the recipe does that with --shuffled_labels."
            )
        prompts = self.template.rows(test)
        scorer = self.make_scorer(
            self.policies.load().to(PartialState().device),
            self.policies.tokenizer,
            self.template.ctr,
            batch_size=self.arguments.scoring_batch,
        )
        off = float(np.abs(np.asarray(scorer.margins(texts, prompts)) - original).max())
        if off > MARGIN_TOLERANCE:
            notes.append(
                f"The language model is not the run's own (it scores the stored texts otherwise, by up to {off:.2f}), "
                f"so the {SCORER} of changed texts is left out."
            )
            return rows, notes
        add(VERDICT, scorer.margins(mask_verdicts(texts), prompts))
        add(OPINIONS, scorer.margins(mask_verdict_words(mask_verdicts(texts)), prompts))
        if any(names_title(texts, titles)):
            add(TITLE, scorer.margins(mask_title(texts, titles), prompts))
        return rows, notes

    def _read(self, name: str) -> table.Explained:
        """Explanations of the validation and test samples that the run left."""
        path = self.output / "explanations" / f"{name}.parquet"
        if not path.is_file():
            raise FileNotFoundError(f"There is no {path}; finish the run first, with its own command.")
        return self.explain(name)

    def _first(self, written: table.Explained) -> dict[str, list[list[str]]]:
        texts, split = [[texts[0]] for texts in written.texts], len(self.data.samples["validation"])
        return {"validation": texts[:split], "test": texts[split:]}
