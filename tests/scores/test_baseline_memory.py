"""Fits and scores hold chunks of the reference features, not copies of all of them."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diffguard.scores import reference as reference_module
from diffguard.scores.baseline_table import FITTED_BASELINES
from diffguard.scores.baselines import Baselines
from diffguard.scores.reference import Reference

IMAGES, WIDTH, CLASSES, CHUNK = 4096, 64, 4, 128
OPTIONS = {"knn_k": 150}  # more neighbors than a chunk has images


class Largest(TorchDispatchMode):
    """Records the bytes of the largest tensor that an operation allocates."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        before = {_storage(tensor) for tensor in _tensors((args, kwargs))}
        for tensor in _tensors(result):
            if _storage(tensor) not in before:
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


def _tensors(values):
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


def _storage(tensor):
    return tensor.untyped_storage().data_ptr()


@pytest.fixture(scope="module")
def example():
    generator = torch.Generator().manual_seed(0)
    centers = 3 * torch.randn(CLASSES, WIDTH, generator=generator)
    labels = torch.arange(IMAGES) % CLASSES
    features = (centers[labels] + torch.randn(IMAGES, WIDTH, generator=generator)).relu()
    head = nn.Linear(WIDTH, CLASSES).requires_grad_(requires_grad=False)
    head.weight.copy_(centers)
    return Reference(features, labels), head, torch.rand(8, WIDTH, generator=generator)


def scored(name, example):
    reference, head, rows = example
    with Largest() as largest:
        scores = Baselines([name], reference, head, **OPTIONS).score(head(rows), rows)[name]
    return scores, largest.bytes


@pytest.mark.parametrize("name", FITTED_BASELINES)
def test_no_tensor_is_as_large_as_the_features(name, example, monkeypatch):
    expected, _ = scored(name, example)
    monkeypatch.setattr(reference_module, "CHUNK_NUMBERS", CHUNK * WIDTH)
    monkeypatch.setattr(reference_module, "KEPT_NUMBERS", 0)
    scores, largest = scored(name, example)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
    # The largest are a chunk in float64 and the candidates of KNN; the features take 1 MiB.
    assert largest <= 10 * CHUNK * WIDTH < example[0].features.nbytes / 8
