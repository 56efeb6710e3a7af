"""Does an explanation give its item away by name? What the utility of explanations is read beside.

SELLER's protocol (Zhang et al. 2026, section 3.3) lets the writer see the target, and measures how well a recommender
that does not see it finds the target with the explanation's help. An explanation that writes the target's title is as
good as the answer. So `names_title` counts those, and `mask_title` takes the title out.

A title is named where it stands whole, in any case, and not inside of a longer word. Titles that are common words
("It") are found wherever the word is; a title written without its year, or in other words, is not found.
`rlrec.utility` measures the utility itself.
"""

import re
from collections.abc import Sequence

MASK = "this item"


def _title_pattern(title: str) -> re.Pattern:
    # Not \b, which would ask for a word to go on after a title that ends in ")".
    return re.compile(rf"(?<!\w){re.escape(title.strip())}(?!\w)", re.IGNORECASE)


def names_title(explanations: Sequence[str], titles: Sequence[str | None]) -> list[bool]:
    """Whether each explanation names its own title (N texts, N titles); an unknown or empty title is never named.

    >>> names_title(["You like Heat (1995)!", "in the heat", "Preheat", ""], ["heat (1995)", "Heat", "Heat", "Heat"])
    [True, True, False, False]
    """
    return [
        bool(title and title.strip() and _title_pattern(title).search(explanation))
        for explanation, title in zip(explanations, titles, strict=True)
    ]


def mask_title(explanations: Sequence[str], titles: Sequence[str | None], mask: str = MASK) -> list[str]:
    """The explanations with their own titles replaced by `mask`; other titles, such as the history's, stay.

    >>> mask_title(["After Alien, ALIENS is next.", "More space"], ["Aliens", None])
    ['After Alien, this item is next.', 'More space']
    """
    return [
        _title_pattern(title).sub(lambda _: mask, explanation) if title and title.strip() else explanation
        for explanation, title in zip(explanations, titles, strict=True)
    ]
