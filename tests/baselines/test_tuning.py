"""The grid, what is chosen from it, and a recommender's fit against the library's own loop."""

import numpy as np
import pytest
import torch

from rlrec.baselines import BaselineArguments, Fitted, tune
from rlrec.baselines.tuning import fit_recommender
from rlrec.evaluation import ctr_metrics
from rlrec.recommenders import DeepFM, SplitData, mean_of_fits

LOSSES = {(0.1, 0.0): 0.7, (0.1, 1.0): 0.5, (0.2, 0.0): 0.6, (0.2, 1.0): 0.5}
GRID = BaselineArguments(grid_learning_rates=[0.1, 0.2], grid_weight_decays=[0.0, 1.0]).grid


def fit_once(*, seed, learning_rate, weight_decay):
    """Its loss is looked up, its predictions tell how it was called."""
    return Fitted(LOSSES[learning_rate, weight_decay], 3, np.array([learning_rate, seed]))


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_of_equal_points_is_fitted_again_with_other_seeds(workers):
    calls = []

    def metrics(predictions):
        calls.append(predictions.tolist())
        return {"seed": predictions[1]}

    row = tune(fit_once, GRID, metrics, fits=3, seed=2, workers=workers)
    assert calls == [[0.1, 2000], [0.1, 2001], [0.1, 2002]]
    assert row.metrics == {"seed": 2001.0}
    assert row.predictions.tolist() == [0.1, 2000]
    assert row.details["chosen"] == {"learning_rate": 0.1, "weight_decay": 1.0}
    assert [point["validation_loss"] for point in row.details["grid"]] == [0.7, 0.5, 0.6, 0.5]
    assert row.details["grid"][0] == {"learning_rate": 0.1, "weight_decay": 0.0, "validation_loss": 0.7, "epoch": 3}
    assert row.details["fits"] == 3


def test_fits_that_diverge_are_not_chosen():
    def diverging(*, seed, rate):
        return Fitted({0.1: 0.7, 0.2: 0.5}.get(rate, np.nan), 1, np.array([rate]))

    def tuned(*rates):
        return tune(diverging, [{"rate": rate} for rate in rates], lambda predicted: {"rate": predicted[0]}, fits=1)

    assert tuned(0.9, 0.1, 0.2, 0.8).details["chosen"] == {"rate": 0.2}  # whatever stands first
    with pytest.raises(ValueError, match="No fit at 2 points of the grid has a finite validation loss"):
        tuned(0.8, 0.9)


def test_a_recommenders_row_is_that_of_the_library(small_world):
    """With one point, the mean over fits that ExpCTR's own run computes."""
    data = SplitData.build(small_world.samples)
    labels = data.targets["test"].numpy()
    options = {"learning_rate": 5e-3, "epochs": 3}
    expected, predictions, _ = mean_of_fits(
        data, lambda: DeepFM(**data.vocabulary.sizes()), ctr_metrics, None, 2, 1, **options
    )

    def fit_deepfm(**given):
        return fit_recommender(data, DeepFM, {}, **given)

    row = tune(fit_deepfm, [options], lambda predicted: ctr_metrics(labels, predicted), fits=2, seed=1)
    assert row.metrics == expected
    assert row.predictions.tolist() == predictions.tolist()
    fitted = fit_recommender(data, DeepFM, {}, seed=1000, **options)
    assert row.details["grid"][0]["validation_loss"] == fitted.loss
    assert 1 <= fitted.epoch <= 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fits": 0}, "fits is 0, but must be above 0"),
        ({"grid_weight_decays": []}, "grid_weight_decays is empty"),
        ({"grid_learning_rates": [0.0]}, "Learning rates must be above 0"),
        ({"tallrec_learning_rates": [-1.0]}, "Learning rates must be above 0"),
    ],
)
def test_wrong_budgets_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        BaselineArguments(**values)


def test_the_global_random_state_does_not_matter(small_world):
    data = SplitData.build(small_world.samples)
    torch.manual_seed(1)
    one = fit_recommender(data, DeepFM, {}, seed=5, learning_rate=5e-3, epochs=1)
    torch.manual_seed(2)
    assert fit_recommender(data, DeepFM, {}, seed=5, learning_rate=5e-3, epochs=1).loss == one.loss
