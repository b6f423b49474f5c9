"""Subjects of the speed measurement: the demo, or a large U-Net with random weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from datamodules.config import DataConfig, IDSets, OODSets
from datamodules.evaluation_stream import EvaluationStream
from datamodules.ood import OODDataModule
from diffguard.checkpoint.file import read_checkpoint
from diffguard.classifiers.classifier import Classifier
from diffguard.denoisers.pixel import PixelDenoiser
from diffguard.detector import Detector
from diffguard.diffusion.schedule import NoiseSchedule
from diffguard.methods.depth import fit_early_stop
from diffguard.methods.fit import fit_methods
from diffguard.settings.plain import from_dict, with_guidance


def _classifier_guidance(side: int) -> dict[str, Any]:
    """Settings of classifier guidance with an early stop."""
    return {
        "guidance": "classifier",
        "classifier": {
            # As in docs/ablation.md: a larger one fools the demo's classifier, and then the last
            # bits of a state decide what becomes of it.
            "scale": 0.1,
            # The paper's crops have 224 of 256 pixels.
            "crops": {"number": 4, "size": side * 7 // 8},
        },
        # The authors' program starts synthesis one step above the level that was reached.
        "synthesis": {"extra_start": 1},
        "early_stop": {"thresholds": {"psnr": None}, "mean_depth": 0.5},
    }


@dataclass
class Subject:
    """A detector in both forms of guidance, and images.

    Attributes:
        build: Changes of settings -> detector.
        data: The DataModule.
        stream: The images to score.
        calibration: ID images that calibrate the early stop.
    """

    build: Callable[[Mapping[str, Any]], Detector]
    data: OODDataModule
    stream: EvaluationStream
    calibration: EvaluationStream

    def detector(self, form: str, device: torch.device) -> Detector:
        """The detector with `classifier_free` or `classifier` guidance, or with further methods.

        Args:
            form: The form of guidance, or the names of the methods, separated by commas.
            device: The device.
        """
        if form == "classifier_free":
            return self.build({}).to(device)
        if form != "classifier":
            return self._with_methods(form.split(", "), device)
        settings = _classifier_guidance(self.build({}).denoiser.state_size)
        loader = self.data.stream_loader(self.calibration)
        detector = self.build(settings).to(device)
        with torch.inference_mode():
            thresholds = fit_early_stop(detector.models, loader, self.data.read_size)
        settings["early_stop"] = {"thresholds": thresholds}
        return self.build(settings).to(device)

    def _with_methods(self, names: Sequence[str], device: torch.device) -> Detector:
        """The detector with further methods, which are fitted on the calibration images."""
        base = self.build({})
        settings = replace(base.settings, methods=["diffguard", *names])
        parts = {**vars(base.parts), "settings": settings, "calibration": None}
        detector = Detector(**parts).to(device)
        loader = self.data.stream_loader(self.calibration)
        with torch.inference_mode():
            detector.fits = fit_methods(
                detector.models,
                lambda _: loader,
                self.data.read_size,
                detector.settings.fitted_methods,
            )
        return detector


def embedded(ckpt: Path, images: int) -> Subject:
    """The demo's detector, and test images in equal numbers from each set.

    Args:
        ckpt: The `detector.ckpt` of a run of `configs/digits.yaml`.
        images: Minimum number of images.
    """
    content = read_checkpoint(ckpt)
    config = dict(content["config"]["data"])
    config |= {"id": IDSets(**config["id"]), "ood": OODSets(**config["ood"])}
    sets = 1 + len(config["ood"].near) + len(config["ood"].far)
    data = OODDataModule(DataConfig(**{**config, "limit": -(-images // sets)}))

    def build(changes: Mapping[str, Any]) -> Detector:
        return Detector.from_checkpoint(content, settings=_merged(content["settings"], changes))

    return Subject(build, data, data.stream("test"), data.id_stream("validation"))


def large(folder: Path, images: int, side: int, width: int) -> Subject:
    """A U-Net of the paper's size and a ResNet-50, with random weights.

    The U-Net has 552M parameters at side and width 256.

    Args:
        folder: Folder to write JPEG images of this side to.
        images: Number of images.
        side: Side of images and network in pixels.
        width: Channels of the first stage; the paper's model has 256.
    """
    from torchvision.models import resnet50

    torch.manual_seed(0)
    network, classes = paper_unet(side, width, labels=1001), 1000
    denoiser = PixelDenoiser(network, NoiseSchedule.linear(), side, 3, classes, classes)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    classifier = Classifier(resnet50(), classes, size=(side, side), mean=mean, std=std)
    write_photographs(folder, images, side, "jpg")
    data = OODDataModule(DataConfig(id=IDSets(), image_size=side, channels=3))
    stream = data.image_stream([folder])
    settings = {
        "sampler": {"steps": 25, "spacing": "stride", "pairing": "current", "clip": True},
        "distances": ["logits_l1", "l2"],
        "unguided": ["l2"],
        "distance": ["l2"],
        "baselines": ["msp"],
        "fused": [],
        "decision": "diffguard",
    }

    def build(changes: Mapping[str, Any]) -> Detector:
        config = from_dict(_merged(settings, changes))
        return Detector(classifier, denoiser, config, image_size=side, image_channels=3)

    return Subject(build, data, stream, stream.share(0, max(1, images // 64)))


def paper_unet(side: int, width: int, labels: int | None = None) -> torch.nn.Module:
    """A `UNet2DModel` of the shape of guided-diffusion's 256×256 model, with random weights.

    Args:
        side: Side of the images in pixels, a multiple of 32.
        width: Channels of the first stage, a multiple of 32.
        labels: Size of a table of class embeddings; None for an unconditional model.
    """
    from diffusers import UNet2DModel

    attention = ["", "", "", "Attn", "Attn", "Attn"]
    return UNet2DModel(
        sample_size=side,
        in_channels=3,
        out_channels=6,
        layers_per_block=2,
        block_out_channels=[width * factor for factor in (1, 1, 2, 2, 4, 4)],
        down_block_types=[f"{kind}DownBlock2D" for kind in attention],
        up_block_types=[f"{kind}UpBlock2D" for kind in attention[::-1]],
        attention_head_dim=min(64, width),
        norm_num_groups=32,
        resnet_time_scale_shift="scale_shift",
        num_class_embeds=labels,
    ).eval()


def write_photographs(folder: Path, count: int, side: int, suffix: str) -> None:
    """Write crops of scikit-learn's two photographs as image files."""
    import numpy as np
    from sklearn.datasets import load_sample_images

    folder.mkdir(parents=True, exist_ok=True)
    photographs = load_sample_images().images
    rng = np.random.default_rng(0)
    for number in range(count):
        image = photographs[number % len(photographs)]
        y, x = (int(rng.integers(0, max(1, n - side))) for n in image.shape[:2])
        crop = Image.fromarray(image[y : y + side, x : x + side])
        crop.resize((side, side)).save(folder / f"{number:06}.{suffix}")


def write_images(folder: Path, images: Tensor, count: int, suffix: str) -> None:
    """Write images `(N, C, H, W)` in [0, 1] as `count` image files, repeating them."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = (images * 255).round().byte().cpu().numpy()
    for number in range(count):
        image = pixels[number % len(pixels)]
        picture = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
        picture.save(folder / f"{number:06}.{suffix}")


def _merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of plain settings with some keys of its sections replaced."""
    merged: dict[str, Any] = json.loads(json.dumps(settings))
    if "guidance" in changes:
        merged = with_guidance(merged, changes["guidance"], {})
    for key, value in changes.items():
        whole = isinstance(value, Mapping) and isinstance(merged.get(key), dict)
        merged[key] = {**merged[key], **value} if whole else value
    return merged
