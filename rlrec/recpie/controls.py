"""The controls of a finished RecPIE run: the explanations of its last round, read by a freshly fitted recommender."""

from pathlib import Path

from rlrec.alternating import PolicyStage
from rlrec.arguments import DataArguments, PolicyArguments
from rlrec.controls import Reader, stored_arguments
from rlrec.evaluation.masking import mask_verdict_words
from rlrec.explanations import ExplanationStore
from rlrec.ppo import PPOConfig
from rlrec.recommenders import SelfAttentiveGRU
from rlrec.recpie.arguments import RecPIEArguments
from rlrec.recpie.run import RecPIERun


class ReopenedRecPIE(RecPIERun):
    """A finished run, loaded to be read; nothing is trained but recommenders.

    Raises:
        FileNotFoundError, ValueError: files are missing, or the data are not those of the run.
    """

    def __init__(self, run_dir: Path, **changes):
        changes |= {"output_dir": str(run_dir), "report_to": [], "save_strategy": "no", "robustness": []}
        kinds = (RecPIEArguments, DataArguments, PolicyArguments, PPOConfig)
        super().__init__(*stored_arguments(run_dir, kinds, **changes), None)

    def claim_folder(self) -> None:
        """The folder stays as it is."""

    def reader(self, fits: int) -> Reader:
        """The recommender, and both explanations of each sample by the main variant."""
        folder, sides = self.output / "explanations", self.prompts[self.arguments.variant].sides
        stages = sorted(
            (path for path in (self.output / "stages").glob("recpie_round_*") if PolicyStage(path).done),
            key=lambda path: int(path.name.rpartition("_")[2]),
        )
        if not stages:
            raise FileNotFoundError(f"There is no finished round in {self.output / 'stages'}; finish the run first.")
        before = ExplanationStore.load(folder / "recpie_bootstrap_training-0.parquet")
        training = ExplanationStore()
        training.merge(before)
        for stage in stages:
            training.merge(PolicyStage(stage).explanations())
        last = stages[-1].name.removeprefix("recpie_")
        held_out = {
            name: ExplanationStore.load(folder / f"recpie_{name}_held_out-0.parquet") for name in (last, "bootstrap")
        }

        def texts(store_of_training: ExplanationStore, name: str) -> dict:
            stores = {"train": store_of_training, "validation": held_out[name], "test": held_out[name]}
            return {
                split: list(map(list, zip(*(stores[split].texts_for(part, side) for side in sides))))
                for split, part in self.data.samples.items()
            }

        final = texts(training, last)
        if any(text is None for row in final["test"] for text in row):
            raise ValueError(f"{folder} explains other samples than the dataset gives now; the data have changed.")
        sizes = self.data.vocabulary.sizes()
        options = {"objective": self.arguments.objective, "id_dropout": self.arguments.id_dropout}

        def make_model(width):
            slots = {} if width is None else {"explanation_slots": len(sides), "explanation_dim": width}
            return lambda: SelfAttentiveGRU(**sizes, **options, **slots)

        return Reader(
            "RecPIE's recommender",
            self.data,
            final,
            texts(before, "bootstrap"),
            self.encoder,
            make_model,
            mask_verdict_words,
            metrics=("rmse", "auc") if self.arguments.objective == "rating" else ("auc",),
            fits=fits,
            seed=self.seed,
            options=self._fit_options,
        )
