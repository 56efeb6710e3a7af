"""Stages of alternating training: each trains the policy against one set of rewards, and can be killed and resumed.

A stage lives in a folder of its own: checkpoints while it runs; then the adapter, the explanations it generated, its
log history, and at last `done.json`. A run that is started again skips the stages that are done and resumes the one
that is not from its newest complete checkpoint, which lies on a rollout boundary.
"""

import copy
import gc
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, PrinterCallback, ProgressCallback, set_seed
from transformers.integrations import unset_hf_deepspeed_config

from rlrec.checkpoints import WholeCheckpoints, changed_file, write_manifest
from rlrec.explanations import ExplanationRecorder, ExplanationStore
from rlrec.files import DamagedFile, read_json, replacing
from rlrec.ppo import PPOConfig, PPOTrainer
from rlrec.ppo.vllm import leave_server
from rlrec.stopping import StopBetweenRollouts

LEFT = ("adapter/*", "log_history.json", "explanations-rank*.parquet")  # what a finished stage is asked for
LOGGED = ("reward", "objective/kl", "entropy", "loss_sup", "loss_con")  # on the progress line; the log history has all


@dataclass(frozen=True)
class PolicyStage:
    """A finished stage: where its adapter, explanations and log history are."""

    folder: Path

    @property
    def done(self) -> bool:
        """Whether the stage is finished.

        Raises:
            DamagedFile: it is, but a file that it left is not what was written.
        """
        path = self.folder / "done.json"
        if not path.is_file():
            return False
        said = read_json(path)
        if isinstance(said, dict) and isinstance(said.get("files"), dict):
            problem = changed_file(self.folder, said["files"])
        else:
            problem = "done.json does not name the stage's files"
        if problem:
            raise DamagedFile(
                f"{self.folder} is finished, but its {problem}: put back a copy, or delete {path} to write it again "
                "from the last checkpoint."
            )
        return True

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    @property
    def log_history(self) -> list[dict]:
        return read_json(self.folder / "log_history.json")

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
    trainer = PPOTrainer(
        model=policy,
        reward_funcs=list(make_rewards(policy)),
        args=stage_config(config, stage.folder, num_train_epochs),
        train_dataset=dataset() if callable(dataset) else dataset,
        processing_class=tokenizer,
        callbacks=[ExplanationRecorder(round=round)],
    )
    del policy  # `finish_stage` lets go of the trainer's
    return finish_stage(stage, trainer)


def finish_stage(stage: PolicyStage, trainer: WholeCheckpoints) -> PolicyStage:
    """Train from the newest whole checkpoint, or from the start, to the end; leave adapter and log history.

    The trainer is empty afterwards: the next stage loads a policy of its own, and two do not fit on every GPU.

    Raises:
        SystemExit: a signal has stopped the training.
    """
    trainer.remove_callback(PrinterCallback)
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(ShortProgress())
    stopping = StopBetweenRollouts(getattr(trainer.args, "rollout_cycle", 1))
    trainer.add_callback(stopping)
    trainer.resume()
    stopping.leave()
    trainer.save_model(str(stage.adapter))
    state = PartialState()
    if state.is_main_process:
        _write_json(stage.folder / "log_history.json", trainer.state.log_history)
    state.wait_for_everyone()  # every rank's explanations are written before the stage counts as done
    if state.is_main_process:
        write_manifest(stage.folder, LEFT, "done.json", global_step=trainer.state.global_step)
    state.wait_for_everyone()
    if getattr(trainer, "use_vllm", False):
        leave_server(trainer.vllm_generation)
    unset_hf_deepspeed_config()  # under ZeRO-3, what is loaded next is no trainer's yet, and must be whole
    trainer.accelerator.free_memory()
    vars(trainer).clear()  # rewards and callbacks hold the policy too
    gc.collect()  # it is part of cycles
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return stage


def stage_config(config: PPOConfig, folder: Path, num_train_epochs: float) -> PPOConfig:
    """`config` for one stage. It keeps two checkpoints or more: the newest one may get damaged."""
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
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
