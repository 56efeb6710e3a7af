"""RecPIE's equation 4 by hand, out of fold with real recommenders, and inside the trainers."""

import polars as pl
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from test_alignment_ic import WordEncoder
from tiny_language_models import build_llama
from trl import GRPOConfig, GRPOTrainer

from reward_models import RecPIEReward, resolve_reward
from rlrec.explanations import ExplanationStore
from rlrec.ppo import PPOConfig, PPOTrainer
from rlrec.recommenders import SelfAttentiveGRU, cross_fit, fit
from rlrec.recommenders.base import Vocabulary, interaction_names
from rlrec.recommenders.fitting import CrossFit


class TwoSlots:
    """0.5 without explanations; 0.4 more for "good" in the positive one, 0.2 less for "bad" in the negative one."""

    def __init__(self, objective="rating", start=0.5):
        self.objective, self.start = objective, start

    def predict(self, batch, explanations=None):
        prediction = torch.full((len(batch["user"]),), self.start)
        if explanations is None:
            return prediction
        assert tuple(explanations.shape) == (len(prediction), 2, 3)
        return prediction + 0.4 * explanations[:, 0, 0] - 0.2 * explanations[:, 1, 1]


VOCABULARY = Vocabulary.from_samples(pl.DataFrame({"user_id": ["u", "v", "w"], "item_id": ["a", "b", "a"]}))
# user, item, side, text, target, label; predictions 0.9, 0.3 and 0.5
ROWS = [
    ("u", "a", "pos", "good", 1.0, 1),
    ("u", "a", "neg", "good", 1.0, 1),  # in the wrong slot, where nobody reads it
    ("v", "b", "pos", "bad", 0.25, 0),  # likewise
    ("v", "b", "neg", "bad", 0.25, 0),
    ("w", "a", "pos", "", None, None),
    ("w", "a", "neg", "", None, None),
]
REWARDS = [1 / (1 + 0.1)] * 2 + [1 / (1 + 0.05)] * 2 + [None] * 2


def columns_of(rows):
    names = ("user_id", "item_id", "side", "completions", "target", "label")
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def reward_of(rows=ROWS, recommender=None, **options):
    logged = {}
    reward = RecPIEReward(recommender or TwoSlots(), WordEncoder(), VOCABULARY, **options)
    values = reward(prompts=None, log_metric=logged.__setitem__, trainer_state=None, **columns_of(rows))
    return values, logged


def assert_close(values, expected):
    assert [value is None for value in values] == [value is None for value in expected]
    assert [v for v in values if v is not None] == pytest.approx([v for v in expected if v is not None])


def test_equation_4_by_hand():
    values, logged = reward_of()
    assert_close(values, REWARDS)
    assert logged == pytest.approx(
        {
            "recpie/reward": (1 / 1.1 + 1 / 1.05) / 2,
            "recpie/error": (0.1 + 0.05) / 2,
            "recpie/influence": (0.4 + 0.2) / 2,
        }
    )


@pytest.mark.parametrize("order", [[1, 0, 3, 2, 5, 4], [0, 2, 4, 1, 3, 5], [5, 2, 1, 4, 0, 3]])
def test_the_sides_of_a_sample_find_each_other_in_any_order(order):
    values, logged = reward_of([ROWS[row] for row in order])
    assert_close(values, [REWARDS[row] for row in order])
    assert logged["recpie/error"] == pytest.approx(0.075)


def test_several_generations_pair_the_nth_with_the_nth():
    """As TRL repeats rows: a a b b. Predictions: (good, bad) 0.7, (good, "") 0.9, ("", "") 0.5."""
    texts = {"pos": ["good", "good", ""], "neg": ["bad", "", ""]}
    rows = [("u", "a", side, text, 1.0, 1) for side in ("pos", "neg") for text in texts[side]]
    assert_close(reward_of(rows)[0], [1 / 1.3, 1 / 1.1, 1 / 1.5] * 2)


def test_the_order_of_the_slots_is_the_argument_s():
    # "bad" of ("neg", "pos"): slot 1 holds the positive text
    assert_close(reward_of(ROWS[:4], sides=("neg", "pos"))[0], [1 / 1.1] * 2 + [1 / (1 + 0.05)] * 2)
    rows = [("u", "a", "pos", "good", 1.0, 1), ("u", "a", "neg", "bad", 1.0, 1)]
    assert_close(reward_of(rows)[0], [1 / 1.3] * 2)
    assert_close(reward_of(rows, sides=("neg", "pos"))[0], [1 / 1.5] * 2)


def test_one_side():
    class OneSlot:
        objective = "rating"

        def predict(self, batch, explanations=None):
            return torch.zeros(len(batch["user"])) if explanations is None else explanations[:, 0, 0]

    rows = [("u", "a", "general", "good", 1.0, 1), ("v", "b", "general", "bad", 1.0, 1)]
    assert_close(reward_of(rows, OneSlot(), sides=("general",))[0], [1.0, 0.5])


@pytest.mark.parametrize(
    ("rows", "has"),
    [
        (ROWS[:3], "'pos' of user 'v' and item 'b'"),
        ([*ROWS[:4], ROWS[1]], "'neg' of user 'u' and item 'a'"),  # two negative texts for one positive
        ([("u", "a", "general", "good", 1.0, 1)], "'general' of user 'u' and item 'a'"),
    ],
)
def test_a_missing_side_is_refused(rows, has):
    with pytest.raises(ValueError, match=f"has the sides {has}, but a reward needs all of 'pos', 'neg': give the"):
        reward_of(rows)


def test_without_any_rating_there_is_no_reward():
    values, logged = reward_of(ROWS[4:])
    assert (values, logged) == ([None, None], {})


def test_the_binary_objective_reads_the_label():
    rows = [(*row[:4], 0.0, row[5]) for row in ROWS]  # targets that would give other rewards
    values, _ = reward_of(rows, TwoSlots("binary"))
    assert_close(values, [1 / 1.1] * 2 + [1 / 1.3] * 2 + [None] * 2)


def test_without_explanation_as_baseline():
    values, logged = reward_of(baseline="without_explanation")
    assert_close(values, [1 / 1.1 - 1 / 1.5] * 2 + [1 / 1.05 - 1 / 1.25] * 2 + [None] * 2)
    assert logged["recpie/baseline"] == pytest.approx((1 / 1.5 + 1 / 1.25) / 2)
    assert logged["recpie/reward"] == pytest.approx((1 / 1.1 + 1 / 1.05) / 2)  # equation 4, not what is left


def test_stored_explanations_as_baseline():
    store = ExplanationStore()
    u = {"user_id": "u", "item_id": "a"}
    store.update([{**u, "side": "pos", "text": "good"}, {**u, "side": "neg", "text": "bad"}])
    store.update([{"user_id": "v", "item_id": "b", "side": "explanation", "text": "bad"}])  # no side of RecPIE's
    values, logged = reward_of(baseline="stored", store=store)
    # u: 0.5 + 0.4 - 0.2 for a rating of 1; v has none stored: 0.5 for 0.25
    assert_close(values, [1 / 1.1 - 1 / 1.3] * 2 + [1 / 1.05 - 1 / 1.25] * 2 + [None] * 2)
    assert logged["recpie/baseline"] == pytest.approx((1 / 1.3 + 1 / 1.25) / 2)
    assert store.texts_for(pl.DataFrame(u), "pos") == ["good"]  # judging does not change what is stored


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "zero"}, "baseline is 'zero', but must be one of none, without_explanation, stored."),
        ({"baseline": "stored"}, "needs the explanation store"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RecPIEReward(TwoSlots(), WordEncoder(), VOCABULARY, **options)


@pytest.mark.parametrize(("name", "objective"), [("side", "rating"), ("target", "rating"), ("label", "binary")])
def test_a_missing_column_is_named(name, objective):
    columns = columns_of(ROWS)
    del columns[name]
    with pytest.raises(ValueError, match=f"The RecPIE reward needs the dataset column '{name}'"):
        RecPIEReward(TwoSlots(objective), WordEncoder(), VOCABULARY)(None, **columns)


def test_a_missing_history_is_named():
    samples = pl.DataFrame({"user_id": ["u"], "item_id": ["a"], "history": [["b"]]})
    vocabulary = Vocabulary.from_samples(samples, use_history=True)
    with pytest.raises(ValueError, match=r"The RecPIE reward needs the dataset columns \['history'\]"):
        RecPIEReward(TwoSlots(), WordEncoder(), vocabulary)(None, **columns_of(ROWS))


def test_the_name_recpie_stands_for_it():
    context = {"recommender": TwoSlots(), "encoder": WordEncoder(), "vocabulary": VOCABULARY, "sides": ("neg", "pos")}
    reward = resolve_reward("recpie", **context, recpie_baseline="without_explanation")
    assert (reward.__name__, reward.sides, reward.baseline) == ("recpie", ("neg", "pos"), "without_explanation")
    with pytest.raises(ValueError, match="'recpie' needs recommender, encoder, vocabulary"):
        resolve_reward("recpie")


# -- out of fold ---------------------------------------------------------------------------------------------------


def test_each_row_is_judged_by_the_model_that_did_not_see_it():
    names = {"u\ta": 0, "v\tb": 1}
    crossed = CrossFit([TwoSlots(start=0.0), TwoSlots(start=0.5)], names, torch.zeros(0))
    rows = [*ROWS[:4], ("w", "a", "pos", "", 0.25, 0), ("w", "a", "neg", "", 0.25, 0)]
    # u: 0 + 0.4 for 1; v: 0.5 - 0.2 for 0.25; w, in no fold: the mean of both models, 0.25
    assert_close(reward_of(rows, crossed)[0], [1 / 1.6] * 2 + [1 / 1.05] * 2 + [1.0] * 2)


def noise(count=160):
    """One row a user; texts and histories say nothing of the ratings."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(2, (count,), generator=generator).float()
    samples = pl.DataFrame(
        {
            "user_id": [f"user {i}" for i in range(count)],
            "item_id": [f"item {i % 5}" for i in range(count)],
            "history": [[f"item {(i + 1) % 5}", f"item {(i + 3) % 5}"] for i in range(count)],
        }
    )
    return samples, targets


def test_out_of_fold_with_real_recommenders_memory_earns_nothing():
    torch.manual_seed(0)
    samples, targets = noise()
    vocabulary = Vocabulary.from_samples(samples, use_history=True)
    sizes = {**vocabulary.sizes(), "objective": "rating", "explanation_slots": 2, "explanation_dim": 3}
    make = lambda: SelfAttentiveGRU(**sizes, id_dropout=0.0)  # noqa: E731
    batch, z = vocabulary.encode(samples), torch.ones(len(samples), 2, 3)
    options = {"epochs": 40, "batch_size": 32, "learning_rate": 0.02}
    names = interaction_names(samples)
    crossed = cross_fit(make, batch, targets, z, groups=names, folds=2, **options)
    single = make()
    fit(single, batch, targets, z, **options)

    rows = pl.concat([samples, samples])
    columns = {name: rows[name].to_list() for name in rows.columns}
    columns |= {"target": targets.tolist() * 2, "side": ["pos"] * len(samples) + ["neg"] * len(samples)}
    texts = ["good bad"] * len(rows)  # (1, 1, 1), the embedding they were trained with
    out_of_fold, in_sample = (
        RecPIEReward(recommender, WordEncoder(), vocabulary)(None, texts, **columns)
        for recommender in (crossed, single)
    )
    for i in range(0, len(samples), 7):
        fold = crossed.fold_of_group[names[i]]
        part = {key: values[i : i + 1] for key, values in batch.items()}
        judged, other = (crossed.models[f].predict(part, z[:1]) for f in (fold, 1 - fold))
        assert out_of_fold[i] == out_of_fold[i + len(samples)]
        assert out_of_fold[i] == pytest.approx(1 / (1 + abs(float(targets[i] - judged))), abs=1e-5)
        assert abs(float(judged - other)) > 1e-4  # the other model would have said something else
    mean = lambda rewards: sum(rewards) / len(rewards)  # noqa: E731
    assert mean(in_sample) > 0.8  # a model that was trained on the rows knows their ratings
    assert mean(out_of_fold) < mean(in_sample) - 0.1


# -- in the trainers -------------------------------------------------------------------------------------------------

PAIRS = [
    {"prompt": prompt, "user_id": user, "item_id": item, "side": side, "pair_id": pair, "target": target}
    for pair, (user, item, target) in enumerate([("u", "a", 1.0), ("v", "b", 0.25), ("w", "a", 0.5), ("u", "b", 0.0)])
    for side, prompt in (("pos", "they liked it : answer"), ("neg", "they disliked it : answer"))
]


class LengthEncoder(WordEncoder):
    """An untrained policy writes neither "good" nor "bad", but texts of any length."""

    def encode(self, texts):
        return torch.tensor([[len(text) % 3 / 2, len(text) % 2, 1.0] for text in texts])


@pytest.mark.parametrize(
    ("trainer_class", "config_class", "generations"),
    [(PPOTrainer, PPOConfig, 1), (PPOTrainer, PPOConfig, 2), (GRPOTrainer, GRPOConfig, 2)],
    ids=["ppo", "ppo-2", "grpo"],
)
def test_the_same_reward_trains_in_ppo_and_grpo(tmp_path, tokenizer, trainer_class, config_class, generations):
    judged = []

    class Spy(RecPIEReward):
        def __call__(self, prompts, completions, completion_ids=None, **columns):
            rewards = super().__call__(prompts, completions, completion_ids, **columns)
            judged.extend(zip(columns["user_id"], columns["item_id"], columns["side"], rewards, strict=True))
            return rewards

    trainer = trainer_class(
        model=build_llama().requires_grad_(False),
        reward_funcs=[Spy(TwoSlots(), LengthEncoder(), VOCABULARY)],
        args=config_class(
            output_dir=str(tmp_path),
            num_generations=generations,
            per_device_train_batch_size=len(PAIRS) * generations,
            max_steps=1,
            max_completion_length=5,
            learning_rate=0.1,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
            save_strategy="no",
        ),
        train_dataset=Dataset.from_list(PAIRS),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=2, target_modules=["q_proj", "v_proj"]),
    )
    trainer.train()
    assert len(judged) == len(PAIRS) * generations
    by_side = {
        side: sorted((user, item, reward) for user, item, s, reward in judged if s == side) for side in ("pos", "neg")
    }
    assert by_side["pos"] == by_side["neg"]  # one reward for both sides
    log = trainer.state.log_history[0]
    mean = sum(reward for *_, reward in judged) / len(judged)
    assert log["rewards/recpie/mean"] == pytest.approx(mean)
    assert log["recpie/reward"] == pytest.approx(mean)
    assert {"recpie/error", "recpie/influence"} <= set(log)
    moved = [p for name, p in trainer.model.named_parameters() if "lora_B" in name]
    assert moved
    assert all(p.abs().sum() > 0 for p in moved)
