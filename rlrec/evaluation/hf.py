"""ExpCTR's four metrics as `evaluate.Metric` classes that work offline.

`evaluate.load("...")` downloads a script; these classes are constructed directly and touch no network. They need the
`metrics` extra and are imported on their own: `from rlrec.evaluation.hf import AUC`. The numbers are those of
`rlrec.evaluation.ctr.ctr_metrics`.
"""

from rlrec.evaluation.ctr import ctr_metrics

try:
    import datasets
    import evaluate
except ImportError as error:
    raise ImportError("rlrec.evaluation.hf needs the package `evaluate`: pip install 'rlrec[metrics]'.") from error


class _CTRMetric(evaluate.Metric):
    """One of the numbers of `ctr_metrics`; references are labels 0 / 1, predictions probabilities of label 1."""

    key: str
    description: str

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.description,
            citation="",
            inputs_description="references: labels 0 or 1, both present; predictions: probabilities of label 1.",
            features=datasets.Features(
                {"references": datasets.Value("int64"), "predictions": datasets.Value("float64")}
            ),
        )

    def _compute(self, references, predictions) -> dict[str, float]:
        return {self.key: ctr_metrics(references, predictions)[self.key]}


class AUC(_CTRMetric):
    """Area under the ROC curve."""

    key = "auc"
    description = "Probability that a random positive scores above a random negative, ties counted one half."


class LogLoss(_CTRMetric):
    """Binary cross-entropy in nats, scores clipped to [1e-7, 1 - 1e-7]."""

    key = "log_loss"
    description = "Mean binary cross-entropy in nats."


class MAE(_CTRMetric):
    """Mean absolute error of the probabilities."""

    key = "mae"
    description = "Mean absolute difference of label and probability."


class RMSE(_CTRMetric):
    """Root mean squared error of the probabilities."""

    key = "rmse"
    description = "Root of the mean squared difference of label and probability."
