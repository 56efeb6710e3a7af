"""The controls of texts whose content is known: what is cut falls, what is left stays."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from recipes.controls import controls, main
from rlrec import controls as c
from rlrec.evaluation.masking import mask_verdicts
from rlrec.expctr import rows as table
from rlrec.recommenders import SplitData
from rlrec.results import write_results

WORDS = ("liked", "disliked", "dislike", "like", "heat", "antz", "film")


class BagOfWords:
    """Which of WORDS a text has."""

    dimension = len(WORDS)

    def encode(self, texts):
        split = [text.lower().replace('"', " ").replace(",", " ").replace(".", " ").split() for text in texts]
        return torch.tensor([[float(word in words) for word in WORDS] for words in split]) + 0.01


def made_reader(texts_of, untuned_of=None, rows: int = 600, **changes) -> c.Reader:
    """Samples whose labels are chance, and texts made from them: two thirds to train on, a sixth to test on."""
    rng = np.random.default_rng(0)
    samples = pl.DataFrame(
        {
            "split": ["train"] * (rows * 2 // 3) + ["validation"] * (rows // 6) + ["test"] * (rows // 6),
            "user_id": [f"u{i // 3}" for i in range(rows)],
            "item_id": [f"i{i % 17}" for i in range(rows)],
            "title": ["Antz"] * rows,
            "label": rng.integers(0, 2, rows),
        }
    )
    data = SplitData.build(samples)
    texts = {split: [[texts_of(label, rng)] for label in part["label"]] for split, part in data.samples.items()}
    untuned = None
    if untuned_of is not None:
        untuned = {s: [[untuned_of(label, rng)] for label in part["label"]] for s, part in data.samples.items()}
    settings = {"fits": 1, "options": {"epochs": 10, "learning_rate": 0.01}, **changes}
    make_model = lambda width: lambda: table.make_model(data, width)  # noqa: E731
    return c.Reader("DeepFM", data, texts, untuned, BagOfWords(), make_model, mask_verdicts, **settings)


def by_name(rows) -> dict:
    return {(row["control"], row["way"]): row["metrics"]["auc"] for row in rows}


def verdict_alone(label, rng) -> str:
    """The verdict is right nine times of ten; the reason is chance."""
    says = label if rng.random() < 0.9 else 1 - label
    return f'They {("disliked", "liked")[rng.integers(2)]} "Heat", so they will {("dislike", "like")[says]} it.'


def test_a_verdict_without_reasons():
    rows, notes = c.reader_controls(made_reader(verdict_alone), permutations=3)
    found = by_name(rows)
    assert found[c.ORIGINAL, c.TRAINED]["value"] > 0.85
    assert found[c.SENTIMENT, c.REFITTED]["value"] > 0.85  # the verdict is all there is
    for key in ((c.WITHOUT, c.REFITTED), (c.OTHERS, c.TRAINED), (c.VERDICT, c.REFITTED)):
        assert 0.3 < found[key]["value"] < 0.7, key
        assert found[key]["difference_high"] < -0.1, key
        assert found[key]["low"] <= found[key]["value"] <= found[key]["high"]
    assert found[c.SHUFFLED_LABELS, c.TRAINED]["low"] < 0.5 < found[c.SHUFFLED_LABELS, c.TRAINED]["high"]
    assert found[c.SHUFFLED_LABELS, c.TRAINED]["value"] == pytest.approx(0.5, abs=0.01)
    assert (c.TITLE, c.REFITTED) not in found
    assert (c.FROZEN, c.TRAINED) not in found
    assert notes[0] == "0.0% of the test samples have an explanation that names their target's title."
    assert notes[1].startswith("No frozen recommender: the run kept no explanations")


def test_a_code_between_policy_and_recommender():
    """Trained texts say the opposite of what they mean: who learned from honest ones is misled by them."""

    def code(label, rng):
        return verdict_alone(1 - label, rng)

    found = by_name(c.reader_controls(made_reader(code, verdict_alone), permutations=0)[0])
    assert found[c.ORIGINAL, c.TRAINED]["value"] > 0.8
    assert found[f"{c.FROZEN}, untuned explanations", c.TRAINED]["value"] > 0.8
    assert found[c.FROZEN, c.TRAINED]["value"] < 0.2


def test_reasons_that_need_no_verdict_and_a_title_that_gives_it_away():
    def reasons(label, rng):
        return f'They {("disliked", "liked")[label]} "Heat", so they will like it.'

    def title(label, rng):
        return ('They will like "Heat".', 'They will like "Antz".')[label]

    found = by_name(c.reader_controls(made_reader(reasons), permutations=0)[0])
    assert found[c.VERDICT, c.REFITTED]["value"] > 0.95
    assert found[c.SENTIMENT, c.REFITTED]["value"] < 0.65
    assert found[c.OPINIONS, c.REFITTED]["value"] < 0.7  # without "liked" and "disliked" nothing is left
    assert (c.SHUFFLED_LABELS, c.REFITTED) not in found
    rows, notes = c.reader_controls(made_reader(title), permutations=0)
    found = by_name(rows)
    assert found[c.ORIGINAL, c.TRAINED]["value"] > 0.95
    assert found[c.TITLE, c.TRAINED]["value"] <= found[c.ORIGINAL, c.TRAINED]["value"]
    assert any("name" in note and not note.startswith("0.0%") for note in notes)


def test_missing_texts_and_what_cannot_be_exchanged():
    reader = made_reader(verdict_alone)
    reader.texts["train"][0] = [None]
    z = reader.embed(reader.texts)
    assert not z["train"][0].any()
    assert z["train"][1].any()
    assert c.changed({"test": [[None], ["a"]]}, lambda texts, _: [t + "!" for t in texts]) == {
        "test": [[None], ["a!"]]
    }
    partners = c.exchanged(reader, {split: torch.arange(len(t)).view(-1, 1, 1) for split, t in reader.texts.items()})
    users = reader.data.samples["test"]["user_id"].to_list()
    assert all(users[i] != users[int(j)] for i, j in enumerate(partners["test"].flatten()))
    one_user = {split: part.with_columns(user_id=pl.lit("u")) for split, part in reader.data.samples.items()}
    reader.data.samples.update(one_user)
    with pytest.raises(ValueError, match="one user holds"):
        c.exchanged(reader, z)


def test_metrics_by_hand():
    found = c.measured(("rmse", "auc"), [0, 1], np.array([0.0, 1.0]), np.array([0.0, 0.5]), np.array([0.0, 1.0]))
    assert found["rmse"]["value"] == pytest.approx(0.125**0.5)
    assert found["rmse"]["difference"] == pytest.approx(0.125**0.5)
    assert (found["auc"]["value"], found["auc"]["difference"]) == (1.0, 0.0)


def interval(value, low, high):
    return {"auc": {"value": value, "low": low, "high": high}}


def test_what_should_be_chance_and_is_not():
    rows = [
        {"control": c.SHUFFLED_LABELS, "reader": "DeepFM", "way": c.REFITTED, "metrics": interval(0.6, 0.55, 0.65)},
        # At chance whatever leaks, so its interval is no evidence
        {"control": c.SHUFFLED_LABELS, "reader": "DeepFM", "way": c.TRAINED, "metrics": interval(0.6, 0.55, 0.65)},
        {
            "control": c.OTHERS,
            "reader": "LC score",
            "way": c.TRAINED,
            "metrics": interval(0.7, 0.6, 0.8),
            "chance": True,
        },
        {
            "control": c.OTHERS,
            "reader": "DeepFM",
            "way": c.TRAINED,
            "metrics": interval(0.7, 0.6, 0.8),
        },  # ids are left
    ]
    assert [told.split(":")[0] for told in c.chance_failures(rows)] == [
        "shuffled labels (DeepFM, refitted)",
        "explanations of another user (LC score, as trained)",
    ]


def test_files_and_table(tmp_path):
    write_results(tmp_path, system="expctr", dataset="x", seed=3, rows={}, controls={"shuffled_labels": {"auc": 0.52}})
    more = {"difference": -0.1, "difference_low": -0.2, "difference_high": 0.0}
    rows = [
        {"control": c.ORIGINAL, "reader": "DeepFM", "way": c.TRAINED, "metrics": interval(0.7, 0.65, 0.75)},
        {
            "control": c.VERDICT,
            "reader": "DeepFM",
            "way": c.REFITTED,
            "metrics": {"auc": interval(0.6, 0.5, 0.7)["auc"] | more},
        },
    ]
    told = json.loads(c.write_controls(tmp_path, rows, ["A note."]).read_text())
    assert (told["system"], told["seed"], told["rows"], told["notes"]) == ("expctr", 3, rows, ["A note."])
    text = (tmp_path / "controls.md").read_text()
    for words in (
        "0.700 [0.650, 0.750]",
        "-0.100 [-0.200, +0.000]",
        "refitted *",
        "shuffled labels: AUC",
        "- A note.",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("system", "told"),
    [
        ("trail", "no model reads its explanations"),
        ("seller", "rlrec.utility"),
        ("x", "no controls for the system 'x'"),
    ],
)
def test_systems_without_controls_say_why(tmp_path, capsys, system, told):
    write_results(tmp_path, system=system, dataset="x", seed=0, rows={})
    with pytest.raises(SystemExit) as exit_:
        main([str(tmp_path)])
    assert exit_.value.code == 2
    error = capsys.readouterr().err.strip()
    assert told in error
    assert "\n" not in error


def test_folders_that_are_no_runs(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match=r"There is no .*results\.json"):
        controls(tmp_path)
    write_results(tmp_path, system="expctr", dataset="x", seed=0, rows={})
    with pytest.raises(FileNotFoundError, match=r"There is no .*settings\.json"):
        controls(Path(tmp_path))
