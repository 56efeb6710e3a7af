"""TALLRec: an LLM tuned by instructions to answer whether a user will like an item.

Paper: Bao et al., "TALLRec: An Effective and Efficient Tuning Framework to Align Large Language Model with
Recommendation" (RecSys 2023), section 3.2, rec-tuning: liked and disliked items and a target stand in a prompt, which
asks for "Yes." or "No."; LoRA is trained by cross entropy on the answer. ExpCTR, section 5.1.4, gives it the whole
training split and a learning rate of 1e-4. Departures:

1. Its first stage, tuning on general instructions (Alpaca), is left out: instruction-tuned models have had it, and the
   embedded policy has no words for it.
2. The loss is that of the answer's first token, and any spelling of Yes (or of No) that is a single token is right:

       loss = logsumexp(all tokens) - logsumexp(the right answer's tokens),

   the sets being those of the LC scorer, which then scores P(Yes) / (P(Yes) + P(No)) as the ICL row is scored.
3. The epoch, and where there are several the learning rate, is that of the least loss on the validation split.
4. For ratings, "Yes" is a rating of at least 4 (the sample's label), and the predicted rating is a straight line in
   P(Yes), fitted to the ratings of the validation samples; AUC ranks by it.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
from accelerate import PartialState
from sklearn.linear_model import LinearRegression
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments, set_seed

from rlrec.alternating import PolicyStage, finish_stage
from rlrec.baselines.tuning import Fitted
from rlrec.checkpoints import WholeCheckpoints
from rlrec.policies.generation import tokenize_prompts
from rlrec.policies.loading import Policies

Question = Callable[[Mapping], "str | list[dict]"]


def answer_loss(logits: Tensor, labels: Tensor, no_ids: Sequence[int], yes_ids: Sequence[int]) -> Tensor:
    """Mean of -log P(the right answer's tokens).

    Args:
        logits: (B, V) of the token after the prompt.
        labels: (B,) 1 where Yes is right, else 0.

    >>> answer_loss(torch.tensor([0.2, 0.3, 0.4, 0.1]).log()[None], torch.tensor([1]), [0], [1, 2])  # -log 0.7
    tensor(0.3567)
    """
    answers = torch.stack([logits[:, list(ids)].logsumexp(1) for ids in (no_ids, yes_ids)], dim=1)  # (B, 2)
    return (logits.logsumexp(1) - answers.gather(1, labels[:, None]).squeeze(1)).mean()


class TALLRecTrainer(WholeCheckpoints, Trainer):
    """`Trainer` on rows with `input_ids` (of the prompt) and `labels` (0 or 1), padded on the left.

    Args:
        no_ids, yes_ids: tokens that mean No and Yes.
    """

    def __init__(self, *args, no_ids: Sequence[int], yes_ids: Sequence[int], **kwargs):
        super().__init__(*args, data_collator=self._collate, **kwargs)
        self.no_ids, self.yes_ids = no_ids, yes_ids
        self.model_accepts_loss_kwargs = False  # the loss is a mean: gradient accumulation has to divide it
        model = self.accelerator.unwrap_model(self.model).get_base_model()
        self.takes_positions = "position_ids" in inspect.signature(model.forward).parameters

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        prompts = {name: values for name, values in inputs.items() if name != "labels"}
        output = model(**prompts, use_cache=False, logits_to_keep=1)
        loss = answer_loss(output.logits[:, -1].float(), inputs["labels"], self.no_ids, self.yes_ids)
        return (loss, output) if return_outputs else loss

    def _collate(self, rows: Sequence[Mapping]) -> dict[str, Tensor]:
        prompts = [{"input_ids": row["input_ids"]} for row in rows]
        batch = dict(self.processing_class.pad(prompts, padding_side="left", return_tensors="pt"))
        if self.takes_positions:  # models with absolute positions would count the padding
            batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        return batch | {"labels": torch.tensor([row["labels"] for row in rows])}


def tallrec_fit(
    *,
    folder: Path,
    policies: Policies,
    samples: Mapping[str, pl.DataFrame],
    question: Question,
    make_scorer: Callable,
    to_predictions: Callable[[np.ndarray, np.ndarray], np.ndarray],
    config: TrainingArguments,
    learning_rate: float,
    seed: int,
    epochs: float = 3,
    batch_size: int = 128,
    device_batch: int = 16,
) -> Fitted:
    """Tune the base LLM's adapter, or go on where an earlier call was interrupted, and score the test samples.

    Args:
        folder: of the row; each learning rate has one in it.
        policies: the LLM.
        samples: "train", "validation" and "test", with label.
        question: sample -> the prompt to be answered by Yes or No.
        make_scorer: (model, tokenizer, template) -> LC scorer: `yes_ids`, `no_ids`, `max_length`, `scores`.
        to_predictions: P(Yes) of the validation samples and of the test samples -> predictions of the test samples.
        config: device, precision and gradient checkpointing are its.
        batch_size, device_batch: samples per optimizer step, and at once on one rank.
    """
    stage = PolicyStage(folder / f"learning_rate_{learning_rate:g}")
    tokenizer = policies.tokenizer

    def scorer(model):
        return make_scorer(model, tokenizer, lambda text, row: question(row))

    if not stage.done:
        set_seed(seed)  # a fresh adapter's draw must not depend on what this process did before
        policy = policies.load()
        answers = scorer(policy)
        device_batch = min(device_batch, batch_size)
        steps = max(1, batch_size // (device_batch * PartialState().num_processes))
        trainer = TALLRecTrainer(
            policy,
            training_arguments(config, stage.folder, learning_rate, epochs, device_batch, steps, seed),
            train_dataset=encode(tokenizer, samples["train"], question, answers.max_length),
            eval_dataset=encode(tokenizer, samples["validation"], question, answers.max_length),
            processing_class=tokenizer,
            no_ids=answers.no_ids,
            yes_ids=answers.yes_ids,
        )
        finish_stage(stage, trainer)
    losses = [record for record in stage.log_history if "eval_loss" in record]
    best = min(losses, key=lambda record: record["eval_loss"])
    tuned = policies.load(stage.adapter).merge_and_unload()  # the scorer switches adapters off
    scoring = scorer(tuned.requires_grad_(False).eval().to(PartialState().device))
    yes = {split: _scores(scoring, samples[split]) for split in ("validation", "test")}
    return Fitted(best["eval_loss"], best["epoch"], to_predictions(yes["validation"], yes["test"]))


def encode(
    tokenizer: PreTrainedTokenizerBase, samples: pl.DataFrame, question: Question, max_length: int | None
) -> list[dict]:
    """Rows for `TALLRecTrainer`; a prompt that is too long loses its beginning, as the scorer's do."""
    ids = tokenize_prompts(tokenizer, [question(row) for row in samples.iter_rows(named=True)])
    cut = slice(None if max_length is None else -max_length, None)
    return [{"input_ids": row[cut], "labels": label} for row, label in zip(ids, samples["label"])]


def training_arguments(
    config: TrainingArguments, folder: Path, learning_rate: float, epochs: float, batch: int, steps: int, seed: int
) -> TrainingArguments:
    """Settings of a fit: an evaluation and a checkpoint after each epoch, of which the best one is taken."""
    kept = ("bf16", "fp16", "use_cpu", "gradient_checkpointing", "dataloader_pin_memory", "disable_tqdm")
    return TrainingArguments(
        output_dir=str(folder),
        seed=seed,
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        num_train_epochs=epochs,
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=batch,
        gradient_accumulation_steps=steps,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        prediction_loss_only=True,
        remove_unused_columns=False,
        label_names=["labels"],
        logging_steps=10,
        report_to=[],
        **{name: getattr(config, name) for name in kept},
    )


def probabilities(validation: np.ndarray, test: np.ndarray) -> np.ndarray:
    """For clicks: P(Yes) as it is."""
    return test


def calibrated_ratings(targets: np.ndarray, validation: np.ndarray, test: np.ndarray) -> np.ndarray:
    """For ratings: the straight line in P(Yes) that fits the validation samples' `targets` best (departure 4).

    >>> calibrated_ratings(np.array([0.2, 0.4]), np.array([0.0, 1.0]), np.array([0.5])).round(3).tolist()
    [0.3]
    """
    return LinearRegression().fit(validation[:, None], targets).predict(test[:, None])


def _scores(scorer, samples: pl.DataFrame) -> np.ndarray:
    return scorer.scores([""] * len(samples), samples.to_dicts()).double().numpy()
