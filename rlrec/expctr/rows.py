"""The rows of ExpCTR's table: LLM scores of explanations, and CTR models that read them.

Yu et al., "Explainable CTR Prediction via LLM Reasoning" (WSDM 2025): equations 8, 12 and 15, Table 1.

Departures:

1. Besides one explanation per sample, as in the paper, the mean over several is reported (`*_mean4`): the mean score
   for ExpCTR-LLM, the mean embedding for ExpCTR-Aug.
2. T of equation 8 is fitted on the validation samples; log loss at T = 1 stands beside it.
3. Every CTR model is fitted several times with different seeds, and its row is the mean of their metrics.
4. DeepFM reads ids (and, in the rows that say so, history like-rate and item mean); item categories are left out of
   the baseline and the augmented model alike, so that the rows differ in the explanation alone.
"""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from accelerate import PartialState
from transformers import PreTrainedTokenizerBase

from rlrec.encoders import TextEncoder
from rlrec.evaluation import check_explanations, check_reasons, ctr_metrics, summarise_checks, summarise_reasons
from rlrec.evaluation.ctr import fit_temperature, scores_at
from rlrec.explanations import ExplanationStore
from rlrec.files import read_frame
from rlrec.policies.generation import Unfinished, generate_explanations
from rlrec.recommenders import DeepFM, SplitData, cross_fit, fit, mean_of_fits
from rlrec.recommenders.fitting import MINIMUM_VALIDATION_ROWS, CrossFit
from rlrec.recommenders.split_data import Embeddings
from rlrec.results import write_parquet_atomic

SAMPLE = ["user_id", "item_id", "split"]  # what tells one sample from another

FEATURES = ("like_rate", "item_mean")


def check_samples(samples: pl.DataFrame, rows_per_rollout: int, folds: int) -> None:
    """Raise ValueError where there are too few samples for what comes later, before anything is trained.

    Args:
        rows_per_rollout: different prompts in one rollout over all ranks.
        folds: of the IC reward, 0 for none.
    """
    training = samples.filter(pl.col("split") == "train")
    validation = samples.filter(pl.col("split") == "validation")
    users = training["user_id"].n_unique()
    for found, needed, what in (
        (len(training), rows_per_rollout, "training samples, and one rollout takes"),
        (users, folds, "training users, and ic_folds is"),
        (len(validation), MINIMUM_VALIDATION_ROWS, "validation samples, and early stopping needs"),
    ):
        if found < needed:
            raise ValueError(
                f"There are {found} {what} {needed}: the dataset is too small; use more users or samples."
            )


# -- explanations of the validation and test samples ---------------------------------------------------------------


@dataclass
class Explained:
    """n explanations of each of N samples, with the LC scorer's margins (N, n)."""

    texts: list[list[str]]
    margins: np.ndarray


def explain(
    path: str | os.PathLike,
    samples: pl.DataFrame,
    rows: Sequence[Mapping],
    tokenizer: PreTrainedTokenizerBase,
    load: Callable,
    *,
    num_explanations: int,
    max_new_tokens: int,
    batch_size: int,
    batch_tokens: int | None = None,
    seed: int,
) -> Explained:
    """Write and score explanations of `rows`, or read them from `path` where an earlier call has left them.

    Args:
        path: Parquet file: user_id, item_id, split, explanation (list), margin (list).
        samples, rows: the same samples as a frame and as prompt rows.
        load: gives the policy, as it is to be used, and the LC scorer (`margins(texts, rows)`); not called where the
            file is there.
    """
    path = Path(path)
    if not path.is_file():
        name = path.stem.replace("_", " ")
        policy, scorer = load()
        texts = generate_explanations(
            policy,
            tokenizer,
            [row["prompt"] for row in rows],
            num_generations=num_explanations,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            batch_tokens=batch_tokens,
            seed=seed,
            progress=f"Writing {num_explanations} x {len(rows):,} explanations ({name})",
            keep=path,
        )
        margins = [scorer.margins([t[k] for t in texts], rows).tolist() for k in range(num_explanations)]
        frame = samples.select(SAMPLE).with_columns(
            explanation=pl.Series(texts), margin=pl.Series([list(m) for m in zip(*margins)])
        )
        if PartialState().is_main_process:
            write_parquet_atomic(path, frame)
            Unfinished.forget(path)
        PartialState().wait_for_everyone()
    frame = read_frame(path)
    if not frame.select(SAMPLE).equals(samples.select(SAMPLE)):
        raise ValueError(
            f"{path} explains other samples than the dataset gives now; the data have changed: put them back, or "
            "begin anew in another --output_dir."
        )
    return Explained(frame["explanation"].to_list(), np.array(frame["margin"].to_list()))


def explanation_rows(name: str, samples: pl.DataFrame, explained: Explained, partners=None) -> tuple[dict, dict]:
    """Rows `name` and `name`_mean<n>, and their test scores.

    Args:
        samples: validation and test samples, in the order of `explained`.
        partners: (N,) indices: each sample gets the explanations of another one (the shuffled-explanation control).
    """
    margins = explained.margins if partners is None else explained.margins[partners]
    texts = [t[0] for t in explained.texts]
    is_test = (samples["split"] == "test").to_numpy()
    labels = samples["label"].to_numpy()
    test = samples.filter(pl.col("split") == "test")
    test_texts = [text for text, keep in zip(texts, is_test) if keep]
    quality = summarise_checks(
        check_explanations(
            test_texts, test["history_titles"].to_list(), test["history_labels"].to_list(), test["title"].to_list()
        )
    )
    if "reasons" in samples.columns:
        aspects = sorted({c for categories in samples["categories"] for c in categories})
        reasons = summarise_reasons(check_reasons(test_texts, test["reasons"].to_list(), aspects))
        quality |= {key: value for key, value in reasons.items() if key != "aspects_per_explanation"}
    rows, scores = {}, {}
    for row, m in {name: margins[:, 0], f"{name}_mean{margins.shape[1]}": margins}.items():
        temperature = fit_temperature(labels[~is_test], m[~is_test])
        scores[row] = scores_at(m[is_test], temperature)
        at_one = ctr_metrics(labels[is_test], scores_at(m[is_test], 1.0))
        rows[row] = ctr_metrics(labels[is_test], scores[row])
        rows[row] |= {"log_loss_t1": at_one["log_loss"], "temperature": temperature}
    rows[name] |= quality
    return rows, scores


# -- the CTR models ------------------------------------------------------------------------------------------------


def make_model(data: SplitData, dimension: int | None) -> DeepFM:
    """An untrained DeepFM, with one explanation slot of `dimension` unless that is None."""
    slot = {} if dimension is None else {"explanation_slots": 1, "explanation_dim": dimension}
    return DeepFM(**data.vocabulary.sizes(), **slot)


def ctr_row(
    data: SplitData, z: Embeddings | None = None, fits: int = 3, seed: int = 0
) -> tuple[dict[str, float], np.ndarray]:
    """Fit DeepFM `fits` times; its metrics on the test split, and the first fit's test scores.

    Args:
        z: explanation embeddings (N, 1, d) of "train", "validation" and "test"; None: ids alone.
    """
    dimension = None if z is None else z["train"].shape[-1]
    return mean_of_fits(data, lambda: make_model(data, dimension), ctr_metrics, z, fits, seed)[:2]


def embed(
    data: SplitData, store: ExplanationStore, held_out: Explained, encoder: TextEncoder, count: int
) -> dict[str, torch.Tensor]:
    """Embeddings (N, 1, d) for `ctr_row`: of training samples the stored explanation, of the others the mean of the
    first `count`."""
    size = {split: len(part) for split, part in data.samples.items()}
    vectors = torch.stack([encoder.encode([t[k] for t in held_out.texts]) for k in range(count)]).mean(0)
    parts = vectors.split([size["validation"], size["test"]])
    train = store.embeddings_for(data.samples["train"], encoder)
    return {"train": train, "validation": parts[0].unsqueeze(1), "test": parts[1].unsqueeze(1)}


def fit_recommender(
    data: SplitData,
    store: ExplanationStore,
    encoder: TextEncoder,
    folds: int | None,
    seed: int,
    validation_texts: Sequence[str],
) -> CrossFit | DeepFM:
    """Stage 2 (equation 15): DeepFM on ids and the kept explanations; out of fold unless `folds` is None."""
    train_z = store.embeddings_for(data.samples["train"], encoder)
    validation_z = encoder.encode(validation_texts).unsqueeze(1)
    z = {"train": train_z, "validation": validation_z}
    arguments, validation = data.rows("train", z), data.rows("validation", z)
    if folds is None:
        torch.manual_seed(seed)
        model = make_model(data, encoder.dimension)
        fit(model, *arguments, validation, seed=seed)
        return model
    groups = data.samples["train"]["user_id"].to_list()
    make = functools.partial(make_model, data, encoder.dimension)
    return cross_fit(make, *arguments, groups=groups, folds=folds, validation=validation, seed=seed)
