"""SELLER's prompts and answers, and those of the rows beside it, each prompt with places for its vectors.

Paper: SELLER, eq. 9 and appendix A.1.3 with Figure 4: [system prompt; e_rec; e_sem; category texts], answered by a
sentence on the categories and one on the intent. Departures:

1. Figure 4 is a picture that no text version has; the system prompt and the form of the answer are in our words.
2. XRec (Ma et al., 2024) has its profiles written by a large language model. Ours are metadata: of the item title,
   categories and description, of the user the categories chosen most often, with their counts, and the newest titles.
   The first line of its prompt is in our words.
3. The compact style is for the embedded model, which knows categories and descriptions word by word but no titles. A
   category of several words is written as one ("Gift-Cards").
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from rlrec.data.cleaning import clean_text, clean_title
from rlrec.data.prompts import category_words
from rlrec.policies.injection import PLACEHOLDER

SYSTEM = """You explain to a user why a {domain} was chosen. {told} The last {domain} of the sequence is the one to \
explain: find out what the sequence leads to, and answer with two sentences.
Category: what kind of {domain} it is, by its categories.
Intent: the need or wish that the user follows here, in line with what came before.
Never write the name of a {domain}.
"""
VECTORS = ("Behaviour: ", "Contents: ")
VECTORS_TOLD = "Vectors stand for the sequence of what the user did."
CATEGORIES_TOLD = "Categories of the sequence are listed, oldest first."
PROFILES = """Explain why the user would choose the {domain}, with two sentences.
Category: what kind of {domain} it is, by its categories.
Intent: the need or wish that the user follows here.
Never write the name of a {domain}.

User: {place}
{Domain}: {place}
User profile: {user}
{Domain} profile: {item}
"""
NOT_KNOWN = "not known"
INTENT = {"paper": re.compile(r"\s*\bIntent:\s*"), "compact": re.compile(r"\s*\|\s*")}
PROFILE_CATEGORIES, PROFILE_TITLES, COMPACT_PROFILE_CATEGORIES = 10, 10, 5

Prompt = str | list[dict]


@dataclass(frozen=True)
class SellerPrompts:
    """How a sample becomes a prompt with `vectors` placeholders, and two explanations the answer to it.

    Args:
        style: "paper" (after Figure 4), or "compact" for the embedded model.
        domain: singular word for an item.
        conversational: wrap prompts as one user message, for models with a chat template.
        vectors: placeholders in `prompt`: 2, or fewer without one path or both (w/o BE, SE, DE).
        category_texts: whether `prompt` has the category sequence (w/o CT: no).

    Raises:
        ValueError: an unknown style, or `vectors` not from 0 to 2.

    >>> prompts = SellerPrompts("compact", "film")
    >>> row = {"category_sequence": ["drama", "film noir"], "categories": ["film noir"],
    ...        "description": "A gloomy one.", "history_categories": [["drama"], ["drama", "war"]]}
    >>> prompts.prompt(row)
    'explain film <|vector|> <|vector|> categories drama film-noir because'
    >>> prompts.answer("This film belongs to war.", "You turn to war.")
    'This film belongs to war. | You turn to war.'
    >>> prompts.parse('This film belongs to war. | You turn to war.')
    ('This film belongs to war.', 'You turn to war.')
    >>> prompts.plain(row)
    'explain film categories drama film-noir because'
    >>> prompts.xrec(row)
    'explain film <|vector|> <|vector|> user drama war item film-noir A gloomy one. because'
    """

    style: str = "paper"
    domain: str = "item"
    conversational: bool = False
    vectors: int = 2
    category_texts: bool = True

    def __post_init__(self):
        if self.style not in ("paper", "compact"):
            raise ValueError(f"prompt style must be 'paper' or 'compact', not {self.style!r}.")
        if self.vectors not in (0, 1, 2):
            raise ValueError(f"vectors is {self.vectors}; SELLER's prompt has 0, 1 or 2.")

    def prompt(self, row: Mapping) -> Prompt:
        """SELLER's prompt (eq. 9); of the row it reads `category_sequence`."""
        if self.style == "compact":
            words = category_words([clean_title(name) for name in row.get("category_sequence") or []])
            listed = ["categories", *(words or ["none"])] if self.category_texts else []
            return self._wrap(" ".join(["explain", self.domain, *[PLACEHOLDER] * self.vectors, *listed, "because"]))
        told = [VECTORS_TOLD] * (self.vectors > 0) + [CATEGORIES_TOLD] * self.category_texts
        names = VECTORS if self.vectors == 2 else ("Sequence: ",) * self.vectors
        lines = [f"{name}{PLACEHOLDER}" for name in names]
        if self.category_texts:
            lines.append(f"Categories: {', '.join(_clean(row.get('category_sequence'))) or NOT_KNOWN}")
        return self._wrap("\n".join([SYSTEM.format(domain=self.domain, told=" ".join(told)), *lines, ""]))

    def plain(self, row: Mapping) -> Prompt:
        """The plain LLM's prompt: `prompt` without vectors."""
        return replace(self, vectors=0).prompt(row)

    def xrec(self, row: Mapping) -> Prompt:
        """XRec's prompt: places for the user's and the item's vector, and the texts of both profiles.

        Args:
            row: title, categories and description of the item, history_titles and history_categories of the user.
        """
        counts = Counter(name for names in row["history_categories"] or [] for name in _clean(names))
        description = clean_text(row.get("description"))
        if self.style == "compact":
            chosen = category_words([name for name, _ in counts.most_common(COMPACT_PROFILE_CATEGORIES)])
            item = [*category_words(_clean(row["categories"])), *description.split()]
            places, user = [PLACEHOLDER] * 2, chosen or ["none"]
            return self._wrap(
                " ".join(["explain", self.domain, *places, "user", *user, "item", *(item or ["none"]), "because"])
            )
        chosen = ", ".join(f"{name} ({count})" for name, count in counts.most_common(PROFILE_CATEGORIES))
        titles = "; ".join(_clean(row["history_titles"])[-PROFILE_TITLES:])
        categories = ", ".join(_clean(row["categories"]))
        return self._wrap(
            PROFILES.format(
                domain=self.domain,
                Domain=self.domain.capitalize(),
                place=PLACEHOLDER,
                user=f"most often {chosen or NOT_KNOWN}; most recently {titles or NOT_KNOWN}.",
                item=f"{clean_title(row['title'])}; categories: {categories or NOT_KNOWN}; {description or NOT_KNOWN}",
            )
        )

    def pepler(self) -> Prompt:
        """PEPLER's prompt: the user's vector and the item's, and not a word."""
        return self._wrap(PLACEHOLDER * 2)

    def answer(self, category_explanation: str, intent_explanation: str) -> str:
        """What a model should write."""
        if self.style == "compact":
            return f"{category_explanation} | {intent_explanation}"
        return f"Category: {category_explanation}\nIntent: {intent_explanation}"

    def parse(self, text: str) -> tuple[str, str]:
        """Both explanations of a text that a model wrote; what is missing is "". Never raises.

        >>> SellerPrompts().parse("Category: A bar. Intent:Late food, with friends.")
        ('A bar.', 'Late food, with friends.')
        >>> SellerPrompts().parse("A bar.")
        ('A bar.', '')
        """
        category, *intent = INTENT[self.style].split(text.strip(), maxsplit=1)
        return re.sub(r"^Category:\s*", "", category).strip(), " ".join(intent).strip()

    def explanation(self, text: str) -> str:
        """Both explanations of a text that a model wrote, as one."""
        return joined(*self.parse(text))

    def _wrap(self, text: str) -> Prompt:
        return [{"role": "user", "content": text}] if self.conversational else text


def joined(category_explanation: str, intent_explanation: str) -> str:
    """Both explanations as the one text that is scored.

    >>> joined("A bar.", "")
    'A bar.'
    """
    return f"{category_explanation} {intent_explanation}".strip()


def _clean(names) -> list[str]:
    return [name for name in map(clean_title, names or []) if name]
