"""What the embedded policy writes: one grammar per system, and label-blind draws from it for the bootstrap.

A draw never looks at the label. What it says of the history is true, and which of the true things it says is chance:
whatever is predictive later on, beyond what truth alone gives away, is what reinforcement learning has put there.
"""

from collections.abc import Mapping
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
    """RecPIE's explanations: how strongly one side's evidence speaks, for liking ("pos") or against it ("neg").

        This CATEGORY DOMAIN is CROWD and (strongly|barely) suits one who liked "TITLE".
        This CATEGORY DOMAIN is CROWD and (strongly|barely) repels one who disliked "TITLE".

    "strongly" is true where the cited item has the named category too, and "barely" where it has not. Which of the two
    is drawn evenly where the history allows both; so before any training explanations tell only whether there is such
    evidence, and reinforcement learning has to find out when to cite it. Without a title of the polarity "barely" is
    all that can be said. The side "general" is one of the two forms, drawn evenly.

    Args:
        domain: the word for an item ("film").
    """

    domain: str
    sides: ClassVar[tuple[str, ...]] = ("pos", "neg", "general")
    words: ClassVar[tuple[str, ...]] = (
        *POLARITY,
        *("This", "is", "and", "strongly", "barely", "suits", "repels", "one", "who", "them"),
        *("good", "bad", "because"),  # the last words of the three sides' prompts
    )

    def draw(self, row: Mapping, rng: np.random.Generator) -> Drawn:
        """One label-blind explanation of `row` (as for ExpCTR, and side, history_categories, categories)."""
        positive = int(rng.integers(2)) if row["side"] == "general" else int(row["side"] == "pos")
        drawn = int(rng.integers(len(row["category_words"]))) if row["category_words"] else None
        category = f"{row['category_words'][drawn]} " if drawn is not None else ""
        name = row["categories"][drawn] if drawn is not None else None
        history = zip(row["history_titles"], row["history_labels"], row["history_categories"])
        titles = ([], [])  # without and with the category
        for title, label, categories in history:
            if label == positive:
                titles[name in (categories or [])].append(title)
        strong = int(rng.integers(2)) if all(titles) else int(bool(titles[1]))
        text = f"This {category}{self.domain} is {row['crowd']} and {('barely', 'strongly')[strong]} "
        text += "suits " if positive else "repels "
        cited = titles[strong]
        text += f'one who {POLARITY[positive]} "{cited[rng.integers(len(cited))]}".' if cited else "them."
        return Drawn(text, int(strong == positive), cited)


def _category(row: Mapping, rng: np.random.Generator) -> str:
    categories = row["category_words"]
    return f"{categories[rng.integers(len(categories))]} " if categories else ""
