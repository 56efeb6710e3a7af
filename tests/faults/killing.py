"""Kills real runs by SIGKILL, starts them again, and compares what is left with an uninterrupted run's, byte by byte.

    python tests/faults/killing.py {expctr|recpie|stage} FOLDER [--kills 20] [--seed 0]
    python tests/faults/killing.py expctr FOLDER --kills 6 --at "optimizer step" "ending a stage" "writing results"

Each process is forked from this one, which has imported the libraries and done nothing else. It is killed at a random
share of a random one of its next calls of the functions in `POINTS`, or (every third kill) at a random moment; the
same command goes on in the same folder, and is killed again until it ends. Then the next run begins, until all kills
are done; every run must end with what the uninterrupted one left. With `--at` the kills come at these points in turn.
"""

import argparse
import functools
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.extend([str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "ppo")])

import accelerate.optimizer
import tiny_training
from datasets import Dataset
from peft import LoraConfig, get_peft_model

import rlrec.alternating
import rlrec.checkpoints
import rlrec.policies.generation
import rlrec.reports
from recipes import expctr, recpie
from rlrec.expctr.run import ExpCTRRun
from rlrec.experiment import Run
from rlrec.ppo import PPOTrainer
from rlrec.recpie.run import RecPIERun

POINTS = {
    "writing a checkpoint": [(PPOTrainer, "_save_checkpoint")],
    "optimizer step": [(accelerate.optimizer.AcceleratedOptimizer, "step")],
    "ending a stage": [(rlrec.alternating, "write_manifest")],
    "sampling a rollout": [(PPOTrainer, "_generate_single_turn")],
    "sealing a checkpoint": [(rlrec.checkpoints, "write_manifest")],
    "writing explanations": [(rlrec.policies.generation, "write_shared")],
    "fitting recommenders": [
        (ExpCTRRun, "fit_recommender"),
        (ExpCTRRun, "add_ctr_rows"),
        (RecPIERun, "fit_recommender"),
    ],
    "calling the rewards": [(PPOTrainer, "_calculate_rewards")],
    "computing the loss": [(PPOTrainer, "_compute_loss")],
    "saving the adapter": [(PPOTrainer, "save_model")],
    "writing results": [(Run, "write")],
}
# Worlds as small as the recipes' own tests take
SMALL = {
    "expctr": "--config expctr/smoke --num_samples 416 --history_length 4 --warmup_steps_copy 5 --template_steps 10 "
    "--num_users 96 --num_items 40 --interactions_per_user 10 --more_lc false --shuffled_labels false",
    "recpie": "--config recpie/smoke --warmup_steps_copy 0 --template_steps 20 --num_users 30 --num_items 30 "
    "--interactions_per_user 10 --ppo_epochs 0.8",
}
BRIEF = 0.05  # seconds; a thread would miss calls that are shorter, such as optimizer steps
KEPT = ("**/*.safetensors", "**/*.parquet")  # compared as bytes, outside of checkpoints and embedding caches
TIMES = ("time", "runtime", "per_second", "train_loss", "total_flos")  # a resumed run's own


def stage() -> None:
    """A stage of six rollouts, each of two steps."""

    def load_policy():
        lora = LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        return get_peft_model(tiny_training.language_model(), lora)

    rows = [{"prompt": "a b c", "user_id": str(i), "item_id": "i"} for i in range(48)]
    output = Path(sys.argv[sys.argv.index("--output_dir") + 1])
    rlrec.alternating.train_policy_stage(
        output / "stages" / "only",
        load_policy=load_policy,
        tokenizer=tiny_training.tokenizer(),
        dataset=Dataset.from_list(rows),
        make_rewards=lambda policy: [tiny_training.share_of_e],
        config=tiny_training.config(output, save_strategy="steps", save_steps=2, save_total_limit=1, max_steps=-1),
        num_train_epochs=1,
    )


PROGRAMS: dict[str, Callable[[], None]] = {"expctr": expctr.main, "recpie": recpie.main, "stage": stage}


class Watch:
    """Notes the calls of `POINTS` in this process, and kills it as the plan says.

    Args:
        started: when the process began.
        plan: {"after": seconds}, or {"call": number, "share": of that call, "seconds": {point: a call's}}, where with
            "point" only the calls of that one are numbered; None: no kill.
        note: file for the point at which the kill came.
    """

    def __init__(self, started: float, plan: dict | None, note: Path):
        self.started, self.plan, self.note = started, plan, note
        self.calls, self.inside, self.count = [], [], 0
        if plan and "call" not in plan:
            self._kill(plan["after"])
        for point, places in POINTS.items():
            for owner, name in places:
                setattr(owner, name, self._watched(point, getattr(owner, name)))

    def _watched(self, point: str, function: Callable) -> Callable:
        @functools.wraps(function)
        def watched(*args, **kwargs):
            begun, counted = time.monotonic(), (self.plan or {}).get("point", point) == point
            self.count += counted
            due = counted and bool(self.plan) and self.plan.get("call") == self.count
            brief = due and self.plan["seconds"].get(point, 0) < BRIEF
            if due and not brief:
                self._kill(self.plan["share"] * self.plan["seconds"][point])
            self.inside.append(point)
            try:
                result = function(*args, **kwargs)
                if brief:  # its work is done, and its caller does not know
                    self._kill(0, wait=False)
                return result
            finally:
                self.inside.pop()
                self.calls.append((point, time.monotonic() - begun))

        return watched

    def _kill(self, seconds: float, wait: bool = True) -> None:
        def kill():
            time.sleep(seconds)
            self.note.write_text(self.inside[-1] if self.inside else "elsewhere")
            os.kill(os.getpid(), signal.SIGKILL)

        if wait:
            threading.Thread(target=kill, daemon=True).start()
        else:
            kill()


def run(program: str, output: Path, plan: dict | None = None) -> tuple[int, dict | None, str]:
    """One process: its exit code (-9: killed), what it noted where it ended by itself, and where the kill came."""
    notes, log = output.with_suffix(".json"), output.with_suffix(".log")
    where = output.with_suffix(".where")
    for path in (notes, where):
        path.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        code, started = 1, time.monotonic()
        try:
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            sys.argv = [f"{program}.py", *SMALL.get(program, "").split(), "--output_dir", str(output)]
            watch = Watch(started, plan, where)
            PROGRAMS[program]()
            notes.write_text(json.dumps({"seconds": time.monotonic() - started, "calls": watch.calls}))
            code = 0
        except SystemExit as exit_:
            code = exit_.code
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 1)
    _, status = os.waitpid(child, 0)
    noted = json.loads(notes.read_text()) if notes.is_file() else None
    return os.waitstatus_to_exitcode(status), noted, where.read_text() if where.is_file() else ""


def draw(noted: dict, number: int, rng: random.Random, at: Sequence[str] = ()) -> dict:
    """Where to kill next: in one of the next 14 calls (a rollout has six or more), or within a quarter of a run; with
    `at` in a call of these points in turn, one of the first half of those that a whole run has."""
    calls = {point: [seconds for name, seconds in noted["calls"] if name == point] for point in POINTS}
    seconds = {point: sum(all_) / len(all_) for point, all_ in calls.items() if all_}
    if at:
        point = at[number % len(at)]
        call = rng.randint(1, max(1, len(calls[point]) // 2))
        return {"point": point, "call": call, "share": rng.random(), "seconds": seconds}
    if number % 3 == 2:
        return {"after": rng.uniform(0, noted["seconds"] / 4)}
    return {"call": rng.randint(1, 14), "share": rng.random(), "seconds": seconds}


def differences(whole: Path, other: Path) -> list[str]:
    """The files of two runs that differ: weights, texts and predictions as bytes, results and logs as values."""
    different = []
    for pattern in KEPT:
        names = [
            {path.relative_to(folder) for path in folder.glob(pattern) if _is_kept(path.relative_to(folder))}
            for folder in (whole, other)
        ]
        different += [f"{name} is in one run only" for name in sorted(names[0] ^ names[1])]
        both = sorted(names[0] & names[1])
        different += [str(name) for name in both if (whole / name).read_bytes() != (other / name).read_bytes()]
    if (whole / "results.json").is_file():
        results = [json.loads((folder / "results.json").read_text()) for folder in (whole, other)]
        parts = ("rows", "controls", "details")
        different += [f"results.json: {part}" for part in parts if results[0][part] != results[1][part]]
    for path in sorted(whole.glob("stages/*/log_history.json")):
        logs = [_logged(folder / path.relative_to(whole)) for folder in (whole, other)]
        different += [str(path.relative_to(whole))] if logs[0] != logs[1] else []
    return different


def _is_kept(name: Path) -> bool:
    return not any(part.startswith("checkpoint-") or part in ("embeddings", "report") for part in name.parts)


def _logged(path: Path) -> list[dict]:
    entries = json.loads(path.read_text())
    kept = [{k: v for k, v in entry.items() if not any(time in k for time in TIMES)} for entry in entries]
    return [entry for entry in kept if set(entry) - {"epoch", "step"}]


def kill_and_resume(program: str, folder: Path, kills: int, seed: int, at: Sequence[str] = ()) -> list[dict]:
    """Where each kill hit, and how the run that it hit differs in the end from the uninterrupted one."""
    folder.mkdir(parents=True, exist_ok=True)
    run(program, folder / "first")  # leaves the embedded policy in its cache, as a user's machine has it
    shutil.rmtree(folder / "first", ignore_errors=True)
    code, noted, _ = run(program, folder / "whole")
    assert code == 0, (folder / "whole.log").read_text()[-3000:]
    missing = set(at) - {point for point, _ in noted["calls"]}
    assert not missing, f"A run of {program} never comes to: {', '.join(missing)}"
    outcomes, open_, runs, rng = [], [], 0, random.Random(seed)
    while len(outcomes) < kills or open_:
        left = kills - len(outcomes)
        output = folder / f"killed-{runs}"
        code, _, where = run(program, output, draw(noted, len(outcomes), rng, at) if left else None)
        if code == -signal.SIGKILL:
            open_.append({"run": runs, "where": where})
            outcomes.append(open_[-1])
            print(f"kill {len(outcomes)}, run {runs}: {where}", flush=True)
            continue
        different = differences(folder / "whole", output) if code == 0 else [f"ended with exit code {code}"]
        for outcome in open_:
            outcome["different"] = different
        print(f"run {runs}, killed {len(open_)} times: {different or 'equal'}", flush=True)
        if not different:
            shutil.rmtree(output)
        open_, runs = [], runs + 1
    return outcomes


def table(program: str, outcomes: list[dict]) -> str:
    """How often each point was hit, and how often the run that went on ended equal to the uninterrupted one."""
    lines = ["| killed while | times | run ended bitwise equal |", "| :--- | ---: | ---: |"]
    for point in [*POINTS, "elsewhere"]:
        hit = [outcome for outcome in outcomes if outcome["where"] == point]
        if hit:
            lines.append(f"| {program}: {point} | {len(hit)} | {sum(not each['different'] for each in hit)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at", nargs="+", choices=POINTS, default=(), help="points to kill at, in turn")
    parsed = parser.parse_args()
    outcomes = kill_and_resume(parsed.program, parsed.folder, parsed.kills, parsed.seed, parsed.at)
    print(table(parsed.program, outcomes))
    sys.exit(any(outcome["different"] for outcome in outcomes))


if __name__ == "__main__":
    main()
