"""What explanations are worth to a recommender: SELLER's utility evaluation, for the texts of any system.

    python -m rlrec.utility RUN_DIR --encoder sentence-transformers/sentence-t5-base
    python -m rlrec.utility RUN_DIR --encoder FOLDER --data PREPARED_DIR      # runs of ExpCTR and RecPIE

Paper: Zhang et al., "Sequence-aware Large Language Models for Explainable Recommendation" (2026), sections 2.3, 3.3
and 4.1. One EER (rlrec/recommenders/explanation_enhanced.py) is trained on the training samples' ground-truth
explanations. Under it each row's test explanations rank all items that the training knows; the target's place gives
Recall and NDCG at 5 and 10.

Rulings: items of the history stay in the ranking; of equal scores the target's comes last; a target that the training
does not know is never found, and is counted. With the target's title masked (rlrec/evaluation/utility.py) the same EER
ranks once more: metrics named `recall@10/masked`.

The command reads explanations.parquet (user_id, item_id, split, row, text) or, where the run has none,
predictions.parquet (columns `explanation_<row>`), and samples.parquet (split, user_id, item_id, title, history,
ground_truth). Without the latter, `--data` gives the dataset and `explained_samples` makes the samples. It writes
utility.json and utility.parquet (one row per test sample, columns `<metric>_<row>`) beside them.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import torch

from rlrec.data.schema import PreparedDataset
from rlrec.evaluation.utility import MASK, mask_title, names_title
from rlrec.files import read_frame
from rlrec.recommenders import EER, FitResult, SASRec, Vocabulary, fit_explained
from rlrec.recommenders.base import indices, padded_indices, require_columns
from rlrec.recommenders.explanation_enhanced import memory_line
from rlrec.recommenders.sequential import rank_metrics
from rlrec.results import to_json, write_parquet_atomic, write_text_atomic
from rlrec.tables import markdown_table

CUTOFFS = (5, 10)
KEYS = ["user_id", "item_id"]
SAMPLE_COLUMNS = ("split", *KEYS, "title", "history")
LONG = (*KEYS, "split", "row", "text")


@dataclass
class Utility:
    """What explanations were worth.

    Attributes:
        rows: {row: recall@5, ndcg@5, recall@10, ndcg@10, the same with "/masked", and titles_named, the share of the
            explanations that name their target's title}.
        cases: user_id and item_id of the test samples, in order, and of each row its metrics, as
            `<metric>_<row>`: for `paired_tests`, and `mean_difference` with whole users.
        unknown_targets: test samples whose target no training sample has.
        model, fit: the one EER, and its training.
    """

    rows: dict[str, dict[str, float]]
    cases: pl.DataFrame
    unknown_targets: int
    model: EER
    fit: FitResult


def utility(
    samples: pl.DataFrame,
    ground_truth: Sequence[str],
    explanations: Mapping[str, Sequence[str]],
    encoder,
    *,
    sasrec: SASRec | None = None,
    items: list[str] | None = None,
    rank: int | None = None,
    hidden: int = 64,
    cutoffs: Sequence[int] = CUTOFFS,
    mask: str = MASK,
    seed: int = 0,
    device: str = "cpu",
    progress: Callable[[str], None] = lambda message: None,
    **fit_options,
) -> Utility:
    """Train one EER on ground-truth explanations, and rank every test sample with each row's explanation.

    Args:
        samples: split ("train", "test" and optionally "validation", for early stopping), user_id, item_id, title and
            history (item ids, oldest first, without the target).
        ground_truth: one text per row of `samples`; those of test rows are not read.
        explanations: {row: one text per test row of `samples`, in their order}.
        encoder: `encode(list of texts) -> (N, d)` and `dimension`, such as `rlrec.encoders.TextEncoder`.
        sasrec, items: a trained SASRec to start from, and the item ids its table stands for, in order; None starts
            anew, with the items of the training samples.
        rank, hidden: of the hypernetworks (EER).
        mask: what a title is replaced by.
        seed: of the EER's initial weights and of its training.
        fit_options: of `fit_explained`: epochs, batch_size, learning_rate, ...

    Raises:
        ValueError: a column or a split is missing, or another number of texts than samples.
    """
    require_columns(samples, list(SAMPLE_COLUMNS))
    if len(ground_truth) != len(samples):
        raise ValueError(f"there are {len(ground_truth)} ground-truth explanations for {len(samples)} samples")
    if (sasrec is None) != (items is None):
        raise ValueError("give a trained SASRec together with the item ids of its table, or neither")
    samples = samples.with_columns(pl.Series("ground_truth", list(ground_truth), dtype=pl.String).fill_null(""))
    parts = {split: samples.filter(pl.col("split") == split) for split in ("train", "validation", "test")}
    train, validation, test = parts.values()
    if train.is_empty() or test.is_empty():
        raise ValueError(f"there are {len(train)} training and {len(test)} test samples; both are needed")
    for row, texts in explanations.items():
        if len(texts) != len(test):
            raise ValueError(f"row '{row}' has {len(texts)} explanations for {len(test)} test samples")
    items = items or Vocabulary.from_samples(train, use_categories=False, use_history=True).items

    forked = torch.random.fork_rng(devices=[torch.device(device)] if str(device).startswith("cuda") else [])
    with forked:
        torch.manual_seed(seed)
        if sasrec is None:
            model = EER(len(items) + 1, encoder.dimension, hidden=hidden, rank=rank)
        else:
            model = EER.from_sasrec(sasrec, encoder.dimension, hidden=hidden, rank=rank)
    model.to(device)
    batch_size = fit_options.get("batch_size", 256)
    progress(memory_line(model.config["dim"], model.config["layers"], batch_size, rank or 4))

    def encoded(part: pl.DataFrame) -> tuple[torch.Tensor, torch.Tensor]:
        return padded_indices(part["history"], items), indices(part["item_id"], items)

    def explained(part: pl.DataFrame) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return *encoded(part), encoder.encode(part["ground_truth"].to_list())

    held_out = explained(validation) if len(validation) else None
    fit = fit_explained(model, *explained(train), held_out, seed=seed, **fit_options)
    progress(f"EER: {len(train):,} samples, {len(items):,} items, best epoch {fit.best_epoch}")

    def measured(texts: list[str]) -> dict[str, torch.Tensor]:
        return rank_metrics(model.ranks(history, targets, encoder.encode(texts), batch_size=batch_size), cutoffs)

    history, targets = encoded(test)
    titles, rows, cases = test["title"].to_list(), {}, {}
    for row, texts in explanations.items():
        texts = [text or "" for text in texts]
        named = names_title(texts, titles)
        values = measured(texts)
        masked = measured(mask_title(texts, titles, mask)) if any(named) else values
        values = values | {f"{name}/masked": column for name, column in masked.items()}
        rows[row] = {name: float(column.mean()) for name, column in values.items()}
        rows[row]["titles_named"] = sum(named) / len(named)
        cases |= {f"{name}_{row}": column.numpy() for name, column in values.items()}
    return Utility(rows, test.select(KEYS).with_columns(**cases), int((targets == 0).sum()), model, fit)


def explained_samples(
    pairs: pl.DataFrame, prepared: PreparedDataset, ground_truth: str = "categories", validation_fraction: float = 0.1
) -> pl.DataFrame:
    """Samples for explanations whose run left none: as `utility` takes them, and `ground_truth`, from the dataset.

    The explained pairs are the test samples. The training samples are, of each user, what lies before the first
    explained interaction, so that no history or target of training is one to be found; the newest tenth of them is for
    validation. Of several interactions of one user with one item the first counts.

    Args:
        pairs: user_id, item_id of the explained interactions.
        ground_truth: the column of the items ("categories", "description") or of the interactions ("review",
            "reasons") that is taken for a ground-truth explanation; lists are joined by commas, missing ones are "".

    Raises:
        ValueError: no timestamps, no such column, or a pair that the dataset does not have.
    """
    interactions = prepared.interactions
    if interactions["timestamp"].null_count():
        raise ValueError("the dataset has no timestamps, so there is no history; utility needs what came before")
    frame = interactions.join(prepared.items, on="item_id", how="left", maintain_order="left")
    if ground_truth not in frame.columns or frame.schema[ground_truth] not in (pl.String, pl.List(pl.String)):
        raise ValueError(f"the dataset has no texts in a column {ground_truth!r}; it has {', '.join(frame.columns)}")
    text = pl.col(ground_truth)
    text = text if frame.schema[ground_truth] == pl.String else text.list.join(", ")
    frame = frame.with_columns(text.fill_null("").alias("ground_truth")).sort("user_id", "timestamp", "item_id")
    frame = frame.unique(KEYS, keep="first", maintain_order=True)
    frame = frame.join(
        pairs.select(KEYS).unique().with_columns(test=pl.lit(True)), on=KEYS, how="left", maintain_order="left"
    ).with_columns(pl.col("test").fill_null(False), position=pl.int_range(pl.len()).over("user_id"))
    if (found := frame["test"].sum()) < (wanted := pairs.select(KEYS).n_unique()):
        raise ValueError(
            f"{wanted - found} of {wanted} explained interactions are not in the dataset; give the one that the run "
            "was made from"
        )
    everything = frame.group_by("user_id", maintain_order=True).agg(whole=pl.col("item_id"))
    earlier = ~pl.col("test").cum_sum().over("user_id").cast(pl.Boolean)
    frame = frame.with_columns(earlier=earlier).filter((pl.col("earlier") & (pl.col("position") > 0)) | pl.col("test"))
    late = pl.col("timestamp") > pl.col("timestamp").filter("earlier").quantile(1 - validation_fraction)
    split = pl.when("test").then(pl.lit("test")).when(late).then(pl.lit("validation")).otherwise(pl.lit("train"))
    frame = frame.join(everything, on="user_id", how="left", maintain_order="left")
    return frame.with_columns(split=split, history=pl.col("whole").list.head(pl.col("position"))).select(
        *SAMPLE_COLUMNS, "ground_truth"
    )


def read_texts(run_dir: str | Path) -> tuple[pl.DataFrame, list[str]]:
    """The test explanations of a run: user_id, item_id and one column of texts per row, named as the row.

    Raises:
        FileNotFoundError: the folder has neither file.
        ValueError: texts of items or windows and not of a user's item, no texts, or two texts for one row and pair.
    """
    long, wide = (Path(run_dir) / name for name in ("explanations.parquet", "predictions.parquet"))
    if not long.is_file() and not wide.is_file():
        raise FileNotFoundError(f"There is no {long} and no {wide}; give the output folder of a finished run.")
    file = long if long.is_file() else wide
    frame = read_frame(file)
    if missing := [name for name in KEYS if name not in frame.columns]:
        raise ValueError(
            f"{file} has no column {', '.join(missing)}: its explanations belong to no user's next item, so their "
            "utility cannot be measured (those of TRAIL are of items in a window of time)."
        )
    if file == wide:
        texts = {name: name.removeprefix("explanation_") for name in frame.columns if name.startswith("explanation_")}
        if not texts:
            raise ValueError(f"{file} has no column explanation_<row>; the run wrote no explanations of test samples.")
        frame = frame.select(*KEYS, *texts).rename(texts)
        rows = list(texts.values())
    else:
        if missing := [name for name in LONG if name not in frame.columns]:
            raise ValueError(f"{file} has no column {', '.join(missing)}; expected {', '.join(LONG)}.")
        frame = frame.filter(pl.col("split") == "test")
        rows = frame["row"].unique(maintain_order=True).to_list()
        if not rows:
            raise ValueError(f"{file} has no explanation of a test sample (split 'test').")
        if (double := frame.filter(frame.select(*KEYS, "row").is_duplicated())).height:
            user, item, row = double.select(*KEYS, "row").row(0)
            raise ValueError(f"{file} has two texts of row '{row}' for user {user} and item {item}; keep one.")
        frame = frame.pivot("row", index=KEYS, values="text", maintain_order=True)
    if frame.select(KEYS).is_duplicated().any():
        raise ValueError(f"{file} has a user's item twice; keep one row for each.")
    return frame.with_columns(pl.col(rows).fill_null("")), rows


def read_samples(run_dir: Path, arguments: argparse.Namespace, texts: pl.DataFrame) -> pl.DataFrame:
    """The samples that the arguments name, those of the test split being the explained ones."""
    file = arguments.samples or run_dir / "samples.parquet"
    if arguments.data is not None:
        samples = explained_samples(texts, PreparedDataset.load(arguments.data), arguments.ground_truth)
    elif file.is_file():
        samples = read_frame(file)
        require_columns(samples, [*SAMPLE_COLUMNS, "ground_truth"])
    else:
        raise FileNotFoundError(
            f"There is no {file}; give the run's dataset (--data) or samples with ground truth (--samples)."
        )
    is_test = pl.col("split") == "test"
    explained = samples.filter(is_test).join(texts, on=KEYS, how="semi", maintain_order="left")
    if len(explained) < len(texts):
        raise ValueError(
            f"{len(texts) - len(explained)} of {len(texts)} explained pairs are not among the test samples of {file}; "
            "give the samples that the run explained."
        )
    return pl.concat([samples.filter(~is_test), explained])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="python -m rlrec.utility"
    )
    parser.add_argument("run_dir", type=Path, help="folder of a finished run")
    parser.add_argument("--encoder", required=True, help="a Hugging Face text encoder, by name or local folder")
    parser.add_argument("--samples", type=Path, help="samples with ground truth (default: RUN_DIR/samples.parquet)")
    parser.add_argument("--data", type=Path, help="instead: folder of the prepared dataset that the run was made from")
    parser.add_argument("--ground_truth", default="categories", help="with --data: the column of true explanations")
    parser.add_argument("--rank", type=int, help="rank of the change of each weight (default: full, as in the paper)")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--patience", type=int, default=5, help="epochs without a better NDCG@10 on validation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parsed = parser.parse_args(arguments)
    if parsed.samples and parsed.data:
        parser.error("give --samples or --data, not both")
    from rlrec.encoders import TextEncoder  # imports transformers, which bad input need not wait for

    try:
        texts, rows = read_texts(parsed.run_dir)
        samples = read_samples(parsed.run_dir, parsed, texts)
        encoder = TextEncoder.from_pretrained(parsed.encoder, device=parsed.device)
        test = samples.filter(pl.col("split") == "test").select(KEYS).join(texts, on=KEYS, maintain_order="left")
        found = utility(
            samples,
            samples["ground_truth"].to_list(),
            {row: test[row].to_list() for row in rows},
            encoder,
            rank=parsed.rank,
            epochs=parsed.epochs,
            patience=parsed.patience,
            seed=parsed.seed,
            device=parsed.device,
            progress=print,
        )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(utility_table(found.rows))
    write_parquet_atomic(parsed.run_dir / "utility.parquet", found.cases)
    counts = dict(samples.group_by("split").len().sort("split").iter_rows())
    record = {
        "rows": found.rows,
        "samples": counts,
        "unknown_targets": found.unknown_targets,
        "items": found.model.config["num_items"] - 1,
        "best_epoch": found.fit.best_epoch,
        "settings": vars(parsed),
    }
    print(f"wrote {write_text_atomic(parsed.run_dir / 'utility.json', to_json(record) + chr(10))}")


def utility_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Markdown: one line per row, one column per metric."""
    names = list(next(iter(rows.values())))
    lines = [[row, *(f"{metrics[name]:.4f}" for name in names)] for row, metrics in rows.items()]
    return markdown_table(["explanations", *(name.replace("_", " ") for name in names)], lines)


if __name__ == "__main__":
    main()
