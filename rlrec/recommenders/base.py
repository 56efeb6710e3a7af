"""What every recommender shares: the contract, the explanation slot, and the vocabulary.

A recommender maps `batch`, a dict of tensors, and optional explanation embeddings to one logit or rating per row:

| key | shape and type | meaning |
| --- | --- | --- |
| `user` | (B,) int64 | index of the user, 0 = unknown |
| `item` | (B,) int64 | index of the item, 0 = unknown |
| `categories` | (B, C) int64 | indices of the item's categories, padded with 0; C may be 0 |
| `features` | (B, F) float32 | dense side features, standardised; F may be 0 |
| `history` | (B, L) int64 | items the user had before, oldest first; 0 = padding or unknown; only where asked for |
| `history_labels` | (B, L) float32 | the user's reaction to each: liked 1, disliked 0, or the rating in [0, 1] |

`Vocabulary` makes such batches from the columns of a sample table.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from rlrec.files import read_json, read_tensors, replacing

Batch = dict[str, torch.Tensor]

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
VOCABULARY_FILE = "vocabulary.json"
LOSSES = {"binary": F.binary_cross_entropy_with_logits, "rating": F.mse_loss}


class SavedModel(nn.Module):
    """A module that its `config`, the keyword arguments of its constructor, and its weights build again."""

    def __init__(self, config: dict):
        super().__init__()
        self.config = config

    def save_pretrained(self, directory: str | Path, vocabulary: "Vocabulary | None" = None) -> None:
        """Write model.safetensors and config.json (and vocabulary.json), each one whole or not at all."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {name: values.detach().cpu().contiguous() for name, values in self.state_dict().items()}
        with replacing(directory / WEIGHTS_FILE) as temporary:
            save_file(tensors, temporary)
        if vocabulary is not None:
            vocabulary.save(directory)
        # The config comes last: a folder that has it is complete.
        write_json(directory / CONFIG_FILE, {"recommender": type(self).__name__, **self.config})

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> "SavedModel":
        """Read what `save_pretrained` wrote, on the CPU and in eval mode.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: the folder holds another recommender.
        """
        config = read_json(Path(directory) / CONFIG_FILE)
        name = config.pop("recommender", None)
        if name != cls.__name__:
            raise ValueError(f"{Path(directory) / CONFIG_FILE} describes {name!r}, not {cls.__name__!r}")
        model = cls(**config)
        model.load_state_dict(read_tensors(Path(directory) / WEIGHTS_FILE))
        return model.eval()


class Recommender(SavedModel):
    """Base of all recommenders: `forward(batch, explanations=None) -> (B,)`, predict, save and load.

    A subclass keeps its constructor's arguments, which must be JSON values, in `self.config`, and has `forward`.
    `explanations` is (B, slots, d) or None; None and zeros mean "without explanation" and give equal outputs.

    Args:
        config: the keyword arguments that build the subclass again. Its `objective`, "binary" when there is none,
            says what the outputs are and which loss `fit` takes: logits of labels 0 and 1, with binary
            cross-entropy, or ("rating") ratings scaled to [0, 1], with the mean squared error.
    """

    def __init__(self, config: dict):
        super().__init__(config)
        if self.objective not in LOSSES:
            raise ValueError(f"objective is {self.objective!r}, expected 'binary' or 'rating'")

    @property
    def objective(self) -> str:
        return self.config.get("objective", "binary")

    def forward(self, batch: Batch, explanations: torch.Tensor | None = None) -> torch.Tensor:
        """Logits or ratings, (B,)."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(batch, explanations=None)")

    def loss(self, batch: Batch, explanations: torch.Tensor | None, labels: torch.Tensor) -> torch.Tensor:
        """What `fit` minimises, for labels or ratings (B,); a model with another loss beside it overrides this."""
        return self.target_loss(self(batch, explanations), labels)

    def target_loss(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Binary cross-entropy of logits (B,), or the mean squared error of ratings (B,)."""
        return LOSSES[self.objective](outputs, labels)

    def check(self, batch: Batch, explanations: torch.Tensor | None = None) -> None:
        """Raise ValueError when the tensors do not fit the model; the hot path of training runs it once per fit."""
        rows = len(batch["user"])
        limits = {"user": "num_users", "item": "num_items", "categories": "num_categories"}
        if "history" in batch:
            limits["history"] = "num_items"
        for key, limit in limits.items():
            values = batch[key]
            if len(values) != rows:
                raise ValueError(f"batch['{key}'] has {len(values)} rows and batch['user'] has {rows}")
            size = self.config.get(limit, 0)
            if values.numel() and not 0 <= int(values.min()) <= int(values.max()) < max(size, 1):
                raise ValueError(
                    f"batch['{key}'] holds indices {int(values.min())}..{int(values.max())}, but the model was built "
                    f"with {limit}={size}; encode the samples with the vocabulary that built the model"
                )
        if "history_labels" in batch:
            check_reactions(batch["history_labels"], batch["history"])
        expected = (rows, self.config.get("num_features", 0))
        if tuple(batch["features"].shape) != expected:
            raise ValueError(f"batch['features'] has shape {tuple(batch['features'].shape)}, expected {expected}")
        if not torch.isfinite(batch["features"]).all():
            raise ValueError("batch['features'] holds NaN or infinite values")
        if explanations is not None:
            expected = (rows, self.config.get("explanation_slots", 0), self.config.get("explanation_dim", 0))
            if tuple(explanations.shape) != expected:
                raise ValueError(
                    f"explanations have shape {tuple(explanations.shape)}, expected (rows, slots, d) = {expected}"
                )
            if not torch.isfinite(explanations).all():
                row = int((~torch.isfinite(explanations)).flatten(1).any(1).nonzero()[0])
                raise ValueError(f"explanations row {row} holds NaN or infinite values; check the encoder's output")

    def predict(self, batch: Batch, explanations: torch.Tensor | None = None, batch_size: int = 16384) -> torch.Tensor:
        """Probabilities or ratings (B,) in eval mode, on the device of `batch`; the model's own mode is kept.

        Ratings are not clipped to [0, 1]: ties at the ends would cost AUC.

        Raises:
            ValueError: an index outside of the model's tables, wrong shapes, NaN or infinite inputs.
        """
        outputs = self.evaluate(self, batch, explanations, batch_size)
        return torch.sigmoid(outputs) if self.objective == "binary" else outputs

    @torch.no_grad()
    def evaluate(
        self,
        function: Callable[[Batch, torch.Tensor | None], torch.Tensor],
        batch: Batch,
        explanations: torch.Tensor | None = None,
        batch_size: int = 16384,
    ) -> torch.Tensor:
        """`function(batch, explanations)` in slices of `batch_size` rows, in eval mode and without gradients."""
        self.check(batch, explanations)
        device = next(self.parameters()).device
        was_training = self.training
        self.eval()
        outputs = []
        for start in range(0, max(len(batch["user"]), 1), batch_size):  # no rows are one empty slice
            rows = slice(start, start + batch_size)
            part = {key: values[rows].to(device) for key, values in batch.items()}
            z = None if explanations is None else explanations[rows].to(device)
            outputs.append(function(part, z).to(batch["user"].device))
        self.train(was_training)
        return torch.cat(outputs)


class ExplanationInput(nn.Module):
    """Explanation embeddings as a recommender takes them: standardised, clipped, projected, dropped in training.

    The paper concatenates z as the encoder gives it (ExpCTR eq. 12). Mean-pooled hidden states share a large
    common part, and their scale differs by orders of magnitude between encoders, so each dimension is first
    standardised with the statistics of the training explanations (`standardise`, called by `fitting.fit`) and
    clipped to [-5, 5]. A row of zeros is "without explanation" and stays zero whatever the statistics are.

    Args:
        slots: explanations per row, S.
        dim: size d of one embedding.
        projected_dim: size p to which each is projected by one linear map without bias, shared by the slots.
        dropout: share of training rows whose explanations are zeroed, so that the prediction without an
            explanation (the second term of ExpCTR eq. 13) is one the model was trained for.
    """

    def __init__(self, slots: int, dim: int, projected_dim: int, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.output_dim = slots * projected_dim
        self.register_buffer("mean", torch.zeros(slots, dim))
        self.register_buffer("scale", torch.ones(slots, dim))
        self.projection = nn.Linear(dim, projected_dim, bias=False)

    @torch.no_grad()
    def standardise(self, explanations: torch.Tensor) -> None:
        """Take mean and deviation of each dimension from training explanations (N, S, d), zero rows left out."""
        for slot in range(explanations.shape[1]):
            z = explanations[:, slot]
            z = z[(z != 0).any(-1)].float()
            if len(z) > 1:
                deviation, mean = torch.std_mean(z, dim=0)
                self.mean[slot] = mean
                # A dimension that (almost) never varies carries nothing: keep it near zero, not blown up.
                self.scale[slot] = deviation.clamp(min=max(1e-6, 0.01 * float(deviation.mean())))

    def forward(self, explanations: torch.Tensor | None, rows: int) -> torch.Tensor:
        """(B, S, d) or None -> (B, S * p)."""
        if explanations is None:
            return self.mean.new_zeros(rows, self.output_dim)
        present = (explanations != 0).any(-1, keepdim=True)  # (B, S, 1)
        if self.training and self.dropout > 0:
            present = present & (torch.rand(rows, 1, 1, device=explanations.device) >= self.dropout)
        z = ((explanations.to(self.mean.dtype) - self.mean) / self.scale).clamp(-5.0, 5.0)
        return (self.projection(z) * present).flatten(1)


@dataclass
class Vocabulary:
    """Maps sample rows to batches; built from training rows, so that index 0 is whatever training never saw.

    Attributes:
        users, items, categories: the known ids in order; the n-th has index n + 1. Empty categories = not used.
        dense_features: names of the numeric columns used as dense features.
        means, scales: of the dense features over the training rows; a missing value becomes 0, the mean.
        history: whether batches hold the `history` of item ids.
        history_labels: the column with the reaction to each item of the history; None = batches hold no reactions.

    >>> rows = pl.DataFrame({"user_id": ["u", "v"], "item_id": ["a", "b"], "categories": [["Drama"], []]})
    >>> vocabulary = Vocabulary.from_samples(rows)
    >>> vocabulary.sizes()
    {'num_users': 3, 'num_items': 3, 'num_categories': 2, 'num_features': 0}
    >>> vocabulary.encode(rows)["categories"].tolist()
    [[1], [0]]
    """

    users: list[str]
    items: list[str]
    categories: list[str]
    dense_features: list[str]
    means: list[float]
    scales: list[float]
    history: bool = False
    history_labels: str | None = None

    @classmethod
    def from_samples(
        cls,
        samples: pl.DataFrame,
        dense_features: tuple[str, ...] = (),
        use_categories: bool = True,
        use_history: bool = False,
        use_history_labels: bool = False,
        history_labels_column: str = "history_labels",
    ) -> "Vocabulary":
        """Collect ids, categories (when the column is there) and feature statistics of the training rows.

        Args:
            samples: training rows with `user_id`, `item_id`, optionally `categories` (list of strings), and the
                columns that `dense_features` names, such as `like_rate` and `item_mean`.
            use_history: also read the column `history` (lists of item ids, oldest first), whose items are then known.
            use_history_labels: also read the user's reactions to the history, lists of numbers from 0 to 1.
            history_labels_column: where they are; `history_targets` has RecPIE's scaled ratings.

        Raises:
            ValueError: no rows, a column is missing, reactions without a history, or a feature has no finite value.
        """
        lists = ["history"] * use_history + [history_labels_column] * use_history_labels
        require_columns(samples, ["user_id", "item_id", *dense_features, *lists])
        if use_history_labels and not use_history:
            raise ValueError("use_history_labels needs use_history=True: reactions belong to the items of a history")
        if samples.is_empty():
            raise ValueError("a vocabulary needs at least one training row, the sample table is empty")
        use_categories = use_categories and "categories" in samples.columns
        items = samples["item_id"].cast(pl.String)
        if use_history:
            items = pl.concat([items, samples["history"].explode().cast(pl.String)])
        means, scales = [], []
        for name in dense_features:
            values = finite(samples[name]).drop_nulls()
            if values.is_empty():
                raise ValueError(f"dense feature '{name}' has no finite value in {len(samples)} training rows")
            means.append(float(values.mean()))
            scales.append(float(values.std() or 0.0) or 1.0)
        return cls(
            users=known(samples["user_id"]),
            items=known(items),
            categories=known(samples["categories"].explode()) if use_categories else [],
            dense_features=list(dense_features),
            means=means,
            scales=scales,
            history=use_history,
            history_labels=history_labels_column if use_history_labels else None,
        )

    def sizes(self) -> dict[str, int]:
        """Table sizes, index 0 counted, as a recommender's constructor takes them."""
        return {
            "num_users": len(self.users) + 1,
            "num_items": len(self.items) + 1,
            "num_categories": len(self.categories) + 1 if self.categories else 0,
            "num_features": len(self.dense_features),
        }

    def encode(self, samples: pl.DataFrame) -> Batch:
        """The batch of all rows; unknown users, items and categories, and nulls, get index 0.

        Raises:
            ValueError: a column that the vocabulary uses is missing, or a history has not as many reactions as items.
        """
        require_columns(samples, ["user_id", "item_id", *self.dense_features])
        features = torch.zeros(len(samples), len(self.dense_features))
        for column, (name, mean, scale) in enumerate(zip(self.dense_features, self.means, self.scales)):
            features[:, column] = ((finite(samples[name]) - mean) / scale).fill_null(0.0).to_torch()
        lists = {"categories": self.categories} if self.categories else {}
        if self.history:
            lists["history"] = self.items
        require_columns(samples, [*lists, *([self.history_labels] if self.history_labels else [])])
        batch = {
            "user": indices(samples["user_id"], self.users),
            "item": indices(samples["item_id"], self.items),
            "categories": torch.zeros(len(samples), 0, dtype=torch.long),
            "features": features,
            **{column: padded_indices(samples[column], names) for column, names in lists.items()},
        }
        if self.history_labels:
            batch["history_labels"] = reactions(samples, self.history_labels)
        return batch

    def save(self, directory: str | Path) -> None:
        """Write vocabulary.json into `directory`, whole or not at all."""
        write_json(Path(directory) / VOCABULARY_FILE, asdict(self))

    @classmethod
    def load(cls, directory: str | Path) -> "Vocabulary":
        """Read vocabulary.json from `directory`."""
        return cls(**read_json(Path(directory) / VOCABULARY_FILE))


def known(values: pl.Series) -> list[str]:
    """The distinct non-null values as sorted strings."""
    return values.cast(pl.String).drop_nulls().unique().sort().to_list()


def indices(values: pl.Series, names: list[str]) -> torch.Tensor:
    """Position + 1 of each value in `names`, 0 where it is not there; int64 (N,)."""
    positions = pl.Series(range(1, len(names) + 1), dtype=pl.Int64)
    known_names = pl.Series(names, dtype=pl.String)
    return values.cast(pl.String).replace_strict(known_names, positions, default=0).to_torch()


def padded_indices(lists: pl.Series, names: list[str]) -> torch.Tensor:
    """`indices` of each row's list, filled up with 0 to the longest one; int64 (N, L), L at least 1."""
    return padded(lists, torch.long, lambda values: indices(values, names))


def padded(lists: pl.Series, dtype: torch.dtype, encode: Callable[[pl.Series], torch.Tensor]) -> torch.Tensor:
    """The values of each row's list as `encode` gives them, filled up with 0 to the longest list; (N, L), L >= 1."""
    lengths = lists.list.len().fill_null(0)
    encoded = torch.zeros(len(lists), max(int(lengths.max() or 0), 1), dtype=dtype)
    lists = lists.filter(lengths > 0)
    if len(lists):
        filled = torch.arange(encoded.shape[1]) < lengths.to_torch().long().unsqueeze(1)  # (N, L)
        encoded[filled] = encode(lists.explode())
    return encoded


def reactions(samples: pl.DataFrame, column: str) -> torch.Tensor:
    """The reactions to each row's history, filled up with 0 as the history is; float32 (N, L)."""
    lengths = [samples[name].list.len().fill_null(0) for name in ("history", column)]
    if (wrong := (lengths[0] != lengths[1]).arg_true()).len():
        row = wrong[0]
        raise ValueError(
            f"row {row} has {lengths[0][row]} items in its history and {lengths[1][row]} reactions in '{column}'; "
            "each item needs one"
        )
    if (missing := samples[column].list.eval(pl.element().is_null()).list.any().fill_null(False).arg_true()).len():
        raise ValueError(f"row {missing[0]} has no reaction to an item of its history: a null in '{column}'")
    return padded(samples[column], torch.float32, lambda values: values.cast(pl.Float32).to_torch())


def check_reactions(labels: torch.Tensor, history: torch.Tensor) -> None:
    if labels.shape != history.shape:
        raise ValueError(
            f"batch['history_labels'] has shape {tuple(labels.shape)}, batch['history'] {tuple(history.shape)}"
        )
    wrong = ~((labels >= 0) & (labels <= 1))  # NaN too
    if wrong.any():
        row = int(wrong.any(1).nonzero()[0])
        raise ValueError(
            f"batch['history_labels'] must lie in [0, 1], but row {row} has {float(labels[row][wrong[row]][0]):g}; "
            "scale ratings, (rating - lowest) / (highest - lowest)"
        )


def finite(values: pl.Series) -> pl.Series:
    """Float values, with NaN and infinities turned into null."""
    values = values.cast(pl.Float64)
    return values.set(~values.is_finite().fill_null(False), None)


def require_columns(samples: pl.DataFrame, names: list[str]) -> None:
    missing = [name for name in names if name not in samples.columns]
    if missing:
        raise ValueError(f"samples have no column {missing}; their columns are {samples.columns}")


def write_json(path: Path, content: dict) -> None:
    """Write beside the target, then rename: a reader sees the old file or the new one, never half of it."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")


def interaction_names(samples: pl.DataFrame) -> list[str]:
    """A name for each (user, item) pair, as groups for cross-fitting row by row.

    >>> interaction_names(pl.DataFrame({"user_id": ["u"], "item_id": ["i"]}))
    ['u\\ti']
    """
    return (samples["user_id"] + "\t" + samples["item_id"]).to_list()
