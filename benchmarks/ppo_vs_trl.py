"""Speed and memory of rlrec's PPOTrainer beside TRL 1.12's, the last release that had one (trl.experimental.ppo).

    python benchmarks/ppo_vs_trl.py                    # Llama 256 x 6 on the CPU, both cores
    python benchmarks/ppo_vs_trl.py --preset 1b        # random weights in Llama-3.2-1B's shape, on a GPU
    python benchmarks/ppo_vs_trl.py --epochs 1 --repeats 5

Both sides do the same work from the same random weights: sample `episodes` completions of fixed length in batches,
score them, and take the same number of AdamW steps on LoRA adapters with a critic and a KL penalty. Each run has a
process of its own, one at a time, in the order A B A B ..., so a machine that changes its mind hits both sides alike.
What differs is what each trainer demands: TRL a reward model and a value model (fully trained) of the policy's
size; ours a reward function, here one that asks the policy's own backbone, adapter off, for a Yes or No after each
completion, which is one more forward pass over prompt and completion.

How much of the machine ours uses: its matrix products, counted by torch in one rollout and its updates, times the
episodes per second, over the products per second of the best of ten large square ones, with as many threads and in the
same type; the same of the updates alone (on a GPU without gradient checkpointing: the model FLOP utilisation).

Prints a line per run and writes every figure, with the ratio of each pair, to --output (JSON).
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measured import Shares, ratios, spread, tell

TRL_WITH_PPO = "1.12.0"
PRESETS = {  # Llama shapes; Llama-3.2-1B and Llama-3-8B have these sizes
    "tiny": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4,
                 "num_key_value_heads": 4, "vocab_size": 8192},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
               "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
               "num_key_value_heads": 8, "vocab_size": 128256},
}  # fmt: skip


def work_parser(description: str) -> argparse.ArgumentParser:
    """Options of the work itself, which benchmarks/two_ranks.py has too."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--prompt_length", type=int, default=64, help="tokens")
    parser.add_argument("--response_length", type=int, default=32, help="tokens")
    parser.add_argument("--batch_size", type=int, default=32, help="completions per rollout and per optimizer step")
    parser.add_argument("--episodes", type=int, default=192)
    parser.add_argument("--epochs", type=int, default=2, help="passes over each rollout (2 in ExpCTR, 4 in TRL)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each side")
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--output", type=Path, default=None, help="JSON file for every figure")
    return parser


def parse_arguments() -> argparse.Namespace:
    parser = work_parser(__doc__)
    parser.add_argument("--micro_batch_size", type=int, default=32, help="completions per forward and backward pass")
    parser.add_argument("--sides", nargs="+", choices=("trl", "rlrec"), default=["trl", "rlrec"])
    parser.add_argument("--trl_dir", type=Path, default=None, help=f"folder with TRL {TRL_WITH_PPO}; default: pip")
    parser.add_argument("--child", choices=("trl", "rlrec", "count"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.batch_size % options.micro_batch_size:
        parser.error(
            f"--batch_size {options.batch_size} is no multiple of --micro_batch_size {options.micro_batch_size}"
        )
    return options


# -- one run, in its own process --------------------------------------------------------------------------------------
def build_tokenizer(vocab_size: int):
    """Word-level tokenizer, one token per word `w<i>`, made on the spot."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<eos>", "<unk>", "Yes", "No"]
    vocabulary = {word: index for index, word in enumerate(words + [f"w{i}" for i in range(vocab_size - len(words))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )


def build_model(options, head: str):
    """A random Llama with a language-modelling or a scalar head; on a GPU, if there is one, in bfloat16."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **PRESETS[options.preset], pad_token_id=0, eos_token_id=1, bos_token_id=None, num_labels=1, use_cache=True
    )
    cuda = torch.cuda.is_available()
    with torch.device("cuda" if cuda else "cpu"):
        torch.set_default_dtype(torch.bfloat16 if cuda else torch.float32)
        model = getattr(transformers, f"LlamaFor{head}")(config)
        torch.set_default_dtype(torch.float32)
    return model


def build_prompts(options, tokenizer):
    import random

    from datasets import Dataset

    words = [word for word in tokenizer.get_vocab() if word.startswith("w")]
    draw = random.Random(0)
    prompts = [" ".join(draw.choices(words, k=options.prompt_length)) for _ in range(options.episodes)]
    return Dataset.from_dict({"prompt": prompts})


def timed(train) -> tuple[float, float]:
    """Seconds on the clock and seconds of processor time that train() takes.

    On a machine shared with others the second is the steadier figure.
    """
    start, cpu_start = time.perf_counter(), time.process_time()
    train()
    return time.perf_counter() - start, time.process_time() - cpu_start


def run_trl(options) -> tuple[float, float]:
    """PPOTrainer.train() of TRL 1.12, timed."""
    import trl
    from peft import LoraConfig
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    assert trl.__version__ == TRL_WITH_PPO, trl.__version__
    tokenizer = build_tokenizer(PRESETS[options.preset]["vocab_size"])
    prompts = build_prompts(options, tokenizer)
    dataset = prompts.map(lambda row: {"input_ids": tokenizer(row["prompt"])["input_ids"]}, remove_columns="prompt")
    with tempfile.TemporaryDirectory() as folder:
        args = PPOConfig(
            output_dir=folder,
            per_device_train_batch_size=options.micro_batch_size,
            gradient_accumulation_steps=options.batch_size // options.micro_batch_size,
            num_ppo_epochs=options.epochs,
            num_mini_batches=1,
            total_episodes=options.episodes,
            response_length=options.response_length,
            local_rollout_forward_batch_size=options.batch_size,
            num_sample_generations=0,
            temperature=1.0,
            learning_rate=1e-5,
            kl_coef=0.05,
            **common_arguments(options),
        )
        trainer = PPOTrainer(
            args=args,
            processing_class=tokenizer,
            model=build_model(options, "CausalLM"),
            ref_model=None,
            reward_model=build_model(options, "SequenceClassification").requires_grad_(False),
            value_model=build_model(options, "SequenceClassification"),
            train_dataset=dataset,
            peft_config=LoraConfig(r=8, task_type="CAUSAL_LM"),
        )
        return timed(trainer.train)


class BackboneScore:
    """A reward as ExpCTR's LC: sigmoid(logit of Yes - logit of No) after each completion, by the base model itself."""

    __name__ = "backbone_score"

    def __init__(self, tokenizer):
        self.yes, self.no = tokenizer.convert_tokens_to_ids(["Yes", "No"])
        self.tokenizer = tokenizer
        self.policy = None

    def __call__(self, prompts, completions, completion_ids, **columns):
        import torch

        rows = [self.tokenizer(p)["input_ids"] + ids for p, ids in zip(prompts, completion_ids)]
        inputs = self.tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(self.policy.device)
        with torch.no_grad(), self.policy.disable_adapter():
            logits = self.policy(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1].float()
        return torch.sigmoid(logits[:, self.yes] - logits[:, self.no]).tolist()


def run_rlrec(options, shares: Shares) -> tuple[float, float]:
    """PPOTrainer.train() of rlrec, timed."""
    from accelerate.optimizer import AcceleratedOptimizer
    from peft import LoraConfig

    from rlrec.ppo import PPOConfig, PPOTrainer

    shares.watch({
        (PPOTrainer, "_generate_and_score_completions"): "rollout",
        (PPOTrainer, "training_step"): "update",
        (AcceleratedOptimizer, "step"): "update",
    })  # fmt: skip
    tokenizer = build_tokenizer(PRESETS[options.preset]["vocab_size"])
    reward = BackboneScore(tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        args = PPOConfig(
            output_dir=folder,
            per_device_train_batch_size=options.micro_batch_size,
            gradient_accumulation_steps=options.batch_size // options.micro_batch_size,
            num_iterations=options.epochs,
            num_train_epochs=1,
            max_completion_length=options.response_length,
            generation_kwargs={"eos_token_id": None},
            learning_rate=1e-5,
            disable_tqdm=True,
            **common_arguments(options),
        )
        trainer = PPOTrainer(
            build_model(options, "CausalLM"),
            reward,
            args,
            build_prompts(options, tokenizer),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=8, task_type="CAUSAL_LM"),
        )
        reward.policy = trainer.model
        seconds = timed(trainer.train)
    steps = options.episodes // (options.batch_size * trainer.args.world_size) * options.epochs
    assert trainer.state.global_step == steps, (trainer.state.global_step, steps)
    return seconds


def common_arguments(options) -> dict:
    import torch

    return {
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "bf16": torch.cuda.is_available(),
        "use_cpu": not torch.cuda.is_available(),
        "gradient_checkpointing": options.gradient_checkpointing,
        "seed": 0,
    }


def multiplications_per_second() -> float:
    """Floating-point operations per second of the best of ten large products, on the GPU if there is one."""
    import torch

    cuda = torch.cuda.is_available()
    size, best = 8192 if cuda else 2048, 0.0
    left, right = torch.randn(2, size, size, device="cuda" if cuda else "cpu", dtype=torch.bfloat16 if cuda else None)
    for _ in range(11):  # the first makes the library ready
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        left @ right
        if cuda:
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def count_operations(options) -> dict[str, float]:
    """Floating-point operations in matrix products, per episode, of all and of the updates alone."""
    from torch.utils.flop_counter import FlopCounterMode

    options.episodes = options.batch_size
    with FlopCounterMode(display=False) as counter:
        shares = Shares(clock=counter.get_total_flops)
        run_rlrec(options, shares)
        return {
            "operations": counter.get_total_flops() / options.episodes,
            "operations_of_updates": shares.amounts["update"] / options.episodes,
        }


def run_child(options) -> None:
    import torch

    if options.child == "count":
        print("FIGURES " + json.dumps({"side": "count", **count_operations(options)}))
        return
    shares = Shares()
    peak = multiplications_per_second()
    seconds, cpu_seconds = run_trl(options) if options.child == "trl" else run_rlrec(options, shares)
    figures = {
        "side": options.child,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "episodes_per_second": options.episodes / seconds,
        "episodes_per_cpu_second": options.episodes / cpu_seconds,
        "update_seconds": shares.amounts["update"] or None,
        "peak_operations_per_second": peak,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    if torch.cuda.is_available():
        figures["peak_gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20
        figures["device"] = torch.cuda.get_device_name()
    print("FIGURES " + json.dumps(figures))


# -- all runs ---------------------------------------------------------------------------------------------------------
def trl_folder(options) -> Path:
    """A folder with TRL 1.12.0 alone, installed without dependencies beside the environment's own TRL."""
    folder = options.trl_dir or Path(tempfile.gettempdir()) / f"trl-{TRL_WITH_PPO}"
    if not (folder / "trl").is_dir():
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(folder), "--quiet"]
        subprocess.run([*command, f"trl=={TRL_WITH_PPO}"], check=True)
    return folder


def measure(side: str, options) -> dict:
    """One run in a process of its own; a run that dies (out of memory) is a result too: its last line is kept."""
    environment = dict(os.environ, HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1")
    if side == "trl":
        environment["PYTHONPATH"] = str(trl_folder(options))
    command = [sys.executable, __file__, *sys.argv[1:], "--child", side]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    for line in process.stdout.splitlines():
        if line.startswith("FIGURES "):
            return json.loads(line.removeprefix("FIGURES "))
    last_line = (process.stderr.strip().splitlines() or ["no output"])[-1]
    return {"side": side, "failed": last_line, "exit_code": process.returncode}


def shares_of_peak(runs: list[dict], counted: dict, options) -> dict[str, list[float]]:
    """Of each run, matrix products per second over the most that was measured beside it."""
    runs = [run for run in runs if "failed" not in run]
    if not runs or "failed" in counted:
        return {}
    done, of_updates = (options.episodes * counted[name] for name in ("operations", "operations_of_updates"))
    return {
        "whole run": [done / run["seconds"] / run["peak_operations_per_second"] for run in runs],
        "updates": [of_updates / run["update_seconds"] / run["peak_operations_per_second"] for run in runs],
    }


def main() -> None:
    options = parse_arguments()
    if options.child:
        run_child(options)
        return
    runs = []
    for _ in range(options.repeats):
        for side in options.sides:
            runs.append(measure(side, options))
            print(json.dumps(runs[-1]), flush=True)
    counted = measure("count", options) if "rlrec" in options.sides else {}
    report = {
        "settings": {name: str(value) for name, value in vars(options).items()},
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "runs": runs,
        "operations_per_episode": counted,
        "share_of_peak": shares_of_peak([run for run in runs if run["side"] == "rlrec"], counted, options),
        "ours_over_trl": {},
    }
    for part, values in report["share_of_peak"].items():
        tell(f"PPO, {options.preset}, {options.epochs} epochs, share of the matmul peak, {part}", spread(values))
    if len(options.sides) == 2 and not any("failed" in run for run in runs):
        for key in ("episodes_per_second", "episodes_per_cpu_second", "peak_rss_mib", "peak_gpu_mib"):
            if key in runs[0]:
                theirs, ours = ([run[key] for run in runs if run["side"] == side] for side in ("trl", "rlrec"))
                report["ours_over_trl"][key] = [mine / other for mine, other in zip(ours, theirs)]
                what = f"PPO, {options.preset}, {options.epochs} epochs, {key.replace('_', ' ')}"
                tell(what, spread(ours, 1), f"{spread(theirs, 1)} (TRL {TRL_WITH_PPO})", ratios(ours, theirs))
    if options.output:
        options.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
