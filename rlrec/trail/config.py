"""Settings of `TRAILTrainer`: TRL's `SFTConfig` plus the contrastive term, with the paper's defaults."""

from dataclasses import dataclass, field

import torch
from trl import SFTConfig

from rlrec.ppo.config import uses_fsdp
from rlrec.trail.similarity import ALPHA, BETA, GAMMA, SIGMA


@dataclass
class TRAILConfig(SFTConfig):
    """Configuration of `TRAILTrainer`. Every field of TRL's `SFTConfig` keeps its meaning unless it is listed here.

    The adapter's settings are in `rlrec.trail.markers.paper_lora`. The paper's early stopping (patience 3) is
    transformers' `EarlyStoppingCallback(3)`, with `eval_strategy` and `load_best_model_at_end`.

    Raises:
        ValueError: when a value is out of its range, or packing, ZeRO-3 or FSDP is asked for.

    >>> config = TRAILConfig("out", report_to=[])
    >>> config.learning_rate, config.per_device_train_batch_size * config.gradient_accumulation_steps
    (2e-05, 32)
    """

    # Parameters whose default differs from SFTConfig (appendix A.1 to A.3; the learning rate, 2e-5, does not)
    weight_decay: float = field(default=0.05, metadata={"help": "AdamW's weight decay (A.2)."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Learning rate schedule (A.2)."})
    warmup_steps: float = field(default=0.1, metadata={"help": "Steps of warm-up; below 1, a share of all (A.2)."})
    gradient_accumulation_steps: int = field(
        default=4,
        metadata={
            "help": "Micro-batches per optimizer step (A.1). Positives and negatives come from one micro-batch over "
            "all ranks: accumulation averages their losses and adds no negative."
        },
    )
    save_steps: float = field(default=150, metadata={"help": "Steps between two checkpoints (A.2)."})
    max_length: int | None = field(
        default=4096,
        metadata={
            "help": "Longest sequence in tokens (A.3). The start of a longer prompt is cut, a leading BOS kept; the "
            "answer stays whole."
        },
    )

    # Parameters that control the supervised term
    supervise: bool = field(
        default=True, metadata={"help": "Train on L_sup; False is the ablation without it (Table 3)."}
    )
    supervise_score_end: bool = field(
        default=True,
        metadata={
            "help": "Also train the token right after the score's last digit. Without it nothing tells a model that "
            "writes one digit at a time that 1 is not the beginning of 12; False: the number's tokens alone."
        },
    )

    explanation_share: float = field(
        default=0.0,
        metadata={
            "help": "Share of the explanation's tokens, drawn once, that are labels in training too. The paper has "
            "none; a model that forgets how to write while it learns to predict needs some."
        },
    )

    # Parameters that control the contrastive term
    lambda_con: float = field(
        default=0.1,
        metadata={"help": "lambda of eq. 10; 0 is the ablation without L_con (Table 3). The paper does not give it."},
    )
    temperature: float = field(default=0.1, metadata={"help": "tau of eq. 8 (A.1)."})
    num_positives: int = field(default=2, metadata={"help": "Most similar samples that are positives (A.1)."})
    cosine: bool = field(
        default=True, metadata={"help": "Compare directions, as SimCLR does; False: dot products, as eq. 8 prints."}
    )
    projection_hidden_size: int | None = field(
        default=None, metadata={"help": "d_hidden of eq. 7; None: the model's width."}
    )
    projection_size: int = field(default=128, metadata={"help": "d_out of eq. 7 (SimCLR's 128)."})
    projection_dropout: float = field(default=0.1, metadata={"help": "Dropout of eq. 7; the paper does not give it."})

    # Parameters that control the similarity (rlrec.trail.similarity)
    alpha: float = field(default=ALPHA, metadata={"help": "Weight of the histories' similarity in eq. 6 (A.1)."})
    beta: float = field(default=BETA, metadata={"help": "Weight of the latest change in eq. 6 (A.1)."})
    gamma: float = field(default=GAMMA, metadata={"help": "Weight of the items' texts in eq. 6 (A.1)."})
    sigma: float = field(default=SIGMA, metadata={"help": "Width of eq. 4's kernel; the paper does not give it."})
    z_normalise: bool = field(default=False, metadata={"help": "Compare the histories' shapes instead of counts."})

    def __post_init__(self):
        if self.bf16 is None and not torch.accelerator.is_available():
            self.bf16 = False  # TRL's default is bf16 everywhere, which CPUs emulate slowly
        super().__post_init__()
        if self.packing or self.eval_packing or self.padding_free:
            raise ValueError(
                "packing and padding_free join samples, but each needs an embedding of its own: unset them."
            )
        zero3 = self.deepspeed_plugin is not None and self.deepspeed_plugin.hf_ds_config.is_zero3()
        if zero3 or uses_fsdp(self):
            raise ValueError(
                "TRAIL trains the markers' rows inside of the embedding and the LM head, which ZeRO-3 and FSDP split "
                "over processes: launch it with accelerate_configs/multi_gpu.yaml or deepspeed_zero2.yaml."
            )
        if not self.supervise and self.lambda_con == 0:
            raise ValueError("supervise=False and lambda_con=0 leave nothing to train on; switch one of them on.")
        if not 0 <= self.explanation_share <= 1:
            raise ValueError(f"explanation_share is {self.explanation_share}, but must lie between 0 and 1.")
        if self.lambda_con < 0 or self.temperature <= 0 or self.num_positives < 1:
            raise ValueError(
                f"lambda_con ({self.lambda_con}) must not be negative, temperature ({self.temperature}) must be above "
                f"0 and num_positives ({self.num_positives}) at least 1."
            )
