"""Dependency parses in Universal Dependencies: read from CoNLL-U files, or made by a local spaCy pipeline.

Where spaCy's English models use labels of their own (ClearNLP's: dobj, nsubjpass, acomp, attr ...), the labels are
translated, and a complement of "be" becomes the head of its clause as in Universal Dependencies ("the screen is
great": `screen` is the nsubj of `great`, `is` its cop), so that rules need to know one scheme only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CONLLU_COLUMNS = 10
CLEARNLP_TO_UD = {
    "ROOT": "root",
    "dobj": "obj",
    "dative": "iobj",
    "nsubjpass": "nsubj:pass",
    "csubjpass": "csubj:pass",
    "acomp": "xcomp",
    "attr": "xcomp",
    "oprd": "xcomp",
    "relcl": "acl:relcl",
    "neg": "advmod",
    "auxpass": "aux:pass",
    "nn": "compound",
}


@dataclass(slots=True)
class Token:
    """One word of a parsed sentence.

    Attributes:
        form: as written.
        lemma: in lower case; the form where the parse has no lemma.
        pos: universal part of speech (NOUN, ADJ ...).
        head: position of its head in the sentence, from 0; -1 for the root.
        relation: Universal Dependencies label, subtype included ("nsubj:pass").
    """

    form: str
    lemma: str
    pos: str
    head: int
    relation: str


Sentence = list[Token]
Document = list[Sentence]


def read_conllu(path: str | Path) -> dict[str, Document]:
    """The documents of a CoNLL-U file by the id of their `# newdoc id = ...` line.

    Multiword ranges (1-2) and empty nodes (1.1) are skipped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is not CoNLL-U, a head outside its sentence, a sentence before the first document, or
            a document id that is missing or comes twice; the message names file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no CoNLL-U file {path}; write one with a dependency parser.")
    documents: dict[str, Document] = {}
    document: Document | None = None
    rows: list[tuple[int, list[str]]] = []  # line number and columns of the sentence being read
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate([*lines, ""], start=1):
        line = line.rstrip("\r")
        if line.startswith("# newdoc"):
            name = line.partition("=")[2].strip()
            if not name or name in documents:
                problem = f"id {name!r} comes twice" if name else "line has no id"
                raise ValueError(f"{path}, line {number}: the newdoc {problem}; write '# newdoc id = <unique id>'.")
            document = documents[name] = []
        elif line.startswith("#"):
            continue
        elif line.strip():
            columns = line.split("\t")
            if len(columns) != CONLLU_COLUMNS:
                raise ValueError(
                    f"{path}, line {number}: {len(columns)} columns; CoNLL-U has {CONLLU_COLUMNS}, separated by tabs."
                )
            if "-" not in columns[0] and "." not in columns[0]:
                rows.append((number, columns))
        elif rows:
            if document is None:
                raise ValueError(
                    f"{path}, line {rows[0][0]}: a sentence before any '# newdoc id = ...'; say whose text it is."
                )
            document.append(_conllu_sentence(path, rows))
            rows = []
    return documents


def _conllu_sentence(path: Path, rows: Sequence[tuple[int, list[str]]]) -> Sentence:
    sentence = []
    for position, (number, columns) in enumerate(rows, start=1):
        identifier, form, lemma, pos, _, _, head, relation, *_ = columns
        if identifier != str(position):
            raise ValueError(f"{path}, line {number}: word id {identifier!r} where {position} is due; count from 1.")
        if not head.isdecimal() or int(head) > len(rows) or int(head) == position:
            raise ValueError(
                f"{path}, line {number}: head {head!r} of '{form}' is neither 0 nor another word of its sentence "
                f"of {len(rows)}."
            )
        sentence.append(Token(form, (form if lemma == "_" else lemma).lower(), pos, int(head) - 1, relation))
    return sentence


def from_spacy(doc) -> Document:
    """The sentences of a spaCy Doc that has parts of speech, heads and labels; spaces are left out.

    Raises:
        ValueError: the Doc was not parsed or not tagged.
    """
    if not (doc.has_annotation("DEP") and doc.has_annotation("POS")):
        raise ValueError(
            "The spaCy pipeline gives no dependency parse or no parts of speech; "
            "load one with a tagger and a parser, such as en_core_web_sm."
        )
    document = []
    for span in doc.sents:
        words = [token for token in span if not token.is_space]
        position = {token.i: index for index, token in enumerate(words)}
        sentence = [
            Token(
                token.text,
                (token.lemma_ or token.text).lower(),
                token.pos_,
                -1 if token.head == token else position[token.head.i],
                token.dep_,
            )
            for token in words
        ]
        document.append(to_universal_dependencies(sentence))
    return document


def to_universal_dependencies(sentence: Sentence) -> Sentence:
    """The same sentence with ClearNLP's labels translated and complements of "be" made heads; UD stays as it is.

    >>> words = [("Screens", "screen", 1, "nsubj"), ("are", "be", -1, "ROOT"), ("great", "great", 1, "acomp")]
    >>> parse = [Token(form, lemma, "X", head, relation) for form, lemma, head, relation in words]
    >>> [(token.form, token.head, token.relation) for token in to_universal_dependencies(parse)]
    [('Screens', 2, 'nsubj'), ('are', 2, 'cop'), ('great', -1, 'root')]
    """
    heads = [token.head for token in sentence]
    relations = [CLEARNLP_TO_UD.get(token.relation, token.relation) for token in sentence]
    for index, token in enumerate(sentence):
        verb = heads[index]
        if token.relation in ("acomp", "attr") and sentence[verb].lemma == "be" and relations[verb] != "cop":
            for other, head in enumerate(heads):
                if head == verb:
                    heads[other] = index
            heads[index], relations[index] = heads[verb], relations[verb]
            heads[verb], relations[verb] = index, "cop"
    return [Token(t.form, t.lemma, t.pos, head, rel) for t, head, rel in zip(sentence, heads, relations)]


def parse_with_spacy(texts: Sequence[str], model: str | Path, batch_size: int = 256) -> Iterator[Document]:
    """Parse texts with a local spaCy pipeline (extra `coverage`); nothing is downloaded.

    Args:
        texts: N texts.
        model: folder of a spaCy pipeline, or the name of an installed one.
        batch_size: texts per batch.
    """
    try:
        import spacy
    except ImportError as error:
        raise ImportError("Parsing reviews needs the package `spacy`: pip install 'rlrec[coverage]'.") from error
    try:
        pipeline = spacy.load(model, exclude=["ner"])
    except OSError as error:
        raise FileNotFoundError(
            f"There is no spaCy pipeline {str(model)!r}; give the folder of one, such as an unpacked en_core_web_sm."
        ) from error
    for doc in pipeline.pipe(texts, batch_size=batch_size):
        yield from_spacy(doc) if len(doc) else []
