"""A detector in pytorch-ood's interface, called by its benchmark."""

import pytest
import torch
from pytorch_ood.api import RequiresFittingException
from pytorch_ood.benchmark import Benchmark
from torch.utils.data import ConcatDataset, DataLoader, TensorDataset

from diffguard.adapters.pytorch_ood import PytorchOODDetector
from diffguard.errors import UserError
from tests.helpers.sklearn_values import sklearn_metrics
from tests.helpers.tiny_detector import build_detector, small_settings

MEAN, STD = [0.5], [0.25]


def random_images(count, seed):
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def normalized(images, label=None):
    labels = torch.arange(len(images)) % 3 if label is None else torch.full((len(images),), label)
    return TensorDataset((images - MEAN[0]) / STD[0], labels)


class TwoSets(Benchmark):
    ood_names = ("noise",)

    def __init__(self, ident, ood):
        self.ident, self.ood = ident, ood

    def train_set(self):
        return self.ident

    def test_sets(self, known=True, unknown=True):
        return [ConcatDataset([self.ident, self.ood])]


def test_benchmark_gets_the_detectors_scores(detector):
    ident, other = random_images(9, 1), random_images(6, 2)
    guard = PytorchOODDetector(detector, mean=MEAN, std=STD, batch_size=8)
    assert not guard.requires_fit
    benchmark = TwoSets(normalized(ident), normalized(other, -1))
    (result,) = benchmark.evaluate(guard, loader_kwargs={"batch_size": 5}, device=guard.device)
    scores = detector(torch.cat([ident, other]))
    auroc = sklearn_metrics(scores[:9].numpy(), scores[9:].numpy())["auroc"]
    assert result["AUROC"] == pytest.approx(auroc, abs=1e-6)


@pytest.mark.filterwarnings("ignore:the")
def test_fit_calibrates():
    settings = small_settings(distances=["l2"], distance=["l2"])
    guard = PytorchOODDetector(build_detector(settings, calibrated=False), mean=MEAN, std=STD)
    images = random_images(24, 3)
    with pytest.raises(RequiresFittingException):
        guard.predict(images)
    loader = DataLoader(normalized(random_images(30, 4)), 6)
    with pytest.raises(UserError, match="fit needs ID validation images"):
        guard.fit(loader)
    guard.validation = [(images, torch.arange(24) % 3)]
    with pytest.warns(UserWarning, match="with only"):
        assert guard.fit(loader) is guard
    assert len(guard.detector.reference.features) == 30
    inputs, _ = normalized(images).tensors
    assert torch.equal(guard(inputs), guard.detector(guard.normalization.undo(inputs)))


def test_images_that_are_not_normalized_need_no_mean(detector):
    images = random_images(4, 5)
    assert torch.equal(PytorchOODDetector(detector).predict(images), detector(images))
    with pytest.raises(UserError, match=r"expected \[0, 1\]"):
        PytorchOODDetector(detector).predict(normalized(images).tensors[0])
