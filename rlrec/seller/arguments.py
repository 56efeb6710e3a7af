"""What SELLER's recipe can be told beside data, policy and trainer settings."""

from dataclasses import dataclass, field

ROWS = ("random", "empty", "llm", "peter", "pepler", "xrec")  # beside seller and ground_truth
# Of the two paths and the category texts, those that a row lacks (Figure 2)
ABLATIONS = {
    "without_be": {"behaviour": False},
    "without_se": {"semantic": False},
    "without_ct": {"category_texts": False},
    "without_de": {"behaviour": False, "semantic": False},
}
EXPLANATION_TYPES = ("category", "intent")  # beside both, which are the table's rows (Table 4)
SASREC_DIM = 64  # of items and users, in SASRec and in the EER
WRITERS = ("template", "file", "model", "endpoint")


@dataclass
class SELLERArguments:
    """Samples, ground truth, the generator's inputs, rows, and the recommender that measures utility.

    Raises:
        ValueError: a value is not one of its choices, out of its range, or needs another one.
    """

    # Parameters that control the samples
    sequence_length: int = field(default=50, metadata={"help": "Newest items of a sequence (section 4.1: 50)."})
    category_threshold: float = field(
        default=1e-5,
        metadata={"help": "t of the categories' downsampling (A.1.2: 1e-5, which leaves one where there are few)."},
    )
    num_held_out: int | None = field(
        default=2500,
        metadata={"help": "Validation and test samples, so many each (Table 2's values are multiples of 1/2500)."},
    )
    evaluate: str = field(
        default="test",
        metadata={"help": "'validation': all rows are measured on half of the validation samples, for tuning."},
    )
    item_details: bool = field(
        default=False, metadata={"help": "yelp, kuairec: describe items by all that is told (Figure 3)."}
    )
    matrix: str = field(default="big", metadata={"help": "kuairec: 'big' or 'small'."})

    # Parameters that control the ground truth
    ground_truth: str = field(default="template", metadata={"help": f"Who writes it: {', '.join(WRITERS)}."})
    ground_truth_source: str | None = field(
        default=None,
        metadata={"help": "file: its path; model: a Hugging Face causal LM; endpoint: its address (.../v1)."},
    )
    ground_truth_model: str | None = field(default=None, metadata={"help": "endpoint: the model's name there."})
    history_items: int = field(
        default=5, metadata={"help": "Newest items whose categories the writer sees (the paper: 0)."}
    )
    missing_share: float = field(
        default=0.02, metadata={"help": "Stop where more of the ground truth is missing; the rest is left out."}
    )

    # Parameters that control the generator
    sasrec_objective: str = field(default="softmax", metadata={"help": "Of the pre-training: 'softmax' or 'bpr'."})
    sasrec_epochs: int = field(default=50, metadata={"help": "Most epochs of the pre-training."})
    encoder: str = field(
        default="sentence-transformers/sentence-t5-base",
        metadata={"help": "Of items' texts and explanations: a Hugging Face encoder, 'policy' or 'policy_words'."},
    )
    positions: int = field(
        default=0, metadata={"help": "Learned positions of both paths; 0: none, as eq. 6 is printed."}
    )
    adapter_dropout: float = field(
        default=0.2, metadata={"help": "Of SELLER's adapter and XRec's (section 4.1: 0.2)."}
    )
    max_new_tokens: int = field(default=128, metadata={"help": "Longest explanation, in tokens."})
    generation_batch: int = field(default=64, metadata={"help": "Explanations generated at once on one GPU."})
    scoring_batch: int = field(default=256, metadata={"help": "Texts encoded at once."})

    # Parameters that control the rows
    baselines: list[str] = field(
        default_factory=lambda: list(ROWS), metadata={"help": f"Rows of Table 2: {', '.join(ROWS)}."}
    )
    ablations: list[str] = field(default_factory=list, metadata={"help": f"Of Figure 2: {', '.join(ABLATIONS)}."})
    explanation_types: list[str] = field(
        default_factory=list, metadata={"help": f"Of Table 4, beside both: {', '.join(EXPLANATION_TYPES)}."}
    )
    peter_epochs: int = field(default=10, metadata={"help": "Passes over the data of PETER."})
    fit_workers: int = field(
        default=1, metadata={"help": "2: PETER is trained in a process of its own, beside the other rows."}
    )
    timing_samples: int = field(default=128, metadata={"help": "Samples timed per system (Table 5); 0: none."})
    bertscore_model: str | None = field(
        default=None, metadata={"help": "Local folder of an encoder, for BERTScore; none without it."}
    )

    # Parameters that control the recommender that measures utility
    eer_epochs: int = field(default=50, metadata={"help": "Most epochs of the EER (section 4.1: 50)."})
    eer_batch: int = field(default=256, metadata={"help": "Samples a step (section 4.1: 256)."})
    eer_learning_rate: float = field(default=5e-4, metadata={"help": "Of the EER (section 4.1: 5e-4)."})
    eer_weight_decay: float = field(default=1e-5, metadata={"help": "Of the EER (section 4.1: 1e-5)."})
    eer_patience: int = field(default=5, metadata={"help": "Epochs without a better NDCG@10 (the paper has none)."})
    eer_rank: int | None = field(
        default=None, metadata={"help": "Rank of the change of a weight; default: full matrices, as in the paper."}
    )
    eer_from_sasrec: bool = field(
        default=True, metadata={"help": "Start from the pre-trained SASRec (the paper does not say)."}
    )

    def __post_init__(self):
        for name, known in (
            ("ground_truth", WRITERS),
            ("evaluate", ("test", "validation")),
            ("sasrec_objective", ("softmax", "bpr")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be one of {', '.join(known)}.")
        for name, known in (
            ("baselines", ROWS),
            ("ablations", ABLATIONS),
            ("explanation_types", EXPLANATION_TYPES),
        ):
            for value in getattr(self, name):
                if value not in known:
                    raise ValueError(f"{name} names {value!r}, but must be of {', '.join(known)}.")
        for name in ("sequence_length", "sasrec_epochs", "max_new_tokens", "generation_batch", "scoring_batch",
                     "peter_epochs", "fit_workers", "eer_epochs", "eer_batch", "eer_patience"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        if self.eer_rank is not None and not 1 <= self.eer_rank <= SASREC_DIM:
            raise ValueError(f"eer_rank is {self.eer_rank}, but must be from 1 to {SASREC_DIM}, the EER's width.")
        for name in ("positions", "timing_samples", "history_items"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 0.")
        if self.num_held_out is not None and self.num_held_out < 1:
            raise ValueError(f"num_held_out is {self.num_held_out}, but must be at least 1.")
        for name in ("missing_share", "adapter_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 0 and below 1.")
        if self.ground_truth != "template" and self.ground_truth_source is None:
            raise ValueError(f"ground_truth is {self.ground_truth!r}, which needs ground_truth_source.")
        if self.ground_truth == "endpoint" and self.ground_truth_model is None:
            raise ValueError("ground_truth is 'endpoint', which needs ground_truth_model, the model's name there.")
