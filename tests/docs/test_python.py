"""The examples of docs/python.md run on tiny models."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms._presets import ImageClassification

from diffguard import Verdicts
from tests.helpers.tiny_families import write_folder

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def loader(count):
    images = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(count))
    return DataLoader(TensorDataset(images, torch.arange(count) % 3), batch_size=16)


@pytest.mark.filterwarnings("ignore:with only", "ignore:the classifier")
def test_the_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_folder("unet_classes", tmp_path / "my_diffusion")
    image = Image.new("RGB", (9, 12))
    image.save("a.jpg")
    torch.manual_seed(0)
    values = {
        "resnet18": torchvision.models.resnet18(num_classes=3),
        "weights": SimpleNamespace(transforms=lambda: ImageClassification(crop_size=32)),
        "names": ["cat", "dog", "fox"],
        "validation_loader": loader(24),
        "train_loader": loader(60),
        "pil_image": image,
        "array": np.zeros((20, 30, 3)),
        "tensor": torch.zeros(1, 5, 8),
    }
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(code, values)
    assert isinstance(values["verdicts"], Verdicts)
    assert torch.equal(values["again"](["a.jpg"]), values["detector"](["a.jpg"]))
    output = capsys.readouterr().out
    assert output.startswith("Verdicts: 4 images")
    assert "Verdicts: 2 images, 1 OOD" in output
    assert (tmp_path / "my_detector" / "README.md").is_file()
