import doctest

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from sklearn.metrics import roc_curve as sklearn_roc_curve
from sklearn_values import sklearn_metrics

from diffguard import metric, ood_metrics
from diffguard.errors import UserError
from diffguard.metric import OODMetrics
from diffguard.ood_metrics import compute_metrics, roc_curve


def draws(n_id, n_ood, digits=None, scale=1.0):
    rng = np.random.default_rng([n_id, n_ood])
    parts = rng.normal(0, 1, n_id) * scale, rng.normal(1, 1.5, n_ood) * scale
    return parts if digits is None else tuple(np.round(part, digits) for part in parts)


CASES = {
    "plain": draws(400, 300),
    "ties": draws(400, 300, digits=0),
    "some ties": draws(100, 90, digits=1),
    "unbalanced": draws(1000, 7),
    "unbalanced the other way": draws(7, 1000),
    "one of each": draws(1, 1),
    "twenty": draws(20, 20),
    "constant": (np.zeros(5), np.zeros(3)),
    "separable": (np.arange(10.0), np.arange(20.0, 25.0)),
    "inverted": (np.arange(20.0, 25.0), np.arange(10.0)),
    "large logits": draws(200, 200, scale=300.0),
    "tiny float32": tuple(x.astype(np.float32) for x in draws(200, 200, scale=1e-7)),
    "signed zero": (np.array([0.0, -1.0]), np.array([-0.0, 1.0])),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_scikit_learn(case):
    id_scores, ood_scores = CASES[case]
    tensors = torch.from_numpy(id_scores), torch.from_numpy(ood_scores)
    expected = sklearn_metrics(id_scores, ood_scores)
    assert compute_metrics(*tensors) == pytest.approx(expected, abs=1e-12)
    for name, value in expected.items():
        assert getattr(ood_metrics, name)(*tensors) == pytest.approx(value, abs=1e-12)
    is_ood, scores = (
        np.r_[np.zeros(len(id_scores)), np.ones(len(ood_scores))],
        np.concatenate(CASES[case]),
    )
    for name, positive, sign in (("ap_in", 1 - is_ood, -1), ("ap_out", is_ood, 1)):
        value = average_precision_score(positive, sign * scores.astype(np.float64))
        assert getattr(ood_metrics, name)(*tensors) == pytest.approx(value, abs=1e-12)


tied_scores = st.lists(st.integers(-4, 4), min_size=1, max_size=25)


@settings(max_examples=60, deadline=None)
@given(tied_scores, tied_scores)
def test_equals_scikit_learn_on_any_ties(id_scores, ood_scores):
    metrics = compute_metrics(torch.tensor(id_scores), torch.tensor(ood_scores))
    assert metrics == pytest.approx(sklearn_metrics(id_scores, ood_scores), abs=1e-12)


def test_roc_curve_keeps_every_point():
    id_scores, ood_scores = CASES["some ties"]
    flagged, detected = roc_curve(torch.tensor(id_scores), torch.tensor(ood_scores))
    is_ood = np.r_[np.zeros(len(id_scores)), np.ones(len(ood_scores))]
    scores = np.concatenate([id_scores, ood_scores])
    expected = sklearn_roc_curve(is_ood, scores, drop_intermediate=False)
    np.testing.assert_allclose(flagged.numpy(), expected[0], atol=1e-15)
    np.testing.assert_allclose(detected.numpy(), expected[1], atol=1e-15)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_metric_does_not_depend_on_batches(batch):
    # Scores far from [0, 1] and close together: a sigmoid or float32 would merge them.
    id_scores, ood_scores = (30 + 1e-9 * part for part in CASES["plain"])
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


def test_docstring_example():
    assert doctest.testmod(metric).failed == 0
