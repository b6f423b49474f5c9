"""Baselines of logits equal their papers' formulas, computed row by row."""

import math

import numpy as np
import pytest
import torch
from pytorch_ood.detector import GEN
from torch.nn import functional as F

from diffguard.scores.baseline_table import BASELINES
from diffguard.scores.baselines import Baselines

CLASSES = 4


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum()


def entropy(logits):
    return -(softmax(logits) * np.log(softmax(logits))).sum()


def gen(logits, most=CLASSES):
    """The paper's sum over the most likely classes, as a mean."""
    p = np.sort(softmax(logits))[-most:]
    return np.mean(p**0.1 * (1 - p) ** 0.1)


FORMULAS = {
    "msp": lambda logits: -softmax(logits).max(),
    "mls": lambda logits: -logits.max(),
    "energy": lambda logits: -np.log(np.exp(logits).sum()),
    "entropy": entropy,
    "gen": gen,
}


def test_scores_are_the_formulas_of_the_papers():
    # `temperature` and `klm` are fitted on validation images and tested below.
    logit_baselines = {name for name, row in BASELINES.items() if row.input == "logits"}
    assert {*FORMULAS, "temperature", "klm"} == logit_baselines
    logits = 2 * torch.randn(9, CLASSES, generator=torch.Generator().manual_seed(0))
    # pytorch-ood's GEN treats smaller probabilities as 1e-7.
    assert logits.softmax(1).min() > 1e-7
    scores = Baselines(list(FORMULAS)).score(logits, torch.zeros(9, 1))
    for name, formula in FORMULAS.items():
        expected = torch.tensor([formula(row) for row in logits.double().numpy()])
        torch.testing.assert_close(scores[name], expected, rtol=2e-6, atol=1e-6, msg=name)


def test_gen_takes_the_100_most_likely_of_more_classes():
    logits = 0.5 * torch.randn(5, 150, generator=torch.Generator().manual_seed(0))
    for parameters, most in (({}, 100), ({"gen_classes": 3}, 3), ({"gen_classes": 150}, 150)):
        score = Baselines(["gen"], **parameters).score(logits, logits)["gen"]
        expected = torch.tensor([gen(row, most) for row in logits.double().numpy()])
        torch.testing.assert_close(score, expected, rtol=2e-6, atol=0)


def test_gen_of_100_classes_is_the_mean_over_all_to_the_last_bit():
    logits = 3 * torch.randn(64, 100, generator=torch.Generator().manual_seed(0))
    score = Baselines(["gen"]).score(logits, logits)["gen"]
    assert torch.equal(score, GEN.score(logits).double())


@pytest.fixture(scope="module")
def overconfident():
    """Logits of validation images, three times too large for their labels."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(500, CLASSES, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return 3 * logits, labels


def test_temperature_is_the_most_likely_one(overconfident):
    logits, labels = overconfident
    fit = BASELINES["temperature"].validation.make(logits, labels)
    grid = np.exp(np.linspace(0, 2, 4001))
    losses = [float(F.cross_entropy(logits / t, labels)) for t in grid]
    assert float(fit["temperature"]) == pytest.approx(grid[int(np.argmin(losses))], rel=0.01)
    score = Baselines(["temperature"], fits={"temperature": fit}).score(logits[:5], logits[:5])
    expected = -(logits[:5] / fit["temperature"]).softmax(1).amax(1)
    torch.testing.assert_close(score["temperature"], expected, rtol=1e-6, atol=0)


def test_klm_is_the_divergence_from_the_closest_mean_posterior(overconfident):
    logits, labels = overconfident
    fit = BASELINES["klm"].validation.make(logits, labels)
    posteriors, predictions = logits.double().softmax(1), logits.argmax(1)
    means = [posteriors[predictions == k].mean(0) for k in range(CLASSES)]
    expected = [min(float((p * (p / mean).log()).sum()) for mean in means) for p in posteriors[:5]]
    score = Baselines(["klm"], fits={"klm": fit}).score(logits[:5], logits[:5])["klm"]
    torch.testing.assert_close(
        score, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize(("name", "tensors"), [
    ("temperature", {}),
    ("temperature", {"temperature": torch.tensor([math.nan]).double()}),
    ("temperature", {"temperature": torch.ones(2).double()}),
    ("klm", {"posteriors": torch.full((2, CLASSES + 1), 1 / (CLASSES + 1)).double()}),
    ("klm", {"posteriors": torch.ones(2, CLASSES).double()}),
    ("klm", {"posteriors": torch.eye(CLASSES)}),
])  # fmt: skip
def test_damaged_fits_are_not_accepted(name, tensors, overconfident):
    validation = BASELINES[name].validation
    assert validation.accepts(validation.make(*overconfident), CLASSES)
    assert not validation.accepts(tensors, CLASSES)
