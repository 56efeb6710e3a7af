"""Controls of a finished run: what of its result is in the explanations, and what in them it is.

    python recipes/controls.py RUN_DIR

A recommender reads explanations (`Reader`). Each control changes the explanations, or what they are said to be of, and
asks what is left, with 95 % intervals (whole users resampled). There are two ways to ask:

- "as trained": the recommender that was trained on the run's own texts reads the changed ones. The question is what
  *it* relies on. Changed texts may be unlike any that it knows, so a low number does not say that they carry nothing.
- "refitted": the changed texts are what it is trained on as well. The question is what the texts *can* tell.

`MEANINGFUL` says which of them answers a control's question; the other stands beside it. docs/controls.md says what
each number means. All recommenders are fitted anew, `fits` times, and their mean prediction is what is measured; so
differences are between equals, and figures are a little above the run's own table, which has the mean of metrics.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import torch
from scipy import stats

from rlrec.evaluation.controls import permutation_auc, shuffled_partners
from rlrec.evaluation.masking import mask_verdict_words, sentiment
from rlrec.evaluation.significance import (
    auc_difference,
    auc_interval,
    mean_and_sd,
    percentile_interval,
    resampled_sums,
    rmse_difference,
)
from rlrec.evaluation.utility import mask_title, names_title
from rlrec.files import read_json
from rlrec.recommenders import Recommender, SplitData
from rlrec.recommenders.split_data import SPLITS, mean_of_fits
from rlrec.results import read_results, to_json, write_text_atomic
from rlrec.tables import markdown_table, metric_label

FILE = "controls.json"
Texts = list[list[str | None]]  # N samples, each with one text per slot; None where there is none

ORIGINAL, WITHOUT = "as it is", "no explanations"
SHUFFLED_LABELS, OTHERS = "shuffled labels", "explanations of another user"
VERDICT, OPINIONS = "verdict masked", "verdict and opinion words masked"
TITLE, SENTIMENT = "target title masked", "sentiment alone"
FROZEN = "frozen recommender"
TRAINED, REFITTED = "as trained", "refitted"
MEANINGFUL = {
    OTHERS: (TRAINED, "the link is cut at the test alone: does the recommender read this sample's text?"),
    VERDICT: (REFITTED, "a recommender that always had a verdict never learned to read the reasons"),
    OPINIONS: (REFITTED, "as for the verdict alone"),
    TITLE: (REFITTED, "a recommender that always had the title never learned to do without"),
    SENTIMENT: (REFITTED, "one number is no text: no trained recommender can read it"),
    FROZEN: (TRAINED, "it must not have seen a text of the trained policy, or it could share a code with it"),
    SHUFFLED_LABELS: (REFITTED, "what is trained on permuted labels must not know the true ones"),
}


@dataclass
class Reader:
    """A recommender that reads explanations, and the explanations of a run.

    Attributes:
        name: of the recommender, as it is printed.
        data: samples and batches by split.
        texts: the run's explanations by split.
        untuned: those of the untuned policy, or None where the run kept none.
        encoder: texts -> embeddings.
        make_model: width of an embedding (None: no explanations) -> a function that makes an untrained recommender.
        mask_verdict: N texts -> N texts without their verdict.
        metrics: "auc", and "rmse" where ratings are predicted.
        fits, seed, options: of `mean_of_fits`.
    """

    name: str
    data: SplitData
    texts: dict[str, Texts]
    untuned: dict[str, Texts] | None
    encoder: object
    make_model: Callable[[int | None], Callable[[], Recommender]]
    mask_verdict: Callable[[Sequence[str]], list[str]]
    metrics: tuple[str, ...] = ("auc",)
    fits: int = 3
    seed: int = 0
    options: dict = field(default_factory=dict)

    @property
    def test(self) -> pl.DataFrame:
        return self.data.samples["test"]

    def embed(self, texts: Mapping[str, Texts]) -> dict[str, torch.Tensor]:
        """(N, S, d) by split; zeros where there is no text."""
        z = {}
        for split, rows in texts.items():
            z[split] = torch.zeros(len(rows), len(rows[0]), self.encoder.dimension)
            there = [(i, slot) for i, row in enumerate(rows) for slot, text in enumerate(row) if text is not None]
            if there:
                i, slot = map(list, zip(*there))
                z[split][i, slot] = self.encoder.encode([rows[i][slot] for i, slot in there])
        return z

    def fit(self, z: Mapping[str, torch.Tensor] | None, data: SplitData | None = None, fits=None) -> list[Recommender]:
        """Recommenders trained on explanations z, or on none."""
        width = None if z is None else z["train"].shape[-1]
        data, fits = data or self.data, fits or self.fits
        return mean_of_fits(data, self.make_model(width), lambda *_: {}, z, fits, self.seed, **self.options)[2]

    def predict(self, models: Sequence[Recommender], z: torch.Tensor | None) -> np.ndarray:
        """(N,) mean prediction of the test samples."""
        return np.mean([model.predict(self.data.batches["test"], z).numpy() for model in models], axis=0)


def changed(texts: Mapping[str, Texts], change: Callable[[Sequence[str], str], list[str]]) -> dict[str, Texts]:
    """Texts with `change(texts of one slot, split)` made in every slot; None stays None."""
    out = {}
    for split, rows in texts.items():
        slots = []
        for column in zip(*rows):
            made = change([text or "" for text in column], split)
            slots.append([None if old is None else new for old, new in zip(column, made, strict=True)])
        out[split] = [list(row) for row in zip(*slots)]
    return out


def reader_controls(reader: Reader, permutations: int = 5, progress: Callable[[str], None] = lambda told: None):
    """All controls of what reads explanations: rows (control, reader, way, metrics) and notes."""
    targets, test = reader.data.targets["test"].numpy(), reader.test
    labels, users = test["label"].to_numpy(), test["user_id"].to_list()
    rows, notes = [], []

    def add(control: str, way: str, predictions: np.ndarray, against: np.ndarray | None = None) -> np.ndarray:
        found = measured(reader.metrics, labels, targets, predictions, against, users)
        rows.append({"control": control, "reader": reader.name, "way": way, "metrics": found})
        progress(f"{control}, {way}")
        return predictions

    z = reader.embed(reader.texts)
    models = reader.fit(z)
    original = add(ORIGINAL, TRAINED, reader.predict(models, z["test"]))
    add(WITHOUT, REFITTED, reader.predict(reader.fit(None), None), original)

    def both_ways(control: str, other: Mapping[str, torch.Tensor]) -> None:
        add(control, TRAINED, reader.predict(models, other["test"]), original)
        add(control, REFITTED, reader.predict(reader.fit(other), other["test"]), original)

    try:
        both_ways(OTHERS, exchanged(reader, z))
    except ValueError as error:  # one user holds most of a split
        notes.append(f"No {OTHERS}: {error}")
    both_ways(VERDICT, reader.embed(changed(reader.texts, lambda texts, _: reader.mask_verdict(texts))))
    if reader.mask_verdict is not mask_verdict_words:
        both_ways(
            OPINIONS,
            reader.embed(changed(reader.texts, lambda texts, _: mask_verdict_words(reader.mask_verdict(texts)))),
        )
    titles = {split: part["title"].to_list() for split, part in reader.data.samples.items()}
    named = [any(names_title([text or "" for text in row], [title] * len(row)))
             for row, title in zip(reader.texts["test"], titles["test"])]  # fmt: skip
    if any(named):
        both_ways(TITLE, reader.embed(changed(reader.texts, lambda texts, split: mask_title(texts, titles[split]))))
    notes.append(f"{np.mean(named):.1%} of the test samples have an explanation that names their target's title.")
    numbers = {split: torch.tensor([[[sentiment(t or "")] for t in row] for row in texts])
               for split, texts in reader.texts.items()}  # fmt: skip
    add(SENTIMENT, REFITTED, reader.predict(reader.fit(numbers), numbers["test"]), original)
    if reader.untuned is None:
        notes.append(f"No {FROZEN}: the run kept no explanations of its training samples by the untuned policy.")
    else:
        untuned = reader.embed(reader.untuned)
        frozen = reader.fit(untuned)
        add(f"{FROZEN}, untuned explanations", TRAINED, reader.predict(frozen, untuned["test"]), original)
        add(FROZEN, TRAINED, reader.predict(frozen, z["test"]), original)
    rows += shuffled_label_rows(reader, z, original, labels, permutations)
    return rows, notes


def exchanged(reader: Reader, z: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Embeddings in which every sample has those of another user's sample of the same split."""
    users = {split: part["user_id"].to_list() for split, part in reader.data.samples.items()}
    return {split: z[split][shuffled_partners([split] * len(z[split]), reader.seed, users[split])] for split in SPLITS}


def shuffled_label_rows(reader: Reader, z, original: np.ndarray, labels: np.ndarray, permutations: int) -> list[dict]:
    """AUC of the predictions against permuted labels, and of recommenders that were trained on permuted labels.

    One recommender trained on noise may give any AUC between 1 - a and a, a being that of its strongest input: which
    way round it reads a verdict is chance. So several permutations are fitted, and their mean is held against 0.5.
    """
    found = permutation_auc(labels, original, seed=reader.seed)
    interval = {"value": found["permuted_mean"], "low": found["permuted_low"], "high": found["permuted_high"]}
    rows = [{"control": SHUFFLED_LABELS, "reader": reader.name, "way": TRAINED, "metrics": {"auc": interval}}]
    aucs, rng = [], torch.Generator().manual_seed(reader.seed)
    for _ in range(permutations):
        targets = dict(reader.data.targets)
        for split in ("train", "validation"):  # true labels in the validation would let them back in
            targets[split] = targets[split][torch.randperm(len(targets[split]), generator=rng)]
        models = reader.fit(z, dataclasses.replace(reader.data, targets=targets), fits=1)
        aucs.append(auc_interval(labels, reader.predict(models, z["test"]), resamples=1)["auc"])
    if permutations > 1:
        mean, deviation = mean_and_sd(aucs)
        width = float(stats.t.ppf(0.975, permutations - 1)) * deviation / permutations**0.5
        interval = {"value": mean, "low": mean - width, "high": mean + width}
        rows.append({"control": SHUFFLED_LABELS, "reader": reader.name, "way": REFITTED, "metrics": {"auc": interval}})
    return rows


def measured(metrics: Sequence[str], labels, targets, predictions, against=None, users=None) -> dict[str, dict]:
    """{metric: value, low, high; and with `against` difference, difference_low, difference_high} of predictions."""
    found = {}
    if "rmse" in metrics:
        value = float(np.sqrt(np.mean((predictions - targets) ** 2)))
        columns = np.column_stack([(predictions - targets) ** 2, np.ones(len(targets))])
        sums = resampled_sums(columns, users)
        interval = percentile_interval(np.sqrt(sums[:, 0] / sums[:, 1]))
        found["rmse"] = {"value": value, "low": interval["low"], "high": interval["high"]}
        if against is not None:
            found["rmse"] |= _difference(rmse_difference(targets, against, predictions, users))
    if "auc" in metrics:
        interval = auc_interval(labels, predictions, users)
        found["auc"] = {"value": interval["auc"], "low": interval["low"], "high": interval["high"]}
        if against is not None:
            found["auc"] |= _difference(auc_difference(labels, against, predictions, users))
    return found


def _difference(found: Mapping[str, float]) -> dict[str, float]:
    names = {"difference": "difference", "low": "difference_low", "high": "difference_high"}
    return {ours: found[name] for name, ours in names.items()}


def chance_failures(rows: Sequence[Mapping]) -> list[str]:
    """What should be chance and is not: AUC with 0.5 outside of its interval, one sentence each."""
    wrong = []
    for row in rows:
        auc = row["metrics"].get("auc")
        # Permuted test labels alone are at chance whatever leaks: they show how wide chance is
        refitted = row["control"] == SHUFFLED_LABELS and row["way"] == REFITTED
        if (row.get("chance") or refitted) and not auc["low"] <= 0.5 <= auc["high"]:
            wrong.append(
                f"{row['control']} ({row['reader']}, {row['way']}): AUC {auc['value']:.3f} "
                f"[{auc['low']:.3f}, {auc['high']:.3f}] should be 0.5."
            )
    return wrong


def control_lines(rows: Sequence[Mapping]) -> tuple[list[str], list[list[str]]]:
    """Header and body: one line per control and way of asking; the way that answers its question is marked with *."""
    names = list(dict.fromkeys(metric for row in rows for metric in row["metrics"]))
    header = ["control", "read by", "way"]
    for name in names:
        header += [f"{metric_label(name)} [95 %]", "difference [95 %]"]
    body = []
    for row in rows:
        base = row["control"].split(",")[0]
        mark = " *" if MEANINGFUL.get(base, ("",))[0] == row["way"] else ""
        line = [row["control"], row["reader"], row["way"] + mark]
        for name in names:
            found = row["metrics"].get(name)
            line.append("" if found is None else _interval(found["value"], found["low"], found["high"]))
            there = found is not None and "difference" in found
            line.append(
                _interval(found["difference"], found["difference_low"], found["difference_high"], "+") if there else ""
            )
        body.append(line)
    return header, body


def _interval(value: float, low: float, high: float, sign: str = "") -> str:
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def read_controls(run_dir: Path) -> dict | None:
    """The controls of a run as `write_controls` left them; None where there are none.

    Raises:
        ValueError: the file is damaged.
    """
    path = Path(run_dir) / FILE
    return read_json(path) if path.is_file() else None


def write_controls(run_dir: Path, rows: Sequence[Mapping], notes: Sequence[str]) -> Path:
    """controls.json and controls.md in the run's folder; the run's own controls, as recorded, stand in both."""
    record = read_results(run_dir)
    told = {
        "system": record["system"],
        "dataset": record["dataset"],
        "seed": record["seed"],
        "rows": list(rows),
        "recorded": record["controls"],
        "failures": chance_failures(rows),
        "notes": list(notes),
        "meaningful": {control: {"way": way, "why": why} for control, (way, why) in MEANINGFUL.items()},
    }
    write_text_atomic(run_dir / "controls.md", controls_markdown(told))
    return write_text_atomic(run_dir / FILE, to_json(told) + "\n")


def controls_markdown(told: Mapping) -> str:
    """The whole of controls.json as Markdown."""
    parts = [f"## Controls: {told['system']} on {told['dataset']} (seed {told['seed']})"]
    parts.append(markdown_table(*control_lines(told["rows"])))
    parts.append("\\* the way of asking that answers the control's question (docs/controls.md). Differences: to the "
                 f"first line of the same reader, “{ORIGINAL}”.")  # fmt: skip
    if told["recorded"]:
        from rlrec.tables import control_table

        parts += ["Recorded by the run itself:", markdown_table(*control_table([{"controls": told["recorded"]}]))]
    parts += [f"- {note}" for note in told["notes"]]
    parts += [f"- **Not at chance**: {failure}" for failure in told["failures"]]
    return "\n\n".join(parts) + "\n"


def stored_arguments(run_dir: Path, kinds: Sequence[type], **changes) -> list:
    """Instances of argument dataclasses as a run's settings.json has them; what it lacks is the default.

    Raises:
        FileNotFoundError: the run wrote no settings.
    """
    path = run_dir / "settings.json"
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}; give the output folder of a finished run.")
    settings = read_json(path) | changes
    made = []
    for kind in kinds:
        known = {f.name for f in dataclasses.fields(kind) if f.init}
        made.append(kind(**{name: value for name, value in settings.items() if name in known}))
    return made
