"""The folder that a TRAIL run leaves, its numbers from formulas: twelve rows, five items, two test windows."""

import numpy as np
import polars as pl

from rlrec import results

# HR@10 of each row; NDCG@10 is half of it, and so on (`metrics`).
HIT_RATES = {
    "trail": 0.40,
    "trail_without_sup": 0.25,
    "trail_without_con": 0.36,
    "trail_rank4": 0.38,
    "llm": 0.30,
    "llm_few_shot": 0.28,
    "random": 0.05,
    "last_window": 0.32,
    "moving_average": 0.31,
    "total_popularity": 0.20,
    "pare": 0.35,
    "upper_bound": 0.50,
}
GROUPS = {"warm": 1.0, "cold": 0.2, "increasing": 1.2, "decreasing": 0.9, "fluctuating": 0.6, "unknown": 0.3}
# item, window, title, history, users in the window, scores of the untuned model and of TRAIL
SAMPLES = (
    ("a", 7, "Rising | <b>", [2, 5, 9], 14, 9.0, 13.0),
    ("b", 7, "Falling", [9, 6, 2], 1, 2.0, 1.0),
    ("c", 7, "New", [], 6, None, 4.0),
    ("d", 7, "Newer", [], 2, 1.0, 2.0),
    ("e", 7, "Odd", [5, 9, 5, 9], 3, 9.0, 11.0),
    ("a", 8, "Rising | <b>", [2, 5, 9, 14], 12, 14.0, 15.0),
    ("b", 8, "Falling", [9, 6, 2, 1], 2, 1.0, 1.5),
    ("c", 8, "New", [6], 6, 6.0, None),
    ("d", 8, "Newer", [2], 1, 2.0, 2.0),
    ("e", 8, "Odd", [5, 9, 5, 9, 3], 4, 3.0, 3.0),
)


def metrics(row: str, seed: int) -> dict[str, float]:
    rate = HIT_RATES[row] + 0.01 * seed
    found = {"hr@5": 0.8 * rate, "ndcg@5": 0.4 * rate, "hr@10": rate, "ndcg@10": 0.5 * rate}
    found |= {"jaccard@5": 0.5 * rate, "jaccard@10": 0.6 * rate}
    for group, factor in GROUPS.items():
        found |= {f"hr@10/{group}": factor * rate, f"ndcg@10/{group}": factor * rate / 2}
    if row.startswith(("llm", "trail")):
        found |= {"malformed": 0.02, "repaired": 0.01, "trend_accuracy": 0.91, "peak_accuracy": 0.8}
        found |= {"direction_accuracy": 0.95, "with_trend_claims": 0.99}
    return found


def write_trail_run(folder, seed: int = 0, dataset: str = "simulated-trends", stages=("trail", "trail_without_con")):
    """results.json, predictions.parquet, users.parquet and logs/ of one seed; returns what results.json holds."""
    details = {
        "dataset_size": {"train": 30, "validation": 10, "test": 10},
        "base_model": "some-org/some-model",
        "encoder": "some-org/some-encoder",
        "dataset_license": "generated",
        "hyperparameters": {"lambda_con": 0.1},
        "popularity": {
            "window_days": 30,
            "windows": 8,
            "first_day": "2013-01-01",
            "target_windows": {"train": [2, 3, 4, 5], "validation": [6], "test": [7, 8]},
            "cold_samples": {"train": 4, "validation": 1, "test": 2},
        },
        "dropped": {"samples": 30, "kept": 28, "cut off": 2},
    }
    rows = {row: metrics(row, seed) for row in HIT_RATES}
    results.write_results(folder, system="trail", dataset=dataset, seed=seed, rows=rows, details=details)
    columns = ["item_id", "window", "title", "history", "popularity", "score_llm", "score_trail"]
    schema = {"item_id": pl.String, "window": pl.Int32, "title": pl.String, "history": pl.List(pl.Int32)}
    samples = pl.DataFrame(SAMPLES, schema={name: schema.get(name) for name in columns}, orient="row")
    texts = [f"[Trend]: of {title} | <i>." for title in samples["title"]]
    samples = samples.with_columns(
        pl.Series(
            "explanation_llm", [None if score is None else "[Trend]: \nflat." for score in samples["score_llm"]]
        ),
        pl.Series("explanation_trail", texts),
        *(pl.lit(0.5).alias(f"score_{row}") for row in ("last_window", "pare")),
    )
    results.write_parquet_atomic(folder / "predictions.parquet", samples)
    results.write_parquet_atomic(folder / "users.parquet", users())
    for stage in stages:
        results.write_log_history(folder, stage, log_history(stage, seed))
    return results.read_results(folder)


def users() -> pl.DataFrame:
    """Ten users in window 7, the first five of them in window 8 too: the first 20 h of 100 h cases have a hit."""
    cases = [(7, f"u{number}") for number in range(10)] + [(8, f"u{number}") for number in range(5)]
    hits = {row: (np.arange(15) < round(15 * rate)).astype(float) for row, rate in HIT_RATES.items()}
    columns = {
        f"{metric}_{row}": scale * hit
        for row, hit in hits.items()
        for metric, scale in (("hr@10", 1), ("ndcg@10", 0.5))
    }
    columns["ndcg@10_llm"] = columns["ndcg@10_trail"] + 0.125
    return pl.DataFrame(cases, schema=["window", "user_id"], orient="row").with_columns(
        items=pl.lit(2), **{name: pl.Series(values) for name, values in columns.items()}
    )


def log_history(stage: str, seed: int) -> list[dict]:
    history = []
    for step in range(10, 310, 10):
        fall = np.exp(-step / (60 + sum(map(ord, stage)) % 50))
        entry = {"step": step, "loss": 1.0 + fall, "loss_sup": 1.0 + fall + 0.05 * np.sin(step + seed)}
        evaluated = {"step": step, "eval_loss_sup": 1.1 + 0.9 * fall, "eval_loss": 1.2}
        if stage != "trail_without_con":
            entry |= {"loss_con": 1.5 + 0.8 * fall + 0.1 * np.cos(step * seed), "con_accuracy": 0.5}
            evaluated["eval_loss_con"] = 1.4 + 0.8 * fall
        history += [entry, evaluated] if step % 50 == 0 else [entry]
    return [*history, {"step": 300, "train_runtime": 3.0}]
