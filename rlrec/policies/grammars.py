"""What the embedded policy writes: one grammar per system, and label-blind draws from it for the bootstrap.

A draw never looks at the label. What it says of the history is true, and which of the true things it says is chance:
whatever is predictive later on, beyond what truth alone gives away, is what reinforcement learning has put there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

POLARITY = ("disliked", "liked")
VERDICT = ("dislike", "like")


class Drawn(NamedTuple):
    """A drawn explanation: its text, the answer its CTR prompt deserves (0 No, 1 Yes), and the titles that would be as
    right as the one it cites, this one included (none where it cites none)."""

    text: str
    answer: int
    titles: list[str]


@dataclass(frozen=True)
class VerdictGrammar:
    """ExpCTR's explanations: a verdict that follows the title cited for it.

        This CATEGORY DOMAIN is CROWD and they (liked|disliked) "TITLE", so they will likely (like|dislike) it.

    The verdict is drawn evenly, so that it tells nothing whatever the history; the category evenly from the target's;
    the title evenly from those of the history that speak for the verdict. Without such a title none is cited. So there
    is one choice to learn, which evidence to cite, and it comes after what it can be weighed against.

    Args:
        domain: the word for an item ("film").
    """

    domain: str
    sides: ClassVar[tuple[str, ...]] = ("explanation",)
    words: ClassVar[tuple[str, ...]] = (
        *(*POLARITY, *VERDICT),
        *("This", "is", "and", "they", "so", "will", "likely", "it"),
    )
    titles_alone: ClassVar[bool] = True  # what practice has as targets
    practised_loss: ClassVar[float | None] = 0.04

    def practice(self, row: Mapping, rng: np.random.Generator, count: int) -> tuple[str, list[list[str]]]:
        """Citations of titles liked and disliked, and for each the titles that are as right."""
        labels = np.asarray(row["history_labels"])
        drawn = labels[rng.integers(len(labels), size=count)]
        titles = [[t for t, label in zip(row["history_titles"], labels) if label == p] for p in drawn]
        return " ".join(f'{POLARITY[p]} "{rng.choice(t)}"' for p, t in zip(drawn, titles)), titles

    def draw(self, row: Mapping, rng: np.random.Generator) -> Drawn:
        """One label-blind explanation of `row` (category_words, crowd, history_titles, history_labels)."""
        verdict = int(rng.integers(2))
        text = f"This {_category(row, rng)}{self.domain} is {row['crowd']}"
        titles = [title for title, label in zip(row["history_titles"], row["history_labels"]) if label == verdict]
        if titles:
            text += f' and they {POLARITY[verdict]} "{titles[rng.integers(len(titles))]}"'
        return Drawn(f"{text}, so they will likely {VERDICT[verdict]} it.", verdict, titles)


@dataclass(frozen=True)
class ContrastiveGrammar:
    """RecPIE's explanations: what the history says about one of the target's categories, for ("pos") or against it.

        Such CATEGORY (often|rarely) pleased them.
        Such CATEGORY (often|rarely) displeased them.

    The category is drawn evenly from the target's. "often" is drawn as often as the history bears it out: with the
    share of its items of that category that were liked, or disliked. So before any training explanations are a noisy
    account of the evidence, and reinforcement learning has to find out which of it to name, and when to call it much.
    They cite no title: a title says nothing in itself, and in an embedding of so short a text it drowns what the other
    words say. The side "general" is one of the two forms, drawn evenly.

    Args:
        domain: the word for an item ("film").
    """

    domain: str
    sides: ClassVar[tuple[str, ...]] = ("pos", "neg", "general")
    words: ClassVar[tuple[str, ...]] = (
        *("Such", "often", "rarely", "pleased", "displeased", "them"),
        *(*POLARITY, "all", *map(str, range(11)), "target", "good", "bad", "because"),  # its prompts' words
    )
    titles_alone: ClassVar[bool] = False
    practised_loss: ClassVar[float | None] = None  # drawn by chance, so no loss is low enough to stop at

    def practice(self, row: Mapping, rng: np.random.Generator, count: int) -> tuple[str, list[list[str]]]:
        """Several draws in a row: without so many chances per prompt, counts are not read in 400 steps."""
        return " ".join(self.draw(row, rng).text for _ in range(count)), []

    def draw(self, row: Mapping, rng: np.random.Generator) -> Drawn:
        """One label-blind explanation of `row` (side, categories, category_words, history_labels, ..._categories)."""
        positive = int(rng.integers(2)) if row["side"] == "general" else int(row["side"] == "pos")
        drawn = int(rng.integers(len(row["category_words"]))) if row["category_words"] else None
        name = None if drawn is None else row["categories"][drawn]
        of_category = [
            label == positive
            for label, categories in zip(row["history_labels"], row["history_categories"])
            if name is None or name in (categories or [])
        ]
        often = int(rng.random() < share(of_category))
        named = self.domain if drawn is None else row["category_words"][drawn]
        text = f"Such {named} {('rarely', 'often')[often]} {('displeased', 'pleased')[positive]} them."
        return Drawn(text, int(often == positive), [])


def share(flags: Sequence[bool]) -> float:
    """Share of true flags; one half where there are none.

    >>> share([True, True, False, False]), share([])
    (0.5, 0.5)
    """
    return sum(flags) / len(flags) if flags else 0.5


def _category(row: Mapping, rng: np.random.Generator) -> str:
    categories = row["category_words"]
    return f"{categories[rng.integers(len(categories))]} " if categories else ""
