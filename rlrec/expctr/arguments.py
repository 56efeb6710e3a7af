"""What ExpCTR's recipe can be told beside data, policy and PPO settings."""

from dataclasses import dataclass, field

from rlrec.arguments import StageArguments


@dataclass
class ExpCTRArguments(StageArguments):
    """The three stages and the evaluation.

    Raises:
        ValueError: a value is not one of its choices, or out of its range.
    """

    reward_funcs: list[str] = field(
        default_factory=lambda: ["lc"],
        metadata={"help": "Rewards of stage 1: names or dotted paths (docs/rewards.md)."},
    )
    ic_reward_funcs: list[str] = field(default_factory=lambda: ["ic"], metadata={"help": "Rewards of stage 3."})
    lc_epochs: float = field(default=2.0, metadata={"help": "Passes of stage 1 (ExpCTR section 5.1.4: two)."})
    ic_epochs: float = field(default=2.0, metadata={"help": "Passes of each stage 3 (ExpCTR section 5.1.4: two)."})
    ic_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Learning rate of stage 3 and of its control, more LC; default, as in the paper: stage 1's."
        },
    )
    rounds: int = field(default=1, metadata={"help": "How often stages 2 and 3 repeat (ExpCTR: 'predefined')."})
    lc_temperature: float = field(default=1.0, metadata={"help": "T of equation 8 in the reward."})
    lc_form: str = field(default="absolute", metadata={"help": "'absolute' (equation 9) or 'brier': 1 - (y - s)^2."})
    ic_shift: str = field(default="on", metadata={"help": "Second term of equation 13: 'on', 'off' or 'signed'."})
    ic_accuracy: bool = field(default=True, metadata={"help": "First term of equation 13."})
    ic_baseline: str = field(
        default="none", metadata={"help": "Label-aware control variate: 'none', 'without_explanation' or 'stored'."}
    )
    ic_folds: int = field(
        default=5, metadata={"help": "Out-of-fold models of the IC reward; 0: one in-sample model, as printed."}
    )
    encoder: str = field(
        default="policy",
        metadata={"help": "'policy' (pi_init's own hidden states) or a Hugging Face encoder (paper: BGE-small)."},
    )
    num_explanations: int = field(default=4, metadata={"help": "Explanations per validation and test sample."})
    generation_batch: int = field(default=256, metadata={"help": "Sequences generated at once in the evaluation."})
    scoring_batch: int = field(default=256, metadata={"help": "Prompts scored at once by the LC scorer."})
    ctr_fits: int = field(default=3, metadata={"help": "Fits of every CTR model; its row is their mean."})
    more_lc: bool = field(default=True, metadata={"help": "Control: more LC instead of IC, as many steps."})
    shuffled_labels: bool = field(default=False, metadata={"help": "Control: stage 1 on permuted labels."})

    def __post_init__(self):
        super().__post_init__()
        choices = {
            "lc_form": ("absolute", "brier"),
            "ic_shift": ("on", "off", "signed"),
            "ic_baseline": ("none", "without_explanation", "stored"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, but must be one of {', '.join(known)}.")
        for name in ("lc_epochs", "ic_epochs", "ic_learning_rate", "lc_temperature"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be above 0.")
        for name in ("rounds", "num_explanations", "generation_batch", "scoring_batch", "ctr_fits"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        if self.ic_folds < 0 or self.ic_folds == 1:
            raise ValueError(f"ic_folds is {self.ic_folds}, but must be 0 (one in-sample model) or at least 2.")
        if not self.ic_accuracy and self.ic_shift == "off":
            raise ValueError("ic_accuracy is false and ic_shift is 'off', which leaves no term of equation 13.")
        if "ic" in self.reward_funcs:
            raise ValueError(
                "reward_funcs names 'ic', which needs the CTR model of stage 2: use it in ic_reward_funcs."
            )
