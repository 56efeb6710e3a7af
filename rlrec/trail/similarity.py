"""How alike two popularity samples are (TRAIL), for a batch and for the top k of all samples.

Paper: Zhang et al., "Following the TRAIL: Predicting and Explaining Tomorrow's Hits with a Fine-Tuned LLM" (2026),
eqs. 1-6. SPEC section 4.

    sim = alpha / (1 + DTW(h_i, h_j)) + beta * exp(-(r_i - r_j)^2 / (2 sigma^2)) + gamma * cos(d_i, d_j)

Symbols: N samples, h a history (users per window, oldest first), r the change rate (`rlrec.data.popularity`, it holds
the label: compare training samples only), M items with embeddings (M, d), `items` (N,) the row of each sample's item.

Departures:

1. Eqs. 1-3 compare raw counts, though section 4.1.1 wants the shape and not the level. Raw is the default;
   `z_normalise=True` gives each history mean 0 and (population) deviation 1, and a constant one zeros.
2. Cold samples have no history. With the printed border, D(t, 0) = D(0, t) = inf, a cold and a warm sample have trend
   similarity 0; D(0, 0) = 0, which the paper leaves open, gives two cold samples 1.
3. The paper gives no sigma: 1 unless set. alpha = gamma = 0.4, beta = 0.2.
4. An item without text (a zero vector) has cosine 0 with every item.
5. A sample is no neighbour of itself; `skip_same_item` also leaves out the other windows of its own item.

Eq. 1's norm is that of a number, so DTW sums absolute differences along the path: dtaidistance's
`inner_dist="euclidean"`, not its default.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

try:
    from numba import njit
except ImportError as error:
    raise ImportError(
        "TRAIL's similarity is compiled with numba; install it with: pip install 'rlrec[trail]'"
    ) from error

ALPHA, BETA, GAMMA, SIGMA = 0.4, 0.2, 0.4, 1.0
BLOCK_ELEMENTS = 4_000_000  # cosines held at once by top_neighbours: 32 MB
SLACK = 1e-9  # relative: rounding must not let a bound pass what it bounds


class Histories(NamedTuple):
    """Sequences end to end: values (total,) and offsets (N + 1,); sequence i is values[offsets[i]:offsets[i + 1]]."""

    values: np.ndarray
    offsets: np.ndarray


def pack_histories(histories: Sequence[Sequence[float]], z_normalise: bool = False) -> Histories:
    """N histories of any lengths, 0 included, as one array; each with mean 0 and deviation 1 where `z_normalise`.

    Raises:
        ValueError: a value that is not finite.

    >>> pack_histories([[1, 3], [], [5]], z_normalise=True)
    Histories(values=array([-1.,  1.,  0.]), offsets=array([0, 2, 2, 3]))
    """
    arrays = [np.asarray(history, dtype=np.float64) for history in histories]
    if z_normalise:
        arrays = [z_normalised(array) for array in arrays]
    offsets = np.cumsum([0, *map(len, arrays)])
    values = np.concatenate([np.empty(0), *arrays])
    if not (finite := np.isfinite(values)).all():
        row = int(np.searchsorted(offsets, finite.argmin(), side="right")) - 1
        raise ValueError(f"History {row} holds {values[finite.argmin()]}; histories are counts of users per window.")
    return Histories(values, offsets)


def z_normalised(history: np.ndarray) -> np.ndarray:
    """(h - mean) / deviation of a history (T,); zeros where the deviation is 0 or the history empty.

    >>> z_normalised(np.array([2.0, 4.0, 6.0, 8.0])).round(3).tolist(), z_normalised(np.array([7.0])).tolist()
    ([-1.342, -0.447, 0.447, 1.342], [0.0])
    """
    if len(history) == 0 or history.min() == history.max():
        return np.zeros(len(history))
    return (history - history.mean()) / history.std()


def dtw(first: Sequence[float], second: Sequence[float]) -> float:
    """D(T_1, T_2) of eqs. 1 and 2; inf where one of the two is empty, 0 where both are.

    >>> dtw([1, 2, 5], [1, 1, 2, 3]), dtw([4], []), dtw([], [])
    (2.0, inf, 0.0)
    """
    return float(dtw_pairs([first, second], [0], [1])[0])


def dtw_pairs(
    histories: Sequence[Sequence[float]],
    left: Sequence[int],
    right: Sequence[int],
    z_normalise: bool = False,
    threads: int | None = None,
) -> np.ndarray:
    """DTW distances (P,) of the pairs (left[p], right[p]) of N histories; `threads`: all cores unless given.

    >>> dtw_pairs([[0, 1], [0, 10], [5, 5, 5]], [0, 0, 1], [1, 2, 2]).tolist()
    [9.0, 13.0, 15.0]
    """
    packed = pack_histories(histories, z_normalise)
    left, right = (np.ascontiguousarray(index, dtype=np.int64) for index in (left, right))
    count = len(packed.offsets) - 1
    if left.shape != right.shape or left.ndim != 1:
        raise ValueError(f"left {left.shape} and right {right.shape} must be two lists of the same length.")
    if left.size and (min(left.min(), right.min()) < 0 or max(left.max(), right.max()) >= count):
        raise ValueError(f"left and right must number histories from 0 to {count - 1}.")
    return _pairs(packed, left, right, threads)


def trend_similarity(distances: np.ndarray) -> np.ndarray:
    """1 / (1 + D), eq. 3, of DTW distances of any shape.

    >>> trend_similarity(np.array([0.0, 3.0, np.inf])).tolist()
    [1.0, 0.25, 0.0]
    """
    return 1.0 / (1.0 + distances)


def latest_similarity(first_rates: np.ndarray, second_rates: np.ndarray, sigma: float = SIGMA) -> np.ndarray:
    """exp(-(r_i - r_j)^2 / (2 sigma^2)), eq. 4: change rates (A,) and (B,) -> (A, B).

    >>> latest_similarity(np.array([0.5]), np.array([0.5, 2.5])).round(4).tolist()  # 1 and e^-2
    [[1.0, 0.1353]]
    """
    difference = np.asarray(first_rates, dtype=float)[:, None] - np.asarray(second_rates, dtype=float)[None, :]
    return np.exp(-(difference**2) / (2.0 * sigma**2))


def metadata_similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosines, eq. 5: embeddings (A, d) and (B, d) -> (A, B); 0 where a vector is zero.

    >>> metadata_similarity(np.array([[3.0, 4.0]]), np.array([[6.0, 8.0], [0.0, 1.0], [0.0, 0.0]])).tolist()
    [[1.0, 0.8, 0.0]]
    """
    return unit_rows(first) @ unit_rows(second).T


def unit_rows(embeddings: np.ndarray) -> np.ndarray:
    """Rows of (M, d) divided by their lengths, in float32 or float64; rows of zeros stay."""
    embeddings = np.asarray(embeddings)
    embeddings = embeddings if embeddings.dtype in (np.float32, np.float64) else embeddings.astype(np.float64)
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.where(lengths > 0, lengths, 1)


def similarity_matrix(
    histories: Sequence[Sequence[float]],
    change_rates: Sequence[float],
    embeddings: np.ndarray,
    items: Sequence[int],
    *,
    alpha: float = ALPHA,
    beta: float = BETA,
    gamma: float = GAMMA,
    sigma: float = SIGMA,
    z_normalise: bool = False,
) -> np.ndarray:
    """Eq. 6 between all N samples, (N, N): for a batch, or to check `top_neighbours`, whose arguments it shares.

    >>> similarity_matrix([[1, 2], [1, 5]], [0.0, 2.0], np.eye(2), [0, 1]).round(4).tolist()  # .4 / 4 + .2 e^-2
    [[1.0, 0.1271], [0.1271, 1.0]]
    """
    packed, rates, units, items = _checked(
        histories, change_rates, embeddings, items, (alpha, beta, gamma), sigma, z_normalise
    )
    left, right = np.divmod(np.arange(len(items) ** 2), max(len(items), 1))
    trend = trend_similarity(_pairs(packed, left, right)).reshape(len(items), len(items))
    cosines = (units @ units.T)[np.ix_(items, items)]
    return alpha * trend + beta * latest_similarity(rates, rates, sigma) + gamma * cosines


def top_neighbours(
    histories: Sequence[Sequence[float]],
    change_rates: Sequence[float],
    embeddings: np.ndarray,
    items: Sequence[int],
    k: int,
    *,
    alpha: float = ALPHA,
    beta: float = BETA,
    gamma: float = GAMMA,
    sigma: float = SIGMA,
    z_normalise: bool = False,
    skip_same_item: bool = False,
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar samples of each sample by eq. 6, exactly, without an (N, N) matrix.

    Blocks of cosines against the M items are the largest array. A pair's DTW is computed only where eq. 6 could reach
    the k best found so far with a lower bound in DTW's place, and given up once it cannot.

    Args:
        histories: N histories, oldest first; an empty one is a cold sample.
        change_rates: (N,) r of eq. 4.
        embeddings: (M, d) of the items' texts; float32 halves the memory.
        items: (N,) row of each sample's item in `embeddings`.
        k: neighbours per sample.
        alpha, beta, gamma: weights of trend, latest change and metadata, none negative (SPEC: 0.4, 0.2, 0.4).
        sigma: width of eq. 4's kernel.
        z_normalise: compare shapes instead of counts.
        skip_same_item: no neighbour is a sample of the same item.
        threads: all cores unless given.

    Returns:
        Indices (N, k) int64 and similarities (N, k) float64, the most similar first, ties by the lower index.

    Raises:
        ValueError: lengths that differ, values that are not finite, or a sample with fewer than k possible neighbours.

    >>> histories, rates, items = [[1, 2], [1, 2], [9, 9]], [1.0, 1.0, 1.0], [0, 0, 0]
    >>> indices, similarities = top_neighbours(histories, rates, np.ones((1, 2)), items, k=1)
    >>> indices.ravel().tolist(), similarities.ravel().round(3).tolist()  # h_1 to h_2: 8 + 7
    ([1, 0, 0], [1.0, 1.0, 0.625])
    """
    packed, rates, units, items = _checked(
        histories, change_rates, embeddings, items, (alpha, beta, gamma), sigma, z_normalise
    )
    count = len(items)
    possible = count - (np.bincount(items, minlength=len(units))[items] if skip_same_item else np.ones(count, int))
    if k < 1 or count == 0 or (possible < k).any():
        row = int(possible.argmin()) if count else 0
        available = int(possible[row]) if count else 0
        raise ValueError(f"k is {k}, but sample {row} has {available} possible neighbours; k must be from 1 to that.")
    longest, shapes = int(np.diff(packed.offsets).max()), _shapes(*packed)
    indices = np.empty((count, k), dtype=np.int64)
    similarities = np.empty((count, k), dtype=np.float64)
    block = max(1, BLOCK_ELEMENTS // len(units))
    for start in range(0, count, block):
        cosines = (units[items[start : start + block]] @ units.T).astype(np.float64)  # (block, M)

        def fill(first: int, end: int, start=start, cosines=cosines) -> None:
            _top_rows(
                first, cosines[first - start : end - start], *packed, longest, shapes, rates, items,
                float(alpha), float(beta), float(gamma), float(sigma), skip_same_item,
                indices[first:end], similarities[first:end],
            )  # fmt: skip

        _in_threads(fill, start, min(start + block, count), threads)
    return indices, similarities


def _pairs(packed: Histories, left: np.ndarray, right: np.ndarray, threads: int | None = None) -> np.ndarray:
    distances = np.empty(len(left))
    longest = int(np.diff(packed.offsets).max(initial=0))

    def fill(first: int, end: int) -> None:
        _dtw_pairs(*packed, longest, left[first:end], right[first:end], distances[first:end])

    _in_threads(fill, 0, len(left), threads)
    return distances


def _in_threads(fill: Callable[[int, int], None], start: int, end: int, threads: int | None) -> None:
    """Call fill(first, end) on stretches of start..end, several at once; the kernels release Python's lock.

    Threads of our own and not numba's: those compile several times as long, and GNU OpenMP, which they use, ends a
    forked child (a data loader's worker) that comes to use it too.
    """
    threads = threads or os.cpu_count() or 1
    edges = np.linspace(start, end, 1 + min(4 * threads, max(end - start, 1))).astype(int).tolist()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, edges[:-1], edges[1:]))


def _checked(histories, change_rates, embeddings, items, weights, sigma, z_normalise):
    """The four inputs as arrays that fit each other: packed histories, rates (N,), unit rows (M, d), items (N,)."""
    packed = pack_histories(histories, z_normalise)
    rates = np.ascontiguousarray(change_rates, dtype=np.float64)
    items = np.ascontiguousarray(items, dtype=np.int64)
    units = unit_rows(embeddings)
    count = len(packed.offsets) - 1
    if rates.shape != (count,) or items.shape != (count,):
        raise ValueError(f"There are {count} histories, but change_rates {rates.shape} and items {items.shape}.")
    if count and (items.min() < 0 or items.max() >= len(units)):
        raise ValueError(
            f"items must be rows of the embeddings, 0 to {len(units) - 1}; got {items.min()} to {items.max()}."
        )
    for name, values in (("change_rates", rates), ("embeddings", units)):
        if not (finite := np.isfinite(values)).all():
            raise ValueError(f"Row {np.argwhere(~finite)[0][0]} of {name} is not finite.")
    if min(weights) < 0 or sigma <= 0:
        raise ValueError(
            f"alpha, beta, gamma are {weights} and sigma {sigma}; weights are not negative, sigma is > 0."
        )
    return packed, rates, units, items


@njit(cache=True)
def _dtw(values, first, first_end, second, second_end, limit, row):
    """Eq. 2 between two stretches of `values`; inf as soon as the distance must exceed `limit`.

    `row` is room for the second stretch: it holds D(i - 1, .) right of the current cell, D(i, .) left of it.
    """
    length = second_end - second
    if first == first_end or length == 0:
        return 0.0 if first == first_end and length == 0 else np.inf
    for j in range(length):
        row[j] = np.inf
    for i in range(first, first_end):
        value, smallest = values[i], np.inf
        diagonal = 0.0 if i == first else np.inf
        left = np.inf
        for j in range(length):
            above = row[j]
            best = above if above < left else left
            best = diagonal if diagonal < best else best
            left = abs(value - values[second + j]) + best
            diagonal = above
            row[j] = left
            smallest = left if left < smallest else smallest
        if smallest > limit:  # every path passes through this row, and costs only grow
            return np.inf
    return row[length - 1]


@njit(cache=True, nogil=True)
def _dtw_pairs(values, offsets, longest, left, right, distances):
    """Fills distances (P,) of the pairs left, right (P,)."""
    row = np.empty(longest)
    for p in range(len(left)):
        i, j = left[p], right[p]
        distances[p] = _dtw(values, offsets[i], offsets[i + 1], offsets[j], offsets[j + 1], np.inf, row)


def _shapes(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """First, last, smallest and largest value of each history (N, 4), for bounds of DTW; zeros for an empty one."""
    shapes = np.zeros((len(offsets) - 1, 4))
    filled = np.flatnonzero(np.diff(offsets))
    if len(filled):
        starts = offsets[filled]
        shapes[filled, 0], shapes[filled, 1] = values[starts], values[offsets[filled + 1] - 1]
        # The empty ones have no width, so one filled history ends where the next filled one starts.
        shapes[filled, 2], shapes[filled, 3] = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    return shapes


@njit(cache=True)
def _quick_bound(i, j, offsets, shapes):
    """A lower bound of DTW(i, j) in constant time; exact where a history is empty.

    A path holds the first cell and the last one, which differ unless both histories have one value; and each extreme
    value is matched with some value inside the other's range.
    """
    length, other = offsets[i + 1] - offsets[i], offsets[j + 1] - offsets[j]
    if length == 0 or other == 0:
        return 0.0 if length == other else np.inf
    ends = abs(shapes[i, 0] - shapes[j, 0])
    if length > 1 or other > 1:
        ends += abs(shapes[i, 1] - shapes[j, 1])
    return max(ends, abs(shapes[i, 2] - shapes[j, 2]), abs(shapes[i, 3] - shapes[j, 3]))


@njit(cache=True)
def _range_bound(i, j, values, offsets, shapes):
    """A lower bound of DTW(i, j): each value of i is matched with some value inside j's range."""
    low, high, total = shapes[j, 2], shapes[j, 3], 0.0
    for position in range(offsets[i], offsets[i + 1]):
        value = values[position]
        total += max(low - value, value - high, 0.0)
    return total


@njit(cache=True)
def _insert(scores, indices, score, index):
    """Put a score into a list kept best first (ties: lower index first), dropping the last; nothing if it is worse."""
    place = len(scores)
    while place > 0 and (score > scores[place - 1] or (score == scores[place - 1] and index < indices[place - 1])):
        place -= 1
    for k in range(len(scores) - 1, place, -1):
        scores[k], indices[k] = scores[k - 1], indices[k - 1]
    if place < len(scores):
        scores[place], indices[place] = score, index


@njit(cache=True, nogil=True)
def _top_rows(
    start, cosines, values, offsets, longest, shapes, rates, items, alpha, beta, gamma, sigma, skip_same_item,
    indices, scores,
):  # fmt: skip
    """Fills indices and scores (rows, k) of the samples from `start` on; cosines (rows, M) are of their items."""
    count, k = len(rates), scores.shape[1]
    slack = SLACK * (alpha + beta + gamma)
    room = np.empty(longest)
    rest = np.empty(count)  # eq. 6 without the trend
    bounds = np.empty(count)  # upper bounds of eq. 6; -inf: not a neighbour, or done
    promising, seeds = np.empty(4 * k), np.empty(4 * k, np.int64)
    for b in range(len(scores)):
        i, best, neighbours = start + b, scores[b], indices[b]
        for place in range(k):
            best[place], neighbours[place] = -np.inf, count
        for place in range(4 * k):
            promising[place], seeds[place] = -np.inf, count
        for j in range(count):
            if j == i or (skip_same_item and items[j] == items[i]):
                bounds[j] = -np.inf
                continue
            difference = rates[i] - rates[j]
            rest[j] = beta * np.exp(-(difference * difference) / (2.0 * sigma * sigma)) + gamma * cosines[b, items[j]]
            bounds[j] = alpha / (1.0 + _quick_bound(i, j, offsets, shapes) * (1.0 - SLACK)) + rest[j] + slack
            _insert(promising, seeds, bounds[j], j)
        # Those that promise most come first, so that the others, in any order, have much to reach.
        for turn in range(4 * k + count):
            j = seeds[turn] if turn < 4 * k else turn - 4 * k
            if j == count or bounds[j] == -np.inf or bounds[j] < best[-1]:
                continue
            bounds[j] = -np.inf
            missing = best[-1] - rest[j] - slack  # what the trend must bring
            limit = alpha / missing - 1.0 if missing > 0 else np.inf
            if _range_bound(i, j, values, offsets, shapes) * (1.0 - SLACK) > limit:
                continue
            if _range_bound(j, i, values, offsets, shapes) * (1.0 - SLACK) > limit:
                continue
            distance = _dtw(values, offsets[i], offsets[i + 1], offsets[j], offsets[j + 1], limit, room)
            _insert(best, neighbours, alpha / (1.0 + distance) + rest[j], j)
