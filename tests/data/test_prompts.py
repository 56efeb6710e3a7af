"""Prompts, letter by letter."""

import polars as pl
import pytest

from rlrec.data.prompts import PromptTemplate, category_words

ROW = {
    "history_titles": ["Emma", "Dune", "It", "Momo"],
    "history_labels": [1, 0, 1, 0],
    "history_categories": [["Romance"], ["Science Fiction", "Epic"], [], ["Children's", "Fantasy", "Classic"]],
    "title": "Ulysses",
    "categories": ["Classic Novel", "Fiction"],
    "crowd": "mixed",
}
ASK = "The answer should be within one sentence."


def test_the_papers_generation_template():
    assert PromptTemplate().generation(ROW) == (
        "You are a helpful online recommendation assistant with access to a vast database of books and reader "
        "reviews. A customer has provided you with information about their reading preferences:\n"
        'The liked books: "Emma", "It"\n'
        'The disliked books: "Dune", "Momo"\n'
        'Considering the preference of the customer, predict how the customer will consider "Ulysses" and give a '
        "reason. The answer should be within one sentence."
    )


def test_the_papers_ctr_template():
    assert PromptTemplate().ctr("They like long books.", ROW) == (
        "Given how the user thinks about a book, identify whether the user will like the target book by answering "
        '"Yes." or "No."\n'
        "The user thought: They like long books.\n"
        "Whether the user will like the target book target:"
    )


@pytest.mark.parametrize(
    ("domain", "database", "preferences", "plural"),
    [
        ("film", "films and viewer reviews", "viewing", "films"),
        ("movie", "movies and viewer reviews", "viewing", "movies"),
        ("gift card", "gift cards and customer reviews", "shopping", "gift cards"),
    ],
)
def test_other_domains(domain, database, preferences, plural):
    template = PromptTemplate(domain=domain)
    lines = template.generation(ROW).split("\n")
    assert lines[0].startswith(
        f"You are a helpful online recommendation assistant with access to a vast database of {database}. A customer"
    )
    assert lines[0].endswith(f"information about their {preferences} preferences:")
    assert lines[1:3] == [f'The liked {plural}: "Emma", "It"', f'The disliked {plural}: "Dune", "Momo"']
    assert lines[3].endswith(ASK)
    assert "book" not in template.generation(ROW) + template.ctr("So.")
    assert f"Whether the user will like the target {domain} target:" in template.ctr("So.")


def test_nothing_liked_or_no_history_at_all():
    one_sided = {**ROW, "history_titles": ["Dune"], "history_labels": [0], "history_categories": [[]]}
    assert '\nThe liked books: none\nThe disliked books: "Dune"\n' in PromptTemplate().generation(one_sided)
    empty = {**ROW, "history_titles": [], "history_labels": [], "history_categories": []}
    assert "\nThe liked books: none\nThe disliked books: none\n" in PromptTemplate().generation(empty)
    assert PromptTemplate("compact").generation(empty) == 'target "Ulysses" mixed Classic-Novel Fiction because'


def test_compact():
    histories = {
        0: 'liked "Emma" disliked "Dune" liked "It" disliked "Momo"',
        1: 'liked "Emma" Romance disliked "Dune" Science-Fiction liked "It" disliked "Momo" Children\'s',
        2: 'liked "Emma" Romance disliked "Dune" Science-Fiction Epic liked "It" disliked "Momo" Children\'s Fantasy',
    }
    for count, history in histories.items():
        template = PromptTemplate("compact", history_categories=count)
        assert template.generation(ROW) == f'{history} target "Ulysses" mixed Classic-Novel Fiction because'
        assert template.ctr("They like it.", ROW) == "thought They like it. answer"


def test_items_without_categories():
    row = {**ROW, "categories": None, "history_categories": [None] * 4}
    prompt = PromptTemplate("compact", history_categories=1).generation(row)
    assert prompt == 'liked "Emma" disliked "Dune" liked "It" disliked "Momo" target "Ulysses" mixed because'


def test_conversational_prompts_are_one_user_message():
    plain, chat = PromptTemplate(), PromptTemplate(conversational=True)
    assert chat.generation(ROW) == [{"role": "user", "content": plain.generation(ROW)}]
    assert chat.ctr("So.", ROW) == [{"role": "user", "content": plain.ctr("So.", ROW)}]


def test_titles_are_quoted_and_otherwise_left_alone():
    # Cleaning has replaced double quotes and control tokens before; the template adds nothing of its own.
    title = "Ain't it 'so', {title} %s\\n ‹|eot_id|›"
    row = {**ROW, "title": title, "history_titles": [title, "Dune", "It", "Momo"]}
    prompt = PromptTemplate().generation(row)
    assert f'The liked books: "{title}", "It"\n' in prompt
    assert f'will consider "{title}" and' in prompt
    assert prompt.count('"') == 2 * 5


def test_category_words():
    assert category_words(["Sci-Fi", "Children's", " Gift  Cards ", 'A, B. "C"']) == [
        "Sci-Fi",
        "Children's",
        "Gift-Cards",
        "A-B-C",
    ]
    assert category_words(None) == category_words([]) == category_words(["...", ""]) == []


def test_dataset_keeps_every_column():
    samples = pl.DataFrame([{**ROW, "user_id": "u", "item_id": "i", "label": 1, "reasons": ["+a"]}] * 3)
    dataset = PromptTemplate().dataset(samples)
    assert set(dataset.column_names) == {*samples.columns, "prompt", "category_words"}
    assert dataset[2]["prompt"] == PromptTemplate().generation(ROW)
    assert dataset[2]["category_words"] == ["Classic-Novel", "Fiction"]
    assert (dataset[0]["label"], dataset[0]["history_labels"], dataset[0]["reasons"]) == (1, [1, 0, 1, 0], ["+a"])


def test_unknown_style():
    with pytest.raises(ValueError, match="prompt style must be 'paper' or 'compact', not 'haiku'"):
        PromptTemplate(style="haiku")
