"""A simulated world of film fans whose reasons are known.

Each user likes three and dislikes three of eight aspects; each film has one or two. A rating follows from the match
of the two, and by default also from the user's generosity and the film's quality, as in real data. With `bias=False`
only the match counts: then neither a user's like-rate nor a film's mean rating says anything about a single rating
(both AUC 0.5), and any better prediction comes from reasoning over aspects.

The true reasons of a rating stand in the column `reasons`: the film's aspects the user likes ("+suspense") or
dislikes ("-romance"). Titles are drawn apart from everything else and reveal nothing.
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
    REVIEW,
    TIMESTAMP,
    TITLE,
    USER_ID,
    DataError,
    PreparedDataset,
    RawData,
    assemble,
    no_rejected_rows,
)

ASPECTS = ("suspense", "romance", "humour", "war", "music", "crime", "magic", "space")
LIKED_ASPECTS = DISLIKED_ASPECTS = 3


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Words that belong to no aspect above.
_ADJECTIVES = _words(
    """Silent Hidden Golden Distant Broken Quiet Narrow Amber Crimson Hollow Lonely Gentle Frozen Painted
    Wandering Forgotten Northern Southern Wooden Silver Emerald Restless Patient Curious Empty Early Late Long Bright
    Pale Open Second Last First Tall Winding Drowsy Copper Marble Velvet Woven Slow Windy Plain Sunken Floating Faded
    Borrowed"""
)
_NOUNS = _words(
    """Harbour Garden Bridge Window Orchard Letter River Lantern Mirror Valley Staircase Island Meadow Clock
    Kitchen Portrait Station Coast Feather Ladder Market Map Road Shore Table Tower Village Wall Well Winter Summer
    Autumn
    Morning Afternoon Corridor Courtyard Ferry Field Forest Fountain Gate Glacier Hill House Journey Key Lake Library
    Lighthouse Mill Mountain Notebook Ocean Paddle Path Pond Rain Roof Stone Street Umbrella Vineyard Workshop
    Journal"""
)
_PLACES = _words(
    """Lisbon Bergen Cork Turin Ghent Kyoto Oaxaca Quito Tartu Leeds Nantes Porto Basel Perth Hobart Lima Dakar
    Split Cusco Graz Lyon Malmo Odense Bath Derry Fargo Tampa Tulsa Boise Nairobi Accra Hanoi Busan Cebu Pune Izmir
    Varna
    Brno Lodz Arles Siena Evora Ronda Delft Bruges Aspen Banff Regina"""
)
_PEOPLE = _words(
    """Ada Bruno Clara Dmitri Elena Felix Greta Hugo Ines Jonas Karin Leo Mira Nils Olga Pavel Rosa Simon Tilda
    Umberto Vera Walter Xenia Yusuf Zora Anton Beatrix Carlos Dora Emil Flora Gustav Helga Igor Judith Klara Lars Marta
    Nadia Oscar Petra Rolf Silvia Theo Ursula Viktor Wanda Yvonne"""
)

_PRAISE = ("the {} won me over", "I loved the {}", "the {} was just right for me")
_COMPLAINT = ("the {} put me off", "I could not stand the {}", "the {} was too much for me")
_NEUTRAL = ("It left me neither warm nor cold.", "Nothing in it was really my thing.", "Not much to say about it.")
_VERDICTS = {1: "A waste of my evening.", 2: "Not for me.", 3: "It was all right.", 4: "Well worth watching."}
_VERDICTS[5] = "I would watch it again tomorrow."


@dataclass
class SimulatedTruth:
    """What made the ratings, for oracles and tests.

    Attributes:
        preferences: (users, aspects), 0 for aspects the user does not care about, else strength with sign.
        user_bias: (users,), zero without bias.
        item_aspects: (items, aspects) of bool.
        item_quality: (items,), zero without bias.
        utility: (interactions,) the noiseless score of each interaction, in the order of `interactions`.
    """

    preferences: np.ndarray
    user_bias: np.ndarray
    item_aspects: np.ndarray
    item_quality: np.ndarray
    utility: np.ndarray


def simulate(
    num_users: int = 1000,
    num_items: int = 300,
    interactions_per_user: int = 30,
    seed: int = 0,
    bias: bool = True,
    threshold: float | None = None,
    label_rule: str = "gt",
) -> PreparedDataset:
    """Generate a world; the same arguments always give the same one.

    Args:
        num_users: users "u1", "u2", ...; a multiple of 8 balances the aspects' popularity exactly.
        num_items: films "i1", "i2", ...
        interactions_per_user: ratings per user, of different films.
        seed: of everything random.
        bias: False is the harder world, without user bias and film quality.
        threshold: for the label; the default is 3, so "positive" is 4 or 5 stars, about half of all ratings.
        label_rule: "gt" or "ge".

    Raises:
        DataError: a size is below one, or more ratings per user are asked for than there are films.

    >>> world = simulate(num_users=50, num_items=40, interactions_per_user=20)
    >>> world.items["title"].n_unique(), world.metadata["domain"], world.metadata["threshold"]
    (40, 'film', 3.0)
    """
    return simulate_with_truth(num_users, num_items, interactions_per_user, seed, bias, threshold, label_rule)[0]


def simulate_with_truth(
    num_users: int = 1000,
    num_items: int = 300,
    interactions_per_user: int = 30,
    seed: int = 0,
    bias: bool = True,
    threshold: float | None = None,
    label_rule: str = "gt",
) -> tuple[PreparedDataset, SimulatedTruth]:
    """`simulate` together with the hidden quantities behind the ratings."""
    if min(num_users, num_items, interactions_per_user) < 1:
        raise DataError("The simulated world needs at least one user, one film and one rating per user.")
    if interactions_per_user > num_items:
        raise DataError(
            f"interactions_per_user is {interactions_per_user} but there are only {num_items} films; "
            "ask for fewer ratings per user or for more films."
        )
    rng = np.random.default_rng(seed)
    item_aspects = _item_aspects(num_items, rng)
    preferences = _preferences(num_users, rng)
    user_bias = rng.normal(0.0, 0.9, num_users) if bias else np.zeros(num_users)
    item_quality = rng.normal(0.0, 0.9, num_items) if bias else np.zeros(num_items)
    # Some films are seen by many; in the harder world all are seen equally often.
    popularity = rng.normal(0.0, 0.8, num_items) if bias else np.zeros(num_items)

    users = np.repeat(np.arange(num_users), interactions_per_user)
    items = _exposure(num_users, interactions_per_user, popularity, rng)
    match = np.einsum("na,na->n", preferences[users], item_aspects[items])
    utility = match + user_bias[users] + item_quality[items]
    noisy = utility + rng.normal(0.0, 0.8 if bias else 0.4, users.size)
    ratings = 1 + np.searchsorted([-1.3, -0.45, 0.0, 1.0], noisy)
    gaps = rng.integers(3_600, 30 * 86_400, (num_users, interactions_per_user))
    timestamps = 1_000_000_000 + gaps.cumsum(axis=1).ravel()

    reasons, reviews = _reasons_and_reviews(preferences[users], item_aspects[items], ratings, rng)
    interactions = pl.DataFrame(
        {
            USER_ID: np.char.add("u", (users + 1).astype(str)),
            ITEM_ID: np.char.add("i", (items + 1).astype(str)),
            RATING: ratings.astype(np.float64),
            TIMESTAMP: timestamps,
            REVIEW: reviews,
            REASONS: reasons,
            "utility": utility,
        }
    )
    raw = RawData(
        interactions=interactions.sort(USER_ID, TIMESTAMP).drop("utility"),
        items=_items(item_aspects, rng),
        rejected=no_rejected_rows(),
        interactions_file="simulated",
        rating_scale=(1.0, 5.0),
        default_threshold=3.0,
        domain="film",
        licence="Generated by rlrec; free of any third party's rights.",
        notes={
            "simulation": {
                "num_users": num_users,
                "num_items": num_items,
                "interactions_per_user": interactions_per_user,
                "seed": seed,
                "bias": bias,
            },
            "aspects": list(ASPECTS),
        },
    )
    prepared = assemble("simulated" if bias else "simulated-hard", raw, threshold=threshold, label_rule=label_rule)
    utility = interactions.sort(USER_ID, TIMESTAMP)["utility"].to_numpy()
    return prepared, SimulatedTruth(preferences, user_bias, item_aspects, item_quality, utility)


def _item_aspects(num_items: int, rng: np.random.Generator) -> np.ndarray:
    """(items, aspects) of bool: one or two aspects each, every aspect equally often up to rounding."""
    count = len(ASPECTS)
    first = rng.permutation(np.arange(num_items) % count)
    second = (first + 1 + rng.permutation(np.arange(num_items) % (count - 1))) % count
    aspects = np.zeros((num_items, count), bool)
    aspects[np.arange(num_items), first] = True
    two = rng.random(num_items) < 0.6
    aspects[np.arange(num_items)[two], second[two]] = True
    return aspects


def _preferences(num_users: int, rng: np.random.Generator) -> np.ndarray:
    """(users, aspects): strengths, each aspect liked and disliked by equally many users (Latin square, shuffled)."""
    count = len(ASPECTS)
    signs = np.zeros(count)
    signs[:LIKED_ASPECTS] = 1.0
    signs[LIKED_ASPECTS : LIKED_ASPECTS + DISLIKED_ASPECTS] = -1.0
    blocks = -(-num_users // count)
    orders = rng.permuted(np.tile(np.arange(count), (blocks, 1)), axis=1)  # (blocks, aspects)
    shifts = np.arange(count)[:, None]
    rows = signs[(orders[:, None, :] + shifts[None]) % count].reshape(-1, count)[:num_users]
    return rng.permutation(rows) * rng.uniform(0.7, 1.3, (num_users, count))


def _exposure(num_users: int, per_user: int, popularity: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(users * per_user,) item indices, without repetition per user, drawn in proportion to exp(popularity)."""
    chunk = max(1, 20_000_000 // popularity.size)  # bounds memory: Gumbel keys for so many users at once
    drawn = []
    for start in range(0, num_users, chunk):
        keys = popularity + rng.gumbel(size=(min(chunk, num_users - start), popularity.size))
        top = np.argpartition(-keys, per_user - 1, axis=1)[:, :per_user]
        drawn.append(rng.permuted(top, axis=1))
    return np.concatenate(drawn).ravel()


def _reasons_and_reviews(preferences, aspects, ratings, rng) -> tuple[list[list[str]], list[str]]:
    """Signed reasons and a review per interaction; written once per distinct case, as there are only few."""
    count = len(ASPECTS)
    signs = np.where(aspects, np.sign(preferences), 0).astype(np.int64) + 1  # 0 disliked, 1 indifferent, 2 liked
    variants = rng.integers(0, 3, ratings.size)
    codes = (signs @ (3 ** np.arange(count)) * 3 + variants) * 6 + ratings
    distinct, inverse = np.unique(codes, return_inverse=True)
    reasons, reviews = [], []
    for code in distinct:
        rest, rating = divmod(int(code), 6)
        rest, variant = divmod(rest, 3)
        case = [(name, rest // 3**k % 3 - 1) for k, name in enumerate(ASPECTS)]
        liked = [name for name, sign in case if sign > 0]
        disliked = [name for name, sign in case if sign < 0]
        reasons.append([f"+{name}" for name in liked] + [f"-{name}" for name in disliked])
        reviews.append(_review(liked, disliked, rating, variant))
    return [reasons[k] for k in inverse], [reviews[k] for k in inverse]


def _review(liked: list[str], disliked: list[str], rating: int, variant: int) -> str:
    praise = _PRAISE[variant].format(" and the ".join(liked)) if liked else ""
    complaint = _COMPLAINT[variant].format(" and the ".join(disliked)) if disliked else ""
    if praise and complaint:
        first, second = (praise, complaint) if rating > 3 else (complaint, praise)
        sentence = f"{first}, though {second}."
    elif praise or complaint:
        sentence = f"{praise or complaint}."
    else:
        sentence = _NEUTRAL[variant]
    verdict = _VERDICTS[rating]
    if (rating > 3 and disliked and not liked) or (rating < 3 and liked and not disliked):
        verdict = f"Even so: {verdict[0].lower() if rating != 5 else verdict[0]}{verdict[1:]}"
    return f"{sentence[0].upper()}{sentence[1:]} {verdict}"


def film_titles(count: int, rng: np.random.Generator) -> list[str]:
    """So many titles, all different, drawn apart from everything else.

    >>> len(set(film_titles(10_000, np.random.default_rng(0))))
    10000
    """
    titles = (
        [f"The {adjective} {noun}" for adjective in _ADJECTIVES for noun in _NOUNS]
        + [f"{noun} in {place}" for noun in _NOUNS for place in _PLACES]
        + [f"{person} and the {noun}" for person in _PEOPLE for noun in _NOUNS]
    )
    order = rng.permutation(len(titles))
    parts = (divmod(index, len(titles)) for index in range(count))
    return [f"{titles[order[position]]}{f' {part + 1}' if part else ''}" for part, position in parts]


def _items(item_aspects: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    num_items = item_aspects.shape[0]
    titles = film_titles(num_items, rng)
    years = rng.integers(1950, 2024, num_items)
    rows = []
    for index in range(num_items):
        categories = [name for name, has in zip(ASPECTS, item_aspects[index]) if has]
        rows.append(
            {
                ITEM_ID: f"i{index + 1}",
                TITLE: f"{titles[index]} ({years[index]})",
                CATEGORIES: categories,
                DESCRIPTION: f"A {years[index]} film full of {' and '.join(categories)}.",
            }
        )
    return pl.DataFrame(rows, schema_overrides={CATEGORIES: pl.List(pl.String)})
