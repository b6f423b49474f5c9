import numpy as np
import pytest
import torch

from diffguard.errors import UserError
from diffguard.report.torch_metric import OODMetrics
from tests.helpers.sklearn_values import sklearn_metrics


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_metric_does_not_depend_on_batches(batch):
    # Scores far from [0, 1] and close together: a sigmoid or float32 would merge them.
    rng = np.random.default_rng(0)
    id_scores, ood_scores = 30 + 1e-9 * rng.normal(0, 1, 400), 30 + 1e-9 * rng.normal(1, 2, 300)
    scores = torch.from_numpy(np.concatenate([id_scores, ood_scores]))
    labels = torch.tensor([3] * len(id_scores) + [-1] * len(ood_scores))
    order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(0))
    metric = OODMetrics()
    for part in order.split(batch):
        metric.update(scores[part], labels[part])
    expected = sklearn_metrics(id_scores, ood_scores)
    assert {k: float(v) for k, v in metric.compute().items()} == pytest.approx(expected, abs=1e-12)
    metric.reset()
    metric.update(torch.tensor([0.0, 1.0]), torch.tensor([0, -1]))
    assert metric.compute()["auroc"] == 1.0


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_scores_are_refused_with_their_number(broken):
    metric = OODMetrics()
    metric.update(torch.tensor([0.0, broken, 1.0, broken]), torch.tensor([0, 1, -1, -1]))
    with pytest.raises(UserError, match="2 of 4 scores are NaN or infinite"):
        metric.compute()


@pytest.mark.parametrize(("labels", "missing"), [([0, 1], "OOD"), ([-1, -1], "ID")])
def test_missing_class_is_refused(labels, missing):
    metric = OODMetrics()
    metric.update(torch.tensor([0.0, 1.0]), torch.tensor(labels))
    with pytest.raises(UserError, match=f"there is no {missing} image among 2 scores"):
        metric.compute()


@pytest.mark.filterwarnings("ignore:The ``compute`` method.*was called before the ``update``")
def test_metric_without_data_is_refused():
    with pytest.raises(UserError, match="no ID image among 0 scores"):
        OODMetrics().compute()


def test_shapes_must_agree():
    with pytest.raises(UserError, match=r"shape \(N,\), got \(2,\) and \(3,\)"):
        OODMetrics().update(torch.zeros(2), torch.zeros(3))
