"""What the baselines' recipe can be told beside the settings of the system whose samples it takes."""

from dataclasses import dataclass, field


@dataclass
class BaselineArguments:
    """Which rows, and the budget with which each of them is tuned.

    Raises:
        ValueError: a value is out of its range.
    """

    system: str | None = field(
        default=None,
        metadata={
            "help": "Whose samples: expctr (clicks), recpie (ratings) or trail (rankings); default: the "
            "configuration's."
        },
    )
    rows: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Rows to make; default: all. expctr: fm dssm deepfm autoint pnn xdeepfm fignn dcn dcnv2 din dien "
            "caser gru4rec sasrec bert4rec tallrec. recpie: sasrec din bert4rec unisrec ncf peter tallrec efm mter. "
            "trail: bpr userknn sasrec caser hgn."
        },
    )
    fits: int = field(default=3, metadata={"help": "Fits at the best point of the grid; the row is their mean."})
    workers: int = field(default=1, metadata={"help": "Processes for the fits of a row."})
    grid_learning_rates: list[float] = field(
        default_factory=lambda: [1e-3, 4e-3],
        metadata={"help": "Every row's grid: one fit for each pair of these and of grid_weight_decays."},
    )
    grid_weight_decays: list[float] = field(
        default_factory=lambda: [1e-6, 1e-4], metadata={"help": "Adam's L2 penalty; see grid_learning_rates."}
    )
    grid_epochs: int = field(default=50, metadata={"help": "Most epochs of a fit; early stopping ends it sooner."})
    use_categories: bool = field(
        default=False,
        metadata={"help": "Recommenders read the item's categories too (ExpCTR's own DeepFM reads ids alone)."},
    )
    tallrec_learning_rates: list[float] = field(
        default_factory=list,
        metadata={"help": "TALLRec's grid; default: 1e-4 (ExpCTR, section 5.1.4), of the embedded policy 2e-3 8e-3."},
    )
    tallrec_epochs: float = field(
        default=3, metadata={"help": "TALLRec: passes over the training samples; validation chooses the best one."}
    )
    tallrec_batch: int = field(
        default=128, metadata={"help": "TALLRec: samples per optimizer step, over all ranks (its paper: 128)."}
    )
    tallrec_device_batch: int = field(
        default=16, metadata={"help": "TALLRec: samples at once on one rank (of the embedded policy all of a step)."}
    )

    conllu: str | None = field(
        default=None, metadata={"help": "EFM, MTER: parses of the training reviews (docs/evaluation.md)."}
    )
    spacy_model: str | None = field(
        default=None, metadata={"help": "EFM, MTER: folder of a spaCy pipeline that parses them; default: no parser."}
    )

    def __post_init__(self):
        for name in ("fits", "workers", "grid_epochs", "tallrec_epochs", "tallrec_batch", "tallrec_device_batch"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}, but must be above 0.")
        for name in ("grid_learning_rates", "grid_weight_decays"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty, but a grid needs at least one value.")
        if min([*self.grid_learning_rates, *self.tallrec_learning_rates]) <= 0 or min(self.grid_weight_decays) < 0:
            raise ValueError("Learning rates must be above 0, and weight decays not below 0.")

    @property
    def grid(self) -> list[dict[str, float]]:
        """Its points, as options of a fit.

        >>> BaselineArguments(grid_learning_rates=[0.1], grid_weight_decays=[0.0, 1.0]).grid[1]
        {'learning_rate': 0.1, 'weight_decay': 1.0}
        """
        pairs = [(rate, decay) for rate in self.grid_learning_rates for decay in self.grid_weight_decays]
        return [{"learning_rate": rate, "weight_decay": decay} for rate, decay in pairs]
