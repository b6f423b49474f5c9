"""Quality of a detector's diffusion model: samples next to real images, FID, KID, and a sheet.

    python benchmarks/sample_quality.py runs/cifar10/detector.ckpt

samples the same number of images of every class and compares them with the ID validation images of
the checkpoint's config, in the features of the *protected classifier*. These distances can compare
models on the same classifier, but not with published figures, which use Inception's features. The
distances of as many training images are a bound that no model is expected to beat. Test images are
not read, because a model may be chosen by these figures. `quality.json` and `samples.png` belong
into the model card.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib import pyplot as plt
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance
from torchvision.utils import make_grid

from datamodules.config import DataConfig, IDSets, OODSets, Part
from datamodules.evaluation_stream import EvaluationStream
from datamodules.ood import OODDataModule
from diffguard.checkpoint.file import read_checkpoint
from diffguard.classifiers.classifier import Classifier
from diffguard.denoisers.sampling import draw_samples
from diffguard.detector import Detector
from diffguard.errors import UserError
from diffguard.randomness import shuffled

# Images per row of the sheet.
COLUMNS = 10
PARTS: tuple[Part, ...] = ("train", "validation")


class ClassifierFeatures(nn.Module):
    """The features of a classifier in the form that torchmetrics needs.

    Args:
        classifier: The classifier, in evaluation mode.
        num_features: Number of features.
    """

    def __init__(self, classifier: Classifier, num_features: int) -> None:
        super().__init__()
        self.classifier, self.num_features = classifier, num_features

    def forward(self, images: Tensor) -> Tensor:
        """Features `(N, F)` of images `(N, C, H, W)` in [0, 1]."""
        return self.classifier.forward_features(images).features.float()


def real_images(
    data: OODDataModule, part: Part, count: int | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of a part's images and labels; at most `count` images, always the same choice."""
    images = data.evaluation_sets(part)[0].subset(count)
    for batch in data.stream_loader(EvaluationStream([images], data.prepare)):
        yield batch["image"], batch["label"]


def sampled_images(
    detector: Detector, count: int, batch_size: int, *, steps: int, scale: float, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of samples and their labels, `count` images in all."""
    classes = detector.denoiser.num_classes or 1
    labels = torch.tensor(shuffled(range(count), seed)) % classes
    for number, targets in enumerate(labels.split(batch_size)):
        images = draw_samples(
            detector.denoiser,  # type: ignore[arg-type]
            targets.to(detector.device),
            steps=steps,
            scale=scale,
            seed=seed * 1_000_003 + number,
        )
        yield images.cpu(), targets


class Comparison:
    """Distances of sets of images from the real ones, in a classifier's features.

    Args:
        classifier: The classifier, in evaluation mode, on its device.
        real: Batches of real images.
        count: Smallest number of images per set. KID draws subsets of half that size, so that they
            differ, and of at most 1,000 images.
    """

    def __init__(
        self, classifier: Classifier, real: Iterator[tuple[Tensor, Tensor]], count: int
    ) -> None:
        self.classifier = classifier
        self.device = next(classifier.parameters()).device
        first, _ = next(real)
        with torch.no_grad():
            width = classifier.forward_features(first.to(self.device)).features.shape[1]
        features = ClassifierFeatures(classifier, width)
        # Keep the real images, because several sets are compared with them.
        self.fid = FrechetInceptionDistance(features, reset_real_features=False).to(self.device)
        self.kid = KernelInceptionDistance(
            features, subset_size=min(1000, count // 2), reset_real_features=False
        ).to(self.device)
        self._add(first, real=True)
        for images, _ in real:
            self._add(images, real=True)

    def compare(self, batches: Iterator[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """FID, KID (mean and deviation over subsets), and the share classified as labeled."""
        right = total = 0
        for images, labels in batches:
            self._add(images, real=False)
            with torch.no_grad():
                predicted = self.classifier(images.to(self.device)).argmax(1).cpu()
            right, total = right + int((predicted == labels).sum()), total + len(labels)
        torch.manual_seed(0)  # KID draws its subsets
        mean, deviation = self.kid.compute()
        figures = {
            "images": total,
            "fid": float(self.fid.compute()),
            "kid": float(mean),
            "kid_std": float(deviation),
            "classified_as_labeled": right / total,
        }
        self.fid.reset()
        self.kid.reset()
        return figures

    def _add(self, images: Tensor, *, real: bool) -> None:
        with torch.no_grad():
            for metric in (self.fid, self.kid):
                metric.update(images.to(self.device), real=real)


def draw_sheet(real: Tensor, sampled: Tensor, names: Sequence[str], path: Path) -> None:
    """Write real images (left) and samples (right), a row per class, as PNG.

    Args:
        real: `(K · COLUMNS, C, H, W)` in [0, 1], class by class.
        sampled: Samples, in the same form.
        names: Class names.
        path: The file to write.
    """
    figure, axes = plt.subplots(1, 2, figsize=(11, 0.6 * len(names) + 0.5), layout="constrained")
    for axis, images, title in zip(axes, (real, sampled), ("real", "sampled"), strict=True):
        grid = make_grid(images, nrow=COLUMNS, padding=1, pad_value=1.0)
        axis.imshow(grid.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
        side = images.shape[-1] + 1
        axis.set_title(title)
        axis.set_yticks([side * (row + 0.5) for row in range(len(names))], names)
        axis.set_xticks([])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def open_data(config: Mapping[str, Any], root: str | None, batch_size: int) -> OODDataModule:
    """The ID data of a checkpoint's config, without a limit on the validation images."""
    values = {**config["data"], "limit": None, "batch_size": batch_size, "ood_validation": {}}
    values |= {"id": IDSets(**values["id"]), "ood": OODSets()}
    return OODDataModule(DataConfig(**values | ({"root": root} if root else {})))


def main(argv: Sequence[str]) -> int:
    """Sample, compare, and draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("ckpt", type=Path, help="a detector.ckpt")
    parser.add_argument("--samples", type=int, default=5000, help="images to sample")
    parser.add_argument("--steps", type=int, default=50, help="DDIM steps")
    parser.add_argument("--scale", type=float, default=1.5, help="classifier-free guidance scale")
    parser.add_argument("--batch_size", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--root", default=None, help="folder of the data, if it was moved")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=None, help="default: beside the checkpoint")
    options = parser.parse_args(argv)
    content = read_checkpoint(options.ckpt)
    detector = Detector.from_checkpoint(content).to(options.device)
    if detector.denoiser.num_classes is None:
        raise UserError(f"{options.ckpt}: the diffusion model has no classes to sample")
    output = options.output or options.ckpt.parent / "samples"
    data = open_data(content["config"], options.root, options.batch_size)
    sizes = [len(data.evaluation_sets(part)[0]) for part in PARTS]
    real = real_images(data, "validation", None)
    comparison = Comparison(detector.classifier, real, min(options.samples, *sizes))
    sampling = {"steps": options.steps, "scale": options.scale, "seed": options.seed}
    drawn = sampled_images(detector, options.samples, options.batch_size, **sampling)
    figures = {
        "samples": comparison.compare(drawn),
        "training images": comparison.compare(real_images(data, "train", options.samples)),
        "how": {**sampling, "features": "those of the protected classifier"},
    }
    names = detector.classifier.class_names
    examples = _per_class(real_images(data, "train", 100 * len(names)), len(names))
    labels = torch.arange(len(names), device=detector.device).repeat_interleave(COLUMNS)
    sampled = draw_samples(detector.denoiser, labels, **sampling).cpu()  # type: ignore[arg-type]
    draw_sheet(examples, sampled, names, output / "samples.png")
    (output / "quality.json").write_text(json.dumps(figures, indent=2) + "\n")
    print("| images | FID | KID | classified as labeled |\n| --- | ---: | ---: | ---: |")
    for name in ("samples", "training images"):
        row = figures[name]
        print(
            f"| {row['images']:,} {name} | {row['fid']:.2f} | {row['kid']:.4f} ± "
            f"{row['kid_std']:.4f} | {row['classified_as_labeled']:.1%} |"
        )
    print(f"\nAgainst the ID validation images, in the features of the classifier. {output}")
    return 0


def _per_class(batches: Iterator[tuple[Tensor, Tensor]], classes: int) -> Tensor:
    """The first images of each class, class by class."""
    rows: list[list[Tensor]] = [[] for _ in range(classes)]
    for images, labels in batches:
        for image, label in zip(images, labels.tolist(), strict=True):
            if len(rows[label]) < COLUMNS:
                rows[label].append(image)
    return torch.stack([image for row in rows for image in row])


if __name__ == "__main__":
    from diffguard_cli.exit_codes import run

    run(main, sys.argv[1:])
