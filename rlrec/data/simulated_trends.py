"""A simulated world of films whose popularity over time follows known rules.

Time runs over 30 windows of 30 days from 2018-01-01. How many users a film has in a window is a Poisson number (who
comes again counts once) around

    audience x quality x season x (tail + studio's push x launch curve) x burst

What a forecaster can learn, and from what:

1. Season. Each category has its month (`FILM_CATEGORIES`), every year: horror in October has about ten times the users
   it has in spring. The month of the window and the categories tell it; so does the history twelve windows ago.
2. Launch. A film has no users before its release and most of them soon after it. How many windows the rise takes and
   how fast interest fades belong to the category: horror opens high and is soon gone, history films grow by word of
   mouth and last. A quarter of the films were released before the first window.
3. Push. Films of the larger studios open higher (`STUDIOS`); later quality decides.
4. Burst. In about every eighth window a film has several times its users, for this one window. Nothing announces a
   burst and nothing of it stays: last window's most popular films are in part those whose burst is over.
5. Quality is constant over time, and stands nowhere but in the history.

A film of two categories has two audiences, each with its category's season and launch curve. The audience as a whole
grows, which concerns all films alike. Users differ in how much they watch and in which categories.

The description says what is known before anybody has seen the film: its categories, its studio, the months of its
categories and the month of release. All of it is true at any time, so films released in the window to be forecast
(cold ones) can be told from those still to come. Titles reveal nothing but the year of release.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import numpy as np
import polars as pl

from rlrec.data.schema import (
    CATEGORIES,
    DESCRIPTION,
    ITEM_ID,
    RATING,
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

__all__ = ["FILM_CATEGORIES", "STUDIOS", "WINDOWS", "Trends", "simulate_trends", "simulate_trends_with_truth"]

START = datetime(2018, 1, 1, tzinfo=timezone.utc)
WINDOW_DAYS, WINDOWS = 30, 30
EARLIER_WINDOWS = 10  # in which films were released before the first window
WINDOW_SECONDS = WINDOW_DAYS * 86_400
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


@dataclass(frozen=True)
class FilmCategory:
    """A category's month (1 to 12), windows from release to peak, and share of interest lost per window after it."""

    month: int
    rise: int
    fade: float


FILM_CATEGORIES = {
    "romance": FilmCategory(month=2, rise=0, fade=0.35),
    "comedy": FilmCategory(month=4, rise=1, fade=0.4),
    "sport": FilmCategory(month=6, rise=0, fade=0.5),
    "adventure": FilmCategory(month=7, rise=1, fade=0.3),
    "crime": FilmCategory(month=9, rise=2, fade=0.25),
    "horror": FilmCategory(month=10, rise=0, fade=0.6),
    "history": FilmCategory(month=1, rise=3, fade=0.15),
    "family": FilmCategory(month=12, rise=2, fade=0.2),
}
# A studio's push, in multiples of quality at the height of the launch.
STUDIOS = {"Meridian": 10.0, "Lanternworks": 5.0, "Ashgrove": 2.5, "Tidewater": 1.2, "Paperboat": 0.6}

SEASON_STRENGTH = 2.4  # log of the peak over the rest of the year
SEASON_WIDTH = 1.0  # months, standard deviation
QUALITY_SPREAD = 1.0  # standard deviation of the log
TAIL = 0.4  # of a launch of push 1
AUDIENCE_GROWTH = 5.0  # last window over first
REPEATS = 1.09  # visits over interactions: a user counts once per film and window
BURST_CHANCE, BURST_SIZE = 0.12, (2.5, 6.0)


@dataclass(frozen=True)
class Trends:
    """What made the popularity, for oracles and tests. Rows of items are "i1", "i2", ...; windows count from 0.

    Attributes:
        expected: (items, windows) visits that are to be expected knowing all but bursts and chance.
        bursts: (items, windows) factor, 1 where there is no burst.
        release: (items,) window of the release; negative before the first window.
        quality: (items,) its logarithm 0 on the average.
        season: (categories, windows) factor, its logarithm 0 on a year's average.
    """

    expected: np.ndarray
    bursts: np.ndarray
    release: np.ndarray
    quality: np.ndarray
    season: np.ndarray


def simulate_trends(
    num_users: int = 1000,
    num_items: int = 300,
    interactions_per_user: int = 30,
    seed: int = 0,
    threshold: float | None = None,
    label_rule: str = "gt",
) -> PreparedDataset:
    """Generate a world of 30 windows of 30 days; the same arguments always give the same one.

    Args:
        num_users: users "u1", "u2", ...; some watch much more than others, those who watch nothing are left out.
        num_items: films "i1", "i2", ...; those nobody ever watches are left out.
        interactions_per_user: users' films over all windows, on the average; about so many come out.
        seed: of everything random.
        threshold: for the label; the default is 3, so "positive" is 4 or 5 stars.
        label_rule: "gt" or "ge".

    Raises:
        DataError: a size is below one, or too small for the first and the last window to have an interaction.

    >>> world = simulate_trends(num_users=100, num_items=40, interactions_per_user=20)
    >>> world.metadata["name"], world.metadata["domain"], world.metadata["simulation"]["windows"]
    ('simulated-trends', 'film', 30)
    """
    return simulate_trends_with_truth(num_users, num_items, interactions_per_user, seed, threshold, label_rule)[0]


def simulate_trends_with_truth(
    num_users: int = 1000,
    num_items: int = 300,
    interactions_per_user: int = 30,
    seed: int = 0,
    threshold: float | None = None,
    label_rule: str = "gt",
) -> tuple[PreparedDataset, Trends]:
    """`simulate_trends` together with the hidden quantities behind the popularity."""
    if min(num_users, num_items, interactions_per_user) < 1:
        raise DataError("The simulated world needs at least one user, one film and one rating per user.")
    rng = np.random.default_rng(seed)
    shares = _category_shares(num_items, rng)
    # Releases are spread evenly over ten windows before the first and all thirty, and studios evenly over releases.
    place = rng.permutation(num_items)
    release = place * (EARLIER_WINDOWS + WINDOWS) // num_items - EARLIER_WINDOWS
    studios = (place + rng.integers(len(STUDIOS))) % len(STUDIOS)
    quality = np.exp(rng.normal(0.0, QUALITY_SPREAD, num_items))
    season = _season()
    audience = np.linspace(1.0, AUDIENCE_GROWTH, WINDOWS)
    by_category = shares[:, :, None] * quality[:, None, None] * season * _interest(release, studios) * audience
    burst = rng.random((num_items, WINDOWS)) < BURST_CHANCE
    bursts = np.where(burst, rng.uniform(*BURST_SIZE, burst.shape), 1.0)
    scale = REPEATS * num_users * interactions_per_user / (by_category.sum(axis=1) * bursts).sum()
    by_category *= scale  # (items, categories, windows) visits to expect without a burst

    users, items, windows, likings = _visits(by_category * bursts[:, None], num_users, rng)
    counts = np.bincount(windows, minlength=WINDOWS)
    if not counts[0] or not counts[-1]:
        raise DataError(
            f"{num_users} users with {interactions_per_user} films each leave the first or the last of {WINDOWS} "
            "windows empty; ask for more users or more interactions per user."
        )
    times = windows * WINDOW_SECONDS + rng.integers(WINDOW_SECONDS, size=windows.size)
    # The data fill their windows, so whoever counts from the first interaction's day finds the same ones.
    times[times.argmin()], times[times.argmax()] = 0, WINDOWS * WINDOW_SECONDS - 1
    opinion = 2.9 + 0.5 * np.log(quality)[items] + 0.5 * likings + rng.normal(0.0, 0.8, items.size)
    interactions = pl.DataFrame(
        {
            USER_ID: np.char.add("u", (users + 1).astype(str)),
            ITEM_ID: np.char.add("i", (items + 1).astype(str)),
            RATING: np.clip(np.rint(opinion), 1, 5),
            TIMESTAMP: int(START.timestamp()) + times,
        }
    )
    raw = RawData(
        interactions=interactions,
        items=_items(shares > 0, studios, release, rng),
        rejected=no_rejected_rows(),
        interactions_file="simulated-trends",
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
                "windows": WINDOWS,
                "window_days": WINDOW_DAYS,
            },
        },
    )
    prepared = assemble("simulated-trends", raw, threshold=threshold, label_rule=label_rule)
    return prepared, Trends(by_category.sum(axis=1), bursts, release, quality, season)


def _category_shares(num_items: int, rng: np.random.Generator) -> np.ndarray:
    """(items, categories): 1 at the one category of two films in three, 0.5 at both of the rest."""
    count = len(FILM_CATEGORIES)
    first = rng.permutation(np.arange(num_items) % count)
    second = (first + rng.integers(1, count, num_items)) % count
    two = rng.random(num_items) < 1 / 3
    shares = np.zeros((num_items, count))
    shares[np.arange(num_items), first] = np.where(two, 0.5, 1.0)
    shares[np.flatnonzero(two), second[two]] = 0.5
    return shares


def _season() -> np.ndarray:
    """(categories, windows): a bell of `SEASON_WIDTH` around the category's month, at the middle of the window."""
    middles = [START + timedelta(days=WINDOW_DAYS * (window + 0.5)) for window in range(WINDOWS)]
    month_of = np.array([middle.timetuple().tm_yday / 365.25 * 12 for middle in middles])  # 0 is new year
    year = np.arange(0, 12, 0.01)
    months = np.array([category.month - 0.5 for category in FILM_CATEGORIES.values()])

    def bell(month: np.ndarray) -> np.ndarray:
        away = np.abs(month[None] - months[:, None])
        return np.exp(-0.5 * (np.minimum(away, 12 - away) / SEASON_WIDTH) ** 2)

    return np.exp(SEASON_STRENGTH * (bell(month_of) - bell(year).mean(axis=1, keepdims=True)))


def _interest(release: np.ndarray, studios: np.ndarray) -> np.ndarray:
    """(items, categories, windows): tail + push x launch curve from the release on, 0 before it."""
    age = np.arange(WINDOWS) - release[:, None, None]  # (items, 1, windows)
    rise = np.array([category.rise for category in FILM_CATEGORIES.values()])[:, None]
    stay = 1 - np.array([category.fade for category in FILM_CATEGORIES.values()])[:, None]
    curve = np.where(age < rise, (age + 1) / (rise + 1), stay ** np.maximum(age - rise, 0))
    push = np.array(list(STUDIOS.values()))[studios][:, None, None]
    return np.where(age >= 0, TAIL + push * curve, 0.0)


def _visits(expected: np.ndarray, num_users: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Users, items and windows of the interactions, and how much each user likes the category they came for.

    Args:
        expected: (items, categories, windows) of the Poisson counts. A user is drawn for each by activity and taste.
    """
    items, categories, windows = np.nonzero(counts := rng.poisson(expected))
    repeats = counts[items, categories, windows]
    items, categories, windows = (np.repeat(index, repeats) for index in (items, categories, windows))
    likings = rng.normal(0.0, 0.8, (len(FILM_CATEGORIES), num_users))
    chances = np.exp(likings + rng.normal(0.0, 0.5, num_users)).cumsum(axis=1)
    users = np.empty_like(items)
    for category, chance in enumerate(chances):
        here = categories == category
        users[here] = np.searchsorted(chance, rng.random(here.sum()) * chance[-1], side="right")
    visits = np.column_stack([windows, items, users])
    _, once = np.unique(visits @ [num_users * expected.shape[0], num_users, 1], return_index=True)
    windows, items, users = visits[once].T
    return users, items, windows, likings[categories[once], users]


def _items(has: np.ndarray, studios: np.ndarray, release: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    titles, names, rows = film_titles(len(has), rng), list(STUDIOS), []
    for index, title in enumerate(titles):
        categories = [name for name, yes in zip(FILM_CATEGORIES, has[index]) if yes]
        months = " and ".join(MONTHS[FILM_CATEGORIES[name].month - 1] for name in categories)
        day = START + timedelta(days=int(release[index]) * WINDOW_DAYS)
        article = "An" if categories[0][0] in "aeiou" else "A"
        rows.append(
            {
                ITEM_ID: f"i{index + 1}",
                TITLE: f"{title} ({day.year})",
                CATEGORIES: categories,
                DESCRIPTION: f"{article} {' and '.join(categories)} film by {names[studios[index]]}, most watched in "
                f"{months}, released in {MONTHS[day.month - 1]} {day.year}.",
            }
        )
    return pl.DataFrame(rows, schema_overrides={CATEGORIES: pl.List(pl.String)})
