"""DeepFM without explanations on ExpCTR's user-disjoint split, beside the heuristics and a logistic regression.

    OMP_NUM_THREADS=1 python benchmarks/deepfm_user_disjoint.py --raw_dir /path/to/data/ml-100k

Every split seed draws new samples and users; the numbers are test AUC and LogLoss, mean and deviation over the splits.
"""

import argparse
import statistics

import polars as pl
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from rlrec.data.prepare import prepare
from rlrec.data.splits import SPLITS, expctr_samples
from rlrec.recommenders import DeepFM, Vocabulary, fit

FEATURE_SETS = ((), ("like_rate",), ("item_mean",), ("like_rate", "item_mean"))


def predict_deepfm(parts: dict[str, pl.DataFrame], features: tuple[str, ...], seed: int):
    """Test probabilities of a DeepFM with the default settings."""
    vocabulary = Vocabulary.from_samples(parts["train"], features)
    batches = {name: vocabulary.encode(rows) for name, rows in parts.items()}
    labels = {name: rows["label"].to_torch() for name, rows in parts.items()}
    torch.manual_seed(seed)
    model = DeepFM(**vocabulary.sizes())
    validation = (batches["validation"], labels["validation"], None)
    fit(model, batches["train"], labels["train"], validation=validation, seed=seed)
    return model.predict(batches["test"]).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--raw_dir", required=True)
    parser.add_argument("--threshold", type=float, default=4)
    parser.add_argument("--label_rule", default="ge")
    parser.add_argument("--splits", type=int, default=5)
    arguments = parser.parse_args()
    rule = {"threshold": arguments.threshold, "label_rule": arguments.label_rule}
    prepared = prepare(arguments.dataset, arguments.raw_dir, **rule)
    scores: dict[str, list[tuple[float, float]]] = {}

    def record(name: str, labels, values, probabilities: bool = True) -> None:
        loss = log_loss(labels, values) if probabilities else float("nan")
        scores.setdefault(name, []).append((roc_auc_score(labels, values), loss))

    for seed in range(arguments.splits):
        samples = expctr_samples(prepared.interactions, prepared.items, **rule, seed=seed)
        parts = {name: samples.filter(pl.col("split") == name) for name in SPLITS}
        train, test = parts["train"], parts["test"]
        labels = test["label"].to_numpy()
        record("history like-rate", labels, test["like_rate"].to_numpy(), False)
        record("item mean", labels, test["item_mean"].to_numpy(), False)
        record("their sum", labels, (test["like_rate"] + test["item_mean"]).to_numpy(), False)
        both = ["like_rate", "item_mean"]
        regression = LogisticRegression().fit(train.select(both).to_numpy(), train["label"].to_numpy())
        record("logistic regression on both", labels, regression.predict_proba(test.select(both).to_numpy())[:, 1])
        for features in FEATURE_SETS:
            record(" + ".join(("DeepFM", *features)), labels, predict_deepfm(parts, features, seed))
    print(
        f"{arguments.splits} splits; the last has {', '.join(f'{len(parts[name])} {name}' for name in SPLITS)} samples"
    )
    for name, values in scores.items():
        aucs, losses = zip(*values)
        spread = statistics.stdev(aucs) if len(aucs) > 1 else 0.0
        loss = statistics.mean(losses)
        suffix = "" if loss != loss else f"   LogLoss {loss:.4f}"  # a heuristic's score is no probability
        print(f"{name:32s} AUC {statistics.mean(aucs):.4f} +- {spread:.4f}{suffix}")


if __name__ == "__main__":
    main()
