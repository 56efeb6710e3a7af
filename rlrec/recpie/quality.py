"""What RecPIE's explanations are worth as texts, as far as that can be measured without another model.

The paper's Coverage (section 5.3) asks which aspect terms of the user's own review an explanation names. On the
simulated world the true reasons are known and take their place: "+" reasons are to be named by the positive side, "-"
reasons by the negative one. `rlrec.quality` measures real reviews.
"""

import re
from collections.abc import Mapping, Sequence

import polars as pl

from rlrec.data.prompts import category_words
from rlrec.evaluation import check_explanations, check_reasons, summarise_checks, summarise_reasons

SIGNS = {"pos": "+", "neg": "-"}
DEGREE = re.compile(r"^Such (\S+) (often|rarely) (pleased|displeased) them\.$")


def explanation_quality(texts: Mapping[str, Sequence[str]], samples: pl.DataFrame) -> dict[str, float | None]:
    """Shares over the explanations of all sides.

    Args:
        texts: side -> N texts.
        samples: the N samples they explain.

    Returns:
        cited_real and polarity_right (see `summarise_checks`). With `reasons`: coverage (true reasons that any side
        names), and for contrastive sides signed_coverage (that the right side names) and signed_precision (aspects
        named that are a reason of that side). For texts of the embedded grammar: often (share of "often") and
        degree_true (share whose "often" or "rarely" the history bears out, of those about which it says anything).
    """
    titles, labels, target = (samples[c].to_list() for c in ("history_titles", "history_labels", "title"))
    checks = pl.concat([check_explanations(list(written), titles, labels, target) for written in texts.values()])
    quality = {
        key: value for key, value in summarise_checks(checks).items() if key in ("cited_real", "polarity_right")
    }
    if "reasons" in samples.columns:
        quality |= _reasons(texts, samples)
    degrees = [d for written in texts.values() for d in map(_degree, written, samples.iter_rows(named=True))]
    parsed = [degree for degree in degrees if degree is not None]
    if parsed:
        truths = [true for _, true in parsed if true is not None]
        quality["often"] = sum(often for often, _ in parsed) / len(parsed)
        quality["degree_true"] = sum(truths) / len(truths) if truths else None
    return quality


def _reasons(texts: Mapping[str, Sequence[str]], samples: pl.DataFrame) -> dict[str, float | None]:
    reasons = samples["reasons"].to_list()
    aspects = sorted({c for categories in samples["categories"] for c in categories})
    joined = [" ".join(parts) for parts in zip(*texts.values())]
    quality = {"coverage": summarise_reasons(check_reasons(joined, reasons, aspects))["coverage"]}
    if set(texts) <= set(SIGNS):
        signed = [
            check_reasons(written, [[r for r in of_row if r[0] == SIGNS[side]] for of_row in reasons], aspects)
            for side, written in texts.items()
        ]
        summary = summarise_reasons(pl.concat(signed))
        quality |= {"signed_coverage": summary["coverage"], "signed_precision": summary["precision"]}
    return quality


def _degree(text: str, row: Mapping) -> tuple[bool, bool | None] | None:
    """Whether the embedded grammar's text says "often", and whether the history bears it out (None: it is silent)."""
    match = DEGREE.match(text)
    if match is None:
        return None
    category, often, positive = match[1], match[2] == "often", match[3] == "pleased"
    known = category_words(row["categories"])  # without any, the text is about the domain: the whole history
    labels = [
        label == positive
        for label, categories in zip(row["history_labels"], row["history_categories"])
        if not known or category in category_words(categories)
    ]
    share = sum(labels) / len(labels) if labels else 0.5
    return often, None if share == 0.5 else (share > 0.5) == often
