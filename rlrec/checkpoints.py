"""Checkpoints that are whole: staged, flushed to the disk, sealed by a manifest, renamed, and checked when read.

transformers' trainer writes checkpoint-N where it will stay, file by file. `WholeCheckpoints`, a mixin before any of
its trainers, has it written below `.incomplete/` instead; when every rank is done, the main one writes manifest.json
(the sha256 of every file) last and renames the folder. Only folders with a manifest that holds are ever resumed.

optimizer.pt, scheduler.pt and rng_state*.pth are transformers' files: it reads them by `torch.load` with
`weights_only=True`, which builds tensors and plain values and runs no code of the file.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from accelerate import PartialState
from accelerate.state import is_initialized
from accelerate.utils import broadcast_object_list
from peft import PeftModel
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from rlrec.files import DamagedFile, flush, read_json, replacing, sha256

MANIFEST = "manifest.json"
TRAINER_STATE = "trainer_state.json"
STAGED = ".incomplete"


class WholeCheckpoints:
    """Mixin of a `transformers.Trainer`: staged checkpoints; `resume` goes on from the newest one that is whole.

    Callbacks with these methods are called on every rank, the first before the checkpoint is sealed:

        on_checkpoint(args, state, control, folder=path)
        on_resume(args, folder=path)
    """

    _staging = False
    _ended_early = False  # by a callback, before the checkpoint that is resumed

    def _build_accelerator_args(self, **kwargs):
        arguments = super()._build_accelerator_args(**kwargs)
        if is_initialized():  # a program's later trainers share the DeepSpeed plugin of its first, and may give none
            arguments["deepspeed_plugin"] = None
        return arguments

    @property
    def _engine_restores(self) -> bool:
        """Whether DeepSpeed or FSDP reads every trained weight back, from its own files and into the split weights."""
        return self.is_deepspeed_enabled or self.is_fsdp_enabled

    def resume(self):
        """Train from the newest whole checkpoint of the output folder, or from the start where there is none.

        The main rank says which checkpoints it leaves out and why.
        """
        return self._train_from(newest_checkpoint(self.args.output_dir, self.args.world_size))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """As transformers' `train`; a checkpoint that is not whole is refused, and `True` takes the newest whole one.

        Raises:
            DamagedFile: the checkpoint's files are not what was written, or its state is not all there.
            ValueError: `True`, and there is no whole checkpoint; ZeRO-3 or FSDP that gathers no weights to save.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = newest_checkpoint(self.args.output_dir, self.args.world_size)
            if resume_from_checkpoint is None:
                raise ValueError(f"{self.args.output_dir} holds no whole checkpoint to resume from.")
        elif resume_from_checkpoint:
            check_checkpoint(resume_from_checkpoint)
        return self._train_from(resume_from_checkpoint or None, *args, **kwargs)

    def _train_from(self, checkpoint: str | None, *args, **kwargs):
        """transformers' `train`, which leaves out what callbacks kept in the checkpoint (explanations, patience)."""
        self._check_gathering()
        if checkpoint is not None:
            self._restore_callbacks(read_json(Path(checkpoint) / TRAINER_STATE))
            self._call_callbacks("on_resume", self.args, folder=checkpoint)
        return super().train(checkpoint, *args, **kwargs)

    def _check_gathering(self) -> None:
        """Raise ValueError where weights are split and never gathered: empty ones would be saved, or none."""
        state, wanted = self.accelerator.state, None
        if self.is_deepspeed_enabled:
            zero = state.deepspeed_plugin.deepspeed_config["zero_optimization"]
            if zero.get("stage") == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
                wanted = "zero3_save_16bit_model (stage3_gather_16bit_weights_on_model_save in DeepSpeed's file) true"
        elif self.is_fsdp_enabled and "FULL_STATE_DICT" not in str(state.fsdp_plugin.state_dict_type):
            wanted = "fsdp_state_dict_type FULL_STATE_DICT"
        if wanted:
            raise ValueError(f"The weights are split over processes and would not be saved whole: set {wanted}.")

    def _restore_callbacks(self, saved: dict) -> None:
        """Early stopping goes on counting; transformers' own way to do that replaces the callbacks."""
        states = saved["stateful_callbacks"]
        for callback in self.callback_handler.callbacks:
            state = states.get(type(callback).__name__, {})
            for name, value in (state if isinstance(state, dict) else state[0]).get("attributes", {}).items():
                setattr(callback, name, value)
        stopped = states["TrainerControl"]["args"]["should_training_stop"]
        self._ended_early = stopped and saved["global_step"] < saved["max_steps"]

    def _run_epoch(self, **kwargs):
        if self._ended_early or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True  # transformers would train another step
        else:
            super()._run_epoch(**kwargs)

    def _get_output_dir(self, trial):
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, STAGED) if self._staging else folder

    def create_model_card(self, *args, **kwargs):
        """Once for all checkpoints: TRL writes the same one beside each."""
        if not (self._staging and (Path(self.args.output_dir) / "README.md").is_file()):
            super().create_model_card(*args, **kwargs)

    def _save(self, output_dir=None, state_dict=None):
        """Without PEFT's model card where a checkpoint is saved: it takes longer than a small adapter itself."""
        model = self.accelerator.unwrap_model(self.model)
        if not (self._staging and isinstance(model, PeftModel)) or self.args.push_to_hub:
            super()._save(output_dir, state_dict)
            return
        model.create_or_update_model_card = lambda folder: None
        try:
            super()._save(output_dir, state_dict)
        finally:
            del model.create_or_update_model_card

    def _save_checkpoint(self, model, trial):
        run, step = Path(self._get_output_dir(trial)), self.state.global_step
        staged, final = (folder / f"{PREFIX_CHECKPOINT_DIR}-{step}" for folder in (run / STAGED, run))
        if self.args.should_save:
            shutil.rmtree(run / STAGED, ignore_errors=True)  # what a kill cut short
        self.accelerator.wait_for_everyone()
        try:
            self._staging = True
            super()._save_checkpoint(model, trial)
            self._call_callbacks("on_checkpoint", self.args, self.state, self.control, folder=staged)
            self._staging = False
            self.accelerator.wait_for_everyone()
            best = self.state.best_global_step
            if best is not None and (best == step or (run / f"{PREFIX_CHECKPOINT_DIR}-{best}").is_dir()):
                self.state.best_model_checkpoint = str(run / f"{PREFIX_CHECKPOINT_DIR}-{best}")
            if self.args.should_save:
                self.state.save_to_json(str(staged / TRAINER_STATE))  # which names the best one where it will be
                write_manifest(staged, global_step=step, world_size=self.args.world_size)
                shutil.rmtree(final, ignore_errors=True)  # one that was left out as damaged
                os.replace(staged, final)
                flush(run)
        except Exception:
            shutil.rmtree(run / STAGED, ignore_errors=True)  # a full disk is not made fuller
            raise
        finally:
            self._staging = False
        if self.args.should_save:
            shutil.rmtree(run / STAGED, ignore_errors=True)
            rotate_checkpoints(
                output_dir=str(run),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final))

    def _push_from_checkpoint(self, checkpoint_folder):
        if not self._staging:
            super()._push_from_checkpoint(checkpoint_folder)

    def _load_best_model(self):
        check_checkpoint(self.state.best_model_checkpoint)
        super()._load_best_model()

    def _call_callbacks(self, name: str, *args, **kwargs) -> None:
        for callback in self.callback_handler.callbacks:
            if hasattr(callback, name):
                getattr(callback, name)(*args, **kwargs)


def write_manifest(
    folder: str | os.PathLike, patterns: Sequence[str] = ("**/*",), name: str = MANIFEST, **details
) -> None:
    """Flush the files and folders below `folder` that match, and write the checksums of the files, with `details`, to
    the file `name` in it."""
    folder, files = Path(folder), {}
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        flush(path)
        if path.is_file():
            files[path.relative_to(folder).as_posix()] = sha256(path)
    with replacing(folder / name, checksum=False) as temporary:
        temporary.write_text(json.dumps({**details, "files": files}, indent=1), encoding="utf-8")


def changed_file(folder: str | os.PathLike, files: dict[str, str]) -> str | None:
    """What is wrong with the first file below `folder` that is not as its checksum says; None where all are."""
    for name, expected in files.items():
        path = Path(folder) / name
        if not path.is_file():
            return f"{name} is missing"
        if sha256(path) != expected:
            return f"{name} is damaged (its checksum is not the manifest's)"
    return None


def checkpoint_problem(folder: str | os.PathLike) -> str | None:
    """What is wrong with a checkpoint, or None: its manifest, the checksum of every file, the state it must hold."""
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        return f"it has no {MANIFEST}, so it was cut short or written by another program"
    try:
        manifest = read_json(folder / MANIFEST)
        files, ranks = dict(manifest["files"]), int(manifest["world_size"])
    except (DamagedFile, KeyError, TypeError, ValueError):
        return f"{MANIFEST} is damaged"
    return changed_file(folder, files) or _missing_state(set(files), ranks)


def check_checkpoint(folder: str | os.PathLike) -> None:
    """Raise DamagedFile unless the checkpoint is whole."""
    if problem := checkpoint_problem(folder):
        raise DamagedFile(f"{folder} cannot be resumed: {problem}; take another checkpoint, or start anew.")


def newest_checkpoint(
    output_dir: str | os.PathLike, world_size: int | None = None, tell: Callable[[str], None] = print
) -> str | None:
    """The newest whole checkpoint in a folder, or None; the main rank looks, and all ranks get the same answer.

    Args:
        output_dir: holds the folders checkpoint-N.
        world_size: of the run that goes on; another number of ranks than the checkpoint's is told.
        tell: gets one sentence for each checkpoint that is left out.
    """
    found = [None]
    if PartialState().is_main_process:
        found = [_newest(Path(output_dir), world_size, tell)]
    return broadcast_object_list(found)[0]


def _newest(output_dir: Path, world_size: int | None, tell: Callable[[str], None]) -> str | None:
    for path in sorted((output_dir / STAGED).glob("*")):
        tell(f"{path} is left out: it was cut short while it was written.")
    named = ((re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", path.name), path) for path in output_dir.glob("*/"))
    for _, path in sorted(((int(name[1]), path) for name, path in named if name), reverse=True):
        if problem := checkpoint_problem(path):
            tell(f"{path} is left out: {problem}.")
            continue
        ranks = read_json(path / MANIFEST)["world_size"]
        if world_size not in (None, ranks):
            tell(f"{path} was written by {ranks} ranks and goes on with {world_size}: other random numbers are drawn.")
        return str(path)
    return None


def _missing_state(files: set[str], ranks: int) -> str | None:
    """What a checkpoint lacks to be resumed exactly. DeepSpeed keeps optimizer (and scheduler) in global_step*/."""
    deepspeed = any(name.startswith("global_step") for name in files)
    random = ["rng_state.pth"] if ranks == 1 else [f"rng_state_{rank}.pth" for rank in range(ranks)]
    missing = {
        "trainer state": TRAINER_STATE not in files,
        "optimizer state": not deepspeed and not any(name.startswith("optimizer") for name in files),
        "scheduler state": not deepspeed and "scheduler.pt" not in files,
        "random number state": not files.issuperset(random),
    }
    lacking = [name for name, is_missing in missing.items() if is_missing]
    return f"it holds no {' and no '.join(lacking)}, without which training would go on otherwise" if lacking else None
