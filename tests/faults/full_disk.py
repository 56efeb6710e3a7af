"""A stage of two rollouts in the folder that is named, for tests/faults/test_full_disk.py."""

import sys
from pathlib import Path

sys.path.extend([str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "ppo")])

import tiny_training as tiny

from rlrec.alternating import PolicyStage, finish_stage
from rlrec.arguments import one_sentence


@one_sentence()
def main(folder: Path) -> None:
    trainer = tiny.trainer(folder, lora=True, save_strategy="steps", save_steps=2, max_steps=4)
    finish_stage(PolicyStage(folder), trainer)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
