"""The rows of SELLER's tables: what explanations are worth, how close and how true they are, and what they cost."""

import dataclasses
from collections.abc import Callable

import polars as pl
from transformers import PreTrainedModel

from rlrec.data.sequences import unseen_targets
from rlrec.experiment import Run
from rlrec.files import read_frame, read_json
from rlrec.policies.injection import InjectedLLM
from rlrec.results import to_json, write_log_history, write_parquet_atomic, write_text_atomic
from rlrec.seller.ground_truth import FIELDS
from rlrec.seller.quality import reason_metrics, text_metrics
from rlrec.seller.timing import seconds_per_sample
from rlrec.seller.trainer import Features
from rlrec.utility import utility


@dataclasses.dataclass
class Generator:
    """A frozen LLM with an adapter, and what it reads.

    Attributes:
        build: the LLM, newly loaded -> the untrained model.
        learned, asked: (prompts, features) of the training samples with the validation ones behind them, and of the
            test samples.
    """

    build: Callable[[PreTrainedModel], InjectedLLM]
    learned: tuple[list, Features]
    asked: tuple[list, Features]


class SELLERRows(Run):
    """From the texts of a run to its tables; `SELLERRun` loads, trains and writes.

    Attributes:
        generators: {row: the LLM that writes it}.
        answers: {row: the test samples' explanations as they were written}; the ground truth's are among them.
        cases: metrics of each test sample, once utility is measured.
    """

    system = "seller"

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.generators: dict[str, Generator] = {}
        self.answers: dict[str, list[str]] = {}
        self.cases: pl.DataFrame | None = None

    def measure_utility(self) -> None:
        """Rows of Table 2: all explanations under one EER. Of Table 4: SELLER's sentences, each under its own."""
        texts = {row: [self.prompts.explanation(text) for text in answers] for row, answers in self.answers.items()}
        self.texts = texts
        rows, self.cases = self._utility("both", "ground_truth", texts)
        for number, kind in enumerate(FIELDS):
            name = kind.removesuffix("_explanation")
            if name in self.arguments.explanation_types:
                parts = {
                    f"{row}_{name}_only": [self.prompts.parse(text)[number] for text in self.answers[row]]
                    for row in ("seller", "ground_truth")
                }
                more, cases = self._utility(name, kind, parts)
                rows |= more
                self.cases = pl.concat([self.cases, cases.drop("user_id", "item_id")], how="horizontal")
        for row, metrics in rows.items():
            self.rows[row] = metrics | self._quality(row)

    def measure_time(self) -> None:
        """Table 5: seconds per sample of training and writing, SELLER, XRec and the plain LLM in turn."""
        count, path = self.arguments.timing_samples, self.output / "timing.json"
        if not count or "xrec" not in self.generators:
            return
        if not path.is_file():
            self.let_go_of_encoder()
            systems, llm = {}, self.policies.load_base()
            for name in ("xrec", "seller", "llm"):
                generator = self.generators[name]
                rows = self._rows(generator)[: min(count, len(self.samples["train"]))]
                model = self._load(name, trained=name != "llm", llm=llm)
                asked, features = generator.asked
                systems[name] = model, rows, generator.learned[1], asked[:count], features
            measured = seconds_per_sample(
                systems,
                self.policies.tokenizer,
                self.config,
                max_new_tokens=self.arguments.max_new_tokens,
                batch_size=self.arguments.generation_batch,
            )
            if self.state.is_main_process:
                write_text_atomic(path, to_json(measured) + "\n")
            self.state.wait_for_everyone()
        self.controls |= read_json(path)

    def finish(self) -> None:
        """Write the results, users.parquet, explanations.parquet, tables, pictures and model card."""
        if self.state.is_main_process:
            write_parquet_atomic(self.output / "users.parquet", self.cases)
            keys, parsed = self.samples["test"].select("user_id", "item_id", "split"), self.prompts.parse
            write_parquet_atomic(
                self.output / "explanations.parquet",
                pl.concat(
                    keys.with_columns(
                        row=pl.lit(row),
                        text=pl.Series(self.texts[row], dtype=pl.String),
                        **dict(zip(FIELDS, _columns(map(parsed, answers)))),
                    )
                    for row, answers in self.answers.items()
                ),
            )
        self.write(
            self.prepared,
            self.samples,
            ground_truth=self.counts,
            unseen_targets=unseen_targets(self.prepared.interactions),
            evaluated_on=self.arguments.evaluate,
        )

    # -- parts --------------------------------------------------------------------------------------------------------
    def _utility(self, name: str, truth: str, texts: dict[str, list[str]]) -> tuple[dict, pl.DataFrame]:
        """Metrics of rows, and of each case, under an EER that was trained on the column `truth`; kept in files."""
        arguments, folder = self.arguments, self.output / "utility" / name
        rows, cases = folder / "rows.json", folder / "cases.parquet"
        encoder = self.encoder  # by all ranks: those that load the embedded LLM wait for one another
        with self.state.main_process_first():
            if not rows.is_file() or set(read_json(rows)) != set(texts):
                samples = pl.concat(self.samples.values())
                start = {"sasrec": self.sasrec, "items": self.items} if arguments.eer_from_sasrec else {}
                found = utility(
                    samples,
                    samples[truth].to_list(),
                    texts,
                    encoder,
                    **start,
                    rank=arguments.eer_rank,
                    seed=self.seed,
                    device=str(self.state.device),
                    progress=self.state.print,
                    epochs=arguments.eer_epochs,
                    batch_size=arguments.eer_batch,
                    learning_rate=arguments.eer_learning_rate,
                    weight_decay=arguments.eer_weight_decay,
                    patience=arguments.eer_patience,
                )
                write_parquet_atomic(cases, found.cases)
                write_log_history(self.output, f"eer_{name}", found.fit.history)
                write_text_atomic(rows, to_json(found.rows) + "\n")  # last: a folder that has it is complete
        return read_json(rows), read_frame(cases)

    def _quality(self, row: str) -> dict[str, float]:
        """How close a row's texts are to the ground truth, and how true."""
        if row not in self.answers:
            return {}
        test = self.samples["test"]
        model = self.arguments.bertscore_model
        found = text_metrics(self.texts[row], test["ground_truth"].to_list(), model, self.state.device)
        moods = self.prepared.metadata.get("moods")
        if moods and "reasons" in test.columns:
            found |= reason_metrics([self.prompts.parse(text) for text in self.answers[row]], test, moods)
        return found


def _columns(pairs) -> list[pl.Series]:
    return [pl.Series(column, dtype=pl.String) for column in zip(*pairs)]
