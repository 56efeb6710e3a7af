"""What RecPIE's recipe can be told beside data, policy and PPO settings."""

from dataclasses import dataclass, field

from rlrec.arguments import StageArguments
from rlrec.recpie.prompts import VARIANTS

ROBUSTNESS = ("free", "llm_embeddings", "ncf", "direct")


@dataclass
class RecPIEArguments(StageArguments):
    """The alternating rounds, the recommender and the evaluation.

    Raises:
        ValueError: a value is not one of its choices, or out of its range.
    """

    reward_funcs: list[str] = field(
        default_factory=lambda: ["recpie"],
        metadata={"help": "Rewards of the PPO passes: names or dotted paths (docs/rewards.md)."},
    )
    recpie_baseline: str = field(
        default="none",
        metadata={"help": "What equation 4 is compared with: 'none' (paper), 'without_explanation' or 'stored'."},
    )
    variant: str = field(default="contrastive", metadata={"help": f"Explanation prompts: {', '.join(VARIANTS)}."})
    more_variants: list[str] = field(
        default_factory=list, metadata={"help": "Variants trained besides, as rows of the table (Tables 7 to 9)."}
    )
    robustness: list[str] = field(
        default_factory=lambda: ["free"],
        metadata={
            "help": "More rows: 'free' (ablation 1), 'llm_embeddings' (ablation 3), 'ncf' (robustness check 1), "
            "'direct' (the LLM's own guess of the rating, Table 7)."
        },
    )
    rounds: int = field(default=3, metadata={"help": "At most so many rounds of Algorithm 1 (it runs 'until')."})
    tolerance: float = field(
        default=0.0, metadata={"help": "Stop when both losses change by less between two rounds; 0: never."}
    )
    ppo_epochs: float = field(default=1.0, metadata={"help": "Passes over the data per round (Algorithm 1: one)."})
    soft_prompt: bool = field(default=True, metadata={"help": "A learnable soft prompt per consumer (section 3.4.1)."})
    objective: str = field(default="rating", metadata={"help": "'rating' (eq. 12) or 'binary' (eq. 13)."})
    folds: int = field(
        default=5, metadata={"help": "Out-of-fold models of the reward; 0: one in-sample model, as printed."}
    )
    recommender_epochs: int = field(default=10, metadata={"help": "E of Algorithm 1 (appendix C.1: 10)."})
    recommender_batch: int = field(default=256, metadata={"help": "Batch size of the recommender (C.1: 256)."})
    recommender_learning_rate: float = field(default=0.01, metadata={"help": "Of the recommender (C.1: 0.01)."})
    id_dropout: float = field(default=0.05, metadata={"help": "Share of ids trained as the unknown one."})
    training_fraction: float = field(default=1.0, metadata={"help": "Share of the training data (Table 6)."})
    encoder: str = field(
        default="policy",
        metadata={
            "help": "'policy' (pi_init's own hidden states), 'policy_words' (the mean of its input embeddings) or a "
            "Hugging Face encoder (paper: DistilBERT)."
        },
    )
    num_explanations: int = field(
        default=1, metadata={"help": "Above 1: rows that read the mean of so many explanations."}
    )
    recommender_fits: int = field(default=3, metadata={"help": "Fits of every recommender; its row is their mean."})
    fit_workers: int = field(default=1, metadata={"help": "Processes for fits that do not wait for each other."})
    generation_batch: int = field(default=256, metadata={"help": "Sequences generated at once in the evaluation."})
    scoring_batch: int = field(default=256, metadata={"help": "Texts encoded at once."})

    def __post_init__(self):
        super().__post_init__()
        choices = {
            "recpie_baseline": ("none", "without_explanation", "stored"),
            "objective": ("rating", "binary"),
            "variant": tuple(VARIANTS),
            "more_variants": tuple(VARIANTS),
            "robustness": ROBUSTNESS,
        }
        for name, known in choices.items():
            given = getattr(self, name)
            for value in given if isinstance(given, list) else [given]:
                if value not in known:
                    raise ValueError(f"{name} is {value!r}, but must be one of {', '.join(known)}.")
        for name in {"lc", "ic"}.intersection(self.reward_funcs):
            raise ValueError(f"reward_funcs names {name!r}, which reads one explanation of ExpCTR's: use 'recpie'.")
        if self.variant in self.more_variants:
            raise ValueError(f"more_variants names {self.variant!r}, which is the variant itself: leave it out.")
        for name in ("ppo_epochs", "recommender_learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be above 0.")
        for name in ("rounds", "recommender_epochs", "recommender_batch", "num_explanations", "recommender_fits",
                     "fit_workers", "generation_batch", "scoring_batch"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        if self.folds < 0 or self.folds == 1:
            raise ValueError(f"folds is {self.folds}, but must be 0 (one in-sample model) or at least 2.")
        if not 0 <= self.id_dropout < 1 or not 0 < self.training_fraction <= 1 or self.tolerance < 0:
            raise ValueError(
                f"id_dropout is {self.id_dropout}, training_fraction {self.training_fraction} and tolerance "
                f"{self.tolerance}, but must lie in [0, 1), (0, 1] and from 0 on."
            )
