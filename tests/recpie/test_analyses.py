"""RecPIE's analyses: what is written, what is computed from it (by hand), and the command line."""

import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from rlrec import results
from rlrec.recpie import analyses
from rlrec.recpie.attention import attention_summary, attention_tables
from rlrec.recpie.curves import learning_curve, learning_differences, learning_table, reward_runs, reward_table
from rlrec.recpie.uncertainty import gain_summary, gain_tables

TOKENS = ("pos", "neg", "c", "p", "seq")


@pytest.fixture
def samples() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_id": ["u", "u", "v", "v"],
            "item_id": ["a", "b", "a", "c"],
            "rating": [5.0, 2.0, 4.0, 1.0],
            "label": [1, 0, 1, 0],
        }
    )


def attention_of(pos, neg) -> np.ndarray:
    """Weights (N, 5) with the given columns and the rest shared out."""
    pos, neg = np.array(pos), np.array(neg)
    return np.column_stack([pos, neg, *[(1 - pos - neg) / 3] * 3])


def test_attention_by_hand(samples, tmp_path):
    # Liked: pos .4 and .2, neg .1 and .1. Disliked: pos .1 and .1, neg .3 and .2.
    weights = attention_of([0.4, 0.1, 0.2, 0.1], [0.1, 0.3, 0.1, 0.2])
    path = analyses.write_attention(tmp_path, samples, weights, TOKENS)
    assert path == tmp_path / "analyses" / "attention.parquet"
    frame = pl.read_parquet(path)
    assert frame.columns == ["user_id", "item_id", "rating", "label", *(f"attention_{name}" for name in TOKENS)]
    summary = attention_summary([frame])
    found = {(line["items"], line["token"]): line for line in summary.iter_rows(named=True)}
    expected = {
        ("liked", "pos"): 0.3, ("liked", "neg"): 0.1, ("liked", "pos - neg"): 0.2,
        ("disliked", "pos"): 0.1, ("disliked", "neg"): 0.25, ("disliked", "pos - neg"): -0.15,
        ("liked - disliked", "pos - neg"): 0.35, ("all", "pos"): 0.2, ("all", "neg"): 0.175,
    }  # fmt: skip
    for key, mean in expected.items():
        assert found[key]["mean"] == pytest.approx(mean), key
    # Three resamples of two users: u twice, v twice or both; the 95 % interval spans them all.
    assert (found["liked", "pos"]["low"], found["liked", "pos"]["high"]) == pytest.approx((0.2, 0.4))
    assert found["liked", "pos"]["p_value"] is None
    assert found["liked", "pos - neg"]["p_value"] < 0.001
    assert sum(found["all", name]["mean"] for name in TOKENS) == pytest.approx(1)
    shares, contrast = attention_tables(summary).values()
    assert shares[1][0][0] == "pos"
    assert contrast[1][0] == ["liked", "2", "0.300", "0.100", "+0.200", "+0.100 to +0.300", "< 0.001"]
    assert contrast[1][2][:3] == ["liked - disliked", "–", "+0.200"]


def test_attention_resamples_users():
    """Fifty copies of a sample are no more evidence than one user."""
    rows = 100
    frame = pl.DataFrame(
        {
            "user_id": ["u"] * 50 + ["v"] * 50,
            "label": [1, 0] * 25 + [1, 0] * 25,
            "attention_pos": [0.6] * 50 + [0.2] * 50,
            "attention_neg": [0.4] * 50 + [0.8] * 50,
        }
    )
    line = (
        attention_summary([frame]).filter(pl.col("token") == "pos - neg", pl.col("items") == "all").row(0, named=True)
    )
    assert (line["mean"], line["low"], line["high"]) == pytest.approx((-0.2, -0.6, 0.2))
    assert line["samples"] == rows


def test_attention_of_a_model_with_positive_explanations_alone(samples, tmp_path):
    weights = np.full((4, 4), 0.25)
    path = analyses.write_attention(tmp_path, samples, weights, ("pos", "c", "p", "seq"))
    assert len(attention_tables(attention_summary([pl.read_parquet(path)]))) == 1


def test_bad_attention_is_refused(samples, tmp_path):
    with pytest.raises(ValueError, match=r"shape \(4, 2\), expected \(samples, tokens\) = \(4, 5\)"):
        analyses.write_attention(tmp_path, samples, np.ones((4, 2)) / 2, TOKENS)
    wrong = np.full((4, 5), 0.2)
    wrong[2, 0] = 0.5
    with pytest.raises(ValueError, match=r"sample 2 sums to 1\.3, not 1"):
        analyses.write_attention(tmp_path, samples, wrong, TOKENS)
    assert not (tmp_path / "analyses").exists()
    liked = pl.DataFrame({"user_id": ["u"], "label": [1], "attention_pos": [1.0]})
    with pytest.raises(ValueError, match="All 1 samples are liked"):
        attention_summary([liked])
    with pytest.raises(ValueError, match="over different inputs"):
        attention_summary([liked, liked.with_columns(attention_neg=0.0)])


def test_uncertainty_by_hand(samples, tmp_path):
    targets = [1.0, 0.25, 0.75, 0.0]
    predictions = {
        "item_mean": [0.5, 0.5, 0.5, 0.5],
        "gru": [0.6, 0.5, 0.75, 0.4],
        "recpie_bootstrap": [0.0, 0.0, 0.0, 0.0],  # a variant: neither counted nor a baseline
        "recpie": [0.7, 0.5, 0.75, 0.3],
    }
    frame = pl.read_parquet(analyses.write_uncertainty(tmp_path, samples, targets, predictions))
    assert frame["row_without"].unique().to_list() == ["gru"]  # errors .4 .25 0 .4 against .5 .25 .25 .5
    assert frame["error_without"].to_list() == pytest.approx([0.4, 0.25, 0.0, 0.4])
    assert frame["error_with"].to_list() == pytest.approx([0.3, 0.25, 0.0, 0.3])
    # Of .5, .6, .7: mean .6, variance (.01 + 0 + .01) / 3. Of .5, .75, .75: (1/36 + 1/144 + 1/144) / 3 / 1 = 1/72.
    assert frame["uncertainty"].to_list() == pytest.approx([0.02 / 3, 0.0, 1 / 72, 0.02 / 3])
    others = analyses.write_uncertainty(tmp_path, samples, targets, predictions, include_own=False)
    assert pl.read_parquet(others)["uncertainty"].to_list() == pytest.approx([0.0025, 0.0, 1 / 64, 0.0025])
    named = analyses.write_uncertainty(tmp_path, samples, targets, predictions, without="recpie_bootstrap")
    assert pl.read_parquet(named)["error_without"].to_list() == targets


def test_bad_predictions_are_refused(samples, tmp_path):
    targets = np.zeros(4)
    with pytest.raises(ValueError, match="no predictions of 'recpie'; there are those of gru"):
        analyses.write_uncertainty(tmp_path, samples, targets, {"gru": np.zeros(4)})
    with pytest.raises(ValueError, match="at least two models"):
        analyses.write_uncertainty(tmp_path, samples, targets, {"recpie": np.zeros(4)})
    with pytest.raises(ValueError, match="Predictions of 'gru' must be 4 finite numbers"):
        analyses.write_uncertainty(tmp_path, samples, targets, {"gru": [0, 1, np.nan, 0], "recpie": np.zeros(4)})
    with pytest.raises(ValueError, match="Targets have shape"):
        analyses.write_uncertainty(tmp_path, samples, targets[:2], {"gru": np.zeros(4), "recpie": np.zeros(4)})


def uncertainty_frame(uncertainty, gain) -> pl.DataFrame:
    count = len(uncertainty)
    return pl.DataFrame(
        {
            "user_id": [f"u{row}" for row in range(count)],
            "uncertainty": uncertainty,
            "error_without": np.sqrt(0.25 + np.array(gain)),
            "error_with": np.full(count, 0.5),
            "row_with": ["recpie"] * count,
            "row_without": ["gru"] * count,
        }
    )


def test_gain_by_hand():
    """Uncertainty 1, 2, 3, 5 scales to 0, .25, .5, 1; gains .1 + .2 x lie on a line."""
    frame = uncertainty_frame([1.0, 2.0, 3.0, 5.0], [0.1, 0.15, 0.2, 0.3])
    gain = gain_summary([frame], bins=2)
    assert (gain.slope, gain.intercept) == pytest.approx((0.2, 0.1))
    assert gain.p_value < 1e-6
    assert (gain.low, gain.high) == pytest.approx((0.2, 0.2))
    assert gain.bins["uncertainty"].to_list() == pytest.approx([0.125, 0.75])
    assert gain.bins["gain"].to_list() == pytest.approx([0.125, 0.25])
    # Standard deviation of .1 and .15 is .05 / sqrt 2; over sqrt 2 samples that is .025.
    assert gain.bins["standard_error"].to_list() == pytest.approx([0.025, 0.05])
    assert gain.rows == ("RecPIE", "GRU, no text")
    binned, line = gain_tables(gain).values()
    assert binned[1][0] == ["0.1250", "2", "+0.12500", "0.02500"]
    assert line[1] == [["+0.2000", "+0.2000 to +0.2000", "< 0.001", "4"]]
    # Another run on another scale is scaled by itself.
    both = gain_summary([frame, frame.with_columns(pl.col("uncertainty") * 100, row_without=pl.lit("ncf"))])
    assert (both.slope, both.samples, both.rows[1]) == (pytest.approx(0.2), 8, "the best baseline")
    with pytest.raises(ValueError, match="models never disagree"):
        gain_summary([uncertainty_frame([1.0, 1.0], [0.0, 0.1])])


def write_run(folder, seed, fraction, rmse, offset=None, samples=None):
    """Results of one run; with `offset`, predictions of recpie that miss every target by it, and of gru by .3."""
    rows = {"gru": {"rmse": 0.3, "auc": 0.6, "rmse_stars": 1.2}, "recpie": {"rmse": rmse, "auc": 0.7, "rmse_stars": 1}}
    details = {"training_fraction": fraction}
    results.write_results(folder, system="recpie", dataset="simulated", seed=seed, rows=rows, details=details)
    if offset is not None:
        target = np.array([0.0, 0.25, 0.5, 0.0])
        samples = samples.with_columns(target=pl.Series(target))
        results.write_predictions(folder, samples, {"gru": target + 0.3, "recpie": target + offset})
    return folder


def test_learning_curve_by_hand(samples, tmp_path):
    runs = [
        write_run(tmp_path / "a", 0, 1.0, 0.28, 0.28, samples),
        write_run(tmp_path / "b", 1, None, 0.26),
        write_run(tmp_path / "c", 0, 0.25, 0.29, 0.29, samples),
    ]
    curve = learning_curve([results.read_results(run) for run in runs], rows=("gru", "recpie"))
    line = curve.filter(row="recpie", metric="rmse", fraction=1.0).row(0, named=True)
    assert (line["mean"], line["sd"], line["seeds"]) == pytest.approx((0.27, 0.02 / np.sqrt(2), 2))
    assert "rmse_stars" not in curve["metric"].to_list()
    differences = learning_differences(runs, ("gru", "recpie"), "gru")
    assert differences == {
        ("recpie", 1.0): "-0.0200 (-0.0200 to -0.0200)",
        ("recpie", 0.25): "-0.0100 (-0.0100 to -0.0100)",
        ("gru", 0.25): "+0.0000 (+0.0000 to +0.0000)",
    }
    header, body = learning_table(curve, differences)
    assert header == ["row", "training data", "seeds", "RMSE ↓", "AUC ↑", "RMSE against the baseline at 100 %"]
    assert body[0] == ["GRU, no text", "100%", "2", "0.3000 ± 0.0000", "0.6000 ± 0.0000", "–"]
    assert body[3] == ["RecPIE", "25%", "1", "0.2900", "0.7000", "-0.0100 (-0.0100 to -0.0100)"]
    with pytest.raises(ValueError, match="No run has a row ncf; there are gru, recpie"):
        learning_curve([results.read_results(runs[0])], rows=("ncf",))
    with pytest.raises(ValueError, match=r"training_fraction of seed 0 is 25; it must be in \(0, 1\]"):
        learning_curve([results.read_results(write_run(tmp_path / "d", 0, 25, 0.3))])


def test_other_samples_are_not_compared(samples, tmp_path):
    runs = [
        write_run(tmp_path / "a", 0, 1.0, 0.28, 0.28, samples),
        write_run(tmp_path / "b", 0, 0.5, 0.28, 0.28, samples.reverse()),
    ]
    assert list(learning_differences(runs, ("recpie",), "gru")) == [("recpie", 1.0)]


def rewards_of(values, first_step=1) -> list[dict]:
    return [{"step": step, "reward": value} for step, value in enumerate(values, start=first_step)]


def test_rewards_of_rounds_stand_behind_one_another(tmp_path):
    results.write_log_history(tmp_path / "a", "recpie", [*rewards_of([0.1, 0.2]), {"step": 2, "train_loss": 1.0}])
    results.write_log_history(tmp_path / "a", "recpie_2", rewards_of([0.3, 0.4]))
    results.write_log_history(tmp_path / "b", "recpie", rewards_of([0.5, 0.6]))
    results.write_log_history(tmp_path / "b", "recpie_2", rewards_of([0.7, 0.8], first_step=3))
    results.write_log_history(tmp_path / "c", "recommender", [{"step": 1, "loss": 0.1}])
    series = reward_runs([tmp_path / name for name in "abc"])
    assert [run.tolist() for run in series] == [
        [[1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4]],
        [[1, 2, 3, 4], [0.5, 0.6, 0.7, 0.8]],
    ]
    _, body = reward_table({"PPO": series})
    spread = 0.4 / np.sqrt(2)
    assert body == [["PPO", "2", "4", f"0.3000 ± {spread:.4f}", f"0.6000 ± {spread:.4f}", "0.3000 ± 0.0000"]]


def fill(folder, seed, samples, fraction=1.0, rmse=0.28):
    """A run folder with everything."""
    write_run(folder, seed, fraction, rmse, rmse, samples)
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet([3.0] * len(TOKENS), len(samples))
    analyses.write_attention(folder, samples, weights, TOKENS)
    predictions = {row: rng.random(len(samples)) for row in ("gru", "ncf", "recpie")}
    analyses.write_uncertainty(folder, samples, rng.random(len(samples)), predictions)
    lines = [
        (model, epoch, f"{kind}{pair}", f"other{pair}", kind, float(rng.random()))
        for model in ("RecPIE", "SASRec")
        for epoch in range(4)
        for kind in ("similar", "related", "unrelated")
        for pair in range(3)
    ]
    columns = ["model", "epoch", "first", "second", "kind", "cosine"]
    analyses.write_cosines(folder, pl.DataFrame(lines, schema=columns, orient="row"))
    results.write_log_history(folder, "recpie", rewards_of(0.7 + 0.01 * np.arange(20) + 0.01 * rng.random(20)))


def test_command_line_draws_what_there_is(samples, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    for seed in (0, 1):
        fill(tmp_path / "runs" / f"seed{seed}", seed, samples)
    fill(tmp_path / "runs" / "quarter", 0, samples, fraction=0.25, rmse=0.29)
    results.write_log_history(tmp_path / "other", "recpie", rewards_of([0.5] * 20))
    (tmp_path / "idle" / "logs").mkdir(parents=True)
    arguments = [f"PPO={tmp_path}/ru*", f"recpie loss={tmp_path / 'other'}", f"idle={tmp_path / 'idle'}"]
    analyses.main([*arguments, "--output_dir", str(tmp_path / "out")])
    told = capsys.readouterr().out
    names = {path.name.removeprefix("recpie_simulated_") for path in (tmp_path / "out").iterdir()}
    drawn = {f"{name}_PPO.png" for name in ("attention", "cosines", "uncertainty", "learning_curve")}
    assert names == {*drawn, "reward_curves.png", "analyses.md"}
    for picture in (tmp_path / "out").glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size > 10_000
    assert "## Attention on positive and negative explanations (Figure 9) (2 runs, PPO)" in told
    assert "| recpie loss |     1 |    20 |" in told
    assert f"{tmp_path / 'idle'} has nothing to analyse" in told
    assert f"wrote {tmp_path / 'out' / 'recpie_simulated_analyses.md'}" in told


def test_one_run_without_pictures(samples, tmp_path):
    fill(tmp_path / "run", 0, samples)
    code = (
        "import sys; sys.modules['matplotlib'] = None; sys.modules['matplotlib.figure'] = None\n"
        "from rlrec.recpie.analyses import main\n"
        f"arguments = [{str(tmp_path / 'run')!r}, '--output_dir', {str(tmp_path / 'out')!r}]\n"
        "main([*arguments, '--tables_only'])\n"
        "main(arguments)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"wrote {tmp_path / 'out' / 'recpie_simulated_analyses.md'}" in done.stdout
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["recpie_simulated_analyses.md"]
    assert done.returncode == 2
    assert "pip install 'rlrec[plot]'" in done.stderr


def test_wrong_folders_are_told(tmp_path, samples, capsys):
    with pytest.raises(SystemExit):
        analyses.main([str(tmp_path)])
    assert f"{tmp_path} has no results.json, logs or analyses" in capsys.readouterr().err
    fill(tmp_path / "a", 0, samples)
    results.write_results(tmp_path / "b", system="recpie", dataset="yelp", seed=0, rows={})
    with pytest.raises(ValueError, match="Runs of recpie_simulated, recpie_yelp cannot share a picture"):
        analyses.analyse([str(tmp_path)], tmp_path / "out")
