"""The same reward objects train with PPO and with TRL's own GRPO and RLOO."""

import polars as pl
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from test_alignment_ic import FixedRecommender, WordEncoder
from tiny_language_models import CHAT, build_llama, build_tokenizer
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from reward_models import FirstTokenScorer, GroundednessReward, ICReward, LCReward, gated
from rlrec.checkpoints import newest_checkpoint
from rlrec.explanations import ExplanationRecorder, ExplanationStore
from rlrec.ppo import PPOConfig, PPOTrainer
from rlrec.recommenders.base import Vocabulary

ROWS = pl.DataFrame(
    {
        "prompt": ["they liked it : answer", "they disliked it : answer"] * 2,
        "user_id": ["u", "v", "w", "x"],
        "item_id": ["a", "b", "a", "b"],
        "label": [1, 0, 0, 1],
        "title": ["A", "B", "A", "B"],
        "history_titles": [["C"], [], ["C", "D"], ["D"]],
        "history_labels": [[1], [], [1, 0], [0]],
    }
)


def template(explanation, row):
    return f"they liked {explanation} answer :"


def chat_template(explanation, row):
    return [{"role": "user", "content": explanation}]


def rewards_for(model, tokenizer, template=template):
    """LC behind a gate, and IC; `model` is the plain one, on which the trainer puts LoRA afterwards."""
    lc = LCReward(FirstTokenScorer(model, tokenizer, template))
    ic = ICReward(FixedRecommender(), WordEncoder(), Vocabulary.from_samples(ROWS), shift="signed")
    return [lc, gated(lc, GroundednessReward(), floor=0.0), ic]


def train(trainer_class, config_class, output_dir, tokenizer, rewards_of=rewards_for, prompts=None, **options):
    model = build_llama().requires_grad_(False)
    rows = ROWS.to_dicts() if prompts is None else [row | {"prompt": p} for row, p in zip(ROWS.to_dicts(), prompts)]
    options = {"num_generations": 2, "max_steps": 1, "per_device_train_batch_size": 4, **options}
    callbacks = options.pop("callbacks", None)
    checkpoint = options.pop("checkpoint", None)
    trainer = trainer_class(
        model=model,
        reward_funcs=rewards_of(model, tokenizer),
        args=config_class(
            output_dir=str(output_dir),
            max_completion_length=5,
            learning_rate=0.1,
            report_to=[],
            use_cpu=True,
            bf16=False,
            logging_steps=1,
            disable_tqdm=True,
            **options,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=2, target_modules=["q_proj", "v_proj"]),
        callbacks=callbacks,
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    return trainer


@pytest.mark.parametrize(
    ("trainer_class", "config_class"),
    [(GRPOTrainer, GRPOConfig), (RLOOTrainer, RLOOConfig), (PPOTrainer, PPOConfig)],
    ids=["grpo", "rloo", "ppo"],
)
def test_the_same_rewards_run_in_every_trainer(tmp_path, tokenizer, trainer_class, config_class):
    trainer = train(trainer_class, config_class, tmp_path, tokenizer, save_strategy="no")
    log = trainer.state.log_history[0]
    for name in ("lc", "lc_gated", "ic"):
        assert 0 <= log[f"rewards/{name}/mean"] + 1 <= 3
    assert {"lc/score_positive", "lc/score_negative", "lc/accuracy", "groundedness/refused"} <= set(log)
    assert {"ic/accuracy_term", "ic/shift_term"} <= set(log)
    moved = [p for name, p in trainer.model.named_parameters() if "lora_B" in name]
    assert moved
    assert all(p.abs().sum() > 0 for p in moved)
    # the scorer still reads the untrained base
    margins = trainer.reward_funcs[0].scorer.margins(["it", "like it"], [{}, {}])
    untouched = FirstTokenScorer(build_llama().requires_grad_(False), tokenizer, template)
    torch.testing.assert_close(margins, untouched.margins(["it", "like it"], [{}, {}]))


def test_conversations_are_rewarded_too(tmp_path):
    prompts = [[{"role": "user", "content": prompt}] for prompt in ROWS["prompt"]]
    trainer = train(
        PPOTrainer,
        PPOConfig,
        tmp_path,
        build_tokenizer(chat_template=CHAT),
        rewards_of=lambda model, tokenizer: rewards_for(model, tokenizer, chat_template),
        prompts=prompts,
        save_strategy="no",
    )
    assert "rewards/lc/mean" in trainer.state.log_history[0]


class Kill(TrainerCallback):
    """Ends the run in the middle of its third rollout, after the recorder has seen it."""

    def on_rollout(self, args, state, control, **kwargs):
        if state.global_step == 2:
            raise KeyboardInterrupt


def test_the_recorder_of_a_resumed_run_ends_with_the_same_store(tmp_path, tokenizer):
    options = {"num_generations": 1, "max_steps": 3, "save_steps": 1, "per_device_train_batch_size": 2}
    options |= {"gradient_accumulation_steps": 1, "num_iterations": 1, "steps_per_generation": 1}

    def run(output_dir, recorder, *callbacks, checkpoint=None):
        more = {"callbacks": [recorder, *callbacks], "checkpoint": checkpoint}
        train(PPOTrainer, PPOConfig, output_dir, tokenizer, **(options | more))
        return recorder.store

    whole = run(tmp_path / "whole", ExplanationRecorder(round=1))
    assert whole.generated == 6  # 3 rollouts of 2
    frame = whole.to_frame()
    assert set(frame["step"]) <= {0, 1, 2}
    assert frame["reward"].null_count() == 0
    assert ExplanationStore.load_parts(tmp_path / "whole").to_frame().equals(frame)

    killed = ExplanationRecorder(round=1)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", killed, Kill())
    assert killed.store.generated == 6
    checkpoint = newest_checkpoint(tmp_path / "cut")
    assert checkpoint.endswith("checkpoint-2")
    resumed = ExplanationRecorder(round=1)
    resumed.restore(checkpoint)
    assert resumed.store.generated == 4  # what the kill cut short is gone, and is generated again
    assert run(tmp_path / "cut", resumed, checkpoint=checkpoint).to_frame().equals(frame)
