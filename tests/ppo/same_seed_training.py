"""PPO on the tiny model with one seed, on however many ranks it is started:
`python same_seed_training.py FILE [greedy]`, also under torchrun. The last rank's weights go to FILE."""

import os
import sys

import tiny_training as tiny
import torch
from safetensors.torch import save_file
from two_ranks import leave_together

ROLLOUT = 8  # completions over all ranks


def words(prompts, completions, **columns):
    """Different words of a completion, and a little for each of its prompt: prompts differ where texts do not."""
    return [
        len(set(text.split())) / 8 + len(prompt.split()) / 10
        for prompt, text in zip(prompts, completions, strict=True)
    ]


def train(file: str, greedy: bool = False) -> None:
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    # with one choice each, and all of one length, two ranks write what one writes, and their means are its mean
    choice = {"top_k": 1, "generation_kwargs": {"min_new_tokens": 8}} if greedy else {}
    run = tiny.trainer(
        f"{file}.run",
        words,
        lora=True,
        per_device_train_batch_size=ROLLOUT // ranks,
        learning_rate=1e-3,
        max_steps=8,
        normalize_rewards=True,
        **choice,
    )
    run.train()
    if run.accelerator.is_last_process:
        save_file(tiny.parameters(run.accelerator.unwrap_model(run.model)), file)
    run.accelerator.wait_for_everyone()


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(sys.argv[1], "greedy" in sys.argv)
    if torch.distributed.is_initialized():
        leave_together()
