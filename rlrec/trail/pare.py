"""PARE: popularity of the next window from history, age, season and side information, fused by attention.

Paper: Jing, Zhang, Zhou, Shen, "Capturing Popularity Trends: A Simplistic Non-Personalized Approach for Enhanced Item
Recommendation" (CIKM 2023). Its four modules and their fusion are known here from its abstract, from what TRAIL's
paper says of it, and from public implementations: an exponential moving average of the item's counts; a layer with
ReLU over the item's vector and the vectors of the current and the release window; one over vectors of (category,
window modulo the period) pairs; one over the category vectors; a weighted mean of the four outputs. Whatever these
leave open is decided here.

Departures:

1. Everything is in log(1 + users): popularity grows and decays by factors, and factors add up. The loss is the Poisson
   likelihood of the counts, whose mean orders the items (a squared error of logarithms would fit the many zeros).
2. The temporal impact takes the item's age in windows, capped at the largest age of the training windows, where
   vectors of absolute windows are used elsewhere: that of a test window would never have been trained.
3. The moving average's smoothing factor is learned, and its logarithm gets a learned scale and shift.
4. The weights of the four outputs come from attention over the modules' hidden vectors, per sample, and sum to the
   number of modules that take part: a weighted sum of logarithms, so that season and age multiply what history says. A
   weighted mean could only come between the two; on simulated worlds it made the weaker baseline. A module that knows
   nothing takes no part: history for a cold item, and the period in a phase that no training window had.
5. Cold items share one vector of zeros in place of an item's own vector: in the windows before its release, an item's
   own would learn that nobody wants it.
6. Every item is also in a category of all items, so that items without category have a season too.
7. The period counts windows: 12 of 30 days are 360 days, so that the phase shifts by a month in six years.
8. Side information is the categories alone; directors and actors, where a dataset has them, can stand among these.
"""

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch import nn

from rlrec.recommenders.base import SavedModel
from rlrec.recommenders.fitting import EarlyStopping, FitResult, torch_threads

PREDICTION_ROWS = 65_536  # samples at once
SMALLEST_RATE = 1e-3  # of the Poisson likelihood, in users per window


class PARE(SavedModel):
    """Users of each item in the next window.

    Args:
        items: {item_id: its categories}; items that are not here count as items without category or vector.
        dim: size of all vectors.
        period: windows per period (12 windows of 30 days are about a year).
        max_age: ages above it share a vector.
        max_history: windows that the moving average looks back.

    >>> model = PARE({"a": ["Toys"], "b": []}, dim=4)
    >>> model.predict(pl.DataFrame({"item_id": ["a"], "window": [5], "history": [[3, 2]], "history_cut": [0]})).shape
    (1,)
    """

    def __init__(
        self,
        items: dict[str, list[str]],
        dim: int = 16,
        period: int = 12,
        max_age: int = 24,
        max_history: int = 24,
    ):
        super().__init__({k: v for k, v in locals().items() if k not in ("self", "__class__")})
        for name, value in (("dim", dim), ("period", period), ("max_age", max_age), ("max_history", max_history)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1.")
        names = sorted({name for categories in items.values() for name in categories})
        index = {name: row for row, name in enumerate(names, start=2)}  # 0 is padding, 1 the category of all items
        rows = [[1], *([1, *(index[name] for name in dict.fromkeys(categories))] for categories in items.values())]
        width = max(map(len, rows))
        categories = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        self.item_rows = {item: row for row, item in enumerate(items, start=1)}
        self.register_buffer("item_categories", categories, persistent=False)  # (items + 1, C)
        self.register_buffer("known_phases", torch.ones(period, dtype=torch.bool))
        count = len(names) + 2
        self.item = nn.Embedding(len(items) + 1, dim, padding_idx=0)
        self.category = nn.Embedding(count, dim, padding_idx=0)
        self.season = nn.Embedding(count * period, dim)
        self.age = nn.Embedding(max_age + 1, dim)
        for table in (self.item, self.category, self.season, self.age):
            nn.init.normal_(table.weight, std=0.01)
        with torch.no_grad():
            self.item.weight[0] = 0
            self.category.weight[0] = 0
        self.smoothing = nn.Parameter(torch.zeros(()))  # of the moving average, through a sigmoid
        self.history_scale, self.history_shift = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))
        self.history_hidden = nn.Linear(1, dim)
        self.temporal_hidden, self.side_hidden = nn.Linear(2 * dim, dim), nn.Linear(dim, dim)
        self.outputs = nn.ModuleList(nn.Linear(dim, 1) for _ in range(3))  # of time, period and side information
        self.keys, self.query = nn.Linear(dim, dim), nn.Parameter(torch.zeros(dim))

    def encode(self, samples: pl.DataFrame) -> dict[str, torch.Tensor]:
        """N samples as tensors: item, age, phase (N,), history (N, max_history) newest first, known (N,) of it."""
        period, width = self.config["period"], self.config["max_history"]
        lists = samples["history"].list.tail(width).list.reverse()
        known = lists.list.len().cast(pl.Int64).to_numpy()
        history = np.zeros((samples.height, width), dtype=np.float32)
        flat = lists.explode().drop_nulls().to_numpy()  # an empty list explodes to one null
        starts = np.cumsum(known) - known
        history[np.repeat(np.arange(len(known)), known), np.arange(len(flat)) - np.repeat(starts, known)] = flat
        age = (samples["history"].list.len().cast(pl.Int64) + samples["history_cut"]).to_numpy()
        row = np.array([self.item_rows.get(item, 0) for item in samples["item_id"]], dtype=np.int64)
        return {
            "item": torch.from_numpy(row),
            "age": torch.from_numpy(age.astype(np.int64)).clamp(max=self.config["max_age"]),
            "phase": torch.from_numpy(samples["window"].to_numpy().astype(np.int64) % period),
            "history": torch.from_numpy(history),
            "known": torch.tensor(known),
        }

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """log(1 + users) (B,), at least 0, and the weights (B, 4): history, time, period, side."""
        known, cold = batch["known"], batch["known"] == 0
        history = torch.log1p(self.moving_average(batch["history"], known))  # (B,)
        categories = self.item_categories[batch["item"]]  # (B, C)
        given = (categories != 0).unsqueeze(-1)
        count = given.sum(1)
        season = self.season(categories * self.config["period"] + batch["phase"].unsqueeze(1))  # (B, C, d)
        item = self.item(batch["item"].masked_fill(cold, 0))
        hidden = torch.stack(
            (
                F.relu(self.history_hidden(history.unsqueeze(1))),
                F.relu(self.temporal_hidden(torch.cat((self.age(batch["age"]), item), dim=1))),
                (season * given).sum(1) / count,
                F.relu(self.side_hidden((self.category(categories) * given).sum(1) / count)),
            ),
            dim=1,
        )  # (B, 4, d)
        learned = [layer(hidden[:, row]).squeeze(1) for row, layer in enumerate(self.outputs, start=1)]
        predictions = torch.stack((self.history_scale * history + self.history_shift, *learned), dim=1)  # (B, 4)
        logits = torch.tanh(self.keys(hidden)) @ self.query  # (B, 4)
        empty = torch.zeros_like(logits, dtype=torch.bool)
        empty[:, 0] = cold
        empty[:, 2] = ~self.known_phases[batch["phase"]]
        weights = logits.masked_fill(empty, float("-inf")).softmax(dim=1) * (~empty).sum(1, keepdim=True)
        return F.softplus((weights * predictions).sum(1), beta=4), weights

    def moving_average(self, history: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """s_1 = p_1, s_t = a p_t + (1 - a) s_(t-1), of history (B, L) newest first, lengths `known` (B,) -> (B,)."""
        a = torch.sigmoid(self.smoothing)
        back = torch.arange(history.shape[1], device=history.device)  # windows back from the newest
        weights = (1 - a) ** back * torch.where(back == known.unsqueeze(1) - 1, 1.0, a)
        return (weights * history * (back < known.unsqueeze(1))).sum(1)

    @torch.no_grad()
    def predict(self, samples: pl.DataFrame) -> np.ndarray:
        """Expected users (N,) of samples with item_id, window, history and history_cut."""
        self.eval()
        batch = self.encode(samples)
        parts = [
            self({key: values[start : start + PREDICTION_ROWS] for key, values in batch.items()})[0]
            for start in range(0, samples.height, PREDICTION_ROWS)
        ]
        return torch.expm1(torch.cat(parts)).numpy() if parts else np.zeros(0, dtype=np.float32)


def poisson_loss(logarithms: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Mean Poisson likelihood loss of log(1 + rate) (B,) against counts (B,), without the constant."""
    rates = torch.expm1(logarithms) + SMALLEST_RATE
    return (rates - counts * torch.log(rates)).mean()


def fit_pare(
    samples: pl.DataFrame,
    items: pl.DataFrame,
    seed: int = 0,
    *,
    dim: int = 16,
    period: int = 12,
    max_history: int = 24,
    epochs: int = 60,
    batch_size: int | None = None,
    learning_rate: float = 0.01,
    weight_decay: float = 1e-6,
    patience: int = 6,
    cpu_threads: int | None = 1,
) -> PARE:
    """Train PARE on the training windows; the validation windows, if any, say when to stop.

    Args:
        samples: of `rlrec.data.popularity`: split, item_id, window, history, history_cut, popularity. Test samples
            may be among them and are not looked at.
        items: item_id and categories (List[String]).
        seed: of weights and shuffling; the global random state is left as it was.
        dim, period, max_history: see `PARE`.
        epochs, patience: at most, and without a better validation loss.
        batch_size: None = a 32nd of the training samples, at least 32 and at most 4,096.
        weight_decay: L2 penalty, as part of Adam's gradient.
        cpu_threads: torch's threads; None keeps torch's setting.

    Returns:
        The model with the weights of the best epoch, in eval mode; `model.fit_result` says how it went.

    Raises:
        ValueError: no training samples, or none with a user in its window.
    """
    train = samples.filter(pl.col("split") == "train")
    validation = samples.filter(pl.col("split") == "validation")
    if train.height == 0 or train["popularity"].max() == 0:
        raise ValueError(
            f"PARE has {train.height} training samples, none of which has a user in its window; there is nothing to "
            "learn."
        )
    ages = train["history"].list.len().cast(pl.Int64) + train["history_cut"]
    side = dict(zip(items["item_id"], items["categories"].fill_null([]).to_list()))
    batch_size = batch_size or min(4096, max(32, train.height // 32))
    result, stopping = FitResult(), EarlyStopping(patience)
    with torch.random.fork_rng(devices=[]), torch_threads(cpu_threads):
        torch.manual_seed(seed)
        model = PARE(side, dim, period, max(1, min(24, ages.max())), max_history)
        phases = torch.tensor(sorted(set((train["window"] % period).to_list())))
        model.known_phases.fill_(False)[phases] = True
        data, counts = model.encode(train), torch.tensor(train["popularity"].to_list(), dtype=torch.float32)
        held, held_counts = model.encode(validation), torch.tensor(validation["popularity"].to_list())
        optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True)
        for epoch in range(1, epochs + 1):
            model.train()
            total = 0.0
            for rows in torch.randperm(len(counts)).split(batch_size):
                loss = poisson_loss(model({key: values[rows] for key, values in data.items()})[0], counts[rows])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                total += float(loss.detach()) * len(rows)
            result.history.append({"epoch": epoch, "train_loss": total / len(counts)})
            result.best_epoch = epoch
            if validation.height:
                model.eval()
                with torch.no_grad():
                    score = float(poisson_loss(model(held)[0], held_counts))
                result.history[-1]["validation_loss"] = score
                if stopping.after(epoch, -score, model):
                    break
    stopping.restore(model, result)
    model.fit_result = result
    return model.eval()
