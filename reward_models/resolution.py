"""Reward names to reward functions: `--reward_funcs lc my_package.my_module.my_reward`.

A name is looked up, in this order, as

1. a built-in one (`BUILT_IN`),
2. an entry point of the group "rlrec.rewards", which an installed package declares,
3. a dotted path to a module's attribute, importable as it stands.

A function is used as it is. A class is built: by its classmethod `from_context(context)` if it has one, which takes
what it needs (model, recommender, encoder ...) out of a `RewardContext`; otherwise without arguments.
"""

import difflib
import importlib
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points

import torch
from transformers import PreTrainedTokenizerBase

from reward_models.alignment import ICReward, LCReward, Template
from reward_models.groundedness import GroundednessReward
from reward_models.recpie import RecPIEReward
from rlrec.encoders import TextEncoder
from rlrec.explanations import ExplanationStore
from rlrec.recommenders.base import Recommender, Vocabulary
from rlrec.recommenders.fitting import CrossFit

ENTRY_POINTS = "rlrec.rewards"
BUILT_IN = {"lc": LCReward, "ic": ICReward, "recpie": RecPIEReward, "groundedness": GroundednessReward}


@dataclass
class RewardContext:
    """What a reward may need to be built; a run fills in what it has.

    Attributes:
        model, tokenizer, template: the policy, its tokenizer, and (explanation, row) -> CTR prompt, for "lc".
        recommender, encoder, vocabulary: for "ic" and "recpie"; a `CrossFit` rewards out of fold, a single one
            in-sample, as the paper prints it.
        store: the explanations kept so far, for the baseline "stored".
        lc_temperature, lc_form: see `FirstTokenScorer`, `LCReward`.
        ic_shift, ic_accuracy, ic_baseline: see `ICReward`.
        sides, recpie_baseline: see `RecPIEReward`.
        groundedness_require_citation: see `GroundednessReward`.
    """

    model: torch.nn.Module | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    template: Template | None = None
    recommender: Recommender | CrossFit | None = None
    encoder: TextEncoder | None = None
    vocabulary: Vocabulary | None = None
    store: ExplanationStore | None = None
    lc_temperature: float = 1.0
    lc_form: str = "absolute"
    ic_shift: str = "on"
    ic_accuracy: bool = True
    ic_baseline: str = "none"
    sides: tuple[str, ...] = ("pos", "neg")
    recpie_baseline: str = "none"
    groundedness_require_citation: bool = False

    def require(self, reward: str, *names: str) -> None:
        """Raises ValueError where one of the named attributes is None."""
        missing = [name for name in names if getattr(self, name) is None]
        if missing:
            raise ValueError(f"The reward {reward!r} needs {', '.join(missing)} in its context, which this run lacks.")


def resolve_reward(name: str, **context) -> Callable:
    """The reward function called `name`, built from `context` (fields of `RewardContext`).

    Raises:
        ValueError: no such reward (the nearest names are suggested), or the context lacks what it needs.
        TypeError: what the name stands for cannot be called, or a context field does not exist.
    """
    found = find_reward(name)
    if inspect.isclass(found):
        found = found.from_context(RewardContext(**context)) if hasattr(found, "from_context") else found()
    if not callable(found) or isinstance(found, torch.nn.Module):
        raise TypeError(
            f"The reward {name!r} is a {type(found).__name__}; it must be a function or an object with __call__, and "
            "no nn.Module (TRL takes those for classifiers)."
        )
    return found


def find_reward(name: str):
    """The class or function that a reward's name stands for, not yet built.

    Raises:
        ValueError: no such reward (the nearest names are suggested).
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    installed = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name in installed:
        return installed[name].load()
    module_name, _, attribute = name.rpartition(".")
    if module_name and _importable(module_name):
        module = importlib.import_module(module_name)  # an error inside the module is the user's to see
        if hasattr(module, attribute):
            return getattr(module, attribute)
        known, start, place = [n for n in vars(module) if not n.startswith("_")], attribute, f" in {module_name}"
    else:
        known, start, place = [*BUILT_IN, *installed], name, ""
    spelled = {name.lower(): name for name in known}
    near = [spelled[match] for match in difflib.get_close_matches(start.lower(), spelled, n=3, cutoff=0.4)]
    hint = (
        f"did you mean {' or '.join(map(repr, near))}?" if near else f"known are {', '.join([*BUILT_IN, *installed])}"
    )
    raise ValueError(f"There is no reward {start!r}{place}; {hint} (or give a dotted path, package.module.name)")


def _importable(module_name: str) -> bool:
    """Whether such a module can be found; its parent packages are imported on the way."""
    parent = module_name.rpartition(".")[0]
    if parent and not (_importable(parent) and importlib.util.find_spec(parent).submodule_search_locations):
        return False
    return importlib.util.find_spec(module_name) is not None
