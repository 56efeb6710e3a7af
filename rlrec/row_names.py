"""Names of rows for readers, and the order in which tables and pictures have them."""

import re
from collections.abc import Sequence

# Row names are built of a base, which is what the row is about, and of parts.
HEURISTICS = {
    "history_like_rate": "history like-rate",
    "item_mean": "item mean",
    "like_rate_plus_item_mean": "like-rate + item mean",
    "user_mean": "user mean",
    "global_mean": "global mean",
    "user_mean_plus_item_mean": "user mean + item mean",
    "last_window": "last window",
    "moving_average": "moving average",
    "total_popularity": "total popularity",
}
UPPER_BOUND = "upper_bound"
BASES = {  # in the order of the tables
    "random": "random",
    "empty": "empty",
    **HEURISTICS,
    "fm": "FM",
    "dssm": "DSSM",
    "deepfm": "DeepFM",
    "autoint": "AutoInt",
    "pnn": "PNN",
    "xdeepfm": "xDeepFM",
    "fignn": "FiGNN",
    "dcn": "DCN",
    "dcnv2": "DCNv2",
    "bpr": "BPR",
    "userknn": "UserKNN",
    "a3ncf": "A3NCF",
    "sulm": "SULM",
    "aarm": "AARM",
    "mmalfm": "MMALFM",
    "anr": "ANR",
    "mter": "MTER",
    "efm": "EFM",
    "din": "DIN",
    "dien": "DIEN",
    "caser": "Caser",
    "gru4rec": "GRU4Rec",
    "sasrec": "SASRec",
    "bert4rec": "BERT4Rec",
    "unisrec": "UniSRec",
    "hgn": "HGN",
    "diff": "DIFF",
    "ncf": "NCF",
    "amcf": "AMCF",
    "ucepic": "UCEpic",
    "parsrec": "PARSRec",
    "llm2bert4rec": "LLM2BERT4Rec",
    "llm_esr": "LLM-ESR",
    "llm_trsr": "LLM-TRSR",
    "recsaver": "RecSAVER",
    "llmrg": "LLMRG",
    "llm4poi": "LLM4POI",
    "tallrec": "TALLRec",
    "icl": "ICL",
    "gru": "GRU, no text",
    "expctr_llm": "ExpCTR-LLM",
    "expctr_aug": "ExpCTR-Aug",
    "recpie_free": "RecPIE, free parameters (ablation 1)",
    "recpie": "RecPIE",
    "pare": "PARE",
    "llm": "untuned LLM",
    "trail": "TRAIL",
    "peter": "PETER",
    "pepler": "PEPLER",
    "xrec": "XRec",
    "seller": "SELLER",
    UPPER_BOUND: "upper bound (true popularity)",
    "ground_truth": "ground truth",
    "llm_direct": "llm direct",
}
PARTS = {
    r"user_mean": " + user mean",
    r"bootstrap": ", before RL",
    r"llm_embeddings": ", LLM embeddings (ablation 3)",
    r"alternative_wording": ", other wording (ablation 2)",
    r"ncf": ", NCF",
    r"like_rate": " + like-rate",
    r"item_mean": " + item mean",
    r"more_lc": ", more LC",
    r"few_shot": ", few-shot",
    r"without_sup": " without L_sup",
    r"without_con": " without L_con",
    r"without_be": " without behaviour",
    r"without_se": " without semantics",
    r"without_ct": " without category texts",
    r"without_de": " without both vectors",
    r"category_only": ", category sentence alone",
    r"intent_only": ", intent sentence alone",
    r"rank_?(\d+)": r", LoRA rank \1",
    r"after_lc": ", after LC",
    r"mean_?(\d+)": r", mean of \1",
    r"shuffled_explanations?": ", explanations shuffled",
    r"shuffled_labels?": ", labels shuffled",
}


def row_base(row: str) -> str | None:
    """The known base a row name begins with, the longest one; None for an unknown row.

    >>> row_base("expctr_llm_mean4"), row_base("like_rate_plus_item_mean"), row_base("fmlp")
    ('expctr_llm', 'like_rate_plus_item_mean', None)
    """
    known = [base for base in BASES if row == base or row.startswith(f"{base}_")]
    return max(known, key=len, default=None)


def row_label(row: str) -> str:
    """A row name for readers; what is unknown in it keeps its words.

    >>> row_label("expctr_llm_more_lc_mean4"), row_label("deepfm_like_rate_item_mean")
    ('ExpCTR-LLM, more LC, mean of 4', 'DeepFM + like-rate + item mean')
    >>> row_label("my_new_system"), row_label("item_mean"), row_label("expctr_aug_in_sample_mean4")
    ('my new system', 'item mean (heuristic)', 'ExpCTR-Aug, in sample, mean of 4')
    >>> row_label("recpie_free"), row_label("recpie_positive_only"), row_label("gru_like_rate_item_mean")
    ('RecPIE, free parameters (ablation 1)', 'RecPIE, positive only', 'GRU, no text + like-rate + item mean')
    >>> row_label("trail_without_sup"), row_label("trail_rank4"), row_label("llm_few_shot")
    ('TRAIL without L_sup', 'TRAIL, LoRA rank 4', 'untuned LLM, few-shot')
    >>> row_label("seller_without_be"), row_label("ground_truth_intent_only")
    ('SELLER without behaviour', 'ground truth, intent sentence alone')
    >>> row_label("expctr_aug@beta=0.01")
    'ExpCTR-Aug, beta=0.01'
    """
    if "@" in row:  # of several runs that make a row of one name
        row, _, which = row.partition("@")
        return f"{row_label(row)}, {which.replace('_', ' ')}"
    if row in HEURISTICS:
        return f"{HEURISTICS[row]} (heuristic)"
    base = row_base(row)
    rest = row if base is None else row[len(base) :].strip("_")
    label = BASES.get(base, "")
    while rest:
        found = [(match, text) for part, text in PARTS.items() if (match := re.search(rf"(?:^|_){part}(?=_|$)", rest))]
        match, text = min(found, key=lambda pair: pair[0].start(), default=(None, ""))
        words = (rest if match is None else rest[: match.start()]).strip("_").replace("_", " ")
        label += (f", {words}" if label else words) if words else ""
        label += match.expand(text) if match else ""
        rest = rest[match.end() :].strip("_") if match else ""
    return label


def sorted_rows(rows: Sequence[str]) -> list[str]:
    """Rows in the order of their bases, heuristics first, then unknown rows; within one base as given."""
    order = list(BASES)
    return sorted(rows, key=lambda row: order.index(base) if (base := row_base(row)) else len(order))
