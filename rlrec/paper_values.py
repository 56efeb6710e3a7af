"""What the papers print, to stand beside our rows.

ExpCTR's Table 1 is in expctr_table_1.json, RecPIE's tables of accuracy in recpie_tables.json, TRAIL's Tables 2 and 3
in trail_tables.json, SELLER's Tables 2 to 5 in seller_tables.json. They were measured on the papers' own samples with
language models of 7 and 8 billion parameters, so they are a landmark and not a like-for-like comparison.
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
    >>> paper_values("amazon-baby", "trail")["upper_bound"]["hr@10"]
    0.09
    >>> paper_values("kuairec", "seller")["xrec"]["bleu"]
    0.1536
    """
    if system not in FILES:
        return {}
    tables = json.loads((Path(__file__).parent / FILES[system]).read_text(encoding="utf-8"))
    if fraction < 1:
        return tables.get("training_fractions", {}).get(dataset, {}).get(f"{100 * fraction:g}", {})
    return tables["datasets"].get(dataset, {})


def paper_times() -> Mapping[str, Mapping[str, float]]:
    """SELLER's Table 5: {"training" or "inference": {row: time relative to XRec's}}; it names no dataset.

    >>> paper_times()["inference"]["seller"]
    0.448
    """
    return json.loads((Path(__file__).parent / FILES["seller"]).read_text(encoding="utf-8"))["times"]
