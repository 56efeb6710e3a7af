"""Samples to prompts: ExpCTR's two templates (sections 4.1 and 4.2.2) and their short form for the embedded policy.

Departures:

1. The paper writes for books; `domain` replaces the word, and `DOMAINS` the phrases around it.
2. The compact style says the same in few words, with a polarity word before each title and, after it, up to
   `history_categories` of its categories: the embedded policy reads a title as one token. Its target line also
   carries the crowd word (how much training users liked the item), which a large model would know of by itself.
3. Titles are quoted, so that a citation can be checked; they are data, cleaned when the dataset was prepared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl
from datasets import Dataset

# domain word -> (plural, "a vast database of ...", "information about their ... preferences")
DOMAINS = {
    "book": ("books", "books and reader reviews", "reading"),
    "film": ("films", "films and viewer reviews", "viewing"),
    "movie": ("movies", "movies and viewer reviews", "viewing"),
}


@dataclass(frozen=True)
class PromptTemplate:
    """How a sample becomes a prompt for the generator, and an explanation a prompt for the LC scorer.

    Args:
        style: "paper" (ExpCTR's templates word for word, domain aside) or "compact" (the embedded policy's).
        domain: singular word for an item ("book" in the paper).
        conversational: wrap prompts as one user message, for models with a chat template.
        history_categories: compact style: categories printed after each history title.

    Example:
        >>> template = PromptTemplate(style="compact", domain="film", history_categories=1)
        >>> row = {"history_titles": ["Heat", "Antz"], "history_labels": [1, 0], "title": "Speed", "crowd": "popular",
        ...        "history_categories": [["Action", "Crime"], ["Comedy"]], "categories": ["Action"]}
        >>> template.generation(row)
        'liked "Heat" Action disliked "Antz" Comedy target "Speed" popular Action because'
    """

    style: str = "paper"
    domain: str = "book"
    conversational: bool = False
    history_categories: int = 0

    def __post_init__(self):
        if self.style not in ("paper", "compact"):
            raise ValueError(f"prompt style must be 'paper' or 'compact', not {self.style!r}.")

    def generation(self, row: Mapping) -> str | list[dict]:
        """The prompt that asks for an explanation of `row` (section 4.1)."""
        if self.style == "compact":
            return self._wrap(f"{compact_context(row, self.history_categories)} because")
        return self._wrap(self._paper_generation(row))

    def ctr(self, explanation: str, row: Mapping | None = None) -> str | list[dict]:
        """The prompt that asks whether the user will like the target, given the explanation (section 4.2.2)."""
        if self.style == "compact":
            return self._wrap(f"thought {explanation} answer")
        domain = self.domain
        return self._wrap(
            f"Given how the user thinks about a {domain}, identify whether the user will like the target {domain} by "
            f'answering "Yes." or "No."\nThe user thought: {explanation}\n'
            f"Whether the user will like the target {domain} target:"
        )

    def question(self, row: Mapping) -> str | list[dict]:
        """TALLRec's prompt, to be answered by Yes or No: history and target, and no explanation (Bao et al., 2023).

        >>> row = {"history_titles": ["Heat", "Antz"], "history_labels": [1, 0], "title": "Speed"}
        >>> print(PromptTemplate(domain="film").question(row))
        Given the user's preference and unpreference, identify whether the user will like the target film by answering
        "Yes." or "No."
        User preference: "Heat"
        User unpreference: "Antz"
        Whether the user will like the target film "Speed":
        """
        if self.style == "compact":
            return self._wrap(f"{compact_context(row, self.history_categories)} answer")
        domain, (liked, disliked) = self.domain, (_quoted(row, polarity) for polarity in (1, 0))
        return self._wrap(
            f"Given the user's preference and unpreference, identify whether the user will like the target {domain} "
            f'by answering "Yes." or "No."\nUser preference: {liked}\nUser unpreference: {disliked}\n'
            f'Whether the user will like the target {domain} "{row["title"]}":'
        )

    def dataset(self, samples: pl.DataFrame) -> Dataset:
        """All columns of `samples`, with `prompt` and `category_words`, as TRL's trainers want them."""
        return Dataset.from_list(self.rows(samples))

    def rows(self, samples: pl.DataFrame) -> list[dict]:
        """The rows of `dataset` as dictionaries."""
        rows = samples.to_dicts()
        for row in rows:
            row["category_words"] = category_words(row["categories"])
            row["prompt"] = self.generation(row)
        return rows

    def _wrap(self, text: str) -> str | list[dict]:
        return [{"role": "user", "content": text}] if self.conversational else text

    def _paper_generation(self, row: Mapping) -> str:
        default = (f"{self.domain}s", f"{self.domain}s and customer reviews", "shopping")
        plural, database, preferences = DOMAINS.get(self.domain, default)
        liked, disliked = (_quoted(row, polarity) for polarity in (1, 0))
        return (
            f"You are a helpful online recommendation assistant with access to a vast database of {database}. A "
            f"customer has provided you with information about their {preferences} preferences:\n"
            f"The liked {plural}: {liked}\nThe disliked {plural}: {disliked}\n"
            f'Considering the preference of the customer, predict how the customer will consider "{row["title"]}" and '
            "give a reason. The answer should be within one sentence."
        )


def compact_context(row: Mapping, history_categories: int) -> str:
    """The history and the target in few words: the compact style's prompt but for its last word.

    >>> row = {"history_titles": ["Heat"], "history_labels": [1], "history_categories": [["Action", "Crime"]]}
    >>> compact_context({**row, "title": "Speed", "crowd": "popular", "categories": ["Action"]}, 1)
    'liked "Heat" Action target "Speed" popular Action'
    """
    words = []
    for title, label, categories in zip(row["history_titles"], row["history_labels"], row["history_categories"]):
        words += ["liked" if label else "disliked", f'"{title}"']
        words += category_words((categories or [])[:history_categories])
    return " ".join([*words, "target", f'"{row["title"]}"', row["crowd"], *category_words(row["categories"])])


def worded_categories(categories: Sequence[str] | None) -> list[tuple[str, str]]:
    """(category, its word) of each category that has one.

    >>> worded_categories(["Gift Cards", ",", "Drama"])
    [('Gift Cards', 'Gift-Cards'), ('Drama', 'Drama')]
    """
    return [(name, word) for name in categories or [] for word in category_words([name])]


def category_words(categories: Sequence[str] | None) -> list[str]:
    """Each category as one word ("Gift Cards" -> "Gift-Cards").

    >>> category_words(["Gift Cards", "Drama"])
    ['Gift-Cards', 'Drama']
    """
    words = ("-".join(c.replace(",", " ").replace(".", " ").replace('"', " ").split()) for c in categories or [])
    return [word for word in words if word]


def _quoted(row: Mapping, polarity: int) -> str:
    titles = [t for t, label in zip(row["history_titles"], row["history_labels"]) if label == polarity]
    return ", ".join(f'"{t}"' for t in titles) or "none"
