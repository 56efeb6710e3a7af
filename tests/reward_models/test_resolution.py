"""Names, entry points and dotted paths become rewards; mistakes are named with what was probably meant."""

import importlib.metadata

import pytest
from test_alignment_ic import VOCABULARY, FixedRecommender, WordEncoder

from reward_models import GroundednessReward, ICReward, LCReward, resolve_reward

MODULE = """
import torch

def shout(prompts, completions, **columns):
    return [float(text.isupper()) for text in completions]

class Plain:
    def __call__(self, prompts, completions, **columns):
        return [1.0] * len(completions)

class NeedsEncoder:
    def __init__(self, encoder):
        self.encoder = encoder

    @classmethod
    def from_context(cls, context):
        context.require("my_rewards.NeedsEncoder", "encoder")
        return cls(context.encoder)

    def __call__(self, prompts, completions, **columns):
        return self.encoder.encode(completions)[:, 0].tolist()

number = 3
classifier = torch.nn.Linear(1, 1)
"""


@pytest.fixture
def my_rewards(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(MODULE)
    (tmp_path / "my_broken_rewards.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)


def template(explanation, row):
    return f"{explanation} answer :"


def test_builtin_names_take_what_they_need_from_the_context(llama, tokenizer):
    lc = resolve_reward("lc", model=llama, tokenizer=tokenizer, template=template, lc_form="brier", lc_temperature=2.0)
    assert isinstance(lc, LCReward)
    assert (lc.form, lc.scorer.temperature, lc.scorer.template) == ("brier", 2.0, template)
    ic = resolve_reward(
        "ic",
        recommender=FixedRecommender(),
        encoder=WordEncoder(),
        vocabulary=VOCABULARY,
        ic_shift="signed",
        ic_accuracy=False,
        ic_baseline="without_explanation",
    )
    assert isinstance(ic, ICReward)
    assert (ic.shift, ic.accuracy, ic.baseline) == ("signed", False, "without_explanation")
    grounded = resolve_reward("groundedness", groundedness_require_citation=True)
    assert isinstance(grounded, GroundednessReward)
    assert grounded.require_citation
    assert [reward.__name__ for reward in (lc, ic, grounded)] == ["lc_brier", "ic", "groundedness"]


def test_a_context_that_lacks_something_is_an_error():
    with pytest.raises(ValueError, match="The reward 'ic' needs encoder, vocabulary in its context"):
        resolve_reward("ic", recommender=FixedRecommender())
    with pytest.raises(TypeError, match="modle"):
        resolve_reward("lc", modle=None)


def test_dotted_paths(my_rewards):
    assert resolve_reward("my_rewards.shout")(None, ["A", "b"]) == [1.0, 0.0]
    assert resolve_reward("my_rewards.Plain")(None, ["A"]) == [1.0]
    assert resolve_reward("my_rewards.NeedsEncoder", encoder=WordEncoder())(None, ["good"]) == [1.0]


def test_an_entry_point_of_an_installed_package(my_rewards, tmp_path):
    folder = tmp_path / "my_package-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[rlrec.rewards]\nshouting = my_rewards:shout\n")
    assert "shouting" in {point.name for point in importlib.metadata.entry_points(group="rlrec.rewards")}
    assert resolve_reward("shouting")(None, ["A"]) == [1.0]
    with pytest.raises(ValueError, match="There is no reward 'shoutin'; did you mean 'shouting'"):
        resolve_reward("shoutin")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("groundednes", r"There is no reward 'groundednes'; did you mean 'groundedness'\?"),
        ("LC", r"There is no reward 'LC'; did you mean 'lc'"),
        ("my_rewards.shuot", r"There is no reward 'shuot' in my_rewards; did you mean 'shout'\?"),
        ("my_rewards.shout.more", "There is no reward 'my_rewards.shout.more'"),
        ("no_such_package.reward", "There is no reward 'no_such_package.reward'"),
        ("", "There is no reward ''; known are"),
    ],
)
def test_unknown_names_suggest_the_nearest(my_rewards, name, message):
    with pytest.raises(ValueError, match=message):
        resolve_reward(name)


def test_an_error_inside_a_users_module_is_shown(my_rewards):
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        resolve_reward("my_broken_rewards.reward")


@pytest.mark.parametrize(("name", "kind"), [("number", "int"), ("classifier", "Linear")])
def test_what_is_no_reward_is_refused(my_rewards, name, kind):
    with pytest.raises(TypeError, match=f"The reward 'my_rewards.{name}' is a {kind}"):
        resolve_reward(f"my_rewards.{name}")
