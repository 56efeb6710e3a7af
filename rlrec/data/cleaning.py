"""Text from raw files made safe to quote inside a prompt."""

from __future__ import annotations

import html
import re
import unicodedata

import polars as pl

MAX_TITLE_LENGTH = 200
MAX_TEXT_LENGTH = 2_000

_QUOTES = dict.fromkeys(map(ord, '"“”„‟«»″‘’‚‛＂'), "'")
# Every control token of the form <...> (</s>, <|eot_id|>, <start_of_turn>, DeepSeek's full-width bars, <0x0A>) starts
# with one of these, so replacing the character needs no list of tokens that a new tokenizer would outgrow.
_ANGLES = {ord(c): "‹" for c in "<＜﹤"} | {ord(c): "›" for c in ">＞﹥"}
_TRANSLATION = _QUOTES | _ANGLES
# [INST], [/INST], [CLS], [gMASK], [unused7], [|user|] ...; ordinary bracketed words such as "[sic]" stay.
_BRACKET_TOKEN = re.compile(r"\[(/?(?:[A-Z][A-Z_]+|[gs]MASK|unused\d+|\|[^\[\]|]*\|))\]")
_TILDE_TOKEN = re.compile(r"\](?=~)|(?<=~)\[")  # MiniMax's ]~b] and [e~[
_HTML_TAG = re.compile(r"</?[a-zA-Z][a-zA-Z0-9]*(?:\s[^<>]*)?/?>")
_JOINERS = "\u200c\u200d"  # needed to spell Persian, Hindi and some emoji, and harmless
# Printable ASCII with single spaces and none of the characters that any rule below looks at.
_PLAIN = re.compile(r"(?:[!#-%'-;=?-Z\\^-~]| (?![ ,]))*")
# The same in polars, whose expressions know no look-ahead; and what only Python does: all that an entity, a tag, a
# control token or an invisible character is made of.
_NOT_PLAIN = r"[^ !#-%'-;=?-Z\\^-~]|  | ,|^ | $"
_NOT_SIMPLE = r"[&<>\[\]＜﹤＞﹥\p{Cf}]|[\p{Cc}--\s]"
# Beyond Latin, typographic punctuation and emoji: what NFC may change.
_MAY_COMPOSE = r"[^\x00-\x{2ff}\x{2010}-\x{2027}\x{2600}-\x{27bf}\x{fe0f}\x{1f300}-\x{1faff}]"
_ANY_QUOTE = "[" + "".join(map(chr, _QUOTES)) + "]"


def clean_title(text: str | None, max_length: int = MAX_TITLE_LENGTH) -> str:
    """One line of at most `max_length` characters that cannot close a quotation or act as a control token.

    HTML entities are unescaped, double and curly quotes become ', control characters, bidi controls and other
    invisible format characters go, control-token spellings are defused (``<`` and ``>`` become ``‹`` and ``›``,
    ``[INST]`` becomes ``(INST)``), white space collapses, " ," becomes ",". A longer text is cut at a word and
    ends in "...". The result of cleaning is not changed by cleaning it again.

    >>> clean_title('Brown &amp; Blue "Tin" <|eot_id|>\\n(Classic , 1994)')
    "Brown & Blue 'Tin' ‹|eot_id|› (Classic, 1994)"
    >>> clean_title(None)
    ''
    """
    if not text:
        return ""
    if not _PLAIN.fullmatch(text):
        text = _defuse(text)
    text = text.strip()
    if len(text) <= max_length:
        return text
    cut = text[: max_length - 3]
    head, _, _ = cut.rpartition(" ")
    # A single endless "word" is cut where it stands.
    return (head if len(head) > max_length // 2 else cut).rstrip(" ,;:-") + "..."


def clean_text(text: str | None, max_length: int = MAX_TEXT_LENGTH) -> str:
    """A description or review as one safe line: like `clean_title`, with HTML tags dropped first.

    >>> clean_text("<div class='a'>Great<br/>card!</div>")
    'Great card!'
    """
    if text and "<" in text:
        text = _HTML_TAG.sub(" ", text)
    return clean_title(text, max_length)


def clean_texts(texts: pl.Series, max_length: int = MAX_TEXT_LENGTH) -> pl.Series:
    """`clean_text` of every text (null: empty), at polars' speed where a text has no markup or invisible character.

    >>> clean_texts(pl.Series(['So\\n“good” , really', None])).to_list()
    ["So 'good', really", '']
    """
    cleaned = texts.fill_null("")
    rest = (cleaned.str.contains(_NOT_PLAIN) | (cleaned.str.len_bytes() > max_length)).arg_true()
    text = cleaned.gather(rest)
    composed = text.str.contains(_MAY_COMPOSE).arg_true()
    simple = text.clone().scatter(composed, text.gather(composed).str.normalize("NFC"))
    simple = simple.str.replace_all(_ANY_QUOTE, "'").str.replace_all(r"\s{2,}|[^\S ]", " ")
    simple = simple.str.strip_chars(" ").str.replace_all(" ,", ",", literal=True)
    slow = (text.str.contains(_NOT_SIMPLE) | (simple.str.len_chars() > max_length)).arg_true()
    in_python = [clean_text(each, max_length) for each in text.gather(slow)]
    return cleaned.scatter(rest, simple.scatter(slow, pl.Series(in_python, dtype=pl.String)))


def _defuse(text: str) -> str:
    # An entity may hide an entity ("&amp;lt;") or be split by an invisible character, hence until nothing changes.
    for _ in range(8):
        before = text
        text = html.unescape(text)
        text = text.translate({ord(c): _visible(c) for c in set(text) if not c.isprintable()})
        if text == before:
            break
    text = unicodedata.normalize("NFC", text).translate(_TRANSLATION)
    text = _BRACKET_TOKEN.sub(r"(\1)", text)
    text = _TILDE_TOKEN.sub(lambda bracket: "()"[bracket[0] == "]"], text)
    return " ".join(text.split()).replace(" ,", ",")


def _visible(character: str) -> str:
    category = unicodedata.category(character)
    if category in ("Zs", "Zl", "Zp") or character in "\t\n\r\v\f\x85":
        return " "
    if category in ("Cc", "Cs") or (category == "Cf" and character not in _JOINERS):
        return ""
    return character
