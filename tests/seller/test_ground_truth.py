"""SELLER's ground truth: the template by hand, files, a local endpoint that fails midway, a local model in parts."""

import json

import polars as pl
import pytest
import torch
from local_endpoint import Server
from transformers import GPT2Config, GPT2LMHeadModel

from rlrec.asking import Endpoint
from rlrec.policies.tiny import build_tokenizer
from rlrec.seller import ground_truth
from rlrec.seller.ground_truth import (
    FIELDS,
    ground_truth_prompt,
    read_from_file,
    summary,
    template,
    write_by_asking,
    write_by_generation,
    write_by_template,
)


def samples(count=3):
    return pl.DataFrame(
        {
            "user_id": [f"u{n}" for n in range(count)],
            "item_id": [f"i{n}" for n in range(count)],
            "title": [f"Film {n}" for n in range(count)],
            "categories": [["crime", f"kind {n}"] for n in range(count)],
            "description": [f"In film {n} (1999), somebody steals." for n in range(count)],
            "history_categories": [[["war"], ["crime"]]] * count,
            "reasons": [["tense", "crime"]] * count,
        }
    )


def answer(**changes):
    return json.dumps({"category_explanation": "Dark crime.", "intent_explanation": "To be tense."} | changes)


@pytest.mark.parametrize(
    ("categories", "history", "reasons", "expected"),
    [
        (["a"], [["b"], ["a", "c"]], None, ("This film belongs to a.", "You continue with a.")),
        (["a", "b"], [["b"], ["a"], ["c"]], None, ("This film belongs to a and b.", "You return to a after c.")),
        (["a", "b"], [["a"]], ["sad", "b"], ("This film belongs to a and b.",
                                             "You turn to b after a, in the mood for something sad.")),
        (["a"], [[], ["b"], []], ["+slow", "-loud"], ("This film belongs to a.",
                                                      "You turn to a after b, in the mood for something slow.")),
        (["a", "b", "c"], [[]], [], ("This film belongs to a, b and c.", "You turn to a.")),
        ([], [["a"]], ["x", "y"], ("This film has no known category.",
                                   "You try something else, in the mood for something x and y.")),
        (None, None, None, ("This film has no known category.", "You try something else.")),
    ],
)  # fmt: skip
def test_the_template(categories, history, reasons, expected):
    row = {"title": "Heat", "categories": categories, "history_categories": history, "reasons": reasons}
    assert template(row, "film") == expected


def test_the_template_writes_every_row_without_the_title():
    written = write_by_template(samples().drop("reasons"), "film")
    assert written.columns == ["user_id", "item_id", *FIELDS, "problem"]
    assert written.row(1) == ("u1", "i1", "This film belongs to crime and kind 1.", "You continue with crime.", None)
    assert summary(written) == {"rows": 3, "written": 3, "missing": 0, "problems": {}}
    assert write_by_template(samples().clear(), "film").height == 0


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_a_file(tmp_path, suffix):
    table = pl.DataFrame(
        {"user_id": ["u2", "u0", "u9"], "item_id": ["i2", "i0", "i9"], FIELDS[0]: ["c2", " c0 ", "x"],
         FIELDS[1]: ["", "d0", "x"]}
    )  # fmt: skip
    path = tmp_path / f"explanations.{suffix}"
    table.write_parquet(path) if suffix == "parquet" else table.write_ndjson(path)
    read = read_from_file(samples(), path)
    assert read.select(FIELDS).rows() == [("c0", "d0"), (None, None), (None, None)]
    assert summary(read)["problems"] == {"not in the file": 2}


def test_a_file_that_is_none(tmp_path):
    path = tmp_path / "explanations.jsonl"
    row = {"user_id": "u0", "item_id": "i0", FIELDS[0]: "c", FIELDS[1]: "d"}
    path.write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(ValueError, match="two rows for user 'u0' and item 'i0'"):
        read_from_file(samples(), path)
    path.write_text(json.dumps({"user_id": "u0", "item_id": "i0", FIELDS[0]: "c"}) + "\n")
    with pytest.raises(ValueError, match="no column intent_explanation"):
        read_from_file(samples(), path)
    path.write_text("not json\n")
    with pytest.raises(ValueError, match="neither parquet"):
        read_from_file(samples(), path)


def test_the_prompt_has_every_field_but_not_the_title():
    prompt = ground_truth_prompt(samples().row(1, named=True), "film", history_items=1)
    assert "<Categories>crime, kind 1</Categories>" in prompt
    assert "<Description>In it (1999), somebody steals.</Description>" in prompt
    assert "<ChosenBefore>crime</ChosenBefore>" in prompt
    assert "<ChosenBefore>war; crime</ChosenBefore>" in ground_truth_prompt(samples().row(1, named=True), "film")
    bare = {"title": "", "categories": [], "description": None, "history_categories": []}
    assert "<Categories>not known</Categories>\n<Description>no description</Description>" in ground_truth_prompt(bare)


def ask_at(server, cache, frame, **arguments):
    defaults = {"attempts": 1, "backoff": 0.01, "workers": 1, "progress": None}
    return write_by_asking(frame, Endpoint(server.url, "m", timeout=5), cache, **(defaults | arguments))


def test_an_endpoint_that_fails_midway_is_resumed(tmp_path):
    cache = tmp_path / "ground_truth" / "answers.jsonl"
    with Server(lambda number, body: answer() if number < 2 else (503, "")) as server:
        first = ask_at(server, cache, samples(6))
    assert summary(first) == {"rows": 6, "written": 2, "missing": 4, "problems": {"HTTP 503": 4}}
    assert first["category_explanation"].null_count() == 4
    with cache.open("a") as file:  # killed in the middle of a line
        file.write('{"key": "abc", "categ')
    with Server(lambda number, body: answer(intent_explanation="Later.")) as server:
        second = ask_at(server, cache, samples(6))
        assert len(server.bodies) == 4
        assert ask_at(server, cache, samples(6)).equals(second)
        assert len(server.bodies) == 4
    assert second["intent_explanation"].to_list() == ["To be tense."] * 2 + ["Later."] * 4
    assert second["problem"].null_count() == 6
    assert len(cache.read_text().splitlines()) == 6


def test_nonsense_is_asked_again_and_equal_prompts_once(tmp_path):
    frame = pl.concat([samples(1), samples(1).with_columns(user_id=pl.lit("other"))])
    replies = ["hm", answer(intent_explanation=""), answer()]
    with Server(lambda number, body: replies[number]) as server:
        written = ask_at(server, tmp_path / "answers.jsonl", frame, attempts=3)
        assert len(server.bodies) == 3
    assert written.select("user_id", *FIELDS).rows() == [
        ("u0", "Dark crime.", "To be tense."),
        ("other", "Dark crime.", "To be tense."),
    ]


def test_a_spoilt_cache_is_named(tmp_path):
    cache = tmp_path / "answers.jsonl"
    cache.write_text('{"key": "a", "category_explanation": "only one"}\n')
    with pytest.raises(ValueError, match=r"answers.jsonl, line 1 is no answer"):
        write_by_asking(samples(1), lambda prompt, attempt: answer(), cache, name="f", progress=None)


def test_a_local_model_in_parts(tmp_path, monkeypatch):
    """Half of the answers cannot be read at first; what is kept is not written again, in this call or a later one."""
    asked = []

    def generate(policy, tokenizer, prompts, **options):
        asked.append(len(prompts))
        return [[answer() if "kind 0" in prompt or len(asked) > 3 else "hm"] for prompt in prompts]

    monkeypatch.setattr(ground_truth, "generate_explanations", generate)
    tokenizer, cache = build_tokenizer([], []), tmp_path / "answers.jsonl"

    def write(**options):
        return write_by_generation(
            samples(5), lambda: object(), tokenizer, cache, name="m", part_size=2, progress=False, **options
        )

    assert summary(write(attempts=1))["problems"] == {"nonsense": 4}
    assert asked == [2, 2, 1]
    assert summary(write())["missing"] == 0
    assert asked == [2, 2, 1, 2, 2]
    assert summary(write())["written"] == 5
    assert len(asked) == 5


def test_a_real_local_model(tmp_path):
    tokenizer = build_tokenizer([], ["film", "crime"])
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2))
    written = write_by_generation(
        samples(2), lambda: model, tokenizer, tmp_path / "a.jsonl", name="m", max_new_tokens=4, progress=False
    )
    assert summary(written)["problems"] == {"nonsense": 2}  # it knows no JSON
