"""A tiny OOD set of every kind: files, arrays, torchvision's items and the Hugging Face hub."""

import datasets
from PIL import Image

from tests.helpers.stand_in_data import arrays

SOURCES = {
    "files": "folder:near",
    "pixels": "torchvision:MNIST/test[0:3]",
    "items": "torchvision:KMNIST/test[0:3]",
    "hub": "hf:owner/shapes/test",
}


def write_every_source(root, monkeypatch):
    """Write the sets of `SOURCES` below a folder that has the images of `write_data`."""
    for name in ("MNIST", "KMNIST"):
        monkeypatch.setattr(f"torchvision.datasets.{name}", arrays(name, ["shape"]))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "cache")
    rows = {"image": [Image.new("L", (8, 8), gray) for gray in (40, 90, 140)]}
    features = datasets.Features({"image": datasets.Image()})
    folder = root / "owner" / "shapes"
    folder.mkdir(parents=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "test.parquet")
