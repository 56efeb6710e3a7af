"""One SELLER run: samples, ground truth, generators and the rows of its tables, so that the recipe shows the steps.

Paper: SELLER (Zhang et al., "Sequence-aware Large Language Models for Explainable Recommendation"), sections 3 and 4.
Departures beside those of the modules it calls:

1. Items that no training interaction has are left out of the sequences: SASRec has no state for them.
2. The samples that the generators learn from also train the EER, so the ground truth is written once for each.
3. A sample without ground truth (a writer that failed) is left out of every split, and counted.
4. Explanations are written greedily; the paper does not say how.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable

import polars as pl
import torch
from transformers import PreTrainedModel, set_seed

from rlrec.alternating import PolicyStage, finish_stage
from rlrec.arguments import DataArguments, PolicyArguments
from rlrec.asking import Endpoint
from rlrec.data.sequences import sequence_samples, split_by_time
from rlrec.experiment import OPTIMIZER_SETTINGS, load_prepared, load_pretrained, lora_config
from rlrec.files import read_frame, read_json
from rlrec.policies.injection import InjectedLLM
from rlrec.policies.loading import Policies, pretrained_policies
from rlrec.policies.sequence_adapter import SequenceAdapter
from rlrec.policies.tiny import TinyConfig
from rlrec.recommenders import SASRec, Vocabulary, fit_sequences
from rlrec.recommenders.base import indices, padded_indices
from rlrec.recommenders.fitting import in_background
from rlrec.recommenders.sequential import item_sequences
from rlrec.results import to_json, write_log_history, write_parquet_atomic, write_text_atomic
from rlrec.seller import ground_truth
from rlrec.seller.arguments import ABLATIONS, SASREC_DIM, SELLERArguments
from rlrec.seller.baselines import empty_explanations, pepler, random_explanations, xrec
from rlrec.seller.embedded import embedded_llm
from rlrec.seller.features import SequenceFeatures, item_states, whole_sequences
from rlrec.seller.peter import peter_explanations
from rlrec.seller.prompts import SellerPrompts, joined
from rlrec.seller.quality import text_metrics
from rlrec.seller.rows import Generator, SELLERRows
from rlrec.seller.trainer import Features, SELLERConfig, SELLERTrainer, write_texts
from rlrec.seller.writing import write_in_parts

SPLITS = ("train", "validation", "test")


class SELLERRun(SELLERRows):
    """Loads what a run needs, trains, writes, measures utility, collects rows, and writes the results.

    Args:
        arguments, data, policy, config: see `Run`.

    Raises:
        ValueError, OSError, ImportError: settings, data, packages or model that cannot be used.
    """

    evaluation = ("baselines", "ablations", "fit_workers", "explanation_types", "timing_samples", "bertscore_model",
                  "scoring_batch", "generation_batch", "missing_share")  # fmt: skip
    trainer_settings = (
        *OPTIMIZER_SETTINGS,
        *("num_train_epochs", "max_length", "adam"),
    )

    def __init__(self, arguments: SELLERArguments, data: DataArguments, policy: PolicyArguments, config: SELLERConfig):
        super().__init__(arguments, data, policy, config)
        self.embedded = policy.model_name_or_path == "tiny"
        if policy.prompt_style == "paper" and self.embedded:
            raise ValueError("prompt_style is 'paper', but the embedded LLM reads compact prompts: leave it out.")
        text_metrics(["a"], ["a"], arguments.bertscore_model, self.state.device)  # what is missing is told at once
        self.prepared = load_prepared(
            data, self.seed, self.state.print, item_details=arguments.item_details, matrix=arguments.matrix
        )
        self.training = split_by_time(self.prepared.interactions).filter(pl.col("split") == "train")
        self.samples = self._draw_samples()
        sizes = " / ".join(f"{len(part):,}" for part in self.samples.values())
        self.state.print(f"{self.prepared.metadata['name']}: {sizes} samples")
        self.claim_folder()
        self.policies, self.prompts = self._load_policies()
        InjectedLLM(self.policies.load_base(), SequenceAdapter(1, None, None))  # refuses LLMs of other families
        self.open_encoder()

    # -- the steps ----------------------------------------------------------------------------------------------------
    def pretrain_sasrec(self) -> None:
        """The behaviour encoder of eq. 4: SASRec on the interactions before the first cut, then frozen."""
        arguments, folder = self.arguments, self.output / "sasrec"
        vocabulary = Vocabulary.from_samples(self.training, use_categories=False)
        self.items = vocabulary.items
        with self.state.main_process_first():
            if not (folder / "config.json").is_file():
                self.state.print(f"SASRec on {len(self.training):,} interactions")
                set_seed(self.seed)
                length, objective = arguments.sequence_length, arguments.sasrec_objective
                model = SASRec(
                    len(self.items) + 1, dim=SASREC_DIM, max_length=length, dropout=0.2, objective=objective
                )
                model.to(self.state.device)
                validation = self.samples["validation"]
                held_out = (
                    padded_indices(validation["history"], self.items),
                    indices(validation["item_id"], self.items),
                )
                sequences = item_sequences(self.training, self.items)
                fit = fit_sequences(model, sequences, held_out, epochs=arguments.sasrec_epochs, seed=self.seed)
                model.save_pretrained(folder, vocabulary)
                self.state.print(f"SASRec: best epoch {fit.best_epoch}, {fit.history[fit.best_epoch - 1]}")
        self.sasrec = SASRec.from_pretrained(folder).requires_grad_(False).to(self.state.device)
        self.semantic = item_states(self.prepared.items, self.items, self.encoder)

    def write_ground_truth(self) -> None:
        """Two sentences for each sample; samples.parquet keeps them, so that a resumed run has the same samples."""
        path = self.output / "samples.parquet"
        if not path.is_file():
            samples = pl.concat(self.samples.values())
            written = self._write_ground_truth(samples)
            self.counts = ground_truth.summary(written)
            missing = self.counts["missing"] / self.counts["rows"]
            if missing > self.arguments.missing_share:
                raise ValueError(
                    f"{self.counts['missing']:,} of {len(samples):,} samples have no ground truth "
                    f"({self.counts['problems']}): start the same command again to ask for them, or give a "
                    f"missing_share above {missing:.2f} to leave them out."
                )
            both = pl.struct(*ground_truth.FIELDS).map_elements(lambda pair: joined(*pair.values()), pl.String)
            samples = samples.hstack(written.select(*ground_truth.FIELDS)).filter(written["problem"].is_null())
            samples = samples.with_columns(ground_truth=both)
            self.state.wait_for_everyone()  # no rank looks for the file after another has written it
            if self.state.is_main_process:
                write_text_atomic(self.output / "ground_truth.json", to_json(self.counts) + "\n")
                write_parquet_atomic(path, samples)  # last: a folder that has it is complete
            self.state.wait_for_everyone()
        samples = read_frame(path)
        self.counts = read_json(self.output / "ground_truth.json")
        self.samples = {split: samples.filter(pl.col("split") == split) for split in SPLITS}
        if empty := [split for split, part in self.samples.items() if part.is_empty()]:
            raise ValueError(f"No sample with ground truth is left for {' and '.join(empty)}: use more data.")
        self.learned = pl.concat([self.samples["train"], self.samples["validation"]])
        self.generators = {"llm": self._sequence_generator(behaviour=False, semantic=False)}
        self.generators["seller"] = self._sequence_generator()

    def add_baselines(self) -> None:
        """The rows beside SELLER, on the same samples."""
        train, test, wanted = self.samples["train"], self.samples["test"], self.arguments.baselines
        explanations = self._answers_of(train)
        options = {"seed": self.seed, "device": self.state.device, "dropout": self.arguments.adapter_dropout}
        if "random" in wanted:
            self.answers["random"] = random_explanations(explanations, len(test), self.seed)
        if "empty" in wanted:
            self.answers["empty"] = empty_explanations(len(test))
        write_by_peter = self._start_peter(train, explanations) if "peter" in wanted else None
        self.answers |= {"peter": []} if "peter" in wanted else {}  # the tables have the rows in this order
        if "llm" in wanted:
            self.add_row("llm", train=False)
        for name, prompt, build in (
            ("pepler", lambda row: self.prompts.pepler(), functools.partial(pepler, training=train)),
            ("xrec", self.prompts.xrec, functools.partial(xrec, interactions=self.training, **options)),
        ):
            if name in wanted:
                self.generators[name] = self._table_generator(prompt, build)
                self.add_row(name)
        if write_by_peter is not None:
            self.answers["peter"] = write_by_peter()
        self.answers["ground_truth"] = self._answers_of(test)

    def add_row(self, name: str, train: bool = True) -> None:
        """Train the generator of a row (eq. 12), and write its explanations of the test samples."""
        if train:
            self._train(name)
        prompts, features = self.generators[name].asked
        load = functools.cache(lambda: self._load(name, train))

        def write(part: slice) -> list[str]:
            numbers = torch.arange(len(prompts))[part]
            return write_texts(
                load(),
                self.policies.tokenizer,
                prompts[part],
                _of_rows(features, numbers),
                max_new_tokens=self.arguments.max_new_tokens,
                batch_size=self.arguments.generation_batch,
                progress=f"Writing {name}, from {part.start:,} of {len(prompts):,}",
            )

        self.answers[name] = write_in_parts(self.output / "explanations" / name, prompts, write)

    def add_ablation(self, name: str) -> None:
        """A row of Figure 2. Without both paths nothing is left to train: it is the frozen LLM."""
        row, lacks = f"seller_{name}", ABLATIONS[name]
        self.generators[row] = self._sequence_generator(**lacks)
        self.add_row(row, train=name != "without_de")

    # -- parts --------------------------------------------------------------------------------------------------------
    def _draw_samples(self) -> dict[str, pl.DataFrame]:
        """The samples of each split; with `evaluate` "validation" half of those of validation stand for the test."""
        arguments = self.arguments
        samples = sequence_samples(
            self.prepared.interactions,
            self.prepared.items,
            max_length=arguments.sequence_length,
            num_samples=self.data_arguments.num_samples,
            category_threshold=arguments.category_threshold,
            seed=self.seed,
        )
        parts = {split: samples.filter(pl.col("split") == split) for split in SPLITS}
        shuffled = {name: part.sample(fraction=1, shuffle=True, seed=self.seed) for name, part in parts.items()}
        if arguments.evaluate == "validation":
            half, whole = len(parts["validation"]) // 2, shuffled["validation"]
            shuffled["validation"] = whole[half:]
            shuffled["test"] = whole[:half].with_columns(split=pl.lit("test"))
        held_out = {name: shuffled[name].head(arguments.num_held_out or len(samples)) for name in SPLITS[1:]}
        ordered = {name: part.sort("user_id", "timestamp", "item_id") for name, part in held_out.items()}
        return {"train": parts["train"], **ordered}

    def _load_policies(self) -> tuple[Policies, SellerPrompts]:
        policy, domain = self.policy_arguments, self.prepared.metadata["domain"]
        prompts = SellerPrompts(policy.prompt_style or ("compact" if self.embedded else "paper"), domain)
        if not self.embedded:
            policies, conversational = load_pretrained(policy)
            return policies, dataclasses.replace(prompts, conversational=conversational)
        config = TinyConfig(template_steps=policy.template_steps, batch_size=64, seed=self.seed)
        catalogue = self.prepared.items, self.prepared.metadata.get("moods", []), prompts, config
        return Policies(lambda: embedded_llm(*catalogue)[0], embedded_llm(*catalogue)[1], lora_config(policy)), prompts

    def _write_ground_truth(self, samples: pl.DataFrame) -> pl.DataFrame:
        arguments, domain = self.arguments, self.prepared.metadata["domain"]
        source, cache = arguments.ground_truth_source, self.output / "ground_truth.jsonl"
        options = {"domain": domain, "history_items": arguments.history_items}
        if arguments.ground_truth == "template":
            return ground_truth.write_by_template(samples, domain)
        if arguments.ground_truth == "file":
            return ground_truth.read_from_file(samples, source)
        if arguments.ground_truth == "endpoint":
            endpoint = Endpoint(source, arguments.ground_truth_model)
            return ground_truth.write_by_asking(samples, endpoint, cache, **options)
        writer = pretrained_policies(
            source, lora_config(self.policy_arguments), dtype=self.policy_arguments.dtype
        )  # its adapter is not used
        return ground_truth.write_by_generation(
            samples,
            lambda: writer.load_base().eval().to(self.state.device),
            writer.tokenizer,
            cache,
            name=source,
            batch_size=arguments.generation_batch,
            seed=self.seed,
            **options,
        )

    def _answers_of(self, samples: pl.DataFrame) -> list[str]:
        return [self.prompts.answer(*texts) for texts in samples.select(*ground_truth.FIELDS).iter_rows()]

    def _sequence_generator(
        self, behaviour: bool = True, semantic: bool = True, category_texts: bool = True
    ) -> Generator:
        """SELLER, or what is left of it without a path or the category texts."""
        prompts = dataclasses.replace(self.prompts, vectors=behaviour + semantic, category_texts=category_texts)
        options = {"positions": self.arguments.positions, "dropout": self.arguments.adapter_dropout}
        sizes = SASREC_DIM if behaviour else None, self.semantic.shape[1] if semantic else None

        def build(llm: PreTrainedModel) -> InjectedLLM:
            return InjectedLLM(llm, SequenceAdapter(llm.config.hidden_size, *sizes, **options))

        def read(samples: pl.DataFrame) -> tuple[list, Features]:
            sequences = whole_sequences(samples, self.items, self.arguments.sequence_length)
            asked = [prompts.prompt(row) for row in samples.iter_rows(named=True)]
            return asked, SequenceFeatures(sequences, self.sasrec, self.semantic)

        return Generator(build, read(self.learned), read(self.samples["test"]))

    def _table_generator(self, prompt: Callable, make: Callable) -> Generator:
        """A baseline whose features are tensors; `make(llm, tables=...)` -> model, features of each table."""
        tables = self.learned, self.samples["test"]
        set_seed(self.seed)  # a fresh adapter's draw must not depend on what this process did before
        model, features = make(self.policies.load_base(), tables=tables)
        adapter, inject = model.adapter, model.inject  # not the model: its LLM would stay in memory with `build`
        asked = [[prompt(row) for row in table.iter_rows(named=True)] for table in tables]

        def build(llm: PreTrainedModel) -> InjectedLLM:
            return InjectedLLM(llm, copy.deepcopy(adapter), inject)

        return Generator(build, *zip(asked, features))

    def _start_peter(self, train: pl.DataFrame, explanations: list[str]) -> Callable[[], list[str]]:
        """PETER needs nothing of the other rows: with several `fit_workers` it is trained beside them."""
        test, folder = self.samples["test"], self.output / "explanations" / "peter"
        ids, workers = test.select("user_id", "item_id"), self.arguments.fit_workers
        given = train.select(ids.columns), explanations, ids
        options = {"epochs": self.arguments.peter_epochs, "seed": self.seed, "device": self.state.device}
        waiting = None
        if workers > 1 and not any(folder.glob("*.json")):
            waiting = in_background(peter_explanations, *given, **options, progress=False, workers=workers)

        def write(part: slice) -> list[str]:  # one part: all
            return waiting() if waiting else peter_explanations(*given, **options, progress=self.state.is_main_process)

        return lambda: write_in_parts(folder, ids.rows(), write, part_size=len(test))

    def _rows(self, generator: Generator) -> list[dict]:
        """What to learn, of the training samples and the validation ones behind them."""
        told = zip(generator.learned[0], self._answers_of(self.learned), strict=True)
        return [
            {"prompt": prompt, "completion": answer, "index": number} for number, (prompt, answer) in enumerate(told)
        ]

    def _train(self, name: str) -> None:
        """The stage of a row, unless it is done."""
        generator, stage = self.generators[name], PolicyStage(self.output / "stages" / name)
        if not stage.done:
            rows, training = self._rows(generator), len(self.samples["train"])
            self.state.print(f"Stage {name}: {training:,} explanations")
            self.let_go_of_encoder()
            set_seed(self.seed)
            trainer = SELLERTrainer(
                generator.build(self.policies.load_base()),
                dataclasses.replace(self.config, output_dir=str(stage.folder)),
                rows[:training],
                generator.learned[1],
                processing_class=self.policies.tokenizer,
                eval_dataset=rows[training:] if self.config.eval_strategy != "no" else None,
            )
            finish_stage(stage, trainer)
        if self.state.is_main_process:
            write_log_history(self.output, name, stage.log_history)

    def _load(self, name: str, trained: bool, llm: PreTrainedModel | None = None) -> InjectedLLM:
        """The model of a row, on the LLM that is given or newly loaded."""
        model = self.generators[name].build(llm or self.policies.load_base())
        if trained:
            model.load_weights(PolicyStage(self.output / "stages" / name).adapter)
        return model.eval().to(self.state.device)


def _of_rows(features: Features, numbers: torch.Tensor) -> Features:
    """The features of some samples, as those of samples 0, 1, ..."""
    if callable(features):
        return lambda rows: features(numbers[rows])
    return {name: values[numbers] for name, values in features.items()}
