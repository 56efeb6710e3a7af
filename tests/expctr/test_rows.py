"""The rows of ExpCTR's table, on numbers worked by hand and on the small world's samples."""

import math

import numpy as np
import polars as pl
import pytest
import torch

from rlrec.expctr import rows as table
from rlrec.expctr.rows import Explained
from rlrec.explanations import ExplanationStore
from rlrec.recommenders import DeepFM, SplitData
from rlrec.recommenders.fitting import CrossFit

LN3 = math.log(3)  # as a margin: 3 to 1 for "Yes", a score of 0.75


# -- explanations -------------------------------------------------------------------------------------------------


class CountingScorer:
    """The margin of a text is its number of characters; of a row, nothing."""

    def __init__(self):
        self.calls = 0

    def margins(self, texts, rows):
        self.calls += 1
        assert len(texts) == len(rows)
        return torch.tensor([float(len(text)) for text in texts])


def test_explanations_are_written_once_and_read_again(small_policies, small_world, tmp_path):
    samples = small_world.samples.filter(pl.col("split") != "train").head(6)
    rows, scorer, path = small_world.template.rows(samples), CountingScorer(), tmp_path / "explanations" / "lc.parquet"

    def explain(load):
        settings = {"num_explanations": 3, "max_new_tokens": 28, "batch_size": 8, "seed": 0}
        return table.explain(path, samples, rows, small_policies.tokenizer, load, **settings)

    first = explain(lambda: (small_policies.load(), scorer))
    assert [len(texts) for texts in first.texts] == [3] * 6
    assert first.margins.tolist() == [[len(text) for text in texts] for texts in first.texts]
    assert scorer.calls == 3
    again = explain(lambda: 1 / 0)
    assert again.texts == first.texts
    assert (again.margins == first.margins).all()
    samples, rows = samples.reverse(), rows[::-1]
    with pytest.raises(ValueError, match=r"lc\.parquet explains other samples than the dataset gives now"):
        explain(lambda: 1 / 0)
    samples, rows = samples.reverse(), rows[::-1]
    kept = pl.read_parquet(path)
    assert kept.select("user_id", "item_id", "split").equals(samples.select("user_id", "item_id", "split"))
    assert sorted(file.name for file in path.parent.iterdir()) == [".lc.parquet.sha256", "lc.parquet"]


def held_out(**columns) -> pl.DataFrame:
    """Four validation and four test samples with labels 0, 0, 1, 1 each; everybody liked "A" and disliked "B"."""
    return pl.DataFrame(
        {
            "split": ["validation"] * 4 + ["test"] * 4,
            "label": [0, 0, 1, 1] * 2,
            "title": ["T"] * 8,
            "history_titles": [["A", "B"]] * 8,
            "history_labels": [[1, 0]] * 8,
            "categories": [["drama", "war"]] * 8,
            **columns,
        }
    )


def test_rows_of_one_and_of_several_explanations():
    # Test margins: alone, one of four pairs is in the wrong order (0 < LN3), their means put all pairs right.
    test = [[LN3, -3 * LN3], [-LN3, -LN3], [0.0, LN3], [LN3 + 0.1, LN3]]
    written = Explained([["No.", "No."]] * 8, np.array([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], *test]))
    rows, scores = table.explanation_rows("llm", held_out(), written)
    assert list(rows) == list(scores) == ["llm", "llm_mean2"]
    assert (rows["llm"]["auc"], rows["llm_mean2"]["auc"]) == (0.75, 1.0)
    assert rows["llm"]["log_loss_t1"] == pytest.approx(
        -(math.log(1 - 0.75) + math.log(1 - 0.25) + math.log(0.5) + math.log(1 / (1 + math.exp(-LN3 - 0.1)))) / 4
    )
    means = [(0.75 + 1 / 28) / 2, 0.25, (0.5 + 0.75) / 2, (1 / (1 + math.exp(-LN3 - 0.1)) + 0.75) / 2]
    assert rows["llm_mean2"]["log_loss_t1"] == pytest.approx(
        -(math.log(1 - means[0]) + math.log(1 - means[1]) + math.log(means[2]) + math.log(means[3])) / 4
    )
    # T comes from the validation samples. Alone, two of four margins +-1 point the right way: any T loses nothing but
    # by being far off, so T goes to its upper bound and every score to 0.5.
    assert rows["llm"]["temperature"] > 100
    assert scores["llm"] == pytest.approx([0.5] * 4, abs=0.01)
    assert rows["llm"]["log_loss"] == pytest.approx(math.log(2), abs=0.01)
    # The means are right for the first and last and 0.5 for the others: T goes to its lower bound.
    assert rows["llm_mean2"]["temperature"] < 0.1


def test_what_explanations_say_stands_in_the_first_row_alone():
    true = 'This is a drama film and they liked "A", so they will likely like it.'
    false = 'This is a war film and they liked "C", so they will likely dislike it.'
    written = Explained([["unread", "unread"]] * 4 + [[true, false]] * 3 + [[false, true]], np.eye(8, 2))
    reasons = [["+drama"]] * 4 + [["+drama", "-war"]] * 4
    rows, _ = table.explanation_rows("llm", held_out(reasons=reasons), written)
    assert rows["llm"]["cited_real"] == rows["llm"]["polarity_right"] == 0.75
    assert rows["llm"]["malformed"] == 0.0
    assert (rows["llm"]["precision"], rows["llm"]["coverage"]) == (1.0, 0.5)
    assert rows["llm"]["signed_precision"] == 1.0  # drama with "like" three times, war with "dislike" once
    assert not {"cited_real", "precision"} & set(rows["llm_mean2"])
    assert "precision" not in table.explanation_rows("llm", held_out(), written)[0]["llm"]


def test_shuffled_explanations_are_anothers():
    margins = np.array([[-2.0], [-1.0], [1.0], [2.0]] * 2)
    written = Explained([["No."]] * 8, margins)
    partners = np.array([3, 2, 1, 0, 7, 6, 5, 4])
    assert table.explanation_rows("llm", held_out(), written)[0]["llm"]["auc"] == 1.0
    assert table.explanation_rows("llm", held_out(), written, partners)[0]["llm"]["auc"] == 0.0


# -- CTR models ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def samples(small_world):
    return small_world.samples


@pytest.fixture(scope="module")
def data(samples):
    return SplitData.build(samples)


def test_ctr_data(data, samples):
    for split in ("train", "validation", "test"):
        part = samples.filter(pl.col("split") == split)
        assert data.targets[split].tolist() == part["label"].to_list()
        assert len(data.batches[split]["user"]) == len(part)
    assert (data.batches["train"]["user"] > 0).all()
    assert (data.batches["test"]["user"] == 0).all()  # user-disjoint: nobody in the test split was trained on
    assert data.batches["train"]["features"].shape[1] == 0
    assert data.batches["train"]["categories"].shape[1] == 0
    with_features = SplitData.build(samples, ("like_rate", "item_mean"))
    assert with_features.batches["test"]["features"].shape[1] == 2


class Words:
    """An encoder of two dimensions: how often "good" and how often "bad" stands in a text."""

    dimension = 2

    def encode(self, texts):
        return torch.tensor([[float(text.count("good")), float(text.count("bad"))] for text in texts])


def test_embeddings_come_from_the_store_and_from_the_first_texts(data):
    train, held = data.samples["train"], len(data.samples["validation"]) + len(data.samples["test"])
    store = ExplanationStore()
    key = train.row(3, named=True)
    store.update([{"user_id": key["user_id"], "item_id": key["item_id"], "text": "good good bad"}])
    written = Explained([["good", "bad", "bad bad bad"]] * held, np.zeros((held, 3)))
    z = table.embed(data, store, written, Words(), 2)
    assert {split: tuple(part.shape) for split, part in z.items()} == {
        split: (len(part), 1, 2) for split, part in data.samples.items()
    }
    assert z["train"][3].tolist() == [[2.0, 1.0]]
    assert z["train"].sum() == 3.0  # zeros for all rows without an explanation
    assert z["test"][0].tolist() == [[0.5, 0.5]]
    assert table.embed(data, store, written, Words(), 1)["validation"][0].tolist() == [[1.0, 0.0]]


def z_of_labels(data) -> dict[str, torch.Tensor]:
    return {split: torch.stack([y, 1 - y], 1).unsqueeze(1) for split, y in data.targets.items()}


def test_a_row_reads_its_explanations(data):
    without, scores = table.ctr_row(data, fits=1)
    with_z, scores_z = table.ctr_row(data, z_of_labels(data), fits=1)
    assert with_z["auc"] > 0.95 > without["auc"]
    assert len(scores) == len(scores_z) == len(data.samples["test"])
    labels = data.targets["test"].numpy()
    assert scores_z[labels == 1].mean() > scores_z[labels == 0].mean() + 0.3


def test_a_row_is_the_mean_of_its_fits_and_keeps_the_first_scores(data, monkeypatch):
    _, first = table.ctr_row(data, fits=1, seed=5)
    torch.manual_seed(99)  # what was drawn before does not matter
    torch.rand(3)
    calls = iter([{"auc": 1.0}, {"auc": 2.0}, {"auc": 6.0}])
    seen = []
    monkeypatch.setattr(table, "ctr_metrics", lambda labels, scores: seen.append(scores) or next(calls))
    row, scores = table.ctr_row(data, fits=3, seed=5)
    assert row == {"auc": 3.0}
    assert (scores == first).all()
    assert not (seen[1] == first).all()  # another seed


def test_stage_two_in_and_out_of_fold(data):
    store = ExplanationStore()
    keys = data.samples["train"].select("user_id", "item_id", "label").iter_rows(named=True)
    store.update({**key, "text": "good" if key["label"] else "bad"} for key in keys)
    texts = ["good" if label else "bad" for label in data.targets["validation"]]
    one = table.fit_recommender(data, store, Words(), None, 0, texts)
    assert isinstance(one, DeepFM)
    crossed = table.fit_recommender(data, store, Words(), 3, 0, texts)
    assert isinstance(crossed, CrossFit)
    users = data.samples["train"]["user_id"].to_list()
    assert set(crossed.fold_of_group) == set(users)
    assert len(crossed.models) == 3
    torch.manual_seed(4)
    again = table.fit_recommender(data, store, Words(), 3, 0, texts)
    assert torch.equal(again.predictions, crossed.predictions)
    z = store.embeddings_for(data.samples["train"], Words())
    assert crossed.predict(data.batches["train"], users, z)[data.targets["train"] == 1].mean() > 0.6


def test_sizes_are_checked_before_anything_is_trained(samples):
    table.check_samples(samples, 64, 5)
    count = len(samples.filter(pl.col("split") == "train"))
    table.check_samples(samples, count, 0)
    with pytest.raises(
        ValueError, match=f"There are {count} training samples, and one rollout takes {count + 1}: the"
    ):
        table.check_samples(samples, count + 1, 0)
    with pytest.raises(
        ValueError, match=r"There are \d+ training users, and ic_folds is 500: the dataset is too small"
    ):
        table.check_samples(samples, 1, 500)
    few = pl.concat(
        [samples.filter(pl.col("split") == "train"), samples.filter(pl.col("split") == "validation").head(9)]
    )
    with pytest.raises(ValueError, match="There are 9 validation samples, and early stopping needs 10"):
        table.check_samples(few, 1, 0)
