"""The command line on tables that tests write, and on real Amazon Gift Cards reviews."""

import json
import os
from pathlib import Path

import polars as pl
import pytest

from rlrec.quality import find_reviews, main, read_explanations

COLUMNS = ("form", "lemma", "pos", "head", "relation")
# Real reviews (Amazon Gift Cards 2018) and their parses, written by hand.
PARSES = {
    "Amazon gift cards are AMAZING!": """Amazon amazon PROPN 3 compound; gift gift NOUN 3 compound;
        cards card NOUN 5 nsubj; are be AUX 5 cop; AMAZING amazing ADJ 0 root""",
    "Great bread and soups": """Great great ADJ 2 amod; bread bread NOUN 0 root; and and CCONJ 4 cc;
        soups soup NOUN 2 conj""",
    "great gift, cool tin": """great great ADJ 2 amod; gift gift NOUN 0 root; cool cool ADJ 4 amod;
        tin tin NOUN 2 conj""",
    "Love this place, fast delivery.": """Love love VERB 0 root; this this DET 3 det; place place NOUN 1 obj;
        fast fast ADJ 5 amod; delivery delivery NOUN 3 conj""",
    "Great food, good value!": """Great great ADJ 2 amod; food food NOUN 0 root; good good ADJ 4 amod;
        value value NOUN 2 conj""",
}


def conllu(documents):
    """{id: one parsed sentence} as the text of a CoNLL-U file."""
    lines = []
    for name, sentence in documents.items():
        lines.append(f"# newdoc id = {name}")
        for number, word in enumerate(sentence.split(";"), start=1):
            form, lemma, pos, head, relation = word.split()
            lines.append("\t".join([str(number), form, lemma, pos, "_", "_", head, relation, "_", "_"]))
        lines.append("")
    return "\n".join(lines)


@pytest.fixture
def run(tmp_path):
    """A run's folder whose three rows have a review, a blank one and none."""
    reviews = ["Great bread and soups", " ", None]
    frame = pl.DataFrame({"user_id": ["u", "v", "w"], "item_id": ["i"] * 3, "review": reviews})
    texts = {"explanation_good": ["Bread and a soup.", "Bread.", "x"], "explanation_none": [None, "", "x"]}
    frame.with_columns(pl.Series(name, values) for name, values in texts.items()).write_parquet(
        tmp_path / "predictions.parquet"
    )
    (tmp_path / "reviews.conllu").write_text(conllu({"u/i": PARSES["Great bread and soups"]}), encoding="utf-8")
    return tmp_path


def test_scores_with_checkpoint_and_flags(run, capsys):
    main([str(run), "--conllu", str(run / "reviews.conllu"), "--min_count", "1"])
    results = json.loads((run / "quality.json").read_text(encoding="utf-8"))
    good, none = ({row["metric"]: row for row in results[f"explanation_{name}"]} for name in ("good", "none"))
    assert set(good) == {"bleu", "rouge1", "rouge2", "rougeL", "coverage"}
    assert good["rouge1"]["score"] == pytest.approx(0.5)  # "bread" and "and" of 4 words each; "soup" is not "soups"
    assert good["coverage"]["score"] == 1.0
    assert good["coverage"]["flags"]["without_review"] == 2
    assert good["coverage"]["flags"]["lexicon"] == "built-in seeds"
    assert none["coverage"]["score"] == none["rouge1"]["score"] == 0.0
    assert none["rouge1"]["flags"]["empty_explanations"] == 1
    printed = capsys.readouterr().out
    assert "| coverage | 1.0000 |" in " ".join(printed.split())
    assert "lexicon=built-in seeds" in printed
    assert not list(run.glob("*.tmp"))


def test_reviews_parsed_by_a_spacy_pipeline(run):
    spacy = pytest.importorskip("spacy")

    @spacy.language.Language.component("rlrec_bread_and_soups")
    def parse_by_hand(doc):  # with the labels of spaCy's English models
        annotations = {"pos": ["ADJ", "NOUN", "CCONJ", "NOUN"], "lemmas": ["great", "bread", "and", "soup"]}
        annotations |= {"heads": [1, 1, 1, 1], "deps": ["amod", "ROOT", "cc", "conj"]}
        return spacy.tokens.Doc(doc.vocab, words=[token.text for token in doc], **annotations)

    pipeline = spacy.blank("en")
    pipeline.add_pipe("rlrec_bread_and_soups")
    pipeline.to_disk(run / "model")
    main([str(run), "--columns", "explanation_good", "--spacy_model", str(run / "model"), "--min_count", "1"])
    row = json.loads((run / "quality.json").read_text(encoding="utf-8"))["explanation_good"][-1]
    assert (row["metric"], row["score"], row["checkpoint"]) == ("coverage", 1.0, str(run / "model"))
    assert (row["flags"]["terms_per_review"], row["flags"]["without_review"]) == (2.0, 2)


def test_columns_lexicon_and_output(run, tmp_path):
    (tmp_path / "words.txt").write_text("; nothing of the review\nodd\n", encoding="utf-8")
    output = tmp_path / "deep" / "out.json"
    arguments = ["--conllu", str(run / "reviews.conllu"), "--lexicon", str(tmp_path / "words.txt")]
    main([str(run), "--columns", "explanation_good", *arguments, "--output", str(output)])
    results = json.loads(output.read_text(encoding="utf-8"))
    assert list(results) == ["explanation_good"]
    coverage = results["explanation_good"][-1]
    assert coverage["score"] is None
    assert coverage["flags"]["without_aspect"] == 1


def test_reviews_from_a_prepared_folder(tmp_path):
    rows = {"user_id": ["u", "u", "v"], "item_id": ["i", "i", "i"], "review": ["old", "new", None]}
    pl.DataFrame(rows).write_parquet(tmp_path / "interactions.parquet")
    frame = pl.DataFrame({"user_id": ["v", "u", "x"], "item_id": ["i", "i", "i"]})
    assert find_reviews(frame, tmp_path) == [None, "new", None]


def test_bad_input_is_one_sentence(run, tmp_path, capsys):
    def refused(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(list(map(str, arguments)))
        assert stop.value.code == 2
        return capsys.readouterr().err

    no_reviews = tmp_path / "no_reviews.parquet"
    pl.read_parquet(run / "predictions.parquet").drop("review").write_parquet(no_reviews)
    assert "need the users' reviews" in refused(no_reviews)
    assert "has no column review" in refused(no_reviews)
    other = run / "other.conllu"
    other.write_text(conllu({"someone/else": PARSES["Great bread and soups"]}), encoding="utf-8")
    assert "such as 'u/i'" in refused(run, "--conllu", other)
    assert "not both" in refused(run, "--conllu", other, "--spacy_model", "x")
    assert "There is no" in refused(tmp_path / "nowhere")
    assert "no column explanation_odd" in refused(run, "--columns", "explanation_odd")
    assert not (run / "quality.json").exists()
    pl.DataFrame({"user_id": ["u"], "item_id": ["i"]}).write_parquet(no_reviews)
    with pytest.raises(ValueError, match="no column explanation_<row>"):
        read_explanations(no_reviews)


@pytest.mark.skipif("RLREC_DATA_DIR" not in os.environ, reason="RLREC_DATA_DIR names no folder of real data")
def test_real_gift_cards(tmp_path):
    from rlrec.data import prepare

    prepared = prepare("amazon", Path(os.environ["RLREC_DATA_DIR"]) / "amazon_gift_cards")
    prepared.write(tmp_path / "prepared")
    interactions = prepared.interactions.join(prepared.items, "item_id")
    parsed = interactions.filter(pl.col("review").is_in(list(PARSES))).unique(
        "review", keep="first", maintain_order=True
    )
    assert len(parsed) == len(PARSES)
    others = (
        interactions.filter(~pl.col("review").is_in(list(PARSES)))
        .unique(["user_id", "item_id"], maintain_order=True)
        .head(45)
    )
    rows = pl.concat([parsed, others])
    rows.select(
        "user_id",
        "item_id",
        pl.lit("An Amazon gift card: good food, soups and quick deliveries.").alias("explanation_constant"),
        pl.format("They will likely like {} as a great gift card.", "title").alias("explanation_title"),
        pl.col("review").fill_null("").alias("explanation_review"),
    ).write_parquet(tmp_path / "texts.parquet")
    documents = {f"{user}/{item}": PARSES[text] for user, item, text in parsed["user_id", "item_id", "review"].rows()}
    (tmp_path / "reviews.conllu").write_text(conllu(documents), encoding="utf-8")

    options = [
        "--reviews",
        tmp_path / "prepared",
        "--conllu",
        tmp_path / "reviews.conllu",
        "--min_count",
        1,
        "--window",
    ]
    main(list(map(str, [tmp_path / "texts.parquet", *options])))

    results = json.loads((tmp_path / "quality.json").read_text(encoding="utf-8"))
    scores = {name: {row["metric"]: row for row in table} for name, table in results.items()}
    # amazon gift card; (bread,) soup; gift (, tin); (place,) delivery; food (, value)
    assert scores["explanation_constant"]["coverage"]["score"] == pytest.approx((1 + 4 * 1 / 2) / 5)
    assert scores["explanation_review"]["coverage"]["score"] == 1.0
    for table in scores.values():
        assert table["coverage"]["flags"]["rows"] == 5
        assert table["coverage"]["flags"]["without_review"] == 45
        # without a parser: every review with a presumed aspect counts
        window = table["coverage_window"]
        assert window["checkpoint"] is None
        assert 20 < window["flags"]["rows"] <= 50
    assert scores["explanation_review"]["coverage_window"]["score"] == 1.0
    assert 0 < scores["explanation_constant"]["coverage_window"]["score"] < 1
    assert scores["explanation_review"]["bleu"]["score"] == pytest.approx(100)
    assert 0 < scores["explanation_title"]["bleu"]["score"] < 10
    best = scores["explanation_review"]
    assert best["rougeL"]["score"] > 0.9 > scores["explanation_title"]["rougeL"]["score"]
