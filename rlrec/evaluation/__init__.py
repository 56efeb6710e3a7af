"""Measures of predictions and of explanations, with the controls that keep them honest.

| module | what it answers |
| --- | --- |
| `ctr` | AUC, LogLoss, MAE, RMSE; the temperature of ExpCTR's eq. 8; the rows that need no text |
| `faithfulness` | are cited titles in the user's history, with the right polarity, and does the verdict follow? |
| `reasons` | coverage and precision of the true reasons of a simulated world |
| `aspects` | RecPIE's Coverage: double propagation over parsed reviews, and what of its terms an explanation names |
| `parses` | dependency parses of reviews, from CoNLL-U files or by a local spaCy pipeline (extra `coverage`) |
| `window` | a rough stand-in for aspect terms where there is no parser |
| `text` | BLEU, ROUGE, BERTScore, BLEURT, Informativeness, Fluency (extra `text`; imported on its own) |
| `ranking` | HR, NDCG and Jaccard of one ranked list that everyone gets (TRAIL) |
| `judge` | a language model's marks for TRAIL's explanations, through an endpoint or a local model |
| `utility` | does an explanation give its item away by name? (SELLER; `rlrec.utility` measures what it is worth) |
| `masking` | explanations without their verdict, or as their sentiment alone |
| `controls` | shuffled labels, shuffled explanations, permutation AUC |
| `significance` | bootstrap intervals of AUC and of differences (AUC, RMSE, means), spread over seeds, paired tests |
| `hf` | the CTR metrics as `evaluate.Metric` classes that work offline (extra `metrics`; imported on its own) |
"""

from rlrec.evaluation.aspects import (
    aspect_terms,
    coverage,
    double_propagation,
    read_opinion_lexicon,
    summarise_coverage,
)
from rlrec.evaluation.controls import permutation_auc, shuffle_labels, shuffled_partners
from rlrec.evaluation.ctr import ctr_metrics, fit_temperature, heuristic_rows, heuristic_scores, mean_score
from rlrec.evaluation.faithfulness import check_explanations, summarise_checks
from rlrec.evaluation.parses import parse_with_spacy, read_conllu
from rlrec.evaluation.ranking import (
    cold_or_warm,
    group_metrics,
    jaccard,
    random_expectation,
    rank_items,
    ranking_metrics,
)
from rlrec.evaluation.reasons import check_reasons, summarise_reasons
from rlrec.evaluation.significance import auc_difference, auc_interval, mean_and_sd, mean_difference, paired_tests

__all__ = [
    "aspect_terms",
    "auc_difference",
    "auc_interval",
    "check_explanations",
    "check_reasons",
    "cold_or_warm",
    "coverage",
    "ctr_metrics",
    "double_propagation",
    "fit_temperature",
    "group_metrics",
    "heuristic_rows",
    "heuristic_scores",
    "jaccard",
    "mean_and_sd",
    "mean_difference",
    "mean_score",
    "paired_tests",
    "parse_with_spacy",
    "permutation_auc",
    "random_expectation",
    "rank_items",
    "ranking_metrics",
    "read_conllu",
    "read_opinion_lexicon",
    "shuffle_labels",
    "shuffled_partners",
    "summarise_checks",
    "summarise_coverage",
    "summarise_reasons",
]
