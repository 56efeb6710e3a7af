"""The aspect-based rows of RecPIE's Table 2 that cornac has: EFM and MTER, on the samples of RecPIE's run.

Papers: Zhang et al., "Explicit Factor Models for Explainable Recommendation based on Phrase-level Sentiment Analysis"
(SIGIR 2014); Wang et al., "Explainable Recommendation via Multi-Task Learning in Opinionated Text Data" (MTER, SIGIR
2018). RecPIE, section 5.2, lists MTER beside A3NCF, SULM, AARM, MMALFM and ANR, which cornac does not have, and gives
Le and Lauw (2021) as its source, whose own model (ComparER) builds on EFM and MTER. EFM is our addition.

Both learn from ratings and from triples (aspect, opinion, polarity) of the training reviews. Where triples come from:

1. The simulated world: a rating's known reasons, "+suspense" and "-romance". So these rows know more than any that
   reads ratings alone: as much as if they understood every review.
2. Datasets with reviews (amazon, yelp, tripadvisor, google-local): from parses the opinions of Double Propagation that
   stand in a direct relation to their aspects; without a parser, words beside opinion words, a rough stand-in
   (`rlrec.evaluation.window`).
3. A review's triples all have the polarity of its rating (label 1: positive), because Double Propagation assigns none.
   cornac's papers take it from a lexicon.
4. Other datasets, such as MovieLens, have no such rows.

Departures: settings are chosen by the RMSE on the validation samples (`GRID`: four for each row); a user or item
without training ratings gets cornac's default, the mean training rating; predictions are clipped to the ratings seen.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from rlrec.baselines.tuning import TableRow
from rlrec.evaluation.aspects import SEED_OPINIONS, double_propagation, opinion_pairs
from rlrec.evaluation.parses import parse_with_spacy, read_conllu
from rlrec.evaluation.ratings import rating_metrics
from rlrec.evaluation.reasons import split_reason
from rlrec.evaluation.window import window_pairs, window_terms

ROWS = ("efm", "mter")
GRID = {
    "efm": [
        {"num_explicit_factors": factors, "num_latent_factors": factors, "lambda_x": weight, "lambda_y": weight}
        for factors in (8, 32)
        for weight in (0.1, 1.0)
    ],
    "mter": [{"lambda_bpr": weight, "lr": rate} for weight in (1.0, 10.0) for rate in (0.05, 0.1)],
}
# cornac's defaults (15, 15, 12, 12; 1,000 comparisons in each of 200,000 steps) take an hour for 12,000 ratings.
MTER_SIZES = {
    "n_user_factors": 8,
    "n_item_factors": 8,
    "n_aspect_factors": 6,
    "n_opinion_factors": 6,
    "n_bpr_samples": 100,
}
FIXED = {"efm": {"max_iter": 100}, "mter": MTER_SIZES | {"max_iter": 20_000}}
POSITIVE, NEGATIVE = "like", "dislike"  # the opinion words of known reasons

Triple = tuple[str, str, float]


def opinion_triples(
    training: pl.DataFrame,
    *,
    conllu: str | Path | None = None,
    spacy_model: str | Path | None = None,
    opinions: Iterable[str] = SEED_OPINIONS,
) -> list[list[Triple]]:
    """(aspect, opinion, 1 or -1) of each training sample, from its known reasons or its review (see above).

    Args:
        training: user_id, item_id, label, and `reasons` or `review`.
        conllu: parses of the reviews, documents named "<user_id>/<item_id>" (as for Coverage, `rlrec.quality`).
        spacy_model: folder of a spaCy pipeline that parses them; without either, words beside opinion words.

    Raises:
        ValueError: samples without reasons and reviews, or in which no opinion on an aspect is found.

    >>> opinion_triples(pl.DataFrame({"label": [1], "reasons": [["+suspense", "-romance"]]}))
    [[('suspense', 'like', 1.0), ('romance', 'dislike', -1.0)]]
    """
    if "reasons" in training.columns:
        signed = [[split_reason(reason) for reason in reasons or ()] for reasons in training["reasons"].to_list()]
        triples = [
            [(aspect, POSITIVE if up else NEGATIVE, 1.0 if up else -1.0) for aspect, up in row] for row in signed
        ]
    elif not has_opinions(training):
        raise ValueError(
            "Aspect-based rows learn from opinions in reviews, and this dataset has none: make them on one with "
            "reviews (amazon, yelp, tripadvisor, google-local) or on the simulated world, whose reasons are known."
        )
    else:
        pairs = _review_pairs(training, conllu, spacy_model, frozenset(opinions))
        polarities = (2.0 * training["label"] - 1.0).to_list()
        triples = [[(*pair, polarity) for pair in of_row] for of_row, polarity in zip(pairs, polarities)]
    if not any(triples):
        raise ValueError(
            f"No opinion on an aspect was found in {len(triples)} training samples; give parses or another lexicon."
        )
    return triples


def has_opinions(samples: pl.DataFrame) -> bool:
    """Whether samples have known reasons or reviews, from which `opinion_triples` come."""
    return "reasons" in samples.columns or ("review" in samples.columns and samples["review"].count() > 0)


def aspect_row(
    row: str,
    samples: pl.DataFrame,
    triples: Sequence[Sequence[Triple]],
    *,
    rating_scale: tuple[float, float],
    seed: int = 0,
    grid: Mapping[str, Sequence[Mapping]] = GRID,
) -> TableRow:
    """Choose a row's settings on the validation samples, and predict the test samples with that fit.

    Args:
        row: one of `ROWS`.
        samples: of RecPIE's run, all splits: split, user_id, item_id, rating, target, label.
        triples: of the training samples, in their order (`opinion_triples`).
        rating_scale: lowest and highest rating.

    Returns:
        metrics as of RecPIE's rows (`rating_metrics`), predictions (N test samples,) scaled to [0, 1], the settings.

    Raises:
        ValueError: an unknown row, no validation samples, or another number of triples than of training samples.
        ImportError: without cornac.
    """
    if row not in ROWS:
        raise ValueError(f"There is no aspect-based row {row!r}; use one of {', '.join(ROWS)}.")
    parts = {split: samples.filter(pl.col("split") == split) for split in ("train", "validation", "test")}
    if not len(parts["validation"]):
        raise ValueError("Settings are chosen on validation samples, and there are none.")
    if len(triples) != len(parts["train"]):
        raise ValueError(f"There are {len(triples)} lists of triples for {len(parts['train'])} training samples.")
    low, high = rating_scale
    tried, best = [], None
    for setting in grid[row]:
        predicted = _fit_and_predict(row, setting, parts, triples, high, seed)
        scaled = {split: (values - low) / (high - low) for split, values in predicted.items()}
        rmse = float(np.sqrt(np.mean((scaled["validation"] - parts["validation"]["target"].to_numpy()) ** 2)))
        if best is None or rmse < min(one["rmse"] for one in tried):
            best = scaled["test"], setting
        tried.append({**setting, "rmse": rmse})
    predictions, chosen = best
    metrics = rating_metrics(parts["test"]["target"], predictions, parts["test"]["label"].to_numpy(), high - low)
    return TableRow(metrics, predictions, {"grid": tried, "chosen": dict(chosen)})


def _review_pairs(
    training: pl.DataFrame, conllu: str | Path | None, spacy_model: str | Path | None, opinions: frozenset[str]
) -> list[list[tuple[str, str]]]:
    """(aspect, opinion word) of each row's review."""
    reviews = training["review"].to_list()
    if conllu is None and spacy_model is None:
        terms = window_terms(reviews, opinions)
        return [window_pairs(text, named, opinions) if named else [] for text, named in zip(reviews, terms)]
    keys = [f"{user}/{item}" for user, item in training.select("user_id", "item_id").iter_rows()]
    if conllu is not None:
        documents = read_conllu(conllu)
    else:
        texts = {key: text for key, text in zip(keys, reviews) if text and text.strip()}
        documents = dict(zip(texts, parse_with_spacy(list(texts.values()), spacy_model)))
    of_rows = [documents[key] for key in keys if key in documents]  # the test reviews of the file are not looked at
    found = double_propagation(of_rows, opinions)
    return [opinion_pairs(documents[key], found) if key in documents else [] for key in keys]


def _fit_and_predict(
    row: str, setting: Mapping, parts: Mapping[str, pl.DataFrame], triples, highest: float, seed: int
) -> dict[str, np.ndarray]:
    """Ratings in stars of the validation and the test samples."""
    try:
        from cornac.data import Dataset, SentimentModality
        from cornac.models import EFM, MTER
    except ImportError as error:
        raise ImportError("EFM and MTER need the package `cornac`: pip install 'rlrec[baselines]'.") from error

    pairs = list(parts["train"].select("user_id", "item_id", "rating").iter_rows())
    train = Dataset.from_uir(pairs, seed=seed)
    said = [(user, item, list(of_row)) for (user, item, _), of_row in zip(pairs, triples)]  # MTER rates no others
    sentiment = SentimentModality(data=said).build(train.uid_map, train.iid_map, train.dok_matrix)
    train.add_modalities(sentiment=sentiment)
    kind = {"efm": EFM, "mter": MTER}[row]
    model = kind(rating_scale=highest, seed=seed, verbose=False, **FIXED[row], **setting)
    model.fit(train)

    def rate(user: str, item: str) -> float:
        return model.rate(train.uid_map.get(user, train.num_users), train.iid_map.get(item, train.num_items))

    return {
        split: np.array([rate(*keys) for keys in parts[split].select("user_id", "item_id").iter_rows()], dtype=float)
        for split in ("validation", "test")
    }
