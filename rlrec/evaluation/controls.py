"""Controls: what must fall to chance when the link under test is cut.

`shuffle_labels` cuts the link between a training sample and its outcome: whatever is trained on the result must have
AUC 0.5 on the untouched test split, or labels leak. `shuffled_partners` cuts the link between a sample and its
explanation: what an evaluation keeps after that is not in the text. Both are seeded.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from scipy.stats import rankdata

from rlrec.evaluation.ctr import checked_labels, checked_scores
from rlrec.evaluation.significance import weighted_auc

OUTCOME_COLUMNS = ("label", "rating", "review", "reasons")


def shuffle_labels(
    samples: pl.DataFrame, seed: int = 0, splits: Sequence[str] = ("train", "validation")
) -> pl.DataFrame:
    """Samples whose outcomes are permuted within each of `splits`; other rows and the order of rows stay.

    All columns that tell the outcome (label, rating, review, reasons) move together, so a row's rating still agrees
    with its label. The validation split is shuffled too by default: early stopping or a temperature fitted on true
    labels would let them back in. Positive rates do not change.

    >>> frame = pl.DataFrame({"split": ["train", "train", "test"], "label": [0, 1, 1], "rating": [2.0, 5.0, 4.0]})
    >>> shuffle_labels(frame, seed=1)["label"].sort().to_list(), shuffle_labels(frame, seed=1)["label"][2]
    ([0, 1, 1], 1)
    """
    rng = np.random.default_rng(seed)
    source = np.arange(len(samples))
    split_of_row = samples["split"].to_numpy()
    for split in splits:
        rows = np.flatnonzero(split_of_row == split)
        source[rows] = rng.permutation(rows)
    outcome = [column for column in OUTCOME_COLUMNS if column in samples.columns]
    return samples.with_columns(samples.select(outcome)[source].get_columns())


def shuffled_partners(splits, seed: int = 0, users=None) -> np.ndarray:
    """For each row another row of the same split whose explanation it gets: (N,) -> (N,) indices, a permutation.

    No row keeps its own, and with `users` (N,) none gets one of the same user, whose history it would share. Apply it
    as `embeddings[partners]` or `[explanations[i] for i in partners]`.

    Method: within a split, order rows by user (users and their rows in random order) and rotate by a random offset no
    smaller than the largest user.

    Raises:
        ValueError: a split in which one user holds more than half of the rows (or with one row) has no such partners.
    """
    splits = np.asarray(splits)
    users = np.arange(len(splits)) if users is None else np.unique(np.asarray(users), return_inverse=True)[1]
    if len(users) != len(splits):
        raise ValueError(f"There are {len(users)} users for {len(splits)} rows; give one user per row.")
    rng = np.random.default_rng(seed)
    partners = np.arange(len(splits))
    for split in np.unique(splits):
        rows = rng.permutation(np.flatnonzero(splits == split))
        random_rank = rng.permutation(int(users.max()) + 1)
        rows = rows[np.argsort(random_rank[users[rows]], kind="stable")]
        largest = int(np.bincount(users[rows]).max())
        if 2 * largest > len(rows):
            raise ValueError(
                f"Split '{split}' has {len(rows)} rows and one user holds {largest} of them, so explanations cannot "
                "be exchanged between users; use more samples."
            )
        offset = int(rng.integers(largest, len(rows) - largest + 1))
        partners[rows] = np.roll(rows, -offset)
    return partners


def permutation_auc(labels, scores, resamples: int = 1000, seed: int = 0) -> dict[str, float]:
    """AUC beside its distribution when the labels are permuted (the metric's own shuffled-label control).

    Returns:
        auc, permuted_mean (0.5 but for noise), permuted_low and permuted_high (95 % of the permutations), and p_value
        (one-sided, (1 + permutations at least as high) / (1 + resamples)).
    """
    labels = checked_labels(labels)
    scores = checked_scores(scores, len(labels))
    auc = float(weighted_auc(labels, scores, np.ones((1, len(labels))))[0])
    # Permuting labels equals choosing which rows are positive, so the scores' ranks are computed once.
    ranks = rankdata(scores)
    rng = np.random.default_rng(seed)
    positives = int(labels.sum())
    sums = np.array([ranks[rng.permutation(len(ranks))[:positives]].sum() for _ in range(resamples)])
    permuted = (sums - positives * (positives + 1) / 2) / (positives * (len(labels) - positives))
    low, high = np.quantile(permuted, [0.025, 0.975])
    return {
        "auc": auc,
        "permuted_mean": float(permuted.mean()),
        "permuted_low": float(low),
        "permuted_high": float(high),
        "p_value": float((1 + (permuted >= auc - 1e-12).sum()) / (1 + resamples)),
    }
