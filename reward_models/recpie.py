"""RecPIE's reward: explanations are good when the recommender that reads them predicts the rating.

Paper: RecPIE, equation 4. The loss it is used with (equations 5-7, `loss_type="recpie"`, or PPO) is the trainer's.

Departures:

1. The recommender was not trained on the row it judges (out of fold); the in-sample form as printed is one argument
   away. In-sample, it already knows the row's rating and likes whatever text stood beside it.
2. Optional baseline: see `RecPIEReward`.
"""

from collections.abc import Sequence

import polars as pl
import torch

from reward_models.columns import check_baseline, completion_texts, log_mean, predict, samples_of
from rlrec.encoders import TextEncoder
from rlrec.explanations import ExplanationStore
from rlrec.recommenders.base import Recommender, Vocabulary, interaction_names
from rlrec.recommenders.fitting import CrossFit


class RecPIEReward:
    """R = 1 / (1 + |y_hat - y|) for a sample's explanations, the same for each of them (equation 4).

    y is the rating scaled to [0, 1] (dataset column `target`), or the `label` where the recommender's objective is
    "binary"; None: the reward does not apply. The rows of a sample's sides must be in one call. Where a row was
    sampled several times, the n-th text of one side goes with the n-th of the other.

    `baseline` subtracts the same reward for no explanations ("without_explanation"), or for the sample's newest stored
    ones ("stored"): a number that depends on the row and its rating but not on the completions, which leaves the
    policy gradient's expectation as it is and takes most of its variance out (see `ICReward`). The mean reward then
    says by how much the new explanations are better; recpie/reward is equation 4 itself.

    Logs recpie/reward (mean R), recpie/error (mean |y_hat - y|), recpie/influence (mean distance of y_hat from the
    prediction without explanations), and with a baseline recpie/baseline.

    Args:
        recommender: a `CrossFit` over `interaction_names` (the default way, departure 1), or one `Recommender`. It has
            one explanation slot for each side.
        encoder: `encode(texts) -> (N, d)`, the one that made the embeddings which the recommender was trained on.
        vocabulary: the one the recommender was built with.
        sides: values of the column `side`, in the order of the recommender's slots.
        baseline: "none" (the paper), "without_explanation" or "stored".
        store: the explanations for "stored"; where it has none, they are compared with no explanation.

    Raises:
        ValueError: an unknown baseline, or "stored" without a store.
    """

    def __init__(
        self,
        recommender: Recommender | CrossFit,
        encoder: TextEncoder,
        vocabulary: Vocabulary,
        sides: Sequence[str] = ("pos", "neg"),
        baseline: str = "none",
        store: ExplanationStore | None = None,
    ):
        check_baseline(baseline, store)
        self.recommender, self.encoder, self.vocabulary = recommender, encoder, vocabulary
        self.sides, self.baseline, self.store = tuple(sides), baseline, store
        first = recommender.models[0] if isinstance(recommender, CrossFit) else recommender
        self.truth = "target" if first.objective == "rating" else "label"
        self.__name__ = "recpie"

    @classmethod
    def from_context(cls, context) -> "RecPIEReward":
        """See `reward_models.resolution`."""
        context.require("recpie", "recommender", "encoder", "vocabulary")
        return cls(
            context.recommender,
            context.encoder,
            context.vocabulary,
            context.sides,
            context.recpie_baseline,
            context.store,
        )

    def __call__(self, prompts, completions, completion_ids=None, *, side=None, log_metric=None, **columns):
        if self.truth not in columns or side is None:
            missing = "side" if side is None else self.truth
            raise ValueError(f"The RecPIE reward needs the dataset column {missing!r}, which the training rows lack.")
        samples = samples_of(columns, self.vocabulary, "RecPIE")
        members = self._members(samples, side)  # (M, S) rows
        z = self.encoder.encode(completion_texts(completions))[torch.tensor(members)]  # (M, S, d)
        first = [rows[0] for rows in members]
        truth = [columns[self.truth][row] for row in first]
        y = torch.tensor([0.0 if value is None else float(value) for value in truth])
        samples = samples[first]
        batch = self.vocabulary.encode(samples)

        def predicted(explanations):
            return predict(self.recommender, batch, interaction_names(samples), explanations)

        with_text, without = predicted(z), predicted(None)
        rewards = recpie_reward(y, with_text)
        known = [i for i, value in enumerate(truth) if value is not None]
        log_mean(log_metric, "recpie/reward", rewards[known].tolist())
        log_mean(log_metric, "recpie/error", (with_text - y).abs()[known].tolist())
        log_mean(log_metric, "recpie/influence", (with_text - without).abs()[known].tolist())
        if self.baseline != "none":
            stored = self.baseline == "stored"
            reference = predicted(self.store.embeddings_for(samples, self.encoder, self.sides)) if stored else without
            log_mean(log_metric, "recpie/baseline", recpie_reward(y, reference)[known].tolist())
            rewards = rewards - recpie_reward(y, reference)
        out = [None] * len(completions)
        for i in known:
            for row in members[i]:
                out[row] = float(rewards[i])
        return out

    def _members(self, samples: pl.DataFrame, side: Sequence[str]) -> list[list[int]]:
        """For each sample and repetition the rows of its sides, in their order."""
        found: dict[tuple, dict[str, int]] = {}
        seen: dict[tuple, int] = {}
        for row, (user, item, name) in enumerate(zip(samples["user_id"], samples["item_id"], side)):
            repetition = seen[user, item, name] = seen.get((user, item, name), -1) + 1
            found.setdefault((user, item, repetition), {})[name] = row
        for (user, item, _), rows in found.items():
            if set(rows) != set(self.sides):
                raise ValueError(
                    f"The reward batch has the sides {', '.join(map(repr, rows))} of user {user!r} and item {item!r}, "
                    f"but a reward needs all of {', '.join(map(repr, self.sides))}: give the dataset a pair_id "
                    "column, which keeps pairs together."
                )
        return [[rows[name] for name in self.sides] for rows in found.values()]


def recpie_reward(y: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """Equation 4 of ratings and predictions, all (N,).

    >>> recpie_reward(torch.tensor([1.0, 0.25]), torch.tensor([0.0, 0.25]))
    tensor([0.5000, 1.0000])
    """
    return 1 / (1 + (predicted - y).abs())
