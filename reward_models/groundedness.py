"""A gate on facts, as the example of a second reward: evidence that an explanation cites must be true.

A reward that only asks whether explanations are predictive can be raised by made-up evidence ("They liked ..." of a
film they never saw). The rule check of `rlrec.evaluation.faithfulness` finds quoted titles that are not in the user's
history, or that are given the wrong polarity.
"""

from collections.abc import Callable

from reward_models.columns import completion_texts, log_mean
from rlrec.evaluation.faithfulness import check_explanations


class GroundednessReward:
    """1 if every title the explanation cites is in the user's history with the polarity it states, else 0.

    The target's own title is no citation. An explanation that cites nothing has nothing false in it and gets 1, unless
    `require_citation`; a real title that is neither said to be liked nor disliked counts as wrong.

    Needs the dataset columns history_titles and history_labels, and title if there is one. Logs groundedness/real and
    groundedness/right (shares of the citations).

    Example:
        >>> reward = GroundednessReward()
        >>> texts = ['They liked "Heat", so they will like it.', 'They disliked "Heat", so they will dislike it.']
        >>> reward(None, texts, history_titles=[["Heat"], ["Heat"]], history_labels=[[1], [1]])
        [1.0, 0.0]
    """

    def __init__(self, require_citation: bool = False):
        self.require_citation = require_citation
        self.__name__ = "groundedness"

    @classmethod
    def from_context(cls, context) -> "GroundednessReward":
        """See `reward_models.resolution`."""
        return cls(context.groundedness_require_citation)

    def __call__(
        self,
        prompts,
        completions,
        completion_ids=None,
        *,
        history_titles,
        history_labels,
        title=None,
        log_metric=None,
        **columns,
    ):
        checks = check_explanations(completion_texts(completions), history_titles, history_labels, title)
        citations, real, right = (checks[name] for name in ("citations", "citations_real", "citations_right"))
        log_mean(log_metric, "groundedness/real", (real / citations).filter(citations > 0).to_list())
        log_mean(log_metric, "groundedness/right", (right / citations).filter(citations > 0).to_list())
        grounded = (right == citations) & ((citations > 0) | (not self.require_citation))
        return [float(value) for value in grounded]


class GatedReward:
    """`reward`, replaced by `floor` where `gate` is 0: a completion that fails the gate gains nothing from the reward.

    Logs <gate>/refused, the share of completions that the gate refuses. A reward of None stays None, and a gate of
    None lets the reward pass.

    Args:
        reward, gate: reward functions in TRL's sense; the gate returns 0 (refuse) or another number (pass).
        floor: what a refused completion gets; choose it at or below the reward's lowest value (0 for LC and for IC
            with the paper's shift; -1 for IC with the signed shift).

    Example:
        >>> def length(prompts, completions, **columns):
        ...     return [float(len(text)) for text in completions]
        >>> def polite(prompts, completions, **columns):
        ...     return [float("please" in text) for text in completions]
        >>> gated(length, polite)(None, ["go", "please go"])
        [0.0, 9.0]
    """

    def __init__(self, reward: Callable, gate: Callable, floor: float = 0.0):
        self.reward, self.gate, self.floor = reward, gate, floor
        self.__name__ = f"{_name(reward)}_gated"

    def __call__(self, prompts, completions, completion_ids=None, *, log_metric=None, **columns):
        arguments = {"prompts": prompts, "completions": completions, "completion_ids": completion_ids}
        rewards = self.reward(**arguments, log_metric=log_metric, **columns)
        passes = [value is None or value != 0 for value in self.gate(**arguments, log_metric=log_metric, **columns)]
        log_mean(log_metric, f"{_name(self.gate)}/refused", [float(not value) for value in passes])
        return [
            reward if reward is None or passed else self.floor for reward, passed in zip(rewards, passes, strict=True)
        ]


def gated(reward: Callable, gate: Callable, floor: float = 0.0) -> GatedReward:
    """The reward behind the gate; see `GatedReward`."""
    return GatedReward(reward, gate, floor)


def _name(function: Callable) -> str:
    return getattr(function, "__name__", type(function).__name__)
