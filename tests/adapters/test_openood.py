"""A detector as OpenOOD's postprocessor, called as OpenOOD's evaluator does."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from diffguard.adapters.openood import OpenOODPostprocessor, openood_postprocessor
from diffguard.errors import UserError
from tests.helpers.openood_evaluator import Samples, evaluator_class, install
from tests.helpers.sklearn_values import sklearn_metrics
from tests.helpers.tiny_detector import build_detector, small_settings

MEAN, STD = [0.5], [0.25]


def samples(count, seed, labeled=True):
    images = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    labels = [k % 3 if labeled else -1 for k in range(count)]
    return Samples(images, labels, MEAN[0], STD[0])


def test_evaluator_gets_the_detectors_scores(detector, monkeypatch):
    test, other = samples(9, 1), samples(6, 2, labeled=False)
    # The shared detector is calibrated, so the other parts are not read.
    evaluator = evaluator_class({"test": test}, {"noise": other})
    install(monkeypatch, evaluator)
    postprocessor = openood_postprocessor(detector, MEAN, STD, batch_size=8)
    result = evaluator(None, "cifar10", postprocessor).eval_ood()
    expected = detector.predict(test.images, batch_size=8)
    ood = detector.predict(other.images, batch_size=8)
    truth = torch.tensor(test.labels)
    assert result["accuracy"] == float((expected.label == truth).double().mean())
    auroc = sklearn_metrics(expected.score.numpy(), ood.score.numpy())["auroc"]
    assert result["noise"] == pytest.approx(auroc, abs=1e-12)
    predictions, confidence, labels = postprocessor.inference(None, DataLoader(test, 4), False)
    assert (predictions.dtype, labels.tolist()) == (np.int64, test.labels)
    np.testing.assert_allclose(confidence, -expected.score, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:the")
def test_setup_calibrates_with_validation_and_training_images():
    settings = small_settings(distances=["l2"], distance=["l2"])
    parts = {"train": samples(30, 3), "val": samples(24, 4)}
    loaders = {name: DataLoader(data, 6) for name, data in parts.items()}
    ours, theirs = (build_detector(settings, calibrated=False) for _ in range(2))
    with pytest.warns(UserWarning, match="with only"):
        OpenOODPostprocessor(ours, MEAN, STD, batch_size=8).setup(None, loaders, {})
    validation, reference = (
        [(parts[name].images, torch.tensor(parts[name].labels))] for name in ("val", "train")
    )
    with pytest.warns(UserWarning, match="with only"):
        theirs.calibrate(validation, reference=reference, batch_size=8)
    assert len(ours.reference.features) == 30
    for name, values in theirs.calibration.scores.items():
        torch.testing.assert_close(ours.calibration.scores[name], values, rtol=1e-4, atol=1e-5)


def test_wrong_normalization_is_refused(detector):
    data = torch.stack([item["data"] for item in samples(3, 5)])
    with pytest.raises(
        UserError, match=r"images are in \[-[12][\d.]*, 1\.\d+\].*expected \[0, 1\]"
    ):
        OpenOODPostprocessor(detector, [0.0], [1.0]).postprocess(None, data)
    with pytest.raises(UserError, match=r"images of shape \(3, 1, 8, 8\) do not fit mean"):
        OpenOODPostprocessor(detector, [0.5, 0.5], [0.2, 0.2]).postprocess(None, data)
    with pytest.raises(UserError, match="std must be above 0"):
        OpenOODPostprocessor(detector, [0.5], [0.0])


def test_absent_openood_is_reported(detector):
    with pytest.raises(UserError, match="OpenOOD cannot be imported"):
        openood_postprocessor(detector, MEAN, STD)
