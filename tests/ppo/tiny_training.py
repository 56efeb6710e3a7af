"""A language model, tokenizer and task so small that PPO on them takes a second; also a program, for the tests that
need real processes: `python tiny_training.py OUTPUT_DIR {killed|ranks}`."""

import copy
import json
import os
import signal
import sys

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback

from rlrec.ppo import PPOConfig, PPOTrainer

WORDS = [*"abcdefghijkl", "<", ">", "eos"]


def tokenizer(bos: bool = False) -> PreTrainedTokenizerFast:
    """Word-level; "<eos>" in a text is the control token, unless it is split into "<", "eos" and ">"."""
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>"
    )


def language_model(cls=LlamaForCausalLM) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4 + len(WORDS),
        hidden_size=32,
        initializer_range=0.2,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    return cls(config)


def share_of_e(completions, **columns):
    """The share of the eight words that are "e"."""
    return [text.split().count("e") / 8 for text in completions]


def config(output_dir, **changes) -> PPOConfig:
    settings = {
        "report_to": [],
        "per_device_train_batch_size": 8,
        "num_iterations": 2,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "max_completion_length": 8,
        "max_steps": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return PPOConfig(str(output_dir), **{**settings, **changes})


def trainer(output_dir, reward=share_of_e, *, lora=False, model=None, prompts=None, columns=None, **changes):
    """A PPOTrainer; `changes` go to PPOConfig, except callbacks and processing_class, which go to the trainer."""
    extra = {name: changes.pop(name) for name in ("callbacks", "processing_class") if name in changes}
    adapter = LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    prompts = prompts or ["a b c", "d e", "f", "g h i j k l a b"] * 8
    return PPOTrainer(
        copy.deepcopy(model) if model is not None else language_model(),
        reward,
        config(output_dir, **changes),
        Dataset.from_dict({"prompt": prompts, **(columns or {})}),
        peft_config=adapter if lora else None,
        **{"processing_class": tokenizer(), **extra},
    )


def parameters(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


class Kill(TrainerCallback):
    """Ends this process as the operating system would, in the middle of a rollout cycle."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 5:
            os.kill(os.getpid(), signal.SIGKILL)


RESUMABLE = {"lora": True, "save_strategy": "steps", "save_steps": 2, "max_steps": 12, "value_learning_rate": 1e-3}


def _train_on_ranks(output_dir: str) -> None:
    """Trains on several ranks, also on pairs, then a reward fails on the last one; each rank writes what it saw."""
    from soft_prompt_training import train_pairs  # which imports this file

    rank = int(os.environ["RANK"])
    run = trainer(output_dir, per_device_train_batch_size=4, lora=True, normalize_rewards=True, max_steps=6)
    rollouts = []
    compute, scale = run._advantages, run._scores
    run._advantages = lambda *given: rollouts.append(compute(*given)) or rollouts[-1]
    scores = []
    run._scores = lambda training: scores.append(scale(training)[0]) or (scores[-1], torch.ones(4, dtype=torch.bool))
    run.train()
    torch.save(
        {
            "parameters": parameters(run.accelerator.unwrap_model(run.model)),
            "advantages": [rollout["advantages"] for rollout in rollouts],
            "scores": scores,
            "rows": list(run._get_train_sampler())[:8],
        },
        f"{output_dir}/rank{rank}.pt",
    )

    train_pairs(output_dir)

    def fails_on_last_rank(completions, **columns):
        if rank == 1:
            raise KeyError("title")
        return [0.0] * len(completions)

    message = None
    try:
        trainer(output_dir, fails_on_last_rank, per_device_train_batch_size=4).train()
    except RuntimeError as error:
        message = str(error)
    with open(f"{output_dir}/rank{rank}.json", "w") as file:
        json.dump(message, file)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[2] == "killed":
        trainer(sys.argv[1], callbacks=[Kill()], **RESUMABLE).train()
    else:
        from two_ranks import leave_together  # on the path where torchrun starts this

        _train_on_ranks(sys.argv[1])
        leave_together()
