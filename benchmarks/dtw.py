"""DTW pairs per second, parity with dtaidistance, and top-k neighbours of many samples.

    python benchmarks/dtw.py                                        # two threads, length 50
    python benchmarks/dtw.py --samples 50000 --repeats 5            # with the neighbours of 50,000 samples

Each repeat measures ours and dtaidistance's compiled distance (one thread, called pair by pair from Python) on the
same histories, in turn. Packing the histories counts as ours; compilation does not. Neighbours are looked for among
samples with Poisson histories around a random walk (lengths 0 to --length), ten samples an item, random embeddings of
384 dimensions: no pair is like another by text, so that the bounds have only counts to go by.
"""

import argparse
import resource
import statistics
import time

import numpy as np
from dtaidistance import dtw as dtaidistance
from measured import ratios, spread, tell

from rlrec.trail.similarity import dtw_pairs, top_neighbours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=200_000)
    parser.add_argument("--oracle_pairs", type=int, default=20_000)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--samples", type=int, default=0, help="also look for the neighbours of so many samples")
    parser.add_argument("--k", type=int, default=2)
    arguments = parser.parse_args()

    rng = np.random.default_rng(0)
    histories = [rng.poisson(20, arguments.length).astype(float) for _ in range(2000)]
    left, right = rng.integers(0, len(histories), (2, arguments.pairs))
    dtw_pairs(histories, left[:1], right[:1])
    ours, theirs = [], []
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        distances = dtw_pairs(histories, left, right, threads=arguments.threads)
        ours.append(arguments.pairs / (time.perf_counter() - start))
        start = time.perf_counter()
        few = list(zip(left[: arguments.oracle_pairs], right[: arguments.oracle_pairs]))
        expected = [dtaidistance.distance_fast(histories[i], histories[j], inner_dist="euclidean") for i, j in few]
        theirs.append(len(few) / (time.perf_counter() - start))
    for name, rates in ((f"rlrec, {arguments.threads} threads", ours), ("dtaidistance, one thread", theirs)):
        print(f"{name}: {statistics.median(rates):,.0f} pairs/s (min {min(rates):,.0f}, max {max(rates):,.0f})")
    tell(
        f"DTW, pairs/s, length {arguments.length}",
        f"{spread(ours, 0)} ({arguments.threads} threads)",
        f"{spread(theirs, 0)} (dtaidistance)",
        ratios(ours, theirs, 1),
    )
    print(f"largest difference over {len(few):,} pairs: {np.abs(distances[: len(few)] - expected).max():.1e}")

    if arguments.samples:
        count, items = arguments.samples, max(arguments.samples // 10, 1)
        walks = [np.cumsum(rng.normal(0, 0.3, rng.integers(0, arguments.length + 1))) for _ in range(count)]
        trends = [rng.poisson(level * np.exp(walk)) for level, walk in zip(rng.lognormal(1.5, 1.2, count), walks)]
        embeddings = rng.normal(size=(items, 384)).astype(np.float32)
        samples = (trends, rng.normal(size=count), embeddings, rng.integers(0, items, count))
        top_neighbours(*(part[:10] for part in samples[:2]), embeddings, samples[3][:10], k=1)
        for z_normalise in (False, True):
            start = time.perf_counter()
            top_neighbours(*samples, arguments.k, z_normalise=z_normalise, threads=arguments.threads)
            seconds = time.perf_counter() - start
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            kind = "z-normalised" if z_normalise else "raw"
            print(f"top {arguments.k} of {count:,} samples, {kind}: {seconds:.1f} s, peak memory {peak:.2f} GiB")


if __name__ == "__main__":
    main()
