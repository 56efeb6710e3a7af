"""A simulated world of film fans whose interest moves, so that the sequence tells what comes next and why.

A user is at any moment in a category and in a mood, and watches a film, not seen before, that has both:

1. The category moves with every film, along the order of `GENRES` and round again: it stays with 0.3, goes on to
   the next with 0.45 and to the one after with 0.15, and anywhere else with the rest.
2. The mood stays with 0.92 and otherwise becomes any other one.
3. A film has one or two categories and two or three moods, and is drawn among those that fit in proportion to its
   popularity, which spreads little.

The true reasons of an interaction stand in the column `reasons`: the mood and the category the user was in, such as
["tense", "thriller"]. The film has other moods too, so which of them is the reason shows only in the films before it.
The description names a film's categories and moods; titles reveal nothing. Users begin at different times and go on
to the end, so that after any cut in time most users have a past.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from rlrec.data.schema import (
    CATEGORIES,
    DESCRIPTION,
    ITEM_ID,
    RATING,
    REASONS,
    TIMESTAMP,
    TITLE,
    USER_ID,
    DataError,
    PreparedDataset,
    RawData,
    assemble,
    no_rejected_rows,
)
from rlrec.data.simulated import film_titles

__all__ = ["GENRES", "MOODS", "SequenceTruth", "simulate_sequences", "simulate_sequences_with_truth"]

GENRES = ("thriller", "mystery", "fantasy", "musical", "comedy", "romance", "western", "documentary")
MOODS = ("tense", "tender", "gloomy", "playful", "wistful", "hopeful", "sinister", "grand")
STAY, NEXT, AFTER_NEXT = 0.3, 0.45, 0.15  # of the category
MOOD_STAYS = 0.92
POPULARITY_SPREAD = 0.5  # standard deviation of the log
START, SECONDS = 1_514_764_800, 2 * 365 * 86_400  # two years from 2018-01-01


@dataclass(frozen=True)
class SequenceTruth:
    """What made the sequences, for oracles and tests; each interaction's state stands in its `reasons`.

    Attributes:
        item_categories: (items, categories) of bool, items "i1", "i2", ...
        item_moods: (items, moods) of bool.
        popularity: (items,) what a film that fits is drawn in proportion to.
        category_chain: (categories, categories) of probabilities, rows from, columns to.
        mood_chain: (moods, moods).
    """

    item_categories: np.ndarray
    item_moods: np.ndarray
    popularity: np.ndarray
    category_chain: np.ndarray
    mood_chain: np.ndarray


def simulate_sequences(
    num_users: int = 2000,
    num_items: int = 400,
    interactions_per_user: int = 40,
    seed: int = 0,
    threshold: float | None = None,
    label_rule: str = "gt",
) -> PreparedDataset:
    """Generate a world; the same arguments always give the same one.

    Args:
        num_users: users "u1", "u2", ...
        num_items: films "i1", "i2", ...; those nobody watches are left out.
        interactions_per_user: films per user on the average; half to one and a half times as many in the single case.
        seed: of everything random.
        threshold: for the label; the default is 3, so "positive" is 4 or 5 stars.
        label_rule: "gt" or "ge".

    Raises:
        DataError: a size is below one, or a user could watch more films than there are.

    >>> world = simulate_sequences(num_users=50, num_items=100, interactions_per_user=10)
    >>> world.metadata["name"], world.metadata["domain"], world.interactions["reasons"].list.len().unique().to_list()
    ('simulated-sequences', 'film', [2])
    """
    return simulate_sequences_with_truth(num_users, num_items, interactions_per_user, seed, threshold, label_rule)[0]


def simulate_sequences_with_truth(
    num_users: int = 2000,
    num_items: int = 400,
    interactions_per_user: int = 40,
    seed: int = 0,
    threshold: float | None = None,
    label_rule: str = "gt",
) -> tuple[PreparedDataset, SequenceTruth]:
    """`simulate_sequences` together with the hidden quantities behind the sequences."""
    if min(num_users, num_items, interactions_per_user) < 1:
        raise DataError("The simulated world needs at least one user, one film and one interaction per user.")
    lowest, highest = (interactions_per_user + 1) // 2, interactions_per_user * 3 // 2
    if highest > num_items:
        raise DataError(
            f"With interactions_per_user {interactions_per_user} a user has up to {highest} films, but there are only "
            f"{num_items}; ask for fewer per user or for more films."
        )
    rng = np.random.default_rng(seed)
    truth = SequenceTruth(
        item_categories=_memberships(num_items, len(GENRES), 1, rng),
        item_moods=_memberships(num_items, len(MOODS), 2, rng),
        popularity=np.exp(rng.normal(0.0, POPULARITY_SPREAD, num_items)),
        category_chain=_category_chain(),
        mood_chain=_mood_chain(),
    )
    counts = rng.integers(lowest, highest + 1, num_users)
    films, categories, moods = _watch(truth, num_users, highest, rng)
    watched = np.arange(highest) < counts[:, None]  # (users, highest)
    users, _ = np.nonzero(watched)
    films, categories, moods = films[watched], categories[watched], moods[watched]
    opinion = 3.6 + rng.normal(0.0, 0.6, num_items)[films] + rng.normal(0.0, 0.7, films.size)
    interactions = pl.DataFrame(
        {
            USER_ID: np.char.add("u", (users + 1).astype(str)),
            ITEM_ID: np.char.add("i", (films + 1).astype(str)),
            RATING: np.clip(np.rint(opinion), 1, 5),
            TIMESTAMP: _times(counts, highest, rng)[watched],
            REASONS: [[MOODS[mood], GENRES[category]] for mood, category in zip(moods, categories)],
        }
    )
    sizes = {"num_users": num_users, "num_items": num_items, "interactions_per_user": interactions_per_user}
    raw = RawData(
        interactions=interactions,
        items=_items(truth, rng),
        rejected=no_rejected_rows(),
        interactions_file="simulated-sequences",
        rating_scale=(1.0, 5.0),
        default_threshold=3.0,
        domain="film",
        licence="Generated by rlrec; free of any third party's rights.",
        notes={"simulation": {**sizes, "seed": seed}, "moods": list(MOODS)},
    )
    return assemble("simulated-sequences", raw, threshold=threshold, label_rule=label_rule), truth


def _memberships(count: int, kinds: int, fewest: int, rng: np.random.Generator) -> np.ndarray:
    """(count, kinds) of bool: `fewest` kinds each, every other one has one more."""
    order = rng.random((count, kinds)).argsort(axis=1).argsort(axis=1)
    return order < fewest + rng.integers(0, 2, count)[:, None]


def _category_chain() -> np.ndarray:
    size = len(GENRES)
    chain = np.full((size, size), (1 - STAY - NEXT - AFTER_NEXT) / (size - 3))
    for start in range(size):
        chain[start, [start, (start + 1) % size, (start + 2) % size]] = STAY, NEXT, AFTER_NEXT
    return chain


def _mood_chain() -> np.ndarray:
    size = len(MOODS)
    return np.where(np.eye(size, dtype=bool), MOOD_STAYS, (1 - MOOD_STAYS) / (size - 1))


def _watch(truth: SequenceTruth, num_users: int, length: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Films, categories and moods of each user's sequence, (users, length) each."""
    num_items = truth.popularity.size
    chunk = max(1, 20_000_000 // num_items)  # bounds memory
    parts = [_watch_some(truth, min(chunk, num_users - k), length, rng) for k in range(0, num_users, chunk)]
    return tuple(np.concatenate(part) for part in zip(*parts))


def _watch_some(truth: SequenceTruth, num_users: int, length: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    users, weights = np.arange(num_users), np.log(truth.popularity)
    seen = np.zeros((num_users, weights.size), dtype=bool)
    category = rng.integers(len(GENRES), size=num_users)
    mood = rng.integers(len(MOODS), size=num_users)
    sequences = np.empty((3, num_users, length), dtype=np.int64)
    for step in range(length):
        if step:
            category = _move(truth.category_chain, category, rng)
            mood = _move(truth.mood_chain, mood, rng)
        # The largest of popularity in logs plus Gumbel noise is a draw in proportion to popularity.
        keys = np.where(seen, -np.inf, weights + rng.gumbel(size=seen.shape))
        fits = truth.item_categories[:, category].T & truth.item_moods[:, mood].T & ~seen
        stuck = ~fits.any(axis=1)
        film = np.where(fits | stuck[:, None], keys, -np.inf).argmax(axis=1)
        # Who has seen all that fits watches any other film, and is where it takes them.
        category = np.where(stuck, _any_of(truth.item_categories[film], rng), category)
        mood = np.where(stuck, _any_of(truth.item_moods[film], rng), mood)
        seen[users, film] = True
        sequences[:, :, step] = film, category, mood
    return tuple(sequences)


def _move(chain: np.ndarray, states: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The next state of each (N,), drawn from the chain's row."""
    edges = chain.cumsum(axis=1)[states, :-1]
    return (rng.random(states.size)[:, None] >= edges).sum(axis=1)


def _any_of(memberships: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One of each row's true columns: (N, K) of bool -> (N,)."""
    return np.where(memberships, rng.random(memberships.shape), -1.0).argmax(axis=1)


def _times(counts: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """(users, length) seconds, rising by at least one; the first `counts` fill the time from the user's begin on."""
    gaps = rng.exponential(size=(counts.size, length)).cumsum(axis=1)
    begin = rng.uniform(0.0, 0.8, counts.size)[:, None]
    last = gaps[np.arange(counts.size), counts - 1][:, None] + rng.exponential(size=(counts.size, 1))
    share = begin + (1 - begin) * gaps / last
    return START + (share * SECONDS).astype(np.int64) + np.arange(length)


def _items(truth: SequenceTruth, rng: np.random.Generator) -> pl.DataFrame:
    num_items = truth.popularity.size
    years, rows = rng.integers(1950, 2018, num_items), []
    for index, (title, year) in enumerate(zip(film_titles(num_items, rng), years)):
        categories = [name for name, has in zip(GENRES, truth.item_categories[index]) if has]
        moods = [name for name, has in zip(MOODS, truth.item_moods[index]) if has]
        told = f"{', '.join(moods[:-1])} and {moods[-1]}"
        rows.append(
            {
                ITEM_ID: f"i{index + 1}",
                TITLE: f"{title} ({year})",
                CATEGORIES: categories,
                DESCRIPTION: f"A {told} {' and '.join(categories)} film of {year}.",
            }
        )
    return pl.DataFrame(rows, schema_overrides={CATEGORIES: pl.List(pl.String)})
