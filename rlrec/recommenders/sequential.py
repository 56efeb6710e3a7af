"""What next-item models share: histories as tensors, scores of all items, and a fit loop with their own losses.

They read `history` (B, L), item indices oldest first with 0 for padding or unknown, as `Vocabulary` encodes it, and
know neither users nor ratings; so they are no `Recommender`s, and `fit` of `rlrec.recommenders.fitting` is not theirs.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence

import polars as pl
import torch
import torch.nn.functional as F
from torch import nn

from rlrec.recommenders.base import SavedModel, padded_indices, require_columns
from rlrec.recommenders.fitting import EarlyStopping, FitResult, torch_threads

METRICS = ("loss", "recall@10", "ndcg@10")
OBJECTIVES = ("softmax", "bpr")
VALIDATION_ROWS = 256  # scored at once: one score per row and item


def item_sequences(interactions: pl.DataFrame, items: list[str]) -> torch.Tensor:
    """Each user's items in time order, as indices: (users, L) int64, users sorted, padded with 0 at the end.

    Args:
        interactions: user_id, item_id, timestamp; of the training part. Ties in time are broken by item_id.
        items: `vocabulary.items`; the n-th has index n + 1.
    """
    require_columns(interactions, ["user_id", "item_id", "timestamp"])
    ordered = interactions.sort("user_id", "timestamp", "item_id")
    return padded_indices(ordered.group_by("user_id", maintain_order=True).agg("item_id")["item_id"], items)


def to_left(history: torch.Tensor, length: int) -> torch.Tensor:
    """The newest `length` items of each history (B, L) in order, moved to the left: (B, up to length), padded with 0.

    >>> to_left(torch.tensor([[0, 5, 0, 6, 7], [3, 0, 0, 0, 0]]), length=2)
    tensor([[6, 7],
            [3, 0]])
    """
    return newest_to_left(length, history)[0]


def newest_to_left(length: int, history: torch.Tensor, *beside: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """`to_left`, with the places `beside` (B, L), such as reactions, that go with the items of the history."""
    given = history != 0
    newest = given & (given.flip(1).cumsum(1).flip(1) <= length)
    order = (~newest).int().argsort(dim=1, stable=True)
    width = max(1, int(newest.sum(1).max())) if len(history) else 1
    return tuple((values * newest).gather(1, order)[:, :width] for values in (history, *beside))


def transformer(layer: nn.TransformerEncoderLayer, layers: int) -> nn.TransformerEncoder:
    """`layers` copies of `layer`, which start as torch has them; a last layer norm where it comes first in each."""
    final_norm = nn.LayerNorm(layer.linear1.in_features) if layer.norm_first else None
    return nn.TransformerEncoder(layer, layers, norm=final_norm, enable_nested_tensor=False)


def state_at(
    encoder: nn.TransformerEncoder,
    x: torch.Tensor,
    places: torch.Tensor,
    hidden: torch.Tensor,
    causal_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """What the encoder makes of one place (B,) of each row of x (B, L, d): (B, d). Its last block works there alone.

    `hidden` (B, L) is True where that place may not look; nor may others, unless a causal mask says what they see.
    """
    if not len(x):
        return x[:, 0]  # torch's attention does not take no rows
    *before, last = encoder.layers
    for layer in before:
        padding = hidden if causal_mask is None else None
        x = layer(x, src_mask=causal_mask, src_key_padding_mask=padding, is_causal=causal_mask is not None)
    first, second = (last.norm1, last.norm2) if last.norm_first else (nn.Identity(), nn.Identity())
    own = x[torch.arange(len(x), device=x.device), places].unsqueeze(1)  # (B, 1, d)
    keys = first(x)
    attended, _ = last.self_attn(first(own), keys, keys, key_padding_mask=hidden, need_weights=False)
    own = own + last.dropout1(attended)
    own = own if last.norm_first else last.norm1(own)
    own = own + last.dropout2(last.linear2(last.dropout(last.activation(last.linear1(second(own))))))
    own = own if last.norm_first else last.norm2(own)
    return (own if encoder.norm is None else encoder.norm(own)).squeeze(1)


class NextItemModel(SavedModel):
    """A model of histories whose states are compared with vectors of all items.

    A subclass has `item_table`, `next_states(history)` (B, d) and `loss(history)` of a batch of sequences. SASRec and
    BERT4Rec, Transformers that score with the table that they read, call `build`.
    """

    def check_objective(self) -> None:
        """Raise ValueError unless the config has objective "softmax", or "bpr" with two items and no `negatives`."""
        objective, negatives, num_items = (self.config[name] for name in ("objective", "negatives", "num_items"))
        if objective not in OBJECTIVES:
            raise ValueError(f"objective is {objective!r}, expected 'softmax' or 'bpr'")
        if objective == "bpr" and (negatives is not None or num_items < 3):
            raise ValueError(
                f"BPR compares two items, but negatives is {negatives} and num_items {num_items}; leave negatives out "
                "and give at least two known items"
            )

    def build(self, num_items: int, dim: int, max_length: int, dropout: float, layer: nn.Module, layers: int) -> None:
        """The tables, which start normal with deviation 0.02, and the encoder, which starts as torch has it."""
        self.max_length = max_length
        self.item_table = nn.Embedding(num_items, dim)
        self.position_table = nn.Embedding(max_length, dim)
        self.dropout = nn.Dropout(dropout)
        self.encoder = transformer(layer, layers)
        for table in (self.item_table, self.position_table):
            nn.init.normal_(table.weight, std=0.02)

    def next_states(self, history: torch.Tensor, *conditions: torch.Tensor) -> torch.Tensor:
        """(B, L) -> (B, d), what the model expects next; `conditions` (B, ...) where it reads more than histories."""
        raise NotImplementedError(f"{type(self).__name__} must define next_states(history)")

    def loss(self, history: torch.Tensor) -> torch.Tensor:
        """Mean training loss of whole sequences (B, L)."""
        raise NotImplementedError(f"{type(self).__name__} must define loss(history)")

    def item_scores(self, states: torch.Tensor, items: torch.Tensor | None = None) -> torch.Tensor:
        """States (..., d) -> scores (..., num_items), or of `items` (K,) alone: inner products with the table."""
        vectors = self.item_table.weight if items is None else self.item_table(items)
        return states @ vectors.T

    @torch.no_grad()
    def score_batches(
        self, history: torch.Tensor, *conditions: torch.Tensor, batch_size: int = 1024
    ) -> Iterator[torch.Tensor]:
        """`scores` of `batch_size` rows at a time, for catalogues whose whole table of scores would be too large."""
        self.check(history)
        was_training, device = self.training, self.item_table.weight.device
        self.eval()
        try:
            for part in zip(*(rows.split(batch_size) for rows in (history, *conditions))):
                scores = self.item_scores(self.next_states(*(rows.to(device) for rows in part))).to(history.device)
                scores[:, 0] = -math.inf
                yield scores
        finally:
            self.train(was_training)

    def scores(self, history: torch.Tensor, *conditions: torch.Tensor, batch_size: int = 1024) -> torch.Tensor:
        """(B, L) -> (B, num_items), higher is likelier to come next; the unknown item 0 gets -inf.

        Items of the history are not left out. An empty history gives the scores of an unknown beginning.
        """
        return torch.cat(list(self.score_batches(history, *conditions, batch_size=batch_size)))

    def ranks(
        self, history: torch.Tensor, items: torch.Tensor, *conditions: torch.Tensor, batch_size: int = 1024
    ) -> torch.Tensor:
        """The place of each row's item (B,) among all items that the model knows, as in `item_ranks`: (B,) int64."""
        batches = self.score_batches(history, *conditions, batch_size=batch_size)
        return torch.cat([item_ranks(scores, part) for scores, part in zip(batches, items.split(batch_size))])

    def check(self, history: torch.Tensor) -> None:
        size = self.item_table.num_embeddings
        if history.dim() != 2 or history.shape[1] == 0 or history.is_floating_point():
            raise ValueError(f"history must be integers of shape (rows, length >= 1), got {tuple(history.shape)}")
        if len(history) and not 0 <= int(history.min()) <= int(history.max()) < size:
            raise ValueError(
                f"history holds indices {int(history.min())}..{int(history.max())}, but the model was built with "
                f"num_items={size}; encode it with the vocabulary that built the model"
            )

    def cross_entropy(self, states: torch.Tensor, targets: torch.Tensor, negatives: int | None) -> torch.Tensor:
        """Mean loss of states (M, d) and their items (M,): over all items, or over `negatives` uniform ones.

        The negatives are drawn once for all M rows; one that is a row's own target does not count in that row.
        """
        if negatives is None:
            scores = self.item_scores(states)
            scores[:, 0] = -math.inf
            return F.cross_entropy(scores, targets)
        drawn = torch.randint(1, self.item_table.num_embeddings, (negatives,), device=targets.device)
        other = self.item_scores(states, drawn).masked_fill(drawn == targets[:, None], -math.inf)  # (M, negatives)
        own = self.own_scores(states, targets)
        return F.cross_entropy(torch.cat([own[:, None], other], dim=1), torch.zeros_like(targets))

    def bpr(self, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean of -log sigmoid(score of the item - score of a random other one), for states (M, d) and items (M,)."""
        others = torch.randint(1, self.item_table.num_embeddings - 1, targets.shape, device=targets.device)
        others = others + (others >= targets)  # any known item but the target, all alike
        return -F.logsigmoid(self.own_scores(states, targets) - self.own_scores(states, others)).mean()

    def own_scores(self, states: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """The score of one item per state: (M, d), (M,) -> (M,)."""
        return (states * self.item_table(items)).sum(-1)


def item_ranks(scores: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """The place of one item per row of scores: (B, num_items), (B,) -> (B,) int64, 1 = best.

    Equal scores come before the item, so that scores which are all alike find nothing. The unknown item 0 is never
    found: its place is the largest integer.

    Raises:
        ValueError: a score is NaN.

    >>> item_ranks(torch.tensor([[-math.inf, 3.0, 2.0, 2.0]]).expand(4, -1), torch.tensor([1, 2, 3, 0])).tolist()
    [1, 3, 3, 9223372036854775807]
    """
    if scores.isnan().any():
        raise ValueError("a score is NaN, so items cannot be ranked; train with a smaller learning rate")
    places = (scores >= scores.gather(1, items[:, None])).sum(1)
    return places.masked_fill(items == 0, torch.iinfo(torch.int64).max)


def rank_metrics(ranks: torch.Tensor, cutoffs: Sequence[int] = (5, 10)) -> dict[str, torch.Tensor]:
    """Recall@K and NDCG@K of each row whose one relevant item has this place: (B,) -> {"recall@5": (B,), ...}.

    >>> {name: values.tolist() for name, values in rank_metrics(torch.tensor([1, 3, 6]), cutoffs=[5]).items()}
    {'recall@5': [1.0, 1.0, 0.0], 'ndcg@5': [1.0, 0.5, 0.0]}
    """
    gains = 1 / torch.log2(ranks.double() + 1)
    metrics = {}
    for cutoff in cutoffs:
        found = ranks <= cutoff
        metrics |= {f"recall@{cutoff}": found.double(), f"ndcg@{cutoff}": gains * found}
    return metrics


def next_item_metrics(
    model: NextItemModel, history: torch.Tensor, items: torch.Tensor, *conditions: torch.Tensor, batch_size: int = 1024
) -> dict[str, float]:
    """loss (mean negative log-likelihood over all items), recall@10 and ndcg@10 of the items (V,) that came next."""
    losses, ranks = [], []
    batches = model.score_batches(history, *conditions, batch_size=batch_size)
    for scores, part in zip(batches, items.split(batch_size)):
        losses.append(F.cross_entropy(scores, part, reduction="none"))
        ranks.append(item_ranks(scores, part))
    metrics = {"loss": torch.cat(losses), **rank_metrics(torch.cat(ranks), (10,))}
    return {name: float(values.mean()) for name, values in metrics.items()}


def fit_sequences(
    model: NextItemModel,
    sequences: torch.Tensor,
    validation: tuple[torch.Tensor, torch.Tensor] | None = None,
    *,
    epochs: int = 50,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    patience: int = 5,
    metric: str | None = None,
    seed: int = 0,
    cpu_threads: int | None = 1,
    on_epoch: Callable[[int, NextItemModel], None] | None = None,
) -> FitResult:
    """Train a next-item model in place with Adam (betas 0.9 and 0.98, gradients clipped to norm 5).

    Args:
        sequences: (N, L) whole training sequences; those with fewer than two items are left out.
        validation: histories (V, L) and the item (V,) that came next; training stops when `metric` on them has not
            improved for `patience` epochs, and the best weights are restored.
        metric: "loss" (mean negative log-likelihood over all items), "recall@10" or "ndcg@10" (full ranking); None =
            "ndcg@10" for a model with the objective "bpr", whose scores are no log-odds, and "loss" for others.
        on_epoch: called with (epoch, model) after each epoch.
        learning_rate, batch_size: SASRec's; BERT4Rec takes 1e-4 and 256.
        others: as in `rlrec.recommenders.fit`.

    Returns:
        `history` with epoch, train_loss, validation_loss, validation_recall@10 and validation_ndcg@10; samples are
        sequences.

    Raises:
        ValueError: no sequence of two items, or an index outside of the item table.
    """
    model.check(sequences)
    sequences = sequences[(sequences != 0).sum(1) > 1]
    if len(sequences) == 0:
        raise ValueError("no training sequence has two known items: there is no next item to learn")
    sequences = to_left(sequences, sequences.shape[1]).to(model.item_table.weight.device)
    return fit_rows(
        model,
        len(sequences),
        lambda rows: model.loss(sequences[rows]),
        validation,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        patience=patience,
        metric=metric or ("ndcg@10" if model.config.get("objective") == "bpr" else "loss"),
        seed=seed,
        cpu_threads=cpu_threads,
        on_epoch=on_epoch,
    )


def fit_rows(
    model: NextItemModel,
    count: int,
    loss_of: Callable[[torch.Tensor], torch.Tensor],
    validation: tuple[torch.Tensor, ...] | None,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    patience: int,
    metric: str,
    seed: int,
    cpu_threads: int | None,
    on_epoch: Callable[[int, NextItemModel], None] | None,
) -> FitResult:
    """The loop of `fit_sequences`, for any training rows.

    Args:
        count: training rows N.
        loss_of: row numbers (M,) -> their mean loss.
        validation: histories, items, and what else the model's `scores` take.
        others: as in `fit_sequences`.
    """
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}, expected one of {METRICS}")
    device = model.item_table.weight.device
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=weight_decay)
    result, stopping, seconds = FitResult(), EarlyStopping(patience), 0.0
    forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    with forked, torch_threads(cpu_threads):
        torch.manual_seed(seed)
        for epoch in range(1, epochs + 1):
            start = time.perf_counter()
            model.train()
            total = 0.0
            for rows in torch.randperm(count, device=device).split(batch_size):
                loss = loss_of(rows)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimizer.step()
                total += float(loss.detach()) * len(rows)
            seconds += time.perf_counter() - start
            record = {"epoch": epoch, "train_loss": total / count}
            result.history.append(record)
            result.best_epoch = epoch
            if on_epoch is not None:
                on_epoch(epoch, model)
            if validation is None:
                continue
            found = next_item_metrics(model, *validation, batch_size=VALIDATION_ROWS)
            record |= {f"validation_{name}": value for name, value in found.items()}
            if stopping.after(epoch, -found["loss"] if metric == "loss" else found[metric], model):
                break
    stopping.restore(model, result)
    model.eval()
    result.samples_per_second = count * len(result.history) / seconds
    return result
