"""RecPIE's explanation prompts by name: the paper's (section 3.4.1), and those of its ablations (appendix D.4 and E).

| variant | sides | paper |
| --- | --- | --- |
| contrastive | pos, neg | section 3.4.1 (the default) |
| positive | pos | Table 8, "positive explanations only" |
| general | general | Table 8, "general explanations only" |
| aspects | aspects | Table 8, "aspect terms only" |
| summary | pos, neg | Table 7, "consumption history summarization" |
| alternative | pos, neg | Table 9, ablation 2 |
| profile | pos, neg | Table 7, "with profile augmentation" |

Departures:

1. The paper's places are the dataset's domain ("film"), and a history entry tells its rating, as SPEC's sample does.
2. Ablation 2 prints the positive wording alone; its negative counterpart is ours, word for word the other way round.
3. The paper lets the LLM describe the item first ("profile") and prints no prompt for that; `DESCRIBE` is ours.
4. The compact style is the embedded policy's. It tells, in tenths, which share of the history was liked (or disliked,
   for the negative side), in all and of each of the target's categories; then the target with its crowd word, and the
   side. A large model reads such shares off the titles by itself; a policy of 0.1 million parameters did not learn to
   count in a history (400 steps on nothing else). It knows the variants of its grammar's sides.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl
from datasets import Dataset

from rlrec.data.prompts import worded_categories
from rlrec.policies.grammars import share

HISTORY = "The consumer's consumption history includes {history}. "
PLACES = "Given the {domain}s this consumer has been to {history}, can you "
SUMMARY = (
    f"{HISTORY}Given the history of the {{domain}}s this consumer has been to, can you provide a summary of the "
    "consumer's {side} preference?"
)
ALTERNATIVE = (
    "Can you explain the reason why this consumer {verb} this {domain} {title}, based on the list of previous "
    "{domain}s she {past} {history}? Answer with one sentence with the following format: The consumer {verb} this "
    "{domain} because ..."
)
GOOD = "Please generate a reason why {title} would be a good recommendation for this consumer."
BAD = "Please generate a reason why {title} would not be a good recommendation for this consumer."
PROFILE = "{title} is described as follows: {description} "
DESCRIBE = "Please describe the {domain} {title} in one or two sentences."
DIRECT = (  # Table 7's direct recommendation; the paper prints neither prompt nor decoding
    "The consumer's consumption history includes {history}. How many stars, from {low} to {high}, would this consumer "
    "give {title}? Answer with one number."
)

VARIANTS: dict[str, dict[str, str]] = {
    "contrastive": {"pos": HISTORY + GOOD, "neg": HISTORY + BAD},
    "positive": {
        "pos": f"{PLACES}provide a reason why this consumer may enjoy the following recommended {{domain}} {{title}}?"
    },
    "general": {
        "general": f"{PLACES}provide a reason why this consumer may or may not enjoy the following recommended "
        "{domain} {title}?"
    },
    "aspects": {
        "aspects": f"{PLACES}generate a series of aspect terms that represent the most important properties of the "
        "candidate {domain} {title} that the consumer might consider?"
    },
    "summary": {"pos": SUMMARY.replace("{side}", "positive"), "neg": SUMMARY.replace("{side}", "negative")},
    "alternative": {
        "pos": ALTERNATIVE.replace("{verb}", "enjoys").replace("{past}", "enjoyed"),
        "neg": ALTERNATIVE.replace("{verb}", "dislikes").replace("{past}", "disliked"),
    },
    "profile": {"pos": HISTORY + PROFILE + GOOD, "neg": HISTORY + PROFILE + BAD},
}
EMBEDDED = tuple(name for name, sides in VARIANTS.items() if name in ("contrastive", "positive", "general"))
LAST_WORD = {"pos": "good", "neg": "bad", "general": "because"}


@dataclass(frozen=True)
class ExplanationPrompts:
    """How a sample becomes the prompts of its explanations, one for each side of the variant.

    Args:
        variant: a key of `VARIANTS`.
        style: "paper", or "compact" for the embedded policy.
        domain: singular word for an item ("film").
        conversational: wrap prompts as one user message, for models with a chat template.
        rating_scale: lowest and highest rating, as printed in the history.

    Raises:
        ValueError: an unknown variant or style, or a variant that the compact style does not have.

    >>> row = {"history_titles": ["Heat", "Antz"], "history_ratings": [5.0, 2.0], "title": "Speed"}
    >>> print(ExplanationPrompts(domain="film").generation(row | {"side": "neg"}))
    The consumer's consumption history includes "Heat" (5 of 5), "Antz" (2 of 5). Please generate a reason why "Speed"
    would not be a good recommendation for this consumer.
    """

    variant: str = "contrastive"
    style: str = "paper"
    domain: str = "place"
    conversational: bool = False
    rating_scale: tuple[float, float] = (1.0, 5.0)

    def __post_init__(self):
        if self.style not in ("paper", "compact"):
            raise ValueError(f"prompt style must be 'paper' or 'compact', not {self.style!r}.")
        if self.variant not in VARIANTS:
            raise ValueError(f"variant is {self.variant!r}, but must be one of {', '.join(VARIANTS)}.")
        if self.style == "compact" and self.variant not in EMBEDDED:
            raise ValueError(
                f"The embedded policy cannot write the variant {self.variant!r}, only {', '.join(EMBEDDED)}: give a "
                "pretrained model with --model_name_or_path."
            )

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides of one sample's explanations, in the order of the recommender's slots."""
        return tuple(VARIANTS[self.variant])

    def generation(self, row: Mapping) -> str | list[dict]:
        """The prompt for the explanation of `row`'s side."""
        text = self._compact(row) if self.style == "compact" else self._paper(row)
        return [{"role": "user", "content": text}] if self.conversational else text

    def rows(self, samples: pl.DataFrame) -> list[dict]:
        """One row per sample and side, those of a sample next to each other.

        All columns of `samples`, and: prompt, side, pair_id (where there are two sides) and category_words.
        """
        rows = []
        for number, sample in enumerate(samples.to_dicts()):
            worded = worded_categories(sample["categories"])
            sample |= {"categories": [name for name, _ in worded], "category_words": [word for _, word in worded]}
            pair = {"pair_id": number} if len(self.sides) == 2 else {}
            for side in self.sides:
                row = {**sample, **pair, "side": side}
                rows.append({**row, "prompt": self.generation(row)})
        return rows

    def asking(self, row: Mapping, template: str) -> str | list[dict]:
        """Another prompt about `row`, with {history}, {title}, {domain}, {description}, {low} and {high} filled in."""
        text = self._fill(template, row)
        return [{"role": "user", "content": text}] if self.conversational else text

    def dataset(self, samples: pl.DataFrame) -> Dataset:
        """`rows` as TRL's trainers want them."""
        return Dataset.from_list(self.rows(samples))

    def _compact(self, row: Mapping) -> str:
        positive = row["side"] != "neg"
        flags = [label == positive for label in row["history_labels"]]
        words = ["liked" if positive else "disliked", "all", _tenths(flags)]
        for name, word in worded_categories(row["categories"]):
            words.append(word)
            words.append(_tenths([f for f, c in zip(flags, row["history_categories"]) if name in (c or [])]))
        return " ".join([*words, "target", f'"{row["title"]}"', row["crowd"], LAST_WORD[row["side"]]])

    def _paper(self, row: Mapping) -> str:
        return self._fill(VARIANTS[self.variant][row["side"]], row)

    def _fill(self, template: str, row: Mapping) -> str:
        best = f"{self.rating_scale[1]:g}"
        history = zip(row["history_titles"], row["history_ratings"])
        values = {
            "history": ", ".join(f'"{title}" ({rating:g} of {best})' for title, rating in history) or "nothing yet",
            "title": f'"{row["title"]}"',
            "domain": self.domain,
            "low": f"{self.rating_scale[0]:g}",
            "high": best,
            "description": row.get("description") or "There is no description.",
        }
        # one pass over the template, so that braces in a title stay as they are
        return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], template)


def _tenths(flags: Sequence[bool]) -> str:
    """`share` in tenths, as a word.

    >>> _tenths([True, True, False]), _tenths([])
    ('7', '5')
    """
    return str(round(10 * share(flags)))
