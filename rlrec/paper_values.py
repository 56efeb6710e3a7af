"""What the papers print, to stand beside our rows.

ExpCTR's Table 1 is in expctr_table_1.json, RecPIE's tables of accuracy and of texts in recpie_tables.json, TRAIL's
Tables 2 and 3 in trail_tables.json, SELLER's Tables 2 to 5 in seller_tables.json. They were measured on the papers'
own samples with language models of 7 and 8 billion parameters, so they are a landmark and not a like-for-like
comparison.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

FILES = {
    "expctr": "expctr_table_1.json",
    "recpie": "recpie_tables.json",
    "trail": "trail_tables.json",
    "seller": "seller_tables.json",
}


@cache
def paper_values(dataset: str, system: str = "expctr", fraction: float = 1.0) -> Mapping[str, Mapping[str, float]]:
    """{row: {metric: value}} as the system's paper prints it; empty where it has nothing.

    A row of RecPIE's has "deviations" besides, {metric: value} over ten runs (for the datasets of its appendix the
    paper calls them standard errors). Its rows on a part of the training data are "recpie@training_fraction=0.5" ...

    Args:
        dataset: "book-crossing", "ml-20m" or "amazon-books" (ExpCTR's Table 1); "google-local", "yelp", "tripadvisor"
            or "amazon-movies" (RecPIE's tables of accuracy); "douban-movies", "amazon-baby" (TRAIL's Tables 2 and 3)
            or "amazon-beauty" (its Table 2); "yelp" or "kuairec" (SELLER's Tables 2 to 4).
        system: "expctr", "recpie", "trail" or "seller"; others have no table.
        fraction: of the training data; RecPIE has 0.12, 0.25 and 0.5 as well (Tables 6 and 12).

    >>> paper_values("ml-20m")["expctr_aug"]["auc"]
    0.6951
    >>> paper_values("yelp", "recpie")["recpie"]["rmse"], paper_values("yelp", "recpie", 0.25)["recpie"]["rmse"]
    (0.202, 0.2356)
    >>> paper_values("google-local", "recpie")["recpie"]["deviations"]["rmse"]
    0.0011
    >>> paper_values("amazon-baby", "trail")["upper_bound"]["hr@10"]
    0.09
    >>> paper_values("kuairec", "seller")["xrec"]["bleu"]
    0.1536
    """
    if system not in FILES:
        return {}
    tables = json.loads((Path(__file__).parent / FILES[system]).read_text(encoding="utf-8"))

    def printed(name: str, *keys: str) -> Mapping:
        found = tables.get(name, {})
        for key in (dataset, *keys):
            found = found.get(key, {})
        return found

    fractions = {
        share: _with_deviations(rows, printed("training_fraction_deviations", share))
        for share, rows in printed("training_fractions").items()
    }
    if fraction < 1:
        return fractions.get(f"{100 * fraction:g}", {})
    rows = _joined(printed("datasets"), printed("quality"))
    rows = _with_deviations(rows, _joined(printed("deviations"), printed("quality_deviations")))
    of_fractions = {
        f"{row}@training_fraction={int(share) / 100:g}": values
        for share, of_share in fractions.items()
        for row, values in of_share.items()
    }
    return rows | of_fractions


def _joined(rows: Mapping[str, Mapping], more: Mapping[str, Mapping]) -> dict[str, dict]:
    return {row: {**rows.get(row, {}), **more.get(row, {})} for row in dict.fromkeys([*rows, *more])}


def _with_deviations(rows: Mapping[str, Mapping], deviations: Mapping[str, Mapping]) -> dict[str, dict]:
    return {row: {**values, **({"deviations": deviations[row]} if row in deviations else {})}
            for row, values in rows.items()}  # fmt: skip


def paper_times() -> Mapping[str, Mapping[str, float]]:
    """SELLER's Table 5: {"training" or "inference": {row: time relative to XRec's}}; it names no dataset.

    >>> paper_times()["inference"]["seller"]
    0.448
    """
    return json.loads((Path(__file__).parent / FILES["seller"]).read_text(encoding="utf-8"))["times"]
