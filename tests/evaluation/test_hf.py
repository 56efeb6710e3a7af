"""`evaluate` metrics work offline and give the numbers of ctr_metrics."""

import socket
import subprocess
import sys

import pytest

pytest.importorskip("evaluate")

from rlrec.evaluation.ctr import ctr_metrics
from rlrec.evaluation.hf import AUC, MAE, RMSE, LogLoss


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a metric tried to reach the network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize(("metric", "key"), [(AUC, "auc"), (LogLoss, "log_loss"), (MAE, "mae"), (RMSE, "rmse")])
def test_same_numbers_as_the_functions(metric, key, tmp_path):
    labels, scores = [0, 0, 1, 1], [0.4, 0.6, 0.8, 0.6]
    computed = metric(cache_dir=str(tmp_path)).compute(references=labels, predictions=scores)
    assert computed == {key: pytest.approx(ctr_metrics(labels, scores)[key], rel=1e-12)}


def test_batches_add_up(tmp_path):
    metric = AUC(cache_dir=str(tmp_path))
    metric.add_batch(references=[0, 0], predictions=[0.4, 0.6])
    metric.add_batch(references=[1, 1], predictions=[0.8, 0.6])
    assert metric.compute() == {"auc": 0.875}


def test_one_class_is_refused(tmp_path):
    with pytest.raises(ValueError, match="only label 1"):
        AUC(cache_dir=str(tmp_path)).compute(references=[1, 1], predictions=[0.4, 0.6])


def test_without_the_extra_the_import_says_what_to_install():
    code = "import sys; sys.modules['evaluate'] = None; import rlrec.evaluation; import rlrec.evaluation.hf"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode != 0
    assert "pip install 'rlrec[metrics]'" in done.stderr
