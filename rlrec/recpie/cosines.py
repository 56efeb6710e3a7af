"""Cosines of item embeddings over epochs (RecPIE, section 5.7.1, Figure 7): which pairs, how recorded, how summed up.

The paper picks three pairs of restaurants by hand: similar (two burger chains), related but distinct (a Chinese
restaurant and an Asian grocery), unrelated (a market and a restaurant). Here the data choose: items with the same
categories are "similar", with some in common "related", with none in common "unrelated".

Departure: the three kinds are matched on co-occurrence (how many users have both items). A sequence model brings items
together that share users, and items of one category share more of them; without matching, a rising cosine of similar
items may tell nothing about categories.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from scipy import sparse

if TYPE_CHECKING:
    import torch  # summaries of finished runs must not wait for it
    from torch import nn

from rlrec.results import write_parquet_atomic
from rlrec.tables import Table, cell

COSINES = "analyses/cosines.parquet"
KINDS = ("similar", "related", "unrelated")
SEPARATION = "similar - unrelated"
COSINE_COLUMNS = ("model", "epoch", "first", "second", "kind", "cosine")


def choose_pairs(
    interactions: pl.DataFrame, items: pl.DataFrame, per_kind: int = 100, candidates: int = 200, seed: int = 0
) -> pl.DataFrame:
    """Item pairs of every kind, equally often co-occurring, drawn by `seed`.

    Args:
        interactions: user_id, item_id; of the training split, where cosines are to be learned from it.
        items: item_id, categories (list of strings).
        per_kind: at most so many pairs of each kind; fewer where matching leaves fewer.
        candidates: the most frequent items with categories, among which pairs are sought.

    Returns:
        Columns first, second, kind and users (how many have both), as many rows of each kind.

    Raises:
        ValueError: no two kinds can be matched, because all categories are equal or all differ.
    """
    counts = (
        interactions.unique(["user_id", "item_id"])
        .group_by("item_id")
        .len()
        .sort(["len", "item_id"], descending=[True, False])
    )
    described = items.select("item_id", pl.col("categories").list.unique().list.sort()).unique("item_id")
    chosen = counts.join(described, on="item_id", maintain_order="left").filter(pl.col("categories").list.len() > 0)
    names = chosen["item_id"].head(candidates).to_list()
    sets = [set(categories) for categories in chosen["categories"].head(candidates)]
    together = _co_occurrence(interactions, names)
    rng = np.random.default_rng(seed)
    first, second = np.triu_indices(len(names), k=1)
    kinds = [
        KINDS[0] if sets[a] == sets[b] else KINDS[1] if sets[a] & sets[b] else KINDS[2] for a, b in zip(first, second)
    ]
    pairs = pl.DataFrame(
        {
            "first": [names[a] for a in first],
            "second": [names[b] for b in second],
            "kind": kinds,
            "users": together[first, second],
        },
        schema_overrides={"kind": pl.String, "first": pl.String, "second": pl.String},
    )[rng.permutation(len(first))]
    present = [kind for kind in KINDS if kind in kinds]
    if not {KINDS[0], KINDS[2]} <= set(present):
        raise ValueError(
            f"Among the {len(names)} most frequent items there are only {' and '.join(present) or 'no'} pairs; "
            "similar and unrelated ones are needed, so categories must differ and repeat."
        )
    # Counts within about 10 % of one another are one level; the n-th pairs of each kind of a level belong together.
    level = (pl.col("users").log1p() / np.log(1.1)).round()
    pairs = pairs.with_columns(level=level).with_columns(turn=pl.int_range(pl.len()).over("kind", "level"))
    matched = pairs.filter(pl.col("kind").n_unique().over("level", "turn") == len(present))
    if matched.is_empty():
        raise ValueError("No pairs of different kinds are equally frequent; raise `candidates`.")
    groups = matched.select("level", "turn").unique(maintain_order=True).head(per_kind)
    order = pl.col("kind").replace_strict(list(KINDS), range(len(KINDS)))
    drawn = matched.join(groups, on=["level", "turn"], how="semi", maintain_order="left").sort(
        order, maintain_order=True
    )
    return drawn.select("first", "second", "kind", "users")


def _co_occurrence(interactions: pl.DataFrame, names: Sequence[str]) -> np.ndarray:
    """How many users have both of two items: (len(names), len(names))."""
    places = {name: place for place, name in enumerate(names)}
    kept = interactions.filter(pl.col("item_id").is_in(names)).unique(["user_id", "item_id"])
    users = kept["user_id"].rank("dense").to_numpy().astype(int) - 1
    columns = np.array([places[item] for item in kept["item_id"]], dtype=int)
    matrix = sparse.csr_matrix((np.ones(len(kept)), (users, columns)), shape=(len(kept), len(names)))
    return (matrix.T @ matrix).toarray().astype(int)


def item_vectors(model: nn.Module) -> torch.Tensor:
    """The item embeddings (num_items, d) of a sequence model (`item_table`) or of RecPIE's recommenders."""
    table = model.item_table if hasattr(model, "item_table") else model.inputs.product_table
    return table.weight.detach()


class CosineRecorder:
    """Records cosines of item pairs while models are fitted; `frame` is what analyses/cosines.parquet holds.

    Args:
        pairs: columns first, second and kind, such as `choose_pairs` gives.
        items: `vocabulary.items` of the models; their n-th item has row n + 1.

    >>> import torch
    >>> recorder = CosineRecorder(pl.DataFrame({"first": ["a"], "second": ["b"], "kind": ["similar"]}), ["a", "b"])
    >>> model = torch.nn.Module()
    >>> model.item_table = torch.nn.Embedding.from_pretrained(torch.tensor([[0.0, 0.0], [3.0, 4.0], [4.0, 3.0]]))
    >>> recorder.on_epoch("SASRec")(0, model)  # before fit(..., on_epoch=recorder.on_epoch("SASRec"))
    >>> recorder.frame().row(0)
    ('SASRec', 0, 'a', 'b', 'similar', 0.96...)
    """

    def __init__(self, pairs: pl.DataFrame, items: Sequence[str]):
        places = {item: place for place, item in enumerate(items, start=1)}
        unknown = [item for item in pl.concat([pairs["first"], pairs["second"]]) if item not in places]
        if unknown:
            raise ValueError(f"Item {unknown[0]!r} of the pairs is not in the vocabulary; choose pairs of its items.")
        self.pairs = pairs.select("first", "second", "kind")
        self.rows = np.array([[places[a], places[b]] for a, b, _ in self.pairs.iter_rows()])
        self.frames: list[pl.DataFrame] = []

    def on_epoch(self, model_name: str, offset: int = 0) -> Callable[[int, nn.Module], None]:
        """A callback (epoch, model) for `fit`; `offset` is added to the epochs of later rounds."""

        def record(epoch: int, model: nn.Module) -> None:
            vectors = item_vectors(model).double().cpu().numpy()[self.rows]  # (pairs, 2, d)
            norms = np.linalg.norm(vectors, axis=-1)
            cosines = vectors.prod(axis=1).sum(axis=-1) / np.maximum(norms.prod(axis=-1), 1e-12)
            line = self.pairs.with_columns(
                model=pl.lit(model_name), epoch=pl.lit(epoch + offset), cosine=pl.Series(cosines)
            )
            self.frames.append(line.select(COSINE_COLUMNS))

        return record

    def frame(self) -> pl.DataFrame:
        """Columns model, epoch, first, second, kind, cosine."""
        if not self.frames:
            raise ValueError("No epoch was recorded; give `recorder.on_epoch(name)` to fit.")
        return pl.concat(self.frames)


def write_cosines(run_dir: str | Path, frame: pl.DataFrame) -> Path:
    """Write `run_dir`/analyses/cosines.parquet; `frame` as `CosineRecorder.frame` gives it."""
    missing = [column for column in COSINE_COLUMNS if column not in frame.columns]
    if missing:
        raise ValueError(f"Cosines have no column {missing}; give the frame of a CosineRecorder.")
    return write_parquet_atomic(Path(run_dir) / COSINES, frame.select(COSINE_COLUMNS))


def cosine_summary(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Mean cosine per model, kind and epoch over pairs, from cosines.parquet of one or several runs.

    Returns:
        Columns model, kind, epoch, mean, standard_error (over pairs), pairs; kinds also hold "similar - unrelated",
        the difference of the two means: single cosines depend on how a model spreads its table, this much less.
    """
    keys = ["model", "kind", "epoch"]
    # A pair recorded in several runs is one pair.
    pairs = pl.concat(frames).group_by([*keys, "first", "second"], maintain_order=True).agg(pl.col("cosine").mean())
    summary = pairs.group_by(keys, maintain_order=True).agg(
        mean=pl.col("cosine").mean(),
        standard_error=pl.when(pl.len() > 1).then(pl.col("cosine").std() / pl.len().sqrt()),
        pairs=pl.len().cast(pl.Int64),
    )
    first, last = (summary.filter(pl.col("kind") == kind) for kind in (KINDS[0], KINDS[2]))
    both = first.join(last, on=["model", "epoch"], suffix="_last", maintain_order="left").select(
        "model",
        pl.lit(SEPARATION).alias("kind"),
        "epoch",
        mean=pl.col("mean") - pl.col("mean_last"),
        standard_error=(pl.col("standard_error") ** 2 + pl.col("standard_error_last") ** 2).sqrt(),
        pairs=pl.min_horizontal("pairs", "pairs_last"),
    )
    return pl.concat([summary, both])


def cosine_tables(summary: pl.DataFrame) -> dict[str, Table]:
    """{title: table}: models and kinds x some epochs, mean +- standard error over pairs."""
    epochs = sorted(summary["epoch"].unique())
    shown = [epoch for epoch in epochs if epoch in (epochs[0], 1, 2, 5, 10, 20, 50, 100, 200, epochs[-1])]
    values = {(line["model"], line["kind"], line["epoch"]): line for line in summary.iter_rows(named=True)}
    body = []
    for model in summary["model"].unique(maintain_order=True):
        for kind in summary["kind"].unique(maintain_order=True):
            lines = [values.get((model, kind, epoch)) for epoch in shown]
            cells = [cell(line["mean"], line["standard_error"], 2) if line else "–" for line in lines]
            body.append([f"{model}, {kind}", *cells])
    header = ["model and pairs", *(f"epoch {epoch}" for epoch in shown)]
    return {"Cosine of item pairs over epochs (Figure 7)": (header, body)}
