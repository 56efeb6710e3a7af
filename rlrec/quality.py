"""Explanation quality of a finished run, or of any table of explanations, against the users' reviews.

    python -m rlrec.quality RUN_DIR --reviews PREPARED_DIR --conllu reviews.conllu --bleurt /models/bleurt-base-512

Reads predictions.parquet (every column `explanation_<row>`, or those named), finds each row's review, and writes
RUN_DIR/quality.json and a table in which checkpoint and flags stand beside every score. BLEU and ROUGE are always
computed; each other metric when its model is given: Coverage with `--conllu` or `--spacy_model`, BERTScore, BLEURT,
Informativeness and Fluency with the local folder of a checkpoint.

In a CoNLL-U file each review is one document, `# newdoc id = <user_id>/<item_id>`; double propagation runs over all
documents of the file. With `--spacy_model` it runs over the reviews of the rows. Without a parser, `--window` gives
`coverage_window`, a rough stand-in that is not RecPIE's Coverage (rlrec/evaluation/window.py).
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import polars as pl

from rlrec.evaluation.aspects import (
    SEED_OPINIONS,
    aspect_terms,
    coverage,
    double_propagation,
    read_opinion_lexicon,
    summarise_coverage,
)
from rlrec.evaluation.parses import parse_with_spacy, read_conllu
from rlrec.evaluation.text import explanation_quality
from rlrec.evaluation.window import window_terms
from rlrec.files import read_frame
from rlrec.results import to_json, write_text_atomic
from rlrec.tables import markdown_table

KEYS = ("user_id", "item_id")


def read_explanations(path: str | Path, columns: Sequence[str] = ()) -> tuple[pl.DataFrame, list[str]]:
    """A table of explanations (a .parquet file, or the folder of a run) and its explanation columns.

    Raises:
        FileNotFoundError, ValueError: no such file, no user_id or item_id, or no column of explanations.
    """
    path = Path(path)
    file = path / "predictions.parquet" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"There is no {file}; give the output folder of a finished run, or a .parquet file.")
    frame = read_frame(file)
    columns = list(columns) or [name for name in frame.columns if name.startswith("explanation_")]
    missing = [name for name in (*KEYS, *columns) if name not in frame.columns]
    if missing or not columns:
        raise ValueError(
            f"{file} has no column {', '.join(missing) or 'explanation_<row>'}; it has {', '.join(frame.columns)}."
        )
    return frame.with_columns(pl.col(columns).fill_null("")), columns


def find_reviews(frame: pl.DataFrame, reviews: str | Path | None = None) -> list[str | None]:
    """The review of each row's user and item; None where there is none.

    Args:
        frame: user_id, item_id, and a column `review` unless `reviews` is given.
        reviews: folder of a prepared dataset, or a .parquet file with user_id, item_id and review. Of several reviews
            of one item by one user the last in the file counts.

    Raises:
        FileNotFoundError, ValueError: no such file, or no column `review`.
    """
    if reviews is None:
        source, file = frame, "the table of explanations"
    else:
        file = Path(reviews) / "interactions.parquet" if Path(reviews).is_dir() else Path(reviews)
        if not file.is_file():
            raise FileNotFoundError(f"There is no {file}; give the folder of a prepared dataset.")
        source = read_frame(file)
    missing = [name for name in (*KEYS, "review") if name not in source.columns]
    if missing:
        raise ValueError(
            f"Coverage and text metrics need the users' reviews, and {file} has no column {', '.join(missing)}; give "
            "a dataset prepared with its reviews (on the simulated world use check_reasons)."
        )
    if reviews is None:
        return source["review"].to_list()
    texts = {(user, item): text for user, item, text in source.select(*KEYS, "review").iter_rows()}
    return [texts.get(key) for key in frame.select(KEYS).iter_rows()]


def review_terms(
    frame: pl.DataFrame,
    reviews: Sequence[str | None],
    *,
    conllu: str | Path | None = None,
    spacy_model: str | Path | None = None,
    opinions: Iterable[str] = SEED_OPINIONS,
    min_count: int = 2,
) -> list[list[str] | None]:
    """The aspect terms of each row's review by Double Propagation; None where a row has no (parsed) review.

    Raises:
        ValueError: the CoNLL-U file holds the review of no row.
    """
    keys = [f"{user}/{item}" for user, item in frame.select(KEYS).iter_rows()]
    if conllu is not None:
        documents = read_conllu(conllu)
        if not documents.keys() & set(keys):
            raise ValueError(
                f"{conllu} holds the review of none of the {len(keys)} rows; name its documents "
                f"'# newdoc id = <user_id>/<item_id>', such as {keys[0]!r}."
            )
    else:
        texts = {key: text for key, text in zip(keys, reviews) if text and text.strip()}
        documents = dict(zip(texts, parse_with_spacy(list(texts.values()), spacy_model)))
    found = double_propagation(documents.values(), opinions, min_count=min_count)
    return [aspect_terms(documents[key], found) if key in documents else None for key in keys]


def evaluate(arguments: argparse.Namespace) -> dict[str, list[dict]]:
    """{explanation column: rows of metric, score, checkpoint and flags}."""
    frame, columns = read_explanations(arguments.explanations, arguments.columns)
    reviews = find_reviews(frame, arguments.reviews)
    terms = {}  # by the name of the metric
    opinions = read_opinion_lexicon(*arguments.lexicon) if arguments.lexicon else SEED_OPINIONS
    if arguments.conllu or arguments.spacy_model:
        terms["coverage"] = review_terms(
            frame,
            reviews,
            conllu=arguments.conllu,
            spacy_model=arguments.spacy_model,
            opinions=opinions,
            min_count=arguments.min_count,
        )
    if arguments.window:
        terms["coverage_window"] = window_terms(reviews, opinions, min_count=arguments.min_count)
    results = {}
    for column in columns:
        texts = frame[column].to_list()
        results[column] = explanation_quality(
            texts,
            reviews,
            bleurt_path=arguments.bleurt,
            bert_path=arguments.bert,
            bert_layer=arguments.bert_layer,
            informativeness_path=arguments.informativeness,
            fluency_path=arguments.fluency,
            device=arguments.device,
            batch_size=arguments.batch_size,
            max_length=arguments.max_length,
        )
        for metric, wanted in terms.items():
            summary = summarise_coverage(coverage(texts, wanted, read_quotations=not arguments.skip_quotations))
            score = summary.pop("coverage")
            flags = summary | {
                "lexicon": ", ".join(map(str, arguments.lexicon)) or "built-in seeds",
                "min_count": arguments.min_count,
                "quotations": not arguments.skip_quotations,
            }
            parses = str(arguments.conllu or arguments.spacy_model) if metric == "coverage" else None
            results[column].append({"metric": metric, "score": score, "checkpoint": parses, "flags": flags})
    return results


def quality_table(results: dict[str, list[dict]]) -> str:
    """Markdown: one line per score, its checkpoint and flags beside it."""
    lines = []
    for column, rows in results.items():
        for row in rows:
            score = "-" if row["score"] is None else f"{row['score']:.4f}"
            values = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row["flags"].items()}
            flags = ", ".join(f"{name}={value}" for name, value in values.items())
            lines.append([column.removeprefix("explanation_"), row["metric"], score, row["checkpoint"] or "-", flags])
    return markdown_table(["explanations", "metric", "score", "checkpoint", "flags"], lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="python -m rlrec.quality"
    )
    parser.add_argument("explanations", type=Path, help="folder of a finished run, or a .parquet file")
    parser.add_argument("--columns", nargs="+", default=[], help="text columns (default: every explanation_<row>)")
    parser.add_argument("--reviews", type=Path, help="prepared dataset or .parquet (default: the table's own column)")
    parser.add_argument("--conllu", type=Path, help="Coverage: parsed reviews")
    parser.add_argument("--spacy_model", help="Coverage: folder of a spaCy pipeline that parses the reviews")
    parser.add_argument("--window", action="store_true", help="coverage_window, a rough stand-in without a parser")
    parser.add_argument("--lexicon", type=Path, nargs="+", default=[], help="opinion words, Hu and Liu's format")
    parser.add_argument("--min_count", type=int, default=2, help="aspect terms seen fewer times are dropped")
    parser.add_argument("--skip_quotations", action="store_true", help="Coverage: do not read quoted titles")
    parser.add_argument("--bert", type=Path, help="BERTScore: local folder of an encoder")
    parser.add_argument("--bert_layer", type=int, default=-1, help="BERTScore: hidden layer (default: the last)")
    parser.add_argument("--bleurt", type=Path, help="BLEURT: local folder of a checkpoint")
    parser.add_argument("--informativeness", type=Path, help="local folder of a language model (BART ...)")
    parser.add_argument("--fluency", type=Path, help="local folder of a language model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--max_length", type=int, default=512, help="tokens per text")
    parser.add_argument("--output", type=Path, help="JSON file (default: quality.json beside the explanations)")
    parsed = parser.parse_args(arguments)
    if parsed.conllu and parsed.spacy_model:
        parser.error("give --conllu or --spacy_model, not both")
    try:
        results = evaluate(parsed)
    except (ValueError, OSError, ImportError) as error:
        parser.error(str(error))
    folder = parsed.explanations if parsed.explanations.is_dir() else parsed.explanations.parent
    print(quality_table(results))
    print(f"wrote {write_text_atomic(parsed.output or folder / 'quality.json', to_json(results) + chr(10))}")


if __name__ == "__main__":
    main()
