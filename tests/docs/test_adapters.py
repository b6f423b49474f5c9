"""The examples of docs/adapters.md run, with stand-ins for OpenOOD and the data."""

import pytest
import torch
import torchvision
from pytorch_ood.benchmark import Benchmark

from tests.helpers.openood_evaluator import Samples, evaluator_class, install
from tests.helpers.pages import examples
from tests.helpers.tiny_families import write_folder

MEAN, STD = (
    torch.tensor(v)[:, None, None] for v in ([0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616])
)


def samples(count, seed, label=None):
    images = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return Samples(images, [k % 3 if label is None else label for k in range(count)], MEAN, STD)


class TinyBenchmark(Benchmark):
    ood_names = ("noise",)

    def __init__(self, root, transform):
        self.pairs = [(item["data"], item["label"]) for item in samples(6, 1)]
        self.pairs += [(item["data"], item["label"]) for item in samples(6, 2, -1)]

    def train_set(self):
        raise NotImplementedError

    def test_sets(self, known=True, unknown=True):
        return [self.pairs]


@pytest.mark.filterwarnings("ignore:with only", "ignore:the")
def test_the_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_folder("unet_classes", tmp_path / "my_diffusion")
    parts = {"train": samples(60, 3), "val": samples(20, 4), "test": samples(6, 1)}
    install(monkeypatch, evaluator_class(parts, {"noise": samples(6, 2, -1)}))
    monkeypatch.setattr("pytorch_ood.benchmark.CIFAR10_OpenOOD", TinyBenchmark)
    torch.manual_seed(0)
    values = {"net": torchvision.models.resnet18(num_classes=3)}
    for code in examples("adapters"):
        exec(code.replace("num_classes=10", "num_classes=3"), values)
    (result,) = values["results"]
    assert 0 < values["metrics"]["noise"] < 1
    assert result["AUROC"] == pytest.approx(values["metrics"]["noise"], abs=1e-6)
