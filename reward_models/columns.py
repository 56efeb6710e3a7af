"""What TRL hands to a reward function, in the shape our rewards want it."""

from collections.abc import Mapping, Sequence

import polars as pl
import torch

from rlrec.recommenders.base import Batch, Recommender, Vocabulary
from rlrec.recommenders.fitting import CrossFit

BASELINES = ("none", "without_explanation", "stored")  # what a reward may be compared with


def completion_texts(completions: Sequence[str | Sequence[Mapping]]) -> list[str]:
    """Plain completions as they are, of conversational ones the last message's content.

    >>> completion_texts(["Yes", [{"role": "assistant", "content": "No"}]])
    ['Yes', 'No']
    """
    return [completion if isinstance(completion, str) else completion[-1]["content"] for completion in completions]


def rows_of(columns: Mapping[str, object], count: int) -> list[dict]:
    """Dataset columns (lists of `count` values) -> one dict per completion; what is no column is left out.

    >>> rows_of({"title": ["Heat", "Antz"], "trainer_state": None}, 2)
    [{'title': 'Heat'}, {'title': 'Antz'}]
    """
    lists = {name: values for name, values in columns.items() if isinstance(values, list) and len(values) == count}
    return [{name: values[i] for name, values in lists.items()} for i in range(count)]


def as_rows(rows: Sequence[Mapping] | pl.DataFrame) -> Sequence[Mapping]:
    """The rows of a samples frame as dicts; a list of dicts stays as it is."""
    return rows.to_dicts() if isinstance(rows, pl.DataFrame) else rows


def log_mean(log_metric, name: str, values: Sequence[float]) -> None:
    """Logs the mean of `values` where there are any and the trainer offers TRL's `log_metric`."""
    if log_metric is not None and len(values):
        log_metric(name, float(sum(values) / len(values)))


def check_baseline(baseline: str, store) -> None:
    """Raises ValueError for an unknown baseline, or "stored" without a store of explanations."""
    if baseline not in BASELINES:
        raise ValueError(f"baseline is {baseline!r}, but must be one of {', '.join(BASELINES)}.")
    if baseline == "stored" and store is None:
        raise ValueError('baseline="stored" needs the explanation store: pass store=...')


def samples_of(columns: Mapping[str, Sequence], vocabulary: Vocabulary, reward: str) -> pl.DataFrame:
    """The dataset columns that `vocabulary` reads, as a samples frame.

    Raises:
        ValueError: one is missing; the message names `reward`.
    """
    strings = pl.List(pl.String)
    schema = {"user_id": pl.String, "item_id": pl.String}
    schema |= ({"categories": strings} if vocabulary.categories else {}) | (
        {"history": strings} if vocabulary.history else {}
    )
    schema |= dict.fromkeys(vocabulary.dense_features, pl.Float64)
    missing = [name for name in schema if name not in columns]
    if missing:
        raise ValueError(f"The {reward} reward needs the dataset columns {missing}, which the training rows lack.")
    return pl.DataFrame({name: columns[name] for name in schema}, schema=schema)


def predict(
    recommender: Recommender | CrossFit, batch: Batch, groups: Sequence[str], explanations: torch.Tensor | None
) -> torch.Tensor:
    """(N,) predictions: out of fold by `groups` from a `CrossFit`, in-sample from one recommender."""
    if isinstance(recommender, CrossFit):
        return recommender.predict(batch, groups, explanations)
    return recommender.predict(batch, explanations)
