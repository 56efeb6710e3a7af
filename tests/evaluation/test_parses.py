"""CoNLL-U files and spaCy Docs become the same Universal Dependencies sentences."""

import pytest

from rlrec.evaluation.parses import from_spacy, parse_with_spacy, read_conllu

LINE = "{}\t{}\t{}\t{}\t_\t_\t{}\t{}\t_\t_"
GREAT = [
    LINE.format(1, "The", "the", "DET", 2, "det"),
    LINE.format(2, "Screens", "screen", "NOUN", 4, "nsubj"),
    LINE.format(3, "are", "be", "AUX", 4, "cop"),
    LINE.format(4, "great", "_", "ADJ", 0, "root"),
]


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def tuples(sentence):
    return [(token.form, token.lemma, token.pos, token.head, token.relation) for token in sentence]


def test_documents_of_a_conllu_file(tmp_path):
    path = write(
        tmp_path / "reviews.conllu",
        "# newdoc id = u1/i1",
        "# text = The Screens are great",
        *GREAT,
        "",
        "1-2\tcan't" + "\t_" * 8,
        LINE.format(1, "ca", "can", "AUX", 0, "root"),
        LINE.format(2, "n't", "not", "PART", 1, "advmod"),
        "2.1\tghost" + "\t_" * 8,
        "",
        "# newdoc id = u2/i1",
        *GREAT,  # the file ends without an empty line
    )
    documents = read_conllu(path)
    assert list(documents) == ["u1/i1", "u2/i1"]
    assert tuples(documents["u1/i1"][0]) == [
        ("The", "the", "DET", 1, "det"),
        ("Screens", "screen", "NOUN", 3, "nsubj"),
        ("are", "be", "AUX", 3, "cop"),
        ("great", "great", "ADJ", -1, "root"),
    ]
    assert tuples(documents["u1/i1"][1]) == [("ca", "can", "AUX", -1, "root"), ("n't", "not", "PART", 0, "advmod")]
    assert len(documents["u2/i1"]) == 1


def test_windows_line_ends_make_no_difference(tmp_path):
    unix = write(tmp_path / "unix", "# newdoc id = a", *GREAT)
    windows = tmp_path / "windows"
    windows.write_bytes(unix.read_bytes().replace(b"\n", b"\r\n"))
    assert read_conllu(windows) == read_conllu(unix)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["# newdoc id = a", "1 word"], r"bad.conllu, line 2: 1 columns; CoNLL-U has 10"),
        (["# newdoc id = a", GREAT[1]], r"line 2: word id '2' where 1 is due"),
        (["# newdoc id = a", *GREAT[:3]], r"line 3: head '4' of 'Screens' is neither 0 nor another word"),
        (["# newdoc id = a", LINE.format(1, "a", "a", "X", 1, "dep")], r"line 2: head '1' of 'a'"),
        (["# newdoc id = a", LINE.format(1, "a", "a", "X", "_", "dep")], r"line 2: head '_' of 'a'"),
        ([*GREAT], r"line 1: a sentence before any '# newdoc id"),
        (["# newdoc", *GREAT], r"line 1: the newdoc line has no id"),
        (["# newdoc id = a", *GREAT, "", "# newdoc id = a"], r"line 7: the newdoc id 'a' comes twice"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        read_conllu(write(tmp_path / "bad.conllu", *lines))


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no CoNLL-U file .*nowhere"):
        read_conllu(tmp_path / "nowhere")


class TestSpacy:
    """Heads and labels are set by hand, as spaCy's English models set them."""

    @pytest.fixture
    def spacy(self):
        return pytest.importorskip("spacy")

    @staticmethod
    def great(spacy, nlp):
        return spacy.tokens.Doc(
            nlp.vocab,
            words=["The", "screens", "are", "great", "and", "cheap"],
            lemmas=["the", "screen", "be", "great", "and", "cheap"],
            pos=["DET", "NOUN", "AUX", "ADJ", "CCONJ", "ADJ"],
            heads=[1, 2, 2, 2, 3, 3],
            deps=["det", "nsubj", "ROOT", "acomp", "cc", "conj"],
        )

    def test_english_labels_become_universal_ones(self, spacy):
        (sentence,) = from_spacy(self.great(spacy, spacy.blank("en")))
        assert [(token.form, token.head, token.relation) for token in sentence] == [
            ("The", 1, "det"),
            ("screens", 3, "nsubj"),
            ("are", 3, "cop"),
            ("great", -1, "root"),
            ("and", 3, "cc"),
            ("cheap", 3, "conj"),
        ]

    def test_objects_and_two_sentences(self, spacy):
        doc = spacy.tokens.Doc(
            spacy.blank("en").vocab,
            words=["I", "love", "gifts", "\n", "They", "help"],
            pos=["PRON", "VERB", "NOUN", "SPACE", "PRON", "VERB"],
            heads=[1, 1, 1, 2, 5, 5],
            deps=["nsubj", "ROOT", "dobj", "dep", "nsubj", "ROOT"],
        )
        first, second = from_spacy(doc)
        assert tuples(first)[2] == ("gifts", "gifts", "NOUN", 1, "obj")
        assert [(token.form, token.head) for token in second] == [("They", 1), ("help", -1)]

    def test_a_pipeline_from_a_folder(self, spacy, tmp_path):
        @spacy.language.Language.component("rlrec_parse_by_hand")
        def parse_by_hand(doc):
            return TestSpacy.great(spacy, nlp)

        nlp = spacy.blank("en")
        nlp.add_pipe("rlrec_parse_by_hand")
        nlp.to_disk(tmp_path / "model")
        documents = list(parse_with_spacy(["The screens are great and cheap", ""], tmp_path / "model"))
        assert [token.lemma for token in documents[0][0]] == ["the", "screen", "be", "great", "and", "cheap"]
        assert len(documents) == 2

    def test_a_pipeline_that_does_not_parse(self, spacy, tmp_path):
        spacy.blank("en").to_disk(tmp_path / "model")
        with pytest.raises(ValueError, match="gives no dependency parse"):
            list(parse_with_spacy(["Great."], tmp_path / "model"))
        with pytest.raises(FileNotFoundError, match=r"no spaCy pipeline .*nowhere"):
            list(parse_with_spacy(["Great."], tmp_path / "nowhere"))


def test_without_spacy_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "spacy", None)
    with pytest.raises(ImportError, match=r"pip install 'rlrec\[coverage\]'"):
        list(parse_with_spacy(["Great."], "model"))
