"""Training on two ranks, for tests/test_sharded_training.py: `accelerate launch ... sharded_training.py
{ppo|seller|trail} {begin|resume} FOLDER`.

`begin` trains one run to its end, in FOLDER/whole, and another one, in FOLDER/killed, until SIGKILL ends it; `resume`
goes on with the latter. A run that has ended leaves what a stage leaves.
"""

import sys
from pathlib import Path

import torch

sys.path.extend(str(Path(__file__).parent / name) for name in ("ppo", "seller", "trail"))
import tiny_seller
import tiny_trail
import tiny_training

from rlrec.alternating import PolicyStage, finish_stage

SETTINGS = {"use_cpu": False, "per_device_train_batch_size": 4, "save_strategy": "steps", "save_steps": 2}
SETTINGS |= {"max_steps": 8}
# The best checkpoint is not the last one; Adam's epsilon keeps it from enlarging what is only rounded otherwise
EVALUATED = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "adam_epsilon": 1e-3}
EVALUATED |= {"metric_for_best_model": "eval_loss", "greater_is_better": True}


def ppo(folder, **changes):
    return tiny_training.trainer(folder, lora=True, value_learning_rate=1e-3, **{**SETTINGS, **changes})


def seller(folder, **changes):
    """Without dropout, whose draws depend on the rank."""
    data, model = tiny_seller.samples(8), tiny_seller.model(dropout=0.0)
    return tiny_seller.trainer(folder, llm=model, eval_dataset=data, **{**SETTINGS, **EVALUATED, **changes})


def trail(folder, **changes):
    return tiny_trail.trainer(folder, eval_dataset=tiny_trail.dataset(8), **{**SETTINGS, **EVALUATED, **changes})


def train(system: str, folder: Path, callbacks=()) -> None:
    trainer = {"ppo": ppo, "seller": seller, "trail": trail}[system](folder, callbacks=[*callbacks])
    if plugin := getattr(trainer.accelerator.state, "deepspeed_plugin", None):
        # else ZeRO-3 keeps weights as small as these whole, once they were used
        plugin.deepspeed_config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    finish_stage(PolicyStage(folder), trainer)


def main(system: str, part: str, folder: Path) -> None:
    torch.set_num_threads(1)
    if part == "begin":
        train(system, folder / "whole")
        train(system, folder / "killed", [tiny_training.Kill()])
    else:
        train(system, folder / "killed")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
