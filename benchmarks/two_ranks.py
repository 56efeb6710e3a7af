"""Scaling over processes: PPO's episodes per second on one rank with one thread, and on two with one thread each.

    python benchmarks/two_ranks.py                     # Llama 256 x 6 on the CPU, gloo; about five minutes
    python benchmarks/two_ranks.py --repeats 5 --output two_ranks.json

Both do the same work, that of benchmarks/ppo_vs_trl.py on rlrec's side: as many episodes, rollouts and optimizer steps
of as many completions, of which two ranks take half each. One rank is started by `python`, two by `torchrun`, in the
order 1 2 1 2 ..., so a machine that changes its mind hits both alike; what is timed is `trainer.train()`.

efficiency = episodes/s on two ranks / (2 x episodes/s on one rank); 1 is perfect.
It needs a core for each rank that nobody else uses: `busy` is the share of the wall time that rank 0 was computing.
"""

import argparse
import copy
import json
import os
import platform
import subprocess
import sys

from measured import Shares, ratios, spread, tell
from ppo_vs_trl import run_rlrec, work_parser


def parse_arguments() -> argparse.Namespace:
    parser = work_parser(__doc__)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def run_child(options) -> None:
    """This rank's share of the work; rank 0 prints the figures."""
    import torch

    torch.set_num_threads(1)
    ranks, share = int(os.environ.get("WORLD_SIZE", 1)), copy.copy(options)
    share.batch_size = share.micro_batch_size = options.batch_size // ranks
    seconds, cpu_seconds = run_rlrec(share, Shares())
    if int(os.environ.get("RANK", 0)) == 0:
        figures = {"ranks": ranks, "episodes_per_second": options.episodes / seconds, "busy": cpu_seconds / seconds}
        print("FIGURES " + json.dumps(figures), flush=True)
    if ranks > 1:
        torch.distributed.destroy_process_group()


def measure(ranks: int) -> dict:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)] if ranks > 1 else []
    process = subprocess.run(
        [sys.executable, *launcher, __file__, *sys.argv[1:], "--child"],
        env=dict(os.environ, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1"),
        capture_output=True,
        text=True,
    )
    for line in process.stdout.splitlines():
        if line.startswith("FIGURES "):
            return json.loads(line.removeprefix("FIGURES "))
    sys.exit(f"The run on {ranks} ranks failed:\n{process.stderr[-3000:]}")


def main() -> None:
    options = parse_arguments()
    if options.child:
        run_child(options)
        return
    runs = []
    for _ in range(options.repeats):
        for ranks in (1, 2):
            runs.append(measure(ranks))
            print(json.dumps(runs[-1]), flush=True)
    speeds = [[run["episodes_per_second"] for run in runs if run["ranks"] == ranks] for ranks in (1, 2)]
    efficiencies = [two / (2 * one) for one, two in zip(*speeds)]
    tell("PPO on two ranks, episodes/s; beside: one rank", spread(speeds[1]), spread(speeds[0]), ratios(*speeds[::-1]))
    print(f"efficiency: {spread(efficiencies)} (half the ratio; 1 is perfect)")
    if options.output:
        report = {
            "settings": {name: str(value) for name, value in vars(options).items()},
            "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
            "runs": runs,
            "efficiency": efficiencies,
        }
        options.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
