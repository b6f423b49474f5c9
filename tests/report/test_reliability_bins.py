import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from diffguard.report.reliability_bins import ReliabilityBins
from diffguard.report.training_figures import calibration_error, reliability_figure


def test_reliability_bins_give_the_calibration_error():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(200, 4, generator=generator)
    labels = torch.randint(4, (200,), generator=generator)
    metric = ReliabilityBins()
    for part in range(0, 200, 50):
        metric.update(logits[part : part + 50], labels[part : part + 50])
    bins = [values.double().numpy() for values in metric.compute()]
    expected = multiclass_calibration_error(logits.softmax(1), labels, 4, n_bins=15)
    assert calibration_error(*bins) == pytest.approx(float(expected), abs=1e-6)
    title = reliability_figure(*bins).axes[0].get_title()
    assert title == f"expected calibration error {100 * float(expected):.2f} %"
