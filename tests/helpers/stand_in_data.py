"""Tiny images in place of the data sets that a config names."""

from __future__ import annotations

import re

import torch
from PIL import Image

from datamodules.openood_lists import openood_paths
from datamodules.request import Request

# Sides and channels of torchvision's data sets that configs name.
ARRAYS = {
    "CIFAR10": (32, 32, 3),
    "CIFAR100": (32, 32, 3),
    "SVHN": (3, 32, 32),
    "MNIST": (28, 28),
    "FashionMNIST": (28, 28),
    "KMNIST": (28, 28),
}
COUNT = 60_000


def write_stand_ins(data, class_names, root, monkeypatch):
    """Write files for the sources of a `data` section, and replace torchvision's data sets."""
    ident = [data.id.train, data.id.validation, data.id.test]
    ood = [*data.ood.near.values(), *data.ood.far.values(), *(data.ood_validation or {}).values()]
    for source in [*ident, *ood]:
        kind, _, argument = source.partition(":")
        if kind == "torchvision":
            name = re.match(r"\w+", argument)[0]
            monkeypatch.setattr(f"torchvision.datasets.{name}", arrays(name, class_names))
        elif kind == "folder":
            for name in class_names:
                _image(root / argument / name / "1.png")
        elif kind in ("imglist", "openood"):
            _list(source, kind, argument, root, label=0 if source in ident else -1)


def _list(source, kind, argument, root, label):
    if kind == "openood":
        file, folder = openood_paths(Request("", source, argument, root, False, None, False))
    else:
        file, folder = (root / part for part in argument.split("@"))
    file.parent.mkdir(parents=True, exist_ok=True)
    name = f"{file.stem}/1.png"
    file.write_text(f"{name} {label}\n")
    _image(folder / name)


def _image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 7), (60, 120, 180)).save(path)


def arrays(name, class_names):
    """A data set of torchvision whose images share one memory."""
    shape = ARRAYS[name]

    class Arrays:
        classes = class_names

        def __init__(self, root, train=True, download=False):
            assert not download
            self.data = torch.zeros(1, *shape, dtype=torch.uint8).expand(COUNT, *shape).numpy()
            self.targets = [k % len(class_names) for k in range(COUNT)]

        def __len__(self):
            return COUNT

        def __getitem__(self, index):
            return Image.new("L", (9, 7)), self.targets[index]

    class Split(Arrays):
        def __init__(self, root, split="train", download=False):
            super().__init__(root)

    return Split if name == "SVHN" else Arrays
