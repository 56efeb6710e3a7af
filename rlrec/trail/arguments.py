"""What TRAIL's recipe can be told beside data, policy and trainer settings."""

from dataclasses import dataclass, field

from rlrec.data.popularity import COLD_RULES

ABLATIONS = {"without_sup": {"supervise": False}, "without_con": {"lambda_con": 0.0}}
SCORES = ("written", "expected")


@dataclass
class TRAILArguments:
    """Windows, texts to train on, rows and inference.

    Raises:
        ValueError: a value is not one of its choices, or out of its range.
    """

    window_days: int = field(default=30, metadata={"help": "Length of a window in days (section 5.1.1: 30)."})
    test_windows: int = field(
        default=1, metadata={"help": "Windows at the end that are ranked (the paper tells none)."}
    )
    validation_windows: int = field(default=1, metadata={"help": "Windows before them, for early stopping."})
    cold: str = field(
        default="catalogue",
        metadata={
            "help": f"Items without history to rank: {', '.join(COLD_RULES)}; 'first_window' knows the future "
            "(rlrec/data/popularity.py)."
        },
    )
    unseen_share: float = field(
        default=1.0,
        metadata={
            "help": "Share of the training samples kept in which nobody had the item before the window or in it: with "
            "'catalogue' they are the most, and the easiest."
        },
    )
    max_history: int | None = field(
        default=None, metadata={"help": "Newest windows in a prompt; default: all (compact prompts: 12)."}
    )
    template_file: str | None = field(
        default=None,
        metadata={"help": "Prompt and answer template instead of the paper's (docs/algorithms/trail.md)."},
    )
    score: str = field(
        default="written",
        metadata={
            "help": "What ranks: 'written' (the answer's number, as in the paper) or 'expected' (its mean under the "
            "probabilities of its token; needs a tokenizer with one token per number)."
        },
    )
    temperature_at_inference: float = field(default=1.0, metadata={"help": "Of the answers to the test samples."})
    max_new_tokens: int = field(default=512, metadata={"help": "Longest answer, in tokens."})
    generation_batch: int = field(default=64, metadata={"help": "Sequences generated at once on one GPU."})
    scoring_batch: int = field(default=256, metadata={"help": "Texts encoded, or scored, at once."})
    encoder: str = field(
        default="sentence-transformers/all-mpnet-base-v2",
        metadata={"help": "Of the items' texts in eq. 5: a Hugging Face encoder, 'policy' or 'policy_words'."},
    )
    ablations: list[str] = field(
        default_factory=lambda: list(ABLATIONS), metadata={"help": f"Rows of Table 3: {', '.join(ABLATIONS)}."}
    )
    lora_ranks: list[int] = field(
        default_factory=list, metadata={"help": "More LoRA ranks to train with, as rows trail_rank<r> (Figure 2c)."}
    )
    few_shot: int = field(
        default=0, metadata={"help": "Examples for the row llm_few_shot (section 5.2.1: 5); 0: none."}
    )
    patience: int = field(default=3, metadata={"help": "Evaluations without a better L_sup before stopping (A.2)."})

    def __post_init__(self):
        for name, known in (("cold", COLD_RULES), ("score", SCORES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be one of {', '.join(known)}.")
        for name in self.ablations:
            if name not in ABLATIONS:
                raise ValueError(f"ablations names {name!r}, but must be of {', '.join(ABLATIONS)}.")
        for name in ("window_days", "test_windows", "validation_windows", "max_new_tokens", "generation_batch",
                     "scoring_batch", "patience"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        if not 0 <= self.unseen_share <= 1:
            raise ValueError(f"unseen_share is {self.unseen_share}, but must lie between 0 and 1.")
        if self.max_history is not None and self.max_history < 1:
            raise ValueError(f"max_history is {self.max_history}, but must be at least 1.")
        if self.few_shot < 0 or not self.temperature_at_inference > 0 or any(rank < 1 for rank in self.lora_ranks):
            raise ValueError(
                f"few_shot is {self.few_shot}, temperature_at_inference {self.temperature_at_inference} and "
                f"lora_ranks {self.lora_ranks}, but must be at least 0, above 0 and at least 1."
            )
