"""A language model, tokenizer and samples so small that SELLER's training on them takes seconds; also a program, for
the test that needs two ranks: `torchrun --nproc_per_node 2 tiny_seller.py FOLDER`."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM
from two_ranks import KeepGradients, leave_together

from rlrec.policies.injection import PLACEHOLDER, InjectedLLM
from rlrec.policies.sequence_adapter import SequenceAdapter
from rlrec.policies.tiny import build_tokenizer
from rlrec.seller.trainer import SELLERConfig, SELLERTrainer, write_texts

REASONS = ("tense thriller", "warm comedy for all", "dark thriller", "slow drama")


def tokenizer():
    return build_tokenizer(
        [], ["they", "saw", "because", *sorted({word for text in REASONS for word in text.split()})]
    )


def features(rows: int = 24) -> dict[str, torch.Tensor]:
    """Sequences of one to five items, whose states tell the row's reason, i % 4."""
    draw = torch.Generator().manual_seed(5)
    reason = torch.arange(rows) % 4
    mask = torch.arange(5) <= (torch.arange(rows) % 5)[:, None]
    behaviour = torch.nn.functional.one_hot(reason, 8).float()[:, None] + 0.05 * torch.randn(
        rows, 5, 8, generator=draw
    )
    return {"behaviour": behaviour, "semantic": torch.randn(rows, 5, 6, generator=draw), "sequence_mask": mask}


def samples(rows: int = 24) -> list[dict]:
    return [
        {
            "prompt": f"they saw {PLACEHOLDER}{PLACEHOLDER}" + " because" * (i % 3),
            "completion": REASONS[i % 4],
            "index": i,
        }
        for i in range(rows)
    ]


def model(groups: int = 1, dropout: float = 0.2, heads: int = 2) -> InjectedLLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=groups,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    adapter = SequenceAdapter(32, 8, 6, width=8, num_heads=heads, num_experts=3, dropout=dropout)
    return InjectedLLM(LlamaForCausalLM(config), adapter)


def config(folder, **changes) -> SELLERConfig:
    settings = {
        "report_to": [],
        "learning_rate": 1e-2,
        "max_steps": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    return SELLERConfig(str(folder), **{**settings, **changes})


def trainer(folder, *, llm=None, data=None, given=None, **changes) -> SELLERTrainer:
    """A SELLERTrainer; `changes` go to SELLERConfig, except those that only the trainer takes."""
    names = ("callbacks", "processing_class", "eval_dataset")
    extra = {name: changes.pop(name) for name in names if name in changes}
    return SELLERTrainer(
        model() if llm is None else llm,
        config(folder, **changes),
        samples() if data is None else data,
        features() if given is None else given,
        **{"processing_class": tokenizer(), **extra},
    )


def train_and_keep(folder, batch_size: int) -> tuple[SELLERTrainer, dict[str, torch.Tensor]]:
    """Two steps without any randomness."""
    keep = KeepGradients()
    run = trainer(
        folder,
        llm=model(dropout=0.0),
        eval_dataset=samples(16),
        callbacks=[keep],
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        gradient_accumulation_steps=2,
        max_grad_norm=0.0,
        max_steps=2,
        adam=False,
        optim="sgd",
        learning_rate=0.1,
    )
    run.train()
    return run, keep.gradients


def texts(llm: InjectedLLM, **options) -> list[str]:
    prompts = [row["prompt"] for row in samples()]
    return write_texts(llm, tokenizer(), prompts, features(), **{"max_new_tokens": 6, "progress": None, **options})


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    run, gradients = train_and_keep(folder / "run", batch_size=4)
    run.evaluate()
    run.save_model(str(folder / "saved"))
    rank = torch.distributed.get_rank()
    trained = run.accelerator.unwrap_model(run.model)
    save_file(gradients, folder / f"gradients{rank}.safetensors")
    save_file(trained.trained_state(), folder / f"parameters{rank}.safetensors")
    (folder / f"texts{rank}.json").write_text(json.dumps(texts(trained, batch_size=5)))
    if rank == 0:
        run.state.save_to_json(str(folder / "state.json"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave_together()
