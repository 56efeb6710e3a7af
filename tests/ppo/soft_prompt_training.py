"""A tiny policy with a soft prompt, and its training on pairs, which tiny_training.py runs on two ranks."""

import json
import os

import tiny_training as tiny
import torch
from torch import nn

from rlrec.policies.soft_prompt import SoftPrompt, attach_soft_prompt

USERS = ["ann", "bob", "cid"]
COLUMNS = {"user_id": [*USERS, "ann"] * 8}


def policy(seed: int = 0, model=None):
    """A random Llama with the soft prompt of three consumers, whose table is drawn from `seed`."""
    model = tiny.language_model() if model is None else model
    torch.manual_seed(seed)
    table = nn.Embedding(len(USERS) + 1, 8)
    return attach_soft_prompt(model, SoftPrompt.for_model(model, table, USERS))


def trainer(output_dir, reward=tiny.share_of_e, *, model=None, columns=COLUMNS, **options):
    return tiny.trainer(output_dir, reward, model=policy() if model is None else model, columns=columns, **options)


def train_pairs(output_dir: str) -> None:
    """One rank of several; each writes what its reward function was given, parameters and consumer table."""
    rank, calls = int(os.environ["RANK"]), []

    def reward(completions, pair_id, side, user_id, **columns):
        calls.append([list(row) for row in zip(pair_id, side, user_id, strict=True)])
        return tiny.share_of_e(completions)

    columns = {
        "pair_id": [row // 2 for row in range(32)],
        "side": ["positive", "negative"] * 16,
        "user_id": [USERS[row // 2 % 3] for row in range(32)],
    }
    run = trainer(output_dir, reward, columns=columns, lora=True, per_device_train_batch_size=4, max_steps=6)
    run.train()
    run.save_model(f"{output_dir}/final")
    model = run.accelerator.unwrap_model(run.model)
    table = model.get_base_model().soft_prompt.consumer_table.weight.detach()
    torch.save({"parameters": tiny.parameters(model), "table": table}, f"{output_dir}/pairs{rank}.pt")
    with open(f"{output_dir}/pairs{rank}.json", "w") as file:
        json.dump(calls, file)
