"""One small RecPIE run in its parts: rounds, warm start, soft prompts, resuming, strangers, training fractions."""

import dataclasses
import json

import polars as pl
import pytest
import torch

from reward_models import resolve_reward
from rlrec.arguments import DataArguments, PolicyArguments, parse_arguments
from rlrec.explanations import ExplanationStore
from rlrec.policies.soft_prompt import soft_prompt_of
from rlrec.ppo import PPOConfig
from rlrec.recommenders.fitting import CrossFit
from rlrec.recpie import RecPIEArguments
from rlrec.recpie.prompts import ExplanationPrompts
from rlrec.recpie.run import Explanations, RecPIERun, _policy_loss

SETTINGS = ["--warmup_steps_copy", "0", "--template_steps", "30", "--num_users", "24", "--num_items", "30"]
SETTINGS += ["--interactions_per_user", "10", "--history_length", "4", "--per_device_train_batch_size", "32"]
SETTINGS += ["--warmup_steps", "0", "--rounds", "2", "--recpie_baseline", "none"]


def make_run(folder, *arguments) -> RecPIERun:
    parsed = parse_arguments(
        (RecPIEArguments, DataArguments, PolicyArguments, PPOConfig),
        "recpie/smoke",
        [*SETTINGS, "--output_dir", str(folder), *map(str, arguments)],
    )
    return RecPIERun(*parsed, resolve_reward)


# -- losses and convergence, by hand ---------------------------------------------------------------------------------


def explanations_after(*losses) -> Explanations:
    """After rounds 0, 1, ... with these (policy loss, recommender loss)."""
    rounds = [{"round": i, "policy_loss": p, "recommender_loss": r} for i, (p, r) in enumerate(losses)]
    return Explanations("recpie", ExplanationPrompts(), ExplanationStore(), [], rounds=rounds)


START = (None, 0.30)


@pytest.mark.parametrize(
    ("losses", "rounds", "tolerance", "converged"),
    [
        ([START], 1, 0.0, False),  # before the first pass
        ([START, (0.3, 0.2)], 1, 0.0, True),  # the rounds are used up
        ([START, (0.3, 0.2)], 2, 1.0, False),  # one policy loss has nothing to be compared with
        ([START, (0.3, 0.2), (0.3, 0.2)], 5, 0.0, False),  # 0 is never, even without any change
        ([START, (0.30, 0.20), (0.29, 0.21)], 5, 0.02, True),
        ([START, (0.30, 0.20), (0.31, 0.19)], 5, 0.02, True),  # getting worse is a change too
        ([START, (0.30, 0.20), (0.25, 0.20)], 5, 0.02, False),  # the policy still moves
        ([START, (0.30, 0.20), (0.30, 0.10)], 5, 0.02, False),  # the recommender still moves
        ([START, (0.90, 0.90), (0.30, 0.20), (0.29, 0.20)], 5, 0.02, True),  # the last two count
        ([START, (0.30, 0.20), (0.30, 0.20), (0.90, 0.20)], 5, 0.02, False),
    ],
)
def test_convergence(losses, rounds, tolerance, converged):
    run = RecPIERun.__new__(RecPIERun)
    run.arguments = RecPIEArguments(rounds=rounds, tolerance=tolerance)
    assert run.converged(explanations_after(*losses)) is converged


def test_the_policy_loss_is_of_the_last_quarter_and_of_equation_4():
    def log(name, rewards):
        return [{name: reward, "step": step} for step, reward in enumerate(rewards)] + [{"train_runtime": 3.0}]

    assert _policy_loss(log("reward", [0.1] * 6 + [0.6, 0.8])) == pytest.approx(1 - 0.7)
    assert _policy_loss(log("reward", [0.1, 0.2, 0.4])) == pytest.approx(1 - 0.4)  # at least the last one
    # with a baseline the reward is about zero, and equation 4 is logged beside it
    both = [{"reward": 0.01, "recpie/reward": 0.7}, {"reward": 0.02, "recpie/reward": 0.75}]
    assert _policy_loss(both) == pytest.approx(1 - 0.75)


# -- two rounds ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Snapshot:
    """What a round left behind."""

    adapter: object
    table: torch.Tensor
    train_texts: list
    test_texts: list
    embeddings: dict
    rewarding: object


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


def snapshot(run, explanations) -> Snapshot:
    parts = run.data.samples
    return Snapshot(
        explanations.adapter,
        explanations.recommender.consumer_table.weight.detach().clone(),
        explanations.training.texts_for(parts["train"], "pos"),
        explanations.held_out[0].texts_for(parts["test"], "neg"),
        run._embed(explanations),
        explanations.rewarding,
    )


@pytest.fixture(scope="module")
def rounds(run):
    """`explanations` after two rounds, the second with a recommender that (almost) does not learn; what each left."""
    explanations, left = run.begin("contrastive"), []
    run.fit_recommender(explanations)
    left.append(snapshot(run, explanations))
    for learning_rate in (0.01, 1e-12):
        assert not run.converged(explanations)
        run.train_policy(explanations)
        run.arguments.recommender_learning_rate = learning_rate
        run.fit_recommender(explanations)
        left.append(snapshot(run, explanations))
    return explanations, left


def test_the_bootstrap_has_every_text_and_no_soft_prompt(run, rounds):
    _, (before, *_) = rounds
    assert before.adapter is None
    assert None not in before.train_texts + before.test_texts
    sizes = {split: tuple(z.shape) for split, z in before.embeddings.items()}
    assert sizes == {split: (len(part), 2, run.encoder.dimension) for split, part in run.data.samples.items()}
    assert all((z != 0).any(-1).all() for z in before.embeddings.values())


def test_both_losses_are_kept_for_each_round(run, rounds):
    explanations, _ = rounds
    assert [kept["round"] for kept in explanations.rounds] == [0, 1, 2]
    assert explanations.rounds[0]["policy_loss"] is None
    for kept in explanations.rounds[1:]:
        logged = json.loads((run.output / "logs" / f"recpie_round_{kept['round']}.json").read_text())
        assert kept["policy_loss"] == _policy_loss(logged)
        assert 0 < kept["policy_loss"] < 1
    for kept in explanations.rounds:
        assert 0 < kept["recommender_loss"] < 1
    assert run.converged(explanations)


def test_the_policy_s_texts_of_the_round_replace_those_before(run, rounds):
    explanations, left = rounds
    frame = explanations.training.to_frame()
    assert len(frame) == 2 * len(run.data.samples["train"])  # newest per sample and side
    assert set(frame["round"]) == {0, 1, 2}  # passes over 0.3 of the rows, others in each round
    assert left[0].train_texts != left[1].train_texts
    assert left[0].test_texts != left[1].test_texts
    assert left[1].adapter != left[2].adapter


def test_the_recommender_goes_on_from_the_round_before(rounds):
    _, left = rounds
    assert not torch.allclose(left[0].table, left[1].table, atol=1e-4)  # it learned
    assert torch.allclose(left[1].table, left[2].table, atol=1e-6)  # it would be anything else from a new draw


def test_the_rewarding_models_are_out_of_fold(run, rounds):
    explanations, (_, after_one, _) = rounds
    rewarding = after_one.rewarding
    assert isinstance(rewarding, CrossFit)
    assert len(rewarding.models) == run.arguments.folds == 2
    train = run.data.samples["train"]
    assert len(rewarding.fold_of_group) == len(train)
    held_out = pl.concat([run.data.samples["validation"], run.data.samples["test"]])
    assert not set(held_out["user_id"] + "\t" + held_out["item_id"]) & set(rewarding.fold_of_group)
    assert explanations.rewarding is explanations.recommender  # nothing is rewarded after the last round


def test_an_adapter_belongs_to_the_consumer_table_of_its_round(run, rounds, capsys):
    explanations, left = rounds
    with pytest.raises(SystemExit):
        run._load_policy(explanations, left[1].adapter)  # the table of round 1 went on
    error = capsys.readouterr().err
    assert "was saved with consumer_table_sha256" in error
    assert "take the recommender, users and soft prompt of the same run and round." in error
    policy = run._load_policy(explanations, left[1].adapter, going_on=True)
    prompt = soft_prompt_of(policy)
    assert prompt.consumer_table is explanations.recommender.consumer_table
    assert prompt.users == run.data.vocabulary.users


def test_the_soft_prompt_is_the_consumer_table_that_ppo_leaves_alone(run, rounds):
    _, left = rounds
    for number, before in ((1, left[0]), (2, left[1])):
        saved = json.loads((run.output / f"stages/recpie_round_{number}/adapter/soft_prompt.json").read_text())
        folder = run.output / "recommenders" / "recpie" / f"round_{number - 1}" / "recommender"
        assert saved["consumer_table_shape"] == list(before.table.shape)
        table = type(rounds[0].recommender).from_pretrained(folder).consumer_table.weight
        assert torch.equal(table, before.table)


def test_a_second_run_reads_everything_and_trains_nothing(run, rounds, monkeypatch):
    _, left = rounds
    again = make_run(run.output)
    monkeypatch.setattr(type(again.data), "fit", lambda *args, **options: 1 / 0)
    monkeypatch.setattr("rlrec.alternating.PPOTrainer", lambda *args, **options: 1 / 0)
    monkeypatch.setattr("rlrec.recpie.writing.generate_explanations", lambda *args, **options: 1 / 0)
    explanations = again.begin("contrastive")
    again.fit_recommender(explanations)
    while not again.converged(explanations):
        again.train_policy(explanations)
        again.fit_recommender(explanations)
    assert explanations.rounds == rounds[0].rounds
    after = snapshot(again, explanations)
    assert (after.train_texts, after.test_texts) == (left[2].train_texts, left[2].test_texts)
    assert torch.equal(after.table, left[2].table)


def test_a_kill_between_the_recommender_and_its_folds(run, rounds, monkeypatch):
    """The recommender is there, its folds are not: both are fitted again, from the round before."""
    folder = run.output / "recommenders" / "recpie" / "round_1"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (folder / "losses.json").unlink()
    (folder / "folds" / "folds.json").unlink()
    again = make_run(run.output)
    again.arguments.recommender_learning_rate = 0.01
    explanations = again.begin("contrastive")
    again.fit_recommender(explanations)
    again.train_policy(explanations)
    again.fit_recommender(explanations)
    assert {path: path.read_bytes() for path in before} == before


def test_a_row_its_control_and_its_texts(run, rounds):
    explanations, _ = rounds
    run.add_row("", explanations)
    run.collect_rows()
    row = run.rows["recpie"]
    assert {"rmse", "mae", "rmse_stars", "mae_stars", "auc", "coverage", "signed_coverage"} <= set(row)
    assert row["rmse_stars"] == pytest.approx(4 * row["rmse"])
    assert set(run.controls["recpie_shuffled"]) == {"rmse", "auc"}
    assert run.controls["recpie_rounds"] == 2
    test = run.data.samples["test"]
    assert len(run.scores["recpie"]) == len(test)
    assert run.texts["recpie_neg"] == explanations.held_out[0].texts_for(test, "neg")
    assert set(run.texts) == {"recpie_pos", "recpie_neg"}


# -- other settings --------------------------------------------------------------------------------------------------


def test_strangers_no_history_no_soft_prompt_and_one_model_in_sample(tmp_path):
    """Few samples of many users: some are tested without a training row, and some have no history."""
    options = ["--num_samples", 120, "--min_history", 0, "--folds", 0, "--num_explanations", 2]
    run = make_run(tmp_path / "run", *options, "--num_users", 40, "--per_device_train_batch_size", 16, "--rounds", 1)
    test = run.data.samples["test"]
    strangers = set(test["user_id"]) - set(run.data.vocabulary.users)
    assert strangers
    assert (run.data.samples["train"]["history"].list.len() == 0).any()
    assert (run.data.batches["test"]["user"] == 0).sum() == test["user_id"].is_in(list(strangers)).sum()
    explanations = run.begin("contrastive")
    run.fit_recommender(explanations)
    assert explanations.rewarding is explanations.recommender  # folds 0
    with pytest.warns(UserWarning, match="are unknown to the soft prompt and get row 0 of its table") as warned:
        run.train_policy(explanations)
    told = [str(w.message) for w in warned if "soft prompt" in str(w.message)]
    assert len(told) == 1  # said once
    run.fit_recommender(explanations)
    assert len(explanations.held_out) == 2
    run.add_row("", explanations)
    assert set(run.rows) == {"recpie", "recpie_mean2"}
    # the mean's training texts are all the finished policy's
    assert [set(draw.to_frame()["round"]) for draw in explanations.training_draws] == [{1}, {1}]
    training = run.data.samples["train"]
    draws = [draw.embeddings_for(training, run.encoder, explanations.sides) for draw in explanations.training_draws]
    assert torch.equal(run._embed(explanations, 2)["train"], (draws[0] + draws[1]) / 2)
    assert not torch.equal(draws[0], draws[1])
    newest = explanations.training.embeddings_for(training, run.encoder, explanations.sides)
    assert torch.equal(run._embed(explanations, 1)["train"], newest)


def test_without_a_soft_prompt(tmp_path):
    run = make_run(tmp_path / "run", "--soft_prompt", "false", "--rounds", 1)
    explanations = run.begin("contrastive")
    run.fit_recommender(explanations)
    run.train_policy(explanations)
    assert not (explanations.adapter / "soft_prompt.json").exists()
    assert soft_prompt_of(run._load_policy(explanations, explanations.adapter)) is None


def test_training_fractions(run, tmp_path):
    half = make_run(tmp_path / "half", "--training_fraction", 0.5)
    whole_parts, parts = run.data.samples, half.data.samples
    key = ["user_id", "item_id", "target", "history"]
    assert parts["test"].select(key).equals(whole_parts["test"].select(key))
    for split in ("train", "validation"):
        # half of all interactions; those without enough history are no samples
        assert len(parts[split]) == pytest.approx(0.5 * len(whole_parts[split]), abs=3)
        assert len(parts[split].join(whole_parts[split], on=["user_id", "item_id"], how="anti")) == 0
    assert set(half.data.vocabulary.users) <= set(run.data.vocabulary.users)


def test_the_binary_objective(tmp_path):
    run = make_run(tmp_path / "run", "--objective", "binary", "--rounds", 1)
    assert run.data.targets["train"].tolist() == run.data.samples["train"]["label"].to_list()
    explanations = run.begin("contrastive")
    run.fit_recommender(explanations)
    run.train_policy(explanations)
    assert explanations.recommender.objective == "binary"
    run.add_row("", explanations)
    run.collect_rows()
    assert ((run.scores["recpie"] > 0) & (run.scores["recpie"] < 1)).all()


def test_another_run_in_the_same_folder_is_refused(run):
    with pytest.raises(ValueError, match=r"holds a run with training_fraction = 1\.0, not 0\.5; give another"):
        make_run(run.output, "--training_fraction", 0.5)
