"""The utility of explanations: one EER, every row under it, titles counted and masked, and the command."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from rlrec.data.schema import PreparedDataset
from rlrec.evaluation.significance import paired_tests
from rlrec.evaluation.utility import mask_title, names_title
from rlrec.recommenders import SASRec
from rlrec.utility import explained_samples, main, read_texts, utility

MOODS = ("calm", "tense", "funny", "dark")


class WordCounts:
    """Texts as counts of the moods and of "this"."""

    dimension = 5

    def encode(self, texts):
        return torch.tensor([[float(text.split().count(word)) for word in (*MOODS, "this")] for text in texts])


def world(users: int = 100, length: int = 9) -> pl.DataFrame:
    """20 items, five of each mood; each interaction has a mood, which says nothing of the next one's."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(users):
        items = [int(rng.integers(20))]
        for position in range(1, length):
            mood = int(rng.integers(4))
            items.append(4 * int(rng.integers(5)) + mood)
            split = "train" if position < length - 2 else ("validation", "test")[position - length + 2]
            history = [f"i{item}" for item in items[:-1]]
            rows.append((split, f"u{user}", f"i{items[-1]}", f"Title {items[-1]}", history, f"a {MOODS[mood]} one"))
    schema = ["split", "user_id", "item_id", "title", "history", "ground_truth"]
    return pl.DataFrame(rows, schema=schema, orient="row")


@pytest.fixture(scope="module")
def found():
    samples = world()
    test = samples.filter(pl.col("split") == "test")
    truth = test["ground_truth"].to_list()
    rng = np.random.default_rng(1)
    texts = {
        "truth": truth,
        "random": [f"a {MOODS[i]} one" for i in rng.integers(4, size=len(truth))],
        "empty": [""] * len(truth),
        "named": [f"Watch TITLE {title.split()[1]} , {text}" for title, text in zip(test["title"], truth)],
    }
    said = []
    options = {"epochs": 12, "batch_size": 64, "learning_rate": 5e-3, "progress": said.append}
    result = utility(samples, samples["ground_truth"].to_list(), texts, WordCounts(), hidden=32, rank=4, **options)
    return samples, texts, result, said


def test_true_explanations_are_useful_and_random_ones_are_not(found):
    _, _, result, said = found
    recall = {row: metrics["recall@5"] for row, metrics in result.rows.items()}
    # One of four moods: 1, and 0.25 by chance, with a standard error of 0.043.
    assert recall["truth"] > 0.95
    assert recall["random"] == pytest.approx(0.25, abs=0.15)
    assert recall["empty"] == pytest.approx(0.25, abs=0.15)
    assert "12.0 MiB full, 1.2 MiB with rank 4" in said[0]  # 64 samples: a quarter of those of 256
    assert paired_tests(result.cases["ndcg@10_random"], result.cases["ndcg@10_truth"])["t_p_value"] < 1e-3


def test_titles_are_counted_and_masked(found):
    _, _, result, _ = found
    assert {row: metrics["titles_named"] for row, metrics in result.rows.items()} == {
        "truth": 0.0,
        "random": 0.0,
        "empty": 0.0,
        "named": 1.0,
    }
    truth, named = result.rows["truth"], result.rows["named"]
    # The encoder reads no titles; it reads the "this" of "this item", which no training text had.
    names = ("recall@5", "recall@10", "ndcg@5", "ndcg@10")
    assert all(named[name] == truth[name] == truth[f"{name}/masked"] for name in names)
    assert not result.cases["ndcg@10_named"].equals(result.cases["ndcg@10/masked_named"])


def test_titles_with_signs_and_inside_of_words():
    titles = ["C++ (a.b)", "It", "9", ""]
    texts = ["see c++ (A.B), c++ (axb)", "It fits, said IT. Italy", "19 of 9", "nothing"]
    assert names_title(texts, titles) == [True, True, True, False]
    masked = mask_title(texts, titles, mask=r"\1")
    assert masked == [r"see \1, c++ (axb)", r"\1 fits, said \1. Italy", r"19 of \1", "nothing"]


def test_cases_are_the_samples_in_their_order(found):
    samples, _, result, _ = found
    test = samples.filter(pl.col("split") == "test")
    assert result.cases.select("user_id", "item_id").equals(test.select("user_id", "item_id"))
    assert result.unknown_targets == 0
    for row, metrics in result.rows.items():
        for name in ("recall@5", "recall@10", "ndcg@5", "ndcg@10/masked"):
            assert result.cases[f"{name}_{row}"].mean() == pytest.approx(metrics[name])
    hits = result.cases["recall@5_truth"].to_numpy()
    assert set(hits) <= {0.0, 1.0}
    assert ((result.cases["ndcg@5_truth"].to_numpy() > 0) == (hits > 0)).all()


def test_the_same_seed_gives_the_same_numbers_and_test_truth_is_not_read(found):
    samples, texts, _, _ = found
    truth = samples["ground_truth"].to_list()
    hidden = ["secret" if split == "test" else text for split, text in zip(samples["split"], truth)]
    one, two = (
        utility(samples, given, {"truth": texts["truth"]}, WordCounts(), rank=2, epochs=1, seed=3)
        for given in (truth, hidden)
    )
    assert one.rows == two.rows
    assert one.cases.equals(two.cases)


def test_starts_from_a_trained_sasrec_and_counts_unknown_targets():
    samples = world(users=30)
    new = {"split": "test", "user_id": "u0", "item_id": "new", "title": None, "history": ["i1"], "ground_truth": None}
    samples = pl.concat([samples, pl.DataFrame([new], schema=samples.schema)])
    items = [f"i{number}" for number in range(20)]
    torch.manual_seed(0)
    sasrec = SASRec(21, dim=16, max_length=4, dropout=0.0)
    texts = {"row": [None] * 31}
    result = utility(
        samples, samples["ground_truth"], texts, WordCounts(), sasrec=sasrec, items=items, epochs=1, learning_rate=0.0
    )
    assert result.unknown_targets == 1
    assert result.cases["recall@10_row"].to_list()[-1] == result.cases["ndcg@10_row"].to_list()[-1] == 0.0
    # A learning rate of 0 leaves the SASRec's own ranking.
    history = torch.tensor([[0, 0, 0, 2]])
    torch.testing.assert_close(result.model.scores(history), sasrec.scores(history), atol=1e-6, rtol=0)


def test_what_does_not_fit_is_refused():
    samples = world(users=5)
    truth, texts = samples["ground_truth"].to_list(), ["x"] * 5
    with pytest.raises(ValueError, match=r"no column \['history'\]"):
        utility(samples.drop("history"), truth, {"a": texts}, WordCounts())
    with pytest.raises(ValueError, match="3 ground-truth explanations for 40 samples"):
        utility(samples, truth[:3], {"a": texts}, WordCounts())
    with pytest.raises(ValueError, match="row 'a' has 4 explanations for 5 test samples"):
        utility(samples, truth, {"a": texts[1:]}, WordCounts())
    with pytest.raises(ValueError, match="together with the item ids"):
        utility(samples, truth, {"a": texts}, WordCounts(), items=["i1"])
    with pytest.raises(ValueError, match="0 training and 5 test samples"):
        utility(samples.filter(pl.col("split") == "test"), texts, {"a": texts}, WordCounts())


def dataset() -> PreparedDataset:
    """u has a, b, c, a again, d; v has c, b; w has d, c, b."""
    user = ["u"] * 5 + ["v"] * 2 + ["w"] * 3
    item = ["a", "b", "c", "a", "d", "c", "b", "d", "c", "b"]
    time = [1, 2, 3, 4, 5, 1, 9, 1, 2, 3]
    rows = {"user_id": user, "item_id": item, "rating": [3.0] * 10, "timestamp": time}
    items = {
        "item_id": list("abcd"),
        "title": ["A", "B", "C", "D"],
        "categories": [["x", "y"], ["y"], [], None],
        "description": [""] * 4,
    }
    return PreparedDataset(pl.DataFrame(rows), pl.DataFrame(items), {"name": "by hand"})


def test_samples_around_explained_pairs_by_hand():
    pairs = pl.DataFrame({"user_id": ["u", "v"], "item_id": ["c", "b"]})
    samples = explained_samples(pairs, dataset(), validation_fraction=0.0)
    # u: b after a; c is explained, and d comes later. v: only the explained one. w has none explained.
    assert samples.rows() == [
        ("train", "u", "b", "B", ["a"], "y"),
        ("test", "u", "c", "C", ["a", "b"], ""),
        ("test", "v", "b", "B", ["c"], "y"),
        ("train", "w", "c", "C", ["d"], ""),
        ("train", "w", "b", "B", ["d", "c"], "y"),
    ]
    newest = explained_samples(pairs, dataset(), validation_fraction=0.4)
    assert newest.filter(pl.col("split") == "validation")["user_id"].to_list() == ["w"]
    with pytest.raises(ValueError, match="1 of 2 explained interactions are not in the dataset"):
        explained_samples(pairs.with_columns(item_id=pl.lit("d")), dataset())
    with pytest.raises(ValueError, match="no texts in a column 'rating'"):
        explained_samples(pairs, dataset(), "rating")
    timeless = dataset()
    timeless.interactions = timeless.interactions.with_columns(timestamp=pl.lit(None, pl.Int64))
    with pytest.raises(ValueError, match="no timestamps"):
        explained_samples(pairs, timeless)


def long_texts(test: pl.DataFrame, **rows) -> pl.DataFrame:
    frames = [
        test.select("user_id", "item_id", "split", row=pl.lit(row), text=pl.Series(texts))
        for row, texts in rows.items()
    ]
    return pl.concat(frames)


def test_texts_of_both_formats(tmp_path):
    test = world(users=3).filter(pl.col("split") == "test")
    validation = test.with_columns(split=pl.lit("validation"))
    long = pl.concat([long_texts(test, a=["1", "2", None], b=["4", "5", "6"]), long_texts(validation, a=["v"] * 3)])
    long.write_parquet(tmp_path / "explanations.parquet")
    texts, rows = read_texts(tmp_path)
    assert rows == ["a", "b"]
    assert texts.drop("item_id").rows() == [("u0", "1", "4"), ("u1", "2", "5"), ("u2", "", "6")]
    (tmp_path / "explanations.parquet").unlink()
    wide = test.select("user_id", "item_id", explanation_a=pl.Series(["1", "2", None]), score_a=pl.lit(0.5))
    wide.write_parquet(tmp_path / "predictions.parquet")
    texts, rows = read_texts(tmp_path)
    assert (rows, texts["a"].to_list()) == (["a"], ["1", "2", ""])


def test_files_that_cannot_be_used(tmp_path):
    test = world(users=3).filter(pl.col("split") == "test")
    with pytest.raises(FileNotFoundError, match="give the output folder of a finished run"):
        read_texts(tmp_path)
    test.select("user_id", "item_id").write_parquet(tmp_path / "predictions.parquet")
    with pytest.raises(ValueError, match="no column explanation_<row>"):
        read_texts(tmp_path)

    def refused(frame: pl.DataFrame, message: str) -> None:
        frame.write_parquet(tmp_path / "explanations.parquet")
        with pytest.raises(ValueError, match=message):
            read_texts(tmp_path)

    trail = {"description": ["d"], "history": [[1]], "score": [1.0], "explanation": ["e"]}
    refused(pl.DataFrame(trail), "no column user_id, item_id.*those of TRAIL")
    long = long_texts(test, a=["1", "2", "3"])
    refused(long.drop("text"), "has no column text")
    refused(pl.concat([long, long[:1]]), "two texts of row 'a' for user u0")
    refused(long.with_columns(split=pl.lit("train")), "no explanation of a test sample")


@pytest.fixture
def encoder_folder(tmp_path):
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", *MOODS, "a", "one"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    folder = tmp_path / "encoder"
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return str(folder)


def test_the_command(tmp_path, encoder_folder, capsys):
    samples, run = world(users=30), tmp_path / "run"
    run.mkdir()
    samples.write_parquet(run / "samples.parquet")
    # 20 of 30 test samples are explained, in an order of their own; a row may be called like a column.
    test = samples.filter(pl.col("split") == "test").reverse()[:20]
    texts = {"ground_truth": test["ground_truth"].to_list(), "history": ["Title"] * 20}
    long_texts(test, **texts).write_parquet(run / "explanations.parquet")
    main([str(run), "--encoder", encoder_folder, "--epochs", "2", "--rank", "2"])
    record = json.loads((run / "utility.json").read_text(encoding="utf-8"))
    assert set(record["rows"]) == {"ground_truth", "history"}
    assert record["samples"] == {"test": 20, "train": 180, "validation": 30}
    cases = pl.read_parquet(run / "utility.parquet")
    expected = samples.filter(pl.col("split") == "test")[10:]
    assert cases.select("user_id", "item_id").equals(expected.select("user_id", "item_id"))
    assert "recall@10/masked" in capsys.readouterr().out


def test_the_command_on_a_run_that_left_no_samples(tmp_path, encoder_folder):
    rng = np.random.default_rng(0)
    pairs = [(f"u{user}", f"i{item}") for user in range(20) for item in rng.permutation(12)[:6]]
    rows = {"user_id": [user for user, _ in pairs], "item_id": [item for _, item in pairs]}
    interactions = pl.DataFrame({**rows, "rating": [1.0] * 120, "timestamp": list(range(120))})
    ids = [f"i{number}" for number in range(12)]
    items = {"item_id": ids, "title": ids, "categories": [[MOODS[n % 4]] for n in range(12)], "description": [""] * 12}
    PreparedDataset(interactions, pl.DataFrame(items), {"name": "by hand"}).write(tmp_path / "data")
    wide = interactions[5::6].select("user_id", "item_id", explanation_llm=pl.lit("a calm one"))
    wide.write_parquet(tmp_path / "predictions.parquet")
    arguments = [str(tmp_path), "--encoder", encoder_folder, "--epochs", "1"]
    main([*arguments, "--data", str(tmp_path / "data")])
    record = json.loads((tmp_path / "utility.json").read_text(encoding="utf-8"))
    assert record["samples"] == {"test": 20, "train": 72, "validation": 8}


def test_bad_arguments_are_one_sentence(tmp_path, capsys):
    def refused(*arguments: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main([str(tmp_path), "--encoder", "nowhere", *arguments])
        assert stop.value.code == 2
        return capsys.readouterr().err

    assert "give the output folder of a finished run" in refused()
    test = world(users=3).filter(pl.col("split") == "test")
    long_texts(test, a=["1", "2", "3"]).write_parquet(tmp_path / "explanations.parquet")
    assert "give the run's dataset (--data) or samples" in refused()
    assert "not both" in refused("--data", "x", "--samples", "y")
    world(users=2).write_parquet(tmp_path / "samples.parquet")
    assert "1 of 3 explained pairs are not among the test samples" in refused()
    world(users=3).drop("ground_truth").write_parquet(tmp_path / "samples.parquet")
    assert "no column ['ground_truth']" in refused()
