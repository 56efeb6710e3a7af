"""TRAIL's training on TRL's SFTTrainer: score-only cross entropy plus InfoNCE between explanations.

Paper: Zhang et al., "Following the TRAIL: Predicting and Explaining Tomorrow's Hits with a Fine-Tuned LLM" (2026),
eqs. 7 to 10 and appendix A. SPEC section 4.

    L = L_sup + lambda L_con

Departures (those of eqs. 7 and 8: rlrec/trail/contrastive.py; of eq. 6: rlrec/trail/similarity.py):

1. Eq. 9's probabilities are the model's, over tokens: L_sup is the mean cross entropy of the score's tokens over an
   optimizer step. The token after its last digit counts among them (`supervise_score_end`).
2. A sequence that is too long loses the start of its prompt, where the paper cuts its end, which is the answer.
3. `explanation_share` (0, the paper's way) labels that share of the explanation's tokens too, in all ablations. L_sup
   says nothing about the text: the small embedded model, trained without, forgot within 450 steps how to write.
4. Positives and negatives come from one micro-batch, gathered over ranks. Gradient accumulation, 4 in the paper
   "to enlarge the effective batch size", averages the losses of micro-batches and adds no negative to any of them.
"""

import functools
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import is_peft_model
from datasets import Dataset
from peft import LoraConfig
from peft.utils.other import TrainableTokensWrapper
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging
from trl import SFTTrainer
from trl.trainer.utils import FusedCausalLMOutput

from rlrec.checkpoints import WholeCheckpoints
from rlrec.trail.config import TRAILConfig
from rlrec.trail.contrastive import (
    add_projection_head,
    contrastive_accuracy,
    explanation_embeddings,
    info_nce,
    load_projection_head,
    positives,
    save_projection_head,
)
from rlrec.trail.markers import add_markers, marker_ids, train_markers
from rlrec.trail.sequences import encode
from rlrec.trail.similarity import similarity_matrix

__all__ = ["TRAILConfig", "TRAILTrainer"]

COLUMNS = ("history", "change_rate", "item_index", "sample_index")

logger = logging.get_logger(__name__)


@dataclass
class TRAILOutput(FusedCausalLMOutput):
    """TRL's output plus the projected explanations e (B, d_out)."""

    explanations: Tensor | None = None


@dataclass
class TRAILCollator:
    """Adds what eq. 6 reads to the batch of `inner`: histories (B, T) padded on the right, and their lengths (B,)."""

    inner: Any

    def __call__(self, examples: list[dict]) -> dict[str, Tensor]:
        rows = [{name: example[name] for name in COLUMNS} for example in examples]
        batch = self.inner([{k: v for k, v in example.items() if k not in COLUMNS} for example in examples])
        lengths = [len(row["history"]) for row in rows]
        history = torch.zeros(len(rows), max(lengths), dtype=torch.float32)
        for values, row in zip(history, rows):
            values[: len(row["history"])] = torch.tensor(row["history"], dtype=torch.float32)
        batch["history"], batch["history_length"] = history, torch.tensor(lengths)
        batch["change_rate"] = torch.tensor([row["change_rate"] for row in rows], dtype=torch.float32)
        for name in ("item_index", "sample_index"):
            batch[name] = torch.tensor([row[name] for row in rows])
        return batch


class TRAILTrainer(WholeCheckpoints, SFTTrainer):
    """Fine-tunes a causal LM to predict popularity and explain it (eq. 10).

    Rows have `prompt` and `completion` (the JSON answer, its explanation between the markers), and for the contrastive
    term `history` (counts, oldest first), `change_rate` and `item_index`, the row of the item in `item_embeddings`.
    Rows without a score, without an explanation or with an answer longer than `max_length` are dropped; `prepared`
    has, by data set, how many (`rows`, `cut` and each reason).

    L_con needs similar and dissimilar samples at once: its anchors and negatives are a micro-batch's
    (`per_device_train_batch_size` x ranks). Gradient accumulation does not add negatives, so L_con of batches of
    different sizes, and thus `eval_loss_con`, cannot be compared.

    The projection head (eq. 7) is a submodule of the causal LM: DDP and the like synchronise it, the optimizer and its
    checkpoints hold it, and its weights are in projection_head.safetensors beside the model's or adapter's.

    Metrics, also with eval_: `loss_sup`, `loss_con`, `con_accuracy` (share of anchors whose nearest explanation is a
    positive). With `supervise=False`, `loss_sup` is still logged but has no gradient; with `lambda_con=0` there is no
    head and no `loss_con`, and the three columns are not needed.

    Args:
        model: a causal LM in memory. Its embedding gets rows for the markers where they are missing.
        item_embeddings: (M, d) of the items' texts.
        processing_class: its tokenizer, a fast one; it gets the markers where they are missing.
        peft_config: a LoRA configuration, such as `rlrec.trail.markers.paper_lora()`; the markers' embeddings are
            trained and saved with the adapter.

    Raises:
        ValueError: missing columns, no usable row, an `item_index` outside of `item_embeddings`, or batches in which
            no sample could have a negative.
    """

    _tag_names = ["trl", "sft", "trail", "rlrec"]
    _name = "TRAIL"

    def __init__(
        self,
        model: PreTrainedModel,
        args: TRAILConfig | None = None,
        train_dataset: Dataset | None = None,
        *,
        processing_class: PreTrainedTokenizerBase,
        item_embeddings: np.ndarray | None = None,
        peft_config: LoraConfig | None = None,
        **kwargs,
    ):
        args = TRAILConfig("trail-output") if args is None else args
        if not isinstance(args, TRAILConfig):
            raise TypeError(f"args must be a TRAILConfig, not a {type(args).__name__}.")
        if isinstance(model, str):
            raise TypeError("model must be a model in memory, since its embedding gets the markers: load it first.")
        if not processing_class.is_fast:
            raise TypeError(
                "processing_class must be a fast tokenizer: the score's tokens are found by their offsets."
            )
        if args.lambda_con and item_embeddings is None:
            raise ValueError(
                "item_embeddings (M, d) is required, unless lambda_con=0: eq. 5 compares the items' texts."
            )
        if not is_peft_model(model):
            add_markers(model, processing_class)
        if peft_config is not None:
            peft_config = train_markers(peft_config, model, processing_class)
        self.contrasts = args.lambda_con > 0
        self.markers = marker_ids(processing_class)
        self.item_embeddings = None if item_embeddings is None else np.asarray(item_embeddings)
        self.prepared: dict[str, dict[str, int]] = {}
        self._output: FusedCausalLMOutput | None = None
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            processing_class=processing_class,
            peft_config=peft_config,
            **kwargs,
        )
        output_layer = self._causal_lm().get_output_embeddings()
        if isinstance(output_layer, TrainableTokensWrapper):
            # TRL's fused LM head reads weight and bias, of which PEFT's wrapper passes on the weight only
            output_layer.bias = output_layer.original_module.bias
        if self.contrasts:
            self._check_batches()
            self.data_collator = TRAILCollator(self.data_collator)
            add_projection_head(
                self._causal_lm(), args.projection_hidden_size, args.projection_size, args.projection_dropout
            )
            add_explanations(self._causal_lm(), *self.markers)

    def _causal_lm(self):
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if is_peft_model(model) else model

    def _check_batches(self) -> None:
        parallelism = self.accelerator.parallelism_config
        if parallelism is not None and (parallelism.cp_enabled or parallelism.sp_enabled):
            raise ValueError("Context and sequence parallelism split an explanation over ranks: switch them off.")
        check_batches(self.args, self.accelerator.num_processes, self.eval_dataset is not None)

    # -- data ---------------------------------------------------------------------------------------------------------
    def _prepare_dataset(self, dataset, processing_class, args, packing, formatting_func, dataset_name):
        if not isinstance(dataset, Dataset):
            raise TypeError(f"The {dataset_name} data must be a datasets.Dataset, not a {type(dataset).__name__}.")
        if "input_ids" not in dataset.column_names:
            self._check_columns(dataset, dataset_name)
            dataset = dataset.map(
                encode,
                fn_kwargs={
                    "tokenizer": processing_class,
                    "max_length": args.max_length,
                    "require_explanation": self.contrasts,
                    "supervise_score_end": args.supervise_score_end,
                    # in evaluation the score alone, whose loss says when to stop
                    "explanation_share": args.explanation_share if dataset_name == "train" else 0.0,
                    "supervise": args.supervise,
                },
                remove_columns=["prompt", "completion"],
                num_proc=args.dataset_num_proc,
                desc=f"Tokenizing {dataset_name} dataset",
            )
            problems = np.array(dataset["problem"])
            names, counts = np.unique(problems[problems != ""], return_counts=True)
            count = {"rows": int((problems == "").sum()), "cut": sum(dataset["cut"])}
            self.prepared[dataset_name] = count | dict(zip(names.tolist(), counts.tolist()))
            if names.size or count["cut"]:
                logger.warning(
                    f"The {dataset_name} data, rows kept, prompts cut, rows dropped: {self._told(dataset_name)}"
                )
            if not count["rows"]:
                raise ValueError(f"No row of the {dataset_name} data can be used: {self._told(dataset_name)}.")
            dataset = dataset.add_column("sample_index", list(range(len(dataset))))
            dataset = dataset.select(np.flatnonzero(problems == "")).remove_columns(["problem", "cut"])
        return super()._prepare_dataset(dataset, processing_class, args, packing, formatting_func, dataset_name)

    def _told(self, dataset_name: str) -> str:
        return ", ".join(f"{name} {count}" for name, count in self.prepared[dataset_name].items())

    def _check_columns(self, dataset: Dataset, dataset_name: str) -> None:
        needed = ["prompt", "completion", *(COLUMNS[:3] if self.contrasts else ())]
        if missing := [name for name in needed if name not in dataset.column_names]:
            raise ValueError(f"The {dataset_name} data have no column {', '.join(missing)}; TRAIL needs {needed}.")
        if self.contrasts and len(dataset):
            items, count = np.array(dataset["item_index"]), len(self.item_embeddings)
            if (wrong := (items < 0) | (items >= count)).any():
                row = int(wrong.argmax())
                raise ValueError(
                    f"Row {row} of the {dataset_name} data has item_index {items[row]}, but item_embeddings has rows "
                    f"0 to {count - 1}."
                )

    def _set_signature_columns_if_needed(self):
        super()._set_signature_columns_if_needed()
        if self.contrasts:
            self._signature_columns = [*dict.fromkeys([*self._signature_columns, *COLUMNS])]

    # -- loss ---------------------------------------------------------------------------------------------------------
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        names = ("history", "history_length", "change_rate", "item_index", "sample_index")
        columns = {name: inputs.pop(name) for name in names if name in inputs}

        def recorded(**arguments):
            output = model(**arguments)
            if isinstance(output, FusedCausalLMOutput):  # not TRL's second pass, for `return_outputs`
                self._output = output
            return output

        result = super().compute_loss(recorded, inputs, return_outputs, num_items_in_batch)
        output, self._output = self._output, None
        loss, outputs = result if return_outputs else (result, None)
        # Where TRL has divided L_sup by the tokens of the whole step, the trainer divides nothing by its micro-batches
        steps = 1 if num_items_in_batch is None else self.current_gradient_accumulation_steps
        self._log_value("loss_sup", self.accelerator.reduce(loss.detach(), reduction="mean").item() * steps)
        if not self.args.supervise and not self.args.explanation_share:
            loss = 0.0 * loss  # not left out: DDP waits for a gradient of every parameter
        if self.contrasts:
            loss = loss + self.args.lambda_con * self._contrastive_loss(output.explanations, columns) / steps
        return (loss, outputs) if return_outputs else loss

    def _contrastive_loss(self, explanations: Tensor, columns: dict[str, Tensor]) -> Tensor:
        """Eq. 8 over the samples of all ranks, the same value on each; logs it.

        Every rank computes the loss of all N samples, but only its own explanations (B, d) have a graph. Its gradient
        is thus its explanations' part of the whole one, as anchors and as others' positives and negatives. DDP
        averages where those parts must be added up, so the gradient, and not the value, is multiplied by the ranks.
        """
        args, ranks = self.args, self.accelerator.num_processes
        history = self.accelerator.pad_across_processes(columns.pop("history"), dim=1)
        history, columns, embeddings = self.accelerator.gather((history, columns, explanations.detach()))
        first = self.accelerator.process_index * len(explanations)
        embeddings = torch.cat([embeddings[:first], explanations, embeddings[first + len(explanations) :]])
        columns = {name: column.cpu().numpy() for name, column in columns.items()}
        similarity = similarity_matrix(
            [values[:length] for values, length in zip(history.cpu().numpy(), columns["history_length"])],
            columns["change_rate"],
            self.item_embeddings[columns["item_index"]],
            np.arange(len(embeddings)),
            alpha=args.alpha,
            beta=args.beta,
            gamma=args.gamma,
            sigma=args.sigma,
            z_normalise=args.z_normalise,
        )
        samples = columns["sample_index"]  # a small data set's last batch is filled up with rows that it has already
        others = torch.from_numpy(samples[:, None] != samples[None, :]).to(embeddings.device)
        positive = positives(torch.from_numpy(similarity).to(embeddings.device), args.num_positives, others)
        loss = info_nce(embeddings, positive, args.temperature, others, args.cosine)
        accuracy = contrastive_accuracy(embeddings.detach(), positive, others, args.cosine).item()
        self._log_value("loss_con", loss.item())
        if not np.isnan(accuracy):
            self._log_value("con_accuracy", accuracy)
        return loss + (ranks - 1) * (loss - loss.detach())

    def _log_value(self, name: str, value: float) -> None:
        self._metrics["train" if self.model.training else "eval"][name].append(value)

    # -- checkpoints --------------------------------------------------------------------------------------------------
    def _save(self, output_dir=None, state_dict=None):
        super()._save(output_dir, state_dict)
        if self.contrasts and self.args.should_save:
            save_projection_head(self._causal_lm(), output_dir or self.args.output_dir, state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.contrasts:
            load_projection_head(self._causal_lm(), resume_from_checkpoint)

    def _load_best_model(self):
        super()._load_best_model()
        if self.contrasts:
            load_projection_head(self._causal_lm(), self.state.best_model_checkpoint)


def check_batches(args: TRAILConfig, ranks: int, evaluates: bool = True) -> None:
    """Raise ValueError where no sample of a batch over all ranks could have a negative."""
    names = ["per_device_train_batch_size", *(["per_device_eval_batch_size"] if evaluates else [])]
    for name in names if args.lambda_con else ():
        size = getattr(args, name) * ranks
        if size < args.num_positives + 2:
            raise ValueError(
                f"{name} makes batches of {size} over all ranks: with {args.num_positives} positives, no sample has a "
                f"negative. Raise it to {args.num_positives + 2} over all ranks, or more."
            )


def add_explanations(model, start_id: int, end_id: int) -> None:
    """Make the causal LM, patched by TRL, return a `TRAILOutput` whenever its fused LM head is asked for.

    The projection is part of `forward`, so that DDP sees the head's parameters used. `forward` itself is patched,
    because PEFT calls it directly and a hook on the model would not fire.
    """
    fused_forward = model.forward

    @functools.wraps(type(model).forward)
    def forward(self, *args, fused_lm_head=False, **kwargs):
        if not fused_lm_head:
            return fused_forward(*args, **kwargs)
        with _last_hidden_states(self) as states:
            output = fused_forward(*args, fused_lm_head=True, **kwargs)
        embeddings = explanation_embeddings(states[-1], kwargs["input_ids"], start_id, end_id)
        return TRAILOutput(**output, explanations=self.projection_head(embeddings))

    model.forward = types.MethodType(forward, model)


@contextmanager
def _last_hidden_states(model) -> Iterator[list[Tensor]]:
    """Collect the backbone's last hidden states (B, L, d)."""
    states = []
    handle = model.base_model.register_forward_hook(
        lambda module, given, output: states.append(output.last_hidden_state)
    )
    try:
        yield states
    finally:
        handle.remove()
