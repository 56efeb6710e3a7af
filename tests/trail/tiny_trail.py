"""A language model, tokenizer and trends so small that TRAIL on them takes seconds; also a program, for the test that
needs two ranks: `torchrun --nproc_per_node 2 tiny_trail.py FOLDER`."""

import sys
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from two_ranks import KeepGradients, leave_together

from rlrec.trail.trainer import TRAILConfig, TRAILTrainer

LORA = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, target_modules=["q_proj", "v_proj", "o_proj"])
ITEMS = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])  # two of a kind, and two of another
TRENDS = ([1, 2, 4], [2, 3, 5], [9, 5, 2], [8, 4, 2])
SCORES = ("12", "13", "1", "2")
TEXTS = ("up up up", "it is up", "down", "all go down")


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, so that a score of two digits is two tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def language_model(tied: bool = False) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=259,
        hidden_size=32,
        initializer_range=0.2,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=tied,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config)


def answer(score: str, text: str) -> str:
    return f'{{"predict_popularity_score": "{score}", "explanation_of_score": "<exp_start>{text}<exp_end>"}}'


def dataset(rows: int = 32, texts=TEXTS) -> Dataset:
    """Row i is of item i % 4; what an item's history and text are like agree."""
    items = [i % 4 for i in range(rows)]
    return Dataset.from_dict(
        {
            "prompt": [f"{i} {TRENDS[i]} " for i in items],
            "completion": [answer(SCORES[i], texts[i]) for i in items],
            "history": [TRENDS[i] for i in items],
            "change_rate": [1.0 if i < 2 else -0.5 for i in items],
            "item_index": items,
        }
    )


def config(folder, **changes) -> TRAILConfig:
    settings = {
        "report_to": [],
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-2,
        "warmup_steps": 0,
        "max_steps": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "projection_size": 16,
        "lambda_con": 1.0,
    }
    return TRAILConfig(str(folder), **{**settings, **changes})


def trainer(folder, *, model=None, data=None, lora=LORA, **changes) -> TRAILTrainer:
    """A TRAILTrainer; `changes` go to TRAILConfig, except those that only the trainer takes."""
    names = ("callbacks", "processing_class", "item_embeddings", "eval_dataset")
    extra = {name: changes.pop(name) for name in names if name in changes}
    return TRAILTrainer(
        language_model() if model is None else model,
        config(folder, **changes),
        dataset() if data is None else data,
        peft_config=lora,
        **{"processing_class": tokenizer(), "item_embeddings": ITEMS, **extra},
    )


def trainable(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def train_and_keep(folder, batch_size: int) -> tuple[TRAILTrainer, dict[str, torch.Tensor]]:
    """Two steps without any randomness; histories of several lengths, so that ranks pad differently."""
    data = dataset()
    histories = [history[: 1 + i % 3] for i, history in enumerate(data["history"])]
    data = data.remove_columns("history").add_column("history", histories)
    keep = KeepGradients()
    run = trainer(
        folder,
        data=data,
        eval_dataset=data.select(range(16)),
        callbacks=[keep],
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        gradient_accumulation_steps=2,
        projection_dropout=0.0,
        max_grad_norm=0.0,
        max_steps=2,
        optim="sgd",
        learning_rate=0.1,
    )
    run.train()
    return run, keep.gradients


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    run, gradients = train_and_keep(folder / "unused", batch_size=4)
    run.evaluate()
    rank = torch.distributed.get_rank()
    parameters = trainable(run.accelerator.unwrap_model(run.model))
    save_file(gradients, folder / f"gradients{rank}.safetensors")
    save_file(parameters, folder / f"parameters{rank}.safetensors")
    if rank == 0:
        run.state.save_to_json(str(folder / "state.json"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave_together()
