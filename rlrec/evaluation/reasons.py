"""Do explanations name the true reasons? Measured on the simulated world, whose ratings have known ones.

A sample's `reasons` are signed aspect names: "+suspense" raised the rating, "-romance" lowered it. An explanation
names an aspect when the aspect's words stand in it as whole words, whatever the case; quoted titles are not read,
because citing the film "Suspense" is not giving suspense as a reason. The sign of a named aspect is that of the
verdict ("this is a Romance film, so they will likely dislike it" gives "-romance"), so the signed figures ask that the
reason and its direction are both right.

RecPIE's Coverage (share of the aspect terms of the user's review that the explanation names) is `coverage` with the
true reasons in the place of the review's terms; `precision` is our addition, because naming everything covers all.
"""

import re
from collections.abc import Iterable, Sequence

import polars as pl

from rlrec.evaluation.faithfulness import find_quotations, find_verdict, mask_quotations

CHECK_SCHEMA = {
    "named": pl.List(pl.String),
    "verdict": pl.Int64,
    "reasons": pl.Int64,
    "aspects_named": pl.Int64,
    "hits": pl.Int64,
    "signed_hits": pl.Int64,
}


def aspect_pattern(vocabulary: Iterable[str]) -> re.Pattern:
    """One pattern for all aspect names, the longer first ("dark comedy" before "comedy").

    >>> aspect_pattern(["comedy", "dark comedy"]).findall("A Dark Comedy, no tragicomedy.")
    ['Dark Comedy']
    """
    aspects = sorted(set(vocabulary), key=lambda aspect: (-len(aspect), aspect))
    if not aspects or "" in aspects:
        raise ValueError("The aspect vocabulary is empty or holds an empty name; pass the world's aspect names.")
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, aspects))})(?!\w)", re.IGNORECASE)


def split_reason(reason: str) -> tuple[str, int]:
    """The aspect (lower case) and 1 for "+", 0 for "-".

    >>> split_reason("+Suspense")
    ('suspense', 1)
    """
    if len(reason) < 2 or reason[0] not in "+-":
        raise ValueError(f"Reason {reason!r} is not a signed aspect name such as '+suspense'.")
    return reason[1:].casefold(), int(reason[0] == "+")


def check_reasons(
    explanations: Sequence[str], reasons: Sequence[Sequence[str]], vocabulary: Iterable[str]
) -> pl.DataFrame:
    """Compare the aspects each explanation names with the true reasons of its sample.

    Args:
        explanations: N texts.
        reasons: for each, the true reasons (possibly none), signed: "+suspense".
        vocabulary: the aspect names of the world.

    Returns:
        A frame of N rows: named (aspects in lower case, in order), verdict (1, 0 or null), and the numbers reasons,
        aspects_named, hits (named aspects that are a true reason whatever the sign) and signed_hits (with the
        verdict's sign; 0 without a verdict).

    >>> checks = check_reasons(["It is a drama, so they will like it."], [["+drama", "-war"]], ["drama", "war"])
    >>> checks.select("named", "reasons", "hits", "signed_hits").row(0)
    (['drama'], 2, 1, 1)
    """
    if len(explanations) != len(reasons):
        raise ValueError(f"Got {len(explanations)} explanations and {len(reasons)} lists of reasons; give as many.")
    pattern = aspect_pattern(vocabulary)
    rows = []
    for text, true_reasons in zip(explanations, reasons):
        masked = mask_quotations(text, find_quotations(text))
        named = list(dict.fromkeys(match.casefold() for match in pattern.findall(masked)))
        verdict = find_verdict(masked)
        verdict_value = None if verdict is None else verdict[2]
        signed = {split_reason(reason) for reason in true_reasons}
        true_aspects = {aspect for aspect, _ in signed}
        hits = sum(aspect in true_aspects for aspect in named)
        signed_hits = sum((aspect, verdict_value) in signed for aspect in named)
        rows.append((named, verdict_value, len(signed), len(named), hits, signed_hits))
    return pl.DataFrame(rows, schema=CHECK_SCHEMA, orient="row")


def summarise_reasons(checks: pl.DataFrame) -> dict[str, float | None]:
    """Shares over all explanations of `check_reasons`; a share of nothing is None.

    Returns:
        coverage (true reasons that are named, of all true reasons), precision (named aspects that are true reasons,
        of all named aspects), signed_coverage and signed_precision (the sign must agree too), and
        aspects_per_explanation.
    """
    reasons, named, hits, signed_hits = (
        int(checks[column].sum()) for column in ("reasons", "aspects_named", "hits", "signed_hits")
    )

    def share(part: int, of: int) -> float | None:
        return part / of if of else None

    return {
        "coverage": share(hits, reasons),
        "precision": share(hits, named),
        "signed_coverage": share(signed_hits, reasons),
        "signed_precision": share(signed_hits, named),
        "aspects_per_explanation": share(named, len(checks)),
    }
