"""Stages of alternating training: each trains the policy against one set of rewards, and can be killed and resumed.

A stage lives in a folder of its own: checkpoints while it runs; then the adapter, the explanations it generated, its
log history, and at last `done.json`. A run that is started again skips the stages that are done and resumes the one
that is not from its newest complete checkpoint, which lies on a rollout boundary.
"""

import copy
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, PrinterCallback, ProgressCallback, Trainer, set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from rlrec.explanations import ExplanationRecorder, ExplanationStore, latest_checkpoint
from rlrec.ppo import PPOConfig, PPOTrainer

LOGGED = ("reward", "objective/kl", "entropy", "loss_sup", "loss_con")  # on the progress line; the log history has all


@dataclass(frozen=True)
class PolicyStage:
    """A finished stage: where its adapter, explanations and log history are."""

    folder: Path

    @property
    def done(self) -> bool:
        return (self.folder / "done.json").is_file()

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    @property
    def log_history(self) -> list[dict]:
        return json.loads((self.folder / "log_history.json").read_text(encoding="utf-8"))

    def explanations(self) -> ExplanationStore:
        """Everything generated in the stage, newest per pair."""
        return ExplanationStore.load_parts(self.folder)


def train_policy_stage(
    folder: str | os.PathLike,
    *,
    load_policy: Callable[[], PeftModel],
    tokenizer: PreTrainedTokenizerBase,
    dataset: Dataset | Callable[[], Dataset],
    make_rewards: Callable[[PeftModel], Sequence[Callable]],
    config: PPOConfig,
    num_train_epochs: float,
    round: int = 0,
) -> PolicyStage:
    """Train the policy by PPO, or go on where an earlier call was interrupted, or return what one has finished.

    Args:
        folder: of the stage.
        load_policy: gives the policy the stage starts from (called only if there is something to train).
        tokenizer: of the policy.
        dataset: TRL rows with prompt, user_id, item_id and the columns the rewards need, or a function that makes them
            (called only if there is something to train).
        make_rewards: policy -> reward functions, so that a reward can share the policy's frozen base.
        config: settings of all stages; its output_dir and length are replaced by the stage's.
        num_train_epochs: passes over the data (ExpCTR: two per iteration).
        round: number of the alternation, written beside each explanation.
    """
    stage = PolicyStage(Path(folder))
    if stage.done:
        return stage
    set_seed(config.seed)  # a fresh adapter's draw must not depend on what this process did before
    policy = load_policy()
    recorder = ExplanationRecorder(round=round)
    trainer = PPOTrainer(
        model=policy,
        reward_funcs=list(make_rewards(policy)),
        args=stage_config(config, stage.folder, num_train_epochs),
        train_dataset=dataset() if callable(dataset) else dataset,
        processing_class=tokenizer,
        callbacks=[recorder],
    )
    checkpoint = latest_checkpoint(stage.folder) if stage.folder.is_dir() else None
    if checkpoint is not None:
        recorder.restore(checkpoint, trainer.args.process_index, trainer.args.world_size)
    return finish_stage(stage, trainer, checkpoint)


def finish_stage(stage: PolicyStage, trainer: Trainer, checkpoint: str | None) -> PolicyStage:
    """Train from `checkpoint` (None: from the start) to the end, leave adapter and log history, free the memory."""
    trainer.remove_callback(PrinterCallback)
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(ShortProgress())
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(str(stage.adapter))
    state = PartialState()
    if state.is_main_process:
        _write_json(stage.folder / "log_history.json", trainer.state.log_history)
    state.wait_for_everyone()  # every rank's explanations are written before the stage counts as done
    if state.is_main_process:
        _write_json(stage.folder / "done.json", {"global_step": trainer.state.global_step})
    state.wait_for_everyone()
    trainer.accelerator.free_memory()
    trainer.model = trainer.model_wrapped = trainer.optimizer = None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return stage


def newest_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was not cut short: the trainer's state is the last file written to one.

    For stages whose trainer has no `ExplanationRecorder`; those that have one take `latest_checkpoint`.
    """
    complete = [path.parent for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*/trainer_state.json")]
    return str(max(complete, key=lambda path: int(path.name.rpartition("-")[2]))) if complete else None


def stage_config(config: PPOConfig, folder: Path, num_train_epochs: float) -> PPOConfig:
    """`config` for one stage. It keeps two checkpoints or more: a kill can leave the newest one incomplete."""
    config = copy.copy(config)
    config.output_dir = str(folder)
    config.num_train_epochs = num_train_epochs
    if config.save_total_limit == 1:
        config.save_total_limit = 2
    return config


class ShortProgress(ProgressCallback):
    """The progress bar, with three numbers in it where transformers would print every metric."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and self.training_bar is not None and logs:
            shown = {name.rpartition("/")[2]: f"{logs[name]:.3f}" for name in LOGGED if logs.get(name) is not None}
            self.training_bar.set_postfix(shown, refresh=False)


def _write_json(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content), encoding="utf-8")
    os.replace(temporary, path)
