"""A small stage, for tests/test_alternating.py; also the program that it runs on two ranks:
`torchrun --nproc_per_node 2 stage_on_ranks.py FOLDER`."""

import json
import sys
from pathlib import Path

import polars as pl
from datasets import Dataset
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import save_file
from two_ranks import leave_together

from rlrec.alternating import train_policy_stage
from rlrec.data.prompts import PromptTemplate
from rlrec.policies.generation import generate_explanations
from rlrec.policies.loading import Policies
from rlrec.policies.tiny import TinyPolicy
from rlrec.ppo import PPOConfig


def length(completions, label, **columns):
    """Short explanations of what is liked, long ones of what is not."""
    return [abs(y - len(text) / 200) for text, y in zip(completions, label)]


def config(folder, batch_size: int = 16) -> PPOConfig:
    return PPOConfig(
        str(folder),
        report_to=[],
        use_cpu=True,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=1,
        learning_rate=5e-3,
        max_completion_length=28,
        normalize_rewards=True,
        ref_policy="base",
        gradient_checkpointing=False,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=1,
        logging_steps=1,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


def train(folder, policies: Policies, rows: list[dict], cut_off=None, load_policy=None, batch_size: int = 16):
    """One pass over 64 rows with the reward `length`, which interrupts its `cut_off`th call."""
    calls = []

    def reward(completions, **columns):
        calls.append(1)
        if len(calls) == cut_off:
            raise KeyboardInterrupt
        return length(completions, **columns)

    def rewards_that_share_the_base(policy):
        reward.policy = policy
        return [reward]

    reward.__name__ = "length"
    return train_policy_stage(
        folder,
        load_policy=load_policy or policies.load,
        tokenizer=policies.tokenizer,
        dataset=Dataset.from_list(rows[:64]),
        make_rewards=rewards_that_share_the_base,
        config=config(folder, batch_size),
        num_train_epochs=1,
        round=3,
    )


def main(folder: Path) -> None:
    import torch
    from transformers import PreTrainedTokenizerFast

    torch.set_num_threads(1)
    rows = PromptTemplate("compact", "film").rows(pl.read_parquet(folder / "samples.parquet"))
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "policy")
    policies = Policies(lambda: TinyPolicy.from_pretrained(folder / "policy"), tokenizer, lora)
    prompts = [row["prompt"] for row in rows]
    texts = generate_explanations(policies.load_base(), tokenizer, prompts, num_generations=2, max_new_tokens=28)
    kept = []

    def load():
        kept.append(policies.load())
        return kept[-1]

    train(folder / "stage", policies, rows, load_policy=load, batch_size=8)
    rank = torch.distributed.get_rank()
    (folder / f"texts{rank}.json").write_text(json.dumps(texts))
    save_file(get_peft_model_state_dict(kept[0]), folder / f"adapter{rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    leave_together()
