"""Memory and time of EER's training step, with full weights per sample, with a low rank, and with none (SASRec).

    OMP_NUM_THREADS=1 python benchmarks/eer.py                       # SELLER's sizes: dim 64, 2 layers, batch 256
    python benchmarks/eer.py --device cuda --items 90000 --ranks 0 4 16   # rank 0 = full

Each variant runs in a process of its own. Peak memory is the most that the process held above what it held before the
first step (on a CPU: resident memory, which the allocator's habits move by some MiB; on a GPU: what torch allocated).
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
from measured import tell

from rlrec.recommenders import EER, SASRec
from rlrec.recommenders.explanation_enhanced import memory_line, per_sample_bytes
from rlrec.tables import markdown_table


def measure(arguments: argparse.Namespace, rank: int | None) -> dict[str, float]:
    """Seconds per step and peak MiB of one variant; rank None = SASRec without explanations, 0 = full."""
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    rows, device = arguments.batch_size, arguments.device
    if rank is None:
        model = SASRec(arguments.items, arguments.dim, arguments.layers, dropout=0.2, objective="bpr")
    else:
        model = EER(arguments.items, arguments.explanation_dim, arguments.dim, arguments.layers, rank=rank or None)
    model.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4, weight_decay=1e-5)
    history = torch.randint(1, arguments.items, (rows, arguments.length), device=device)
    items = torch.randint(1, arguments.items, (rows,), device=device)
    explanations = torch.randn(rows, arguments.explanation_dim, device=device)

    def step() -> None:
        given = (history,) if rank is None else (history, explanations)
        loss = model.bpr(model.next_states(*given), items)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def held() -> float:
        if device == "cpu":
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # Linux counts in KiB
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() / 2**20

    before, seconds = held(), []
    for _ in range(arguments.steps):
        start = time.perf_counter()
        step()
        held()  # waits for a GPU
        seconds.append(time.perf_counter() - start)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    # The first step pays for what later ones reuse.
    return {"seconds": statistics.median(seconds[1:]), "peak_mib": held() - before, "parameters": parameters}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--explanation_dim", type=int, default=768)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--ranks", type=int, nargs="+", default=[0, 4], help="0 = full")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)  # one variant, in this process; -1 = SASRec
    arguments = parser.parse_args()
    if arguments.only is not None:
        print(json.dumps(measure(arguments, None if arguments.only < 0 else arguments.only)))
        return
    print(memory_line(arguments.dim, arguments.layers, arguments.batch_size, max(max(arguments.ranks), 1)))
    lines, base = [], None
    for rank in (-1, *arguments.ranks):
        command = [sys.executable, *sys.argv, "--only", str(rank)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        size = 0 if rank < 0 else per_sample_bytes(arguments.dim, arguments.layers, arguments.batch_size, rank or None)
        name = {-1: "SASRec", 0: "EER, full"}.get(rank, f"EER, rank {rank}")
        numbers = (f"{found['parameters']:,}", f"{size / 2**20:.1f}", f"{found['peak_mib']:.0f}")
        lines.append([name, *numbers, f"{1000 * found['seconds']:.0f}"])
        base = base or found  # SASRec comes first
        if rank >= 0:
            here, beside = (f"{1000 * run['seconds']:.0f} ms, {run['peak_mib']:.0f} MiB" for run in (found, base))
            ratio = f"{found['seconds'] / base['seconds']:.1f} in time"
            tell(f"training step of {name}", here, f"{beside} (SASRec here)", ratio)
    header = ["model", "parameters", "per-sample weights, MiB", "peak of training, MiB", "ms per step"]
    print(markdown_table(header, lines))


if __name__ == "__main__":
    main()
