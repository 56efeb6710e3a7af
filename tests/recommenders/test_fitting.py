import pytest
import torch
from sklearn.metrics import roc_auc_score

from rlrec.recommenders import NCF, CrossFit, DeepFM, cross_fit, fit
from rlrec.recommenders.fitting import assign_folds, log_loss


def make_batch(users: torch.Tensor, items: torch.Tensor) -> dict[str, torch.Tensor]:
    rows = len(users)
    empty = {"categories": torch.zeros(rows, 0, dtype=torch.long), "features": torch.zeros(rows, 0)}
    return {"user": users, "item": items, **empty}


@pytest.fixture
def by_item():
    """400 rows whose label is whether the item is even; 20 users, 10 items."""
    generator = torch.Generator().manual_seed(0)
    items = torch.randint(1, 11, (400,), generator=generator)
    return make_batch(torch.randint(1, 21, (400,), generator=generator), items), (items % 2 == 0).long()


def build(**arguments) -> DeepFM:
    return DeepFM(21, 11, embedding_dim=4, hidden_dims=(8,), **arguments)


def test_log_loss_by_hand():
    # -(ln .8 + ln .5) / 2 = (.22314 + .69315) / 2
    assert log_loss(torch.tensor([0.8, 0.5]), torch.tensor([1, 0])) == pytest.approx(0.45814, abs=1e-5)


@pytest.mark.parametrize("metric", ["log_loss", "auc"])
def test_early_stopping_restores_the_best_weights(by_item, metric):
    """Random labels: the more it trains, the worse the validation score, so the best epoch comes early."""
    batch, _ = by_item
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 2, (400,), generator=generator)
    other = torch.randint(0, 2, (400,), generator=generator)
    torch.manual_seed(0)
    model = build()
    result = fit(model, batch, labels, validation=(batch, other, None), metric=metric, learning_rate=0.03, patience=4)
    best = result.history[result.best_epoch - 1]
    assert len(result.history) == result.best_epoch + 4
    choose = min if metric == "log_loss" else max
    assert best[f"validation_{metric}"] == choose(record[f"validation_{metric}"] for record in result.history)
    probabilities = model.predict(batch)
    assert log_loss(probabilities, other) == pytest.approx(best["validation_log_loss"])
    assert roc_auc_score(other, probabilities) == pytest.approx(best["validation_auc"])


def test_without_validation_all_epochs_run(by_item):
    batch, labels = by_item
    torch.manual_seed(0)
    model = build()
    result = fit(model, batch, labels, epochs=20, batch_size=32, learning_rate=1e-2)
    assert (len(result.history), result.best_epoch) == (20, 20)
    assert result.samples_per_second > 0
    assert roc_auc_score(labels, model.predict(batch)) == 1.0


def test_every_epoch_is_told(by_item):
    batch, labels = by_item
    model, seen = build(), []
    fit(model, batch, labels, epochs=3, on_epoch=lambda epoch, told: seen.append((epoch, told is model)))
    assert seen == [(1, True), (2, True), (3, True)]


def test_the_thread_setting_is_put_back(by_item):
    before = torch.get_num_threads()
    during = []

    class Watched(DeepFM):
        def forward(self, batch, explanations=None):
            during.append(torch.get_num_threads())
            return super().forward(batch, explanations)

    try:
        torch.set_num_threads(2)
        fit(Watched(21, 11), *by_item, epochs=1)
        fit(Watched(21, 11), *by_item, epochs=1, cpu_threads=None)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert during == [1, 1, 2, 2]


def test_labels_of_one_class_are_refused(by_item):
    batch, labels = by_item
    with pytest.raises(ValueError, match=r"all 400 training labels are \[1\].*AUC is undefined"):
        fit(build(), batch, torch.ones_like(labels))
    with pytest.raises(ValueError, match=r"all 400 validation labels are \[0\]"):
        fit(build(), batch, labels, validation=(batch, torch.zeros_like(labels), None))


def test_bad_arguments_are_refused(by_item):
    batch, labels = by_item
    few = ({key: values[:4] for key, values in batch.items()}, labels[:4], None)
    with pytest.raises(ValueError, match="validation has 4 rows, fewer than 10"):
        fit(build(), batch, labels, validation=few)
    with pytest.raises(ValueError, match=r"training labels must be 0 or 1, found \[2\.0, 3\.0\]"):
        fit(build(), batch, labels.float() + 2)
    with pytest.raises(ValueError, match="labels have 3 rows, the batch has 400"):
        fit(build(), batch, labels[:3])
    with pytest.raises(ValueError, match="metric is 'f1'"):
        fit(build(), batch, labels, metric="f1")
    with pytest.raises(ValueError, match="expected \\(rows, slots, d\\)"):
        fit(build(), batch, labels, torch.zeros(400, 1, 5))


def build_rating() -> NCF:
    return NCF(21, 11, objective="rating", id_dropout=0.0)


def test_ratings_are_fitted_by_squared_error(by_item):
    """Odd items are rated .25 and .75 in turn, even ones 1: the best prediction is .5 for odd and 1 for even."""
    batch, even = by_item
    halves = torch.arange(400) % 2 * 0.5 + 0.25
    ratings = torch.where(even.bool(), torch.ones(400), halves)
    torch.manual_seed(0)
    model = build_rating()
    arguments = {"epochs": 30, "batch_size": 32, "learning_rate": 1e-2, "weight_decay": 1e-3}
    result = fit(model, batch, ratings, validation=(batch, ratings, None), **arguments)
    predictions = model.predict(batch)
    best = result.history[result.best_epoch - 1]
    assert set(best) == {"epoch", "train_loss", "validation_rmse"}
    assert best["validation_rmse"] == min(record["validation_rmse"] for record in result.history)
    assert best["validation_rmse"] == pytest.approx(float((predictions - ratings).square().mean().sqrt()), rel=1e-5)
    assert float(predictions[even == 1].mean()) == pytest.approx(1.0, abs=0.05)
    assert float(predictions[even == 0].mean()) == pytest.approx(0.5, abs=0.05)


def test_one_step_of_squared_error_by_hand(by_item):
    """Before the first step, the training loss is the mean squared error of the untrained model."""
    batch, even = by_item
    torch.manual_seed(0)
    model = build_rating()
    expected = float((model.predict(batch) - even).square().mean())
    result = fit(model, batch, even, epochs=1, batch_size=400)
    assert result.history[0]["train_loss"] == pytest.approx(expected, rel=1e-5)


def test_cross_fitted_ratings(by_item, tmp_path):
    batch, even = by_item
    ratings = 0.25 + 0.5 * even
    groups = [str(row) for row in range(400)]
    arguments = {"epochs": 30, "batch_size": 32, "learning_rate": 1e-2}
    crossed = cross_fit(build_rating, batch, ratings, groups=groups, folds=2, **arguments)
    torch.testing.assert_close(crossed.predictions, ratings, atol=0.1, rtol=0)
    crossed.save_pretrained(tmp_path)
    assert torch.equal(CrossFit.from_pretrained(tmp_path, NCF).predict(batch, groups), crossed.predictions)


def test_bad_ratings_are_refused(by_item):
    batch, even = by_item
    with pytest.raises(ValueError, match=r"training ratings must lie in \[0, 1\], but row 0 is [45]; scale them"):
        fit(build_rating(), batch, even + 4)
    broken = even.float()
    broken[7] = float("nan")
    with pytest.raises(ValueError, match=r"validation ratings must lie in \[0, 1\], but row 7 is nan"):
        fit(build_rating(), batch, even, validation=(batch, broken, None))
    with pytest.raises(ValueError, match="all 400 training ratings are equal"):
        fit(build_rating(), batch, torch.ones(400))
    with pytest.raises(ValueError, match="ratings have 3 rows, the batch has 400"):
        fit(build_rating(), batch, even[:3])
    with pytest.raises(ValueError, match=r"metric is 'auc', expected one of \('rmse',\) for the objective 'rating'"):
        fit(build_rating(), batch, even, metric="auc")


def test_folds_are_balanced_and_whole():
    groups = ["a"] * 6 + ["b"] * 3 + ["c"] * 3 + ["d"] * 2 + ["e"] * 2 + ["f"] * 2
    folds = assign_folds(groups, folds=3, seed=0)
    sizes = [sum(folds[group] == fold for group in groups) for fold in range(3)]
    assert set(folds) == set("abcdef")
    assert sorted(sizes) == [5, 6, 7] or sizes == [6, 6, 6]
    assert folds == assign_folds(groups, folds=3, seed=0)
    with pytest.raises(ValueError, match="7 folds need at least as many groups, but there are only 6"):
        assign_folds(groups, folds=7)


def test_out_of_fold_predictions_cannot_know_the_label_of_their_group():
    """Each user has one label for all rows, drawn by coin: memorised in-sample, unknowable out of fold."""
    users = torch.arange(1, 61).repeat_interleave(8)
    labels = (torch.randperm(60, generator=torch.Generator().manual_seed(0)) < 30).long()[users - 1]
    batch = make_batch(users, torch.ones_like(users))
    groups = [f"user {user}" for user in users.tolist()]

    def make() -> DeepFM:
        return DeepFM(61, 2, embedding_dim=4, hidden_dims=(8,))

    crossed = cross_fit(make, batch, labels, groups=groups, folds=3, epochs=30, learning_rate=1e-2)
    folds = crossed.folds(groups)
    assert torch.equal(crossed.predictions, crossed.predict(batch, groups))
    for fold, model in enumerate(crossed.models):
        inside = folds == fold
        predictions = model.predict(batch)
        assert roc_auc_score(labels[~inside], predictions[~inside]) == 1.0
        assert torch.equal(predictions[inside], crossed.predictions[inside])
        # An unseen user's row of the table is where it was when the model was made: no gradient, only decay.
        assert predictions[inside].std() < 0.05
    assert abs(float(roc_auc_score(labels, crossed.predictions)) - 0.5) < 0.25


def test_groups_outside_of_training_get_the_mean_of_the_folds(by_item, tmp_path):
    batch, labels = by_item
    groups = [str(user) for user in batch["user"].tolist()]
    z = torch.randn(400, 1, 3, generator=torch.Generator().manual_seed(0))

    def make() -> DeepFM:
        return build(explanation_slots=1, explanation_dim=3)

    validation = (batch, labels, z)
    crossed = cross_fit(make, batch, labels, z, groups=groups, folds=2, validation=validation, epochs=2)
    first, second = (model.predict(batch, z) for model in crossed.models)
    torch.testing.assert_close(crossed.predict(batch, ["new"] * 400, z), (first + second) / 2)
    in_first = crossed.folds(groups) == 0
    torch.testing.assert_close(crossed.predict(batch, groups, z), torch.where(in_first, first, second))
    assert not torch.equal(first, second)
    assert len(crossed.results) == 2

    crossed.save_pretrained(tmp_path)
    loaded = CrossFit.from_pretrained(tmp_path, DeepFM)
    assert torch.equal(loaded.predict(batch, groups, z), crossed.predict(batch, groups, z))
    assert torch.equal(loaded.predictions, crossed.predictions)
    assert loaded.fold_of_group == crossed.fold_of_group


def test_cross_fit_refuses_bad_arguments(by_item):
    batch, labels = by_item
    with pytest.raises(ValueError, match="folds is 1"):
        cross_fit(build, batch, labels, groups=["a"] * 400, folds=1)
    with pytest.raises(ValueError, match="3 groups were given for 400 rows"):
        cross_fit(build, batch, labels, groups=["a", "b", "c"], folds=2)
