"""A language model's marks for the explanations of a finished TRAIL run (rlrec/evaluation/judge.py).

    python -m rlrec.judge RUN_DIR --endpoint https://api.openai.com/v1 --model gpt-4.1-mini
    python -m rlrec.judge RUN_DIR --local /models/some-instruct-model

Reads explanations.parquet (columns description, history, window_start, popularity, score, explanation), and writes
judge.json and judged.parquet beside it. Answers are kept in judge_answers.jsonl: the same command again asks only what
is still missing. The key of the endpoint is read from RLREC_JUDGE_API_KEY and written nowhere.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rlrec.asking import Endpoint, LocalModel
from rlrec.evaluation.judge import DIMENSIONS, KEY_VARIABLE, judge
from rlrec.files import read_frame
from rlrec.results import to_json, write_parquet_atomic, write_text_atomic
from rlrec.tables import markdown_table


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="python -m rlrec.judge"
    )
    parser.add_argument("explanations", type=Path, help="folder of a finished run, or a .parquet file")
    parser.add_argument("--endpoint", help="address of an OpenAI-compatible endpoint, with its /v1")
    parser.add_argument("--model", help="name of the model there")
    parser.add_argument("--local", type=Path, help="instead: local folder of a causal language model")
    parser.add_argument("--device", default="cpu", help="of the local model")
    parser.add_argument("--rows", type=int, help="mark so many rows, drawn with --seed (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=4, help="questions to the endpoint under way at once")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds without a byte from the endpoint")
    parser.add_argument("--attempts", type=int, default=4)
    parser.add_argument("--backoff", type=float, default=1.0, help="seconds before the second attempt, then doubled")
    parser.add_argument("--window_days", type=int, default=30)
    parsed = parser.parse_args(arguments)
    if (parsed.endpoint is None) == (parsed.local is None) or (parsed.endpoint is None) != (parsed.model is None):
        parser.error("give --endpoint with --model, or --local")
    folder = parsed.explanations if parsed.explanations.is_dir() else parsed.explanations.parent
    file = folder / "explanations.parquet" if parsed.explanations.is_dir() else parsed.explanations
    try:
        if not file.is_file():
            raise FileNotFoundError(f"There is no {file}; give the output folder of a finished run.")
        frame = read_frame(file)
        if parsed.rows is not None and parsed.rows < frame.height:
            frame = frame.sample(parsed.rows, seed=parsed.seed)
        if parsed.local is not None:
            ask = LocalModel(parsed.local, parsed.device)
        else:
            ask = Endpoint(parsed.endpoint, parsed.model, parsed.timeout, key_variable=KEY_VARIABLE)
        judged, summary = judge(
            frame,
            ask,
            folder / "judge_answers.jsonl",
            attempts=parsed.attempts,
            backoff=parsed.backoff,
            workers=1 if parsed.local is not None else parsed.workers,
            window_days=parsed.window_days,
        )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    write_parquet_atomic(folder / "judged.parquet", judged)
    scores = [["-" if summary[name] is None else f"{summary[name]:.4f}" for name in DIMENSIONS]]
    print(markdown_table([name.replace("_", " ") for name in DIMENSIONS], scores))
    reasons = ", ".join(f"{reason}: {count}" for reason, count in summary["problems"].items())
    print(f"{summary['judged']} of {summary['rows']} rows judged" + (f"; missing ({reasons})" if reasons else ""))
    print(f"wrote {write_text_atomic(folder / 'judge.json', to_json(summary) + chr(10))}")


if __name__ == "__main__":
    main()
