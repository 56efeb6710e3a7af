"""Statistics of a reproduced table, worked by hand."""

import math

import numpy as np
import polars as pl
import pytest
from hand_made_runs import clicks_table, done, samples

from rlrec.evaluation.significance import holm, standardised_difference, user_resamples
from rlrec.reproduction.statistics import statistics
from rlrec.reproduction.tables import Cell, Row


def line(frame, row, metric):
    return frame.filter(pl.col("row") == row, pl.col("metric") == metric).row(0, named=True)


def test_holm_by_hand():
    # in order .01 x 4, .02 x 3, .03 x 2 and .04 x 1, none below the one before
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.5]) == pytest.approx([1.0, 1.0])
    assert holm([0.02, 0.02]) == pytest.approx([0.04, 0.04])
    assert holm([]).tolist() == []


def test_effect_size_by_hand():
    assert standardised_difference([1.0, 2.0, 3.0]) == pytest.approx(2.0)  # mean 2, deviation 1
    assert standardised_difference([0.5, 0.5]) == math.inf
    assert standardised_difference([-0.5, -0.5]) == -math.inf
    assert standardised_difference([0.0, 0.0]) == 0.0


def test_users_are_drawn_whole_and_in_all_seeds():
    users = [["u", "u", "v"], ["v", "u"]]
    drawn = [np.concatenate(parts) for parts in zip(*user_resamples(users, resamples=50, seed=1))]
    assert [part.shape for part in drawn] == [(50, 3), (50, 2)]
    assert (drawn[0][:, 0] == drawn[0][:, 1]).all()
    assert (drawn[0][:, 1:] == drawn[1][:, ::-1]).all()
    assert (drawn[1].sum(axis=1) == 2).all()


def test_mean_deviation_and_seeds(tmp_path):
    cells = [done(tmp_path / f"d{seed}", "deepfm", seed, {"auc": auc}) for seed, auc in enumerate((0.6, 0.7))]
    cells += [Cell("deepfm", "book-crossing", 2, "failed", {}, None, "killed")]
    cells += [done(tmp_path / "other", "deepfm", 0, {"auc": 0.1}, dataset="ml-20m")]
    found = statistics(clicks_table(), cells, "book-crossing")
    assert len(found) == 1
    own = line(found, "deepfm", "auc")
    assert (own["mean"], own["sd"]) == pytest.approx((0.65, 0.1 / math.sqrt(2)))
    assert (own["seeds"], own["asked"]) == (2, 3)
    assert own["p_value"] is None
    assert line(statistics(clicks_table(), cells, "book-crossing", seeds=5), "deepfm", "auc")["asked"] == 5


def test_bootstrap_over_two_users_by_hand(tmp_path):
    # Absolute errors: of the reference 0, of FM 1 for u and of DeepFM the other way round, 0.5 against 0.
    table = clicks_table(metrics=("mae",))
    test = samples([0, 0])
    cells = [
        done(tmp_path / "aug", "expctr_aug", 0, {"mae": 0.25}, test, [0.0, 0.5]),
        done(tmp_path / "fm", "fm", 0, {"mae": 0.5}, test, [1.0, 0.0]),
    ]
    found = line(statistics(table, cells, "book-crossing"), "fm", "mae")
    # Differences are +1 and -0.5. Drawn are u u (1), u v and v u (.25), v v (-.5), each with a probability of 1 / 4.
    assert found["difference"] == pytest.approx(0.25)
    assert (found["low"], found["high"]) == pytest.approx((-0.5, 1.0))
    assert found["p_value"] == pytest.approx(0.5, abs=0.05)
    assert found["p_holm"] == found["p_value"]


def test_the_difference_is_a_mean_over_seeds(tmp_path):
    table = clicks_table(metrics=("rmse", "auc"))
    test, cells = samples([0, 1, 0, 1], users=["u", "u", "v", "v"]), []
    for seed, error in enumerate((0.1, 0.3)):
        cells.append(done(tmp_path / f"a{seed}", "expctr_aug", seed, {"rmse": 0.0, "auc": 1.0}, test, [0, 1, 0, 1]))
        scores = [error, 1 - error, error, 1 - error]
        cells.append(done(tmp_path / f"d{seed}", "deepfm", seed, {"rmse": error, "auc": 1.0}, test, scores))
    cells.append(done(tmp_path / "fm", "fm", 1, {"rmse": 1.0, "auc": 0.0}, test, [1, 0, 1, 0]))
    found = statistics(table, cells, "book-crossing")
    # The errors of a seed are all equal, so every resample gives .1 and .3, whose mean is .2.
    own = line(found, "deepfm", "rmse")
    assert (own["difference"], own["low"], own["high"]) == pytest.approx((0.2, 0.2, 0.2))
    assert own["p_value"] == pytest.approx(1 / 2000)
    assert own["p_holm"] == pytest.approx(2 / 2000)  # of two rows
    reversed_order = line(found, "fm", "auc")  # all pairs the wrong way round, in the one seed it has
    assert (reversed_order["difference"], reversed_order["tested_seeds"]) == (-1.0, 1)
    assert line(found, "deepfm", "auc")["p_value"] == 1.0
    assert line(found, "expctr_aug", "rmse")["p_value"] is None


@pytest.mark.parametrize(("shared", "ratio"), [(True, 1.0), (False, math.sqrt(0.5))])
def test_seeds_on_the_same_users_count_once(tmp_path, shared, ratio):
    table, widths = clicks_table(metrics=("mae",)), []
    rng = np.random.default_rng(0)
    errors = rng.uniform(0, 1, 300)
    for seeds in (1, 2):
        cells = []
        for seed in range(seeds):
            users = [f"{'' if shared else seed}u{row}" for row in range(300)]
            test = samples([0] * 300, users=users)
            folder = tmp_path / f"{seeds}_{seed}"
            cells.append(done(folder / "a", "expctr_aug", seed, {"mae": 0.0}, test, np.zeros(300)))
            cells.append(done(folder / "f", "fm", seed, {"mae": 0.5}, test, errors))
        found = line(statistics(table, cells, "book-crossing"), "fm", "mae")
        widths.append(found["high"] - found["low"])
    assert widths[1] / widths[0] == pytest.approx(ratio, abs=0.08)


def test_wilcoxon_and_effect_over_users_by_hand(tmp_path):
    # u4 has two samples, with differences .4 and .6: one user, one value, .5.
    table = clicks_table(metrics=("mae",))
    test = samples([0] * 6, users=["u0", "u1", "u2", "u3", "u4", "u4"])
    cells = [
        done(tmp_path / "a", "expctr_aug", 0, {"mae": 0.0}, test, [0.0] * 6),
        done(tmp_path / "f", "fm", 0, {"mae": 0.3}, test, [0.1, 0.2, 0.3, 0.4, 0.4, 0.6]),
    ]
    found = line(statistics(table, cells, "book-crossing"), "fm", "mae")
    assert found["wilcoxon_p_value"] == pytest.approx(2 / 2**5)  # all five of one sign
    # Mean .3, deviation sqrt(.025); the row errs more, so it is worse.
    assert found["effect_size"] == pytest.approx(-0.3 / math.sqrt(0.025))


def test_rankings_use_the_values_of_users(tmp_path):
    table = clicks_table(
        system="trail", metrics=("hr@10", "jaccard@10"), rows=(Row("pare", "t"), Row("trail", "t")),
        reference="trail", gain=("pare", "trail"),
    )  # fmt: skip
    cells = []
    for row, hits in (("pare", [0.0, 0.0, 1.0, 1.0]), ("trail", [0.0, 1.0, 1.0, 1.0])):
        cells.append(done(tmp_path / row, row, 0, {"hr@10": np.mean(hits), "jaccard@10": 0.1}, system="trail"))
        users = {"window": [7, 7, 8, 8], "user_id": ["u", "v", "u", "w"], f"hr@10_{row}": hits}
        frame = pl.DataFrame(users)
        frame = frame if row == "pare" else frame[::-1]  # joined by window and user, not by place
        frame.write_parquet(tmp_path / row / "users.parquet")
    found = statistics(table, cells, "book-crossing")
    own = line(found, "pare", "hr@10")
    assert own["difference"] == pytest.approx(-0.25)
    assert own["effect_size"] == pytest.approx(-1 / math.sqrt(3))  # users' differences 0, -1, 0
    assert line(found, "pare", "jaccard@10")["p_value"] is None


def test_folders_that_disagree_are_named(tmp_path):
    table = clicks_table()
    values = {"auc": 0.5}
    first = done(tmp_path / "a", "expctr_aug", 0, values, samples([0, 1]), [0.1, 0.2])
    other = done(tmp_path / "labels", "fm", 0, values, samples([1, 1]), [0.1, 0.2])
    with pytest.raises(ValueError, match=r"a and .*labels disagree on the label of user u0 and item i0 \(0 and 1\)"):
        statistics(table, [first, other], "book-crossing")
    other = done(tmp_path / "fewer", "fm", 0, values, samples([0]), [0.1])
    with pytest.raises(ValueError, match=r"a and .*fewer hold different test samples \(2 and 1, 1 of them the same\)"):
        statistics(table, [first, other], "book-crossing")


def test_rows_without_samples_are_not_tested(tmp_path):
    test = samples([0, 1, 0, 1])
    cells = [
        done(tmp_path / "a", "expctr_aug", 0, {"auc": 1.0}, test, [0.1, 0.9, 0.2, 0.8]),
        done(tmp_path / "none", "fm", 0, {"auc": 0.5}),
        done(tmp_path / "nan", "deepfm", 0, {"auc": 0.5}, test, [0.1, math.nan, 0.2, 0.8]),
    ]
    found = statistics(clicks_table(), cells, "book-crossing")
    assert found["p_value"].to_list() == [None, None, None]
    assert found["row"].to_list() == ["fm", "deepfm", "expctr_aug"]


def test_rows_of_several_runs_with_one_name(tmp_path):
    table = clicks_table(metrics=("mae",), rows=(Row("fm@beta=1", "a"), Row("fm@beta=2", "b")), reference="fm@beta=2")
    test, cells = samples([0, 0]), []
    for beta, error in ((1, 0.3), (2, 0.1)):
        own = done(tmp_path / str(beta), "fm", 0, {"mae": error}, test, [error, error])
        cells.append(Cell(f"fm@beta={beta}", "book-crossing", 0, "done", own.values, own.folder))
    found = line(statistics(table, cells, "book-crossing"), "fm@beta=1", "mae")
    assert (found["difference"], found["low"]) == pytest.approx((0.2, 0.2))
