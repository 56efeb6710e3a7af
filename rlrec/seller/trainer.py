"""Training an LLM that reads vectors to write explanations, and writing them with it; SELLER's generator and others'.

Paper: SELLER (Zhang et al., "Sequence-aware Large Language Models for Explainable Recommendation"), eq. 12 and the
settings of section 4.1.

    L_exp = - sum_t log P(y_t | y_<t, e_rec, e_sem)      (eq. 12)

Departures, and rulings where the paper is silent:
1. The loss is the mean over the explanations' tokens of an optimizer step, over all ranks, not their sum. The token
   that ends an explanation counts among them.
2. Adam is PyTorch's, whose weight decay is added to the gradient. As everywhere in transformers, biases and norms do
   not decay. The learning rate is constant; gradients are cut at the norm of 1 (`max_grad_norm`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments

from rlrec.checkpoints import WholeCheckpoints, check_checkpoint
from rlrec.policies.generation import SAMPLING, write_shared
from rlrec.policies.injection import InjectedLLM, encode_prompts

# Either tensors, a row for each sample, or a function of (B,) row numbers that makes a batch's tensors
Features = Mapping[str, Tensor] | Callable[[Tensor], Mapping[str, Tensor]]
COLUMNS = ("prompt", "completion", "index")


@dataclass
class SELLERConfig(TrainingArguments):
    """Configuration of `SELLERTrainer`. Every field of `TrainingArguments` keeps its meaning unless it is listed here.

    Raises:
        ValueError: when `optim` is set beside `adam`.

    >>> config = SELLERConfig("out")
    >>> config.learning_rate, config.weight_decay, config.num_train_epochs, config.per_device_train_batch_size
    (0.0001, 1e-06, 5, 8)
    """

    # Parameters whose default differs from TrainingArguments
    learning_rate: float = field(default=1e-4, metadata={"help": "Adam's learning rate (section 4.1)."})
    weight_decay: float = field(default=1e-6, metadata={"help": "Adam's weight decay (section 4.1)."})
    num_train_epochs: float = field(default=5, metadata={"help": "Passes over the data (section 4.1)."})
    per_device_train_batch_size: int = field(default=8, metadata={"help": "Samples a step, of a rank (section 4.1)."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "The paper names no schedule."})
    prediction_loss_only: bool = field(default=True, metadata={"help": "Evaluation keeps no logits, only the loss."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "The collator reads a column of its own."})

    # Parameters that control the optimizer
    adam: bool = field(default=True, metadata={"help": "Adam (section 4.1); False: what `optim` names."})

    # Parameters that control the sequences
    max_length: int = field(
        default=1024,
        metadata={"help": "Most tokens of a prompt with its explanation; a longer row is refused, never cut."},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.adam and self.optim != TrainingArguments.default_optim:
            raise ValueError(f"optim is '{self.optim.value}', but adam=True: set adam to False to choose another one.")


@dataclass
class InjectedCollator:
    """Rows with input_ids, labels and index -> a batch padded on the right, with its samples' features.

    >>> collate = InjectedCollator(0, {"state": torch.tensor([[1.0], [2.0], [3.0]])})
    >>> rows = [{"input_ids": [1, 5, 6], "labels": [-100, 5, 6], "index": 2}]
    >>> batch = collate([*rows, {"input_ids": [1, 7], "labels": [-100, 7], "index": 0}])
    >>> batch["input_ids"].tolist(), batch["labels"].tolist(), batch["features"]["state"].tolist()
    ([[1, 5, 6], [1, 7, 0]], [[-100, 5, 6], [-100, 7, -100]], [[3.0], [1.0]])
    """

    pad_token_id: int
    features: Features

    def __call__(self, rows: Sequence[Mapping]) -> dict[str, Tensor | Mapping[str, Tensor]]:
        shape = len(rows), max(len(row["input_ids"]) for row in rows)
        ids, labels = torch.full(shape, self.pad_token_id), torch.full(shape, -100)
        mask = torch.zeros(shape, dtype=torch.long)
        for i, row in enumerate(rows):
            length = len(row["input_ids"])
            ids[i, :length], labels[i, :length] = torch.tensor(row["input_ids"]), torch.tensor(row["labels"])
            mask[i, :length] = 1
        features = gather_features(self.features, torch.tensor([row["index"] for row in rows]))
        return {"input_ids": ids, "attention_mask": mask, "labels": labels, "features": features}


class SELLERTrainer(WholeCheckpoints, Trainer):
    """Trains the adapter (and linears) of an `InjectedLLM` by eq. 12; the LLM is in no optimizer.

    Rows have `prompt` (text with placeholders), `completion` (the explanation, without an end token) and `index`, the
    sample's row in `features`. Checkpoints and `save_model` hold what `InjectedLLM.save_pretrained` writes; DeepSpeed
    and FSDP put files of their own beside it in checkpoints, and those hold the LLM too.

    Args:
        model: its adapter is trained; any adapter.
        args: settings.
        train_dataset: rows.
        features: what the adapter takes: tensors with a row for each sample, or, where those would not fit into
            memory, a function that makes them of (B,) row numbers.
        processing_class: the LLM's tokenizer, with pad and end tokens.
        eval_dataset: rows, whose `index` is in the same features.

    Raises:
        ValueError: missing columns, no rows, an `index` outside of `features`, a row that is too long, a tokenizer
            without pad or end token, or a model in which nothing can be trained.
    """

    def __init__(
        self,
        model: InjectedLLM,
        args: SELLERConfig,
        train_dataset: Sequence[Mapping],
        features: Features,
        *,
        processing_class: PreTrainedTokenizerBase,
        eval_dataset: Sequence[Mapping] | None = None,
        **kwargs,
    ):
        if not any(parameter.requires_grad for parameter in model.adapter.parameters()):
            raise ValueError("The adapter has no parameter to train: without vectors it is the plain LLM, as it is.")
        if processing_class.pad_token_id is None or processing_class.eos_token_id is None:
            raise ValueError("The tokenizer needs a pad token and an end token (eos_token): set the one it lacks.")
        encoded = {
            name: encode_rows(rows, processing_class, model.placeholder_id, args.max_length, features, name)
            for name, rows in (("train", train_dataset), ("eval", eval_dataset))
            if rows is not None
        }
        if args.adam:
            options = {"lr": args.learning_rate, "betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}
            kwargs["optimizer_cls_and_kwargs"] = torch.optim.Adam, options
        super().__init__(
            model=model,
            args=args,
            data_collator=InjectedCollator(processing_class.pad_token_id, features),
            train_dataset=encoded["train"],
            eval_dataset=encoded.get("eval"),
            processing_class=processing_class,
            **kwargs,
        )

    # -- checkpoints --------------------------------------------------------------------------------------------------
    def _save(self, output_dir=None, state_dict=None):
        if self.args.should_save:
            model = self.accelerator.unwrap_model(self.model)
            model.save_pretrained(output_dir or self.args.output_dir, state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        if self._engine_restores:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self.accelerator.unwrap_model(self.model if model is None else model).load_weights(resume_from_checkpoint)

    def _load_best_model(self):
        if self._engine_restores:
            super()._load_best_model()
        else:
            check_checkpoint(self.state.best_model_checkpoint)
            self.accelerator.unwrap_model(self.model).load_weights(self.state.best_model_checkpoint)


def encode_rows(
    rows: Sequence[Mapping],
    tokenizer: PreTrainedTokenizerBase,
    placeholder_id: int,
    max_length: int,
    features: Features,
    dataset_name: str,
) -> list[dict]:
    """`input_ids`, `labels` (on the explanation and its end alone) and `index` of each row; see `SELLERTrainer`."""
    rows = list(rows)
    if not rows:
        raise ValueError(f"The {dataset_name} data have no row.")
    if missing := [name for name in COLUMNS if name not in rows[0]]:
        raise ValueError(f"The {dataset_name} data have no column {', '.join(missing)}; {COLUMNS} are needed.")
    if not callable(features):
        count = min(map(len, features.values()))
        for i, row in enumerate(rows):
            if not 0 <= row["index"] < count:
                raise ValueError(
                    f"Row {i} of the {dataset_name} data has index {row['index']}, but the features have rows 0 to "
                    f"{count - 1}."
                )
    prompts = encode_prompts(tokenizer, [row["prompt"] for row in rows], placeholder_id)
    completions = tokenizer([row["completion"] for row in rows], add_special_tokens=False, split_special_tokens=True)[
        "input_ids"
    ]
    encoded = []
    for i, (row, prompt, completion) in enumerate(zip(rows, prompts, completions, strict=True)):
        completion = [*completion, tokenizer.eos_token_id]
        if len(prompt) + len(completion) > max_length:
            raise ValueError(
                f"Row {i} of the {dataset_name} data has {len(prompt)} tokens of prompt and {len(completion)} of "
                f"explanation, more than max_length ({max_length}): raise it, or shorten the prompt."
            )
        labels = [-100] * len(prompt) + completion
        encoded.append({"input_ids": prompt + completion, "labels": labels, "index": row["index"]})
    return encoded


def gather_features(features: Features, rows: Tensor) -> dict[str, Tensor]:
    """The features of (B,) row numbers."""
    return dict(features(rows)) if callable(features) else {name: values[rows] for name, values in features.items()}


@torch.no_grad()
def write_texts(
    model: InjectedLLM,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    features: Features,
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    batch_size: int = 64,
    seed: int = 0,
    progress: str | None = "Writing explanations",
) -> list[str]:
    """One text for each prompt, which all ranks share the work on and get all of.

    Args:
        model: an `InjectedLLM`.
        tokenizer: the LLM's, with a pad token; the padding is on the left whatever its setting.
        prompts: N texts with placeholders.
        features: row i, or what the function makes of i, belongs to `prompts[i]`.
        max_new_tokens: of a text.
        temperature: of sampling; 0 takes the likeliest token.
        batch_size: prompts at once on one rank.
        seed: sampled texts depend on it and on nothing drawn before.
        progress: text of the progress bar, `None` for none.

    Raises:
        ValueError: features of another number of samples than there are prompts.
    """
    if not callable(features):
        for name, values in features.items():
            if len(values) != len(prompts):
                raise ValueError(f"There are {len(prompts)} prompts, but {name} has {len(values)} rows.")
    if not prompts:
        return []
    sampling = {"do_sample": False, "repetition_penalty": 1.0}
    if temperature > 0:
        sampling = SAMPLING | {"temperature": temperature}

    def generate(rows: list[int], **padded: Tensor) -> Tensor:
        gathered = gather_features(features, torch.tensor(rows))
        return model.generate(
            **padded,
            **sampling,
            features={name: values.to(model.device) for name, values in gathered.items()},
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
        )

    ids = encode_prompts(tokenizer, prompts, model.placeholder_id)
    texts = write_shared(model, tokenizer, ids, generate, batch_size=batch_size, seed=seed, progress=progress)
    return [text for (text,) in texts]
