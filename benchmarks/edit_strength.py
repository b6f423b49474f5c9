"""How much edits change an image, and whether they keep its label, by depth and guidance scale.

    python benchmarks/edit_strength.py runs/demo/detector.ckpt --judge runs/seed1/detector.ckpt

edits ID validation images with the diffusion model of a detector. `change` is the mean absolute
difference of pixels between edit and original in %. `kept` is the share of edits to which the
classifier of another detector assigns the label of the image. The sheet shows the originals, then
a row of edits per setting, then fractals, then mixtures with the last setting.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.utils import save_image

from datamodules.ood import OODDataModule
from diffguard.augment.editor import InversionEditor
from diffguard.augment.fractals import draw_fractals
from diffguard.augment.mixing import DiffuseMix
from diffguard.augment.settings import AugmentSettings
from diffguard.checkpoint.file import read_checkpoint
from diffguard.detector import Detector
from diffguard_cli import evaluation
from diffguard_cli.parser import parse
from diffguard_cli.stored_config import stored_config

_DEFAULTS = AugmentSettings()
_BATCH, _COLUMNS = 64, 16
_SEAM = 4.0


def validation_images(ckpt: str, count: int) -> tuple[Tensor, Tensor]:
    """ID validation images `(N, C, H, W)` in [0, 1] of a detector's data, and their labels."""
    parser = evaluation.build_parser()
    defaults = {**stored_config(read_checkpoint(ckpt), ckpt), "ckpt": ckpt}
    config: Any = parser.instantiate(parse(parser, [], defaults, ckpt))
    data = OODDataModule(config.data)
    batches = list(data.stream_loader(data.id_stream("validation", count)))
    return tuple(torch.cat([batch[key] for batch in batches]) for key in ("image", "label"))


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ckpt")
    parser.add_argument("--judge", required=True, help="detector.ckpt of another training")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--depths", type=float, nargs="+", default=[0.4, 0.7])
    parser.add_argument("--scales", type=float, nargs="+", default=[2, 4, 7, 10])
    parser.add_argument("--steps", type=int, default=_DEFAULTS.steps)
    parser.add_argument("--sheet", type=Path, default=Path("edit_strength.png"))
    options = parser.parse_args(argv)
    images, labels = validation_images(options.ckpt, options.images)
    denoiser = Detector.load(options.ckpt).models.denoiser
    judge = Detector.load(options.judge).classifier.eval()
    columns = torch.linspace(0, len(images) - 1, _COLUMNS).long()
    rows, edits = [images[columns]], images
    print("| depth | scale | change | kept |\n| --- | --- | --- | --- |")
    resized = denoiser.decode(denoiser.encode(images))
    print(f"| no edit, resized to the model and back | | {(resized - images).abs().mean():.1%} | |")
    for depth in options.depths:
        for scale in options.scales:
            editor = InversionEditor(denoiser, options.steps, depth, scale, _BATCH)
            edits = editor.edit(images, labels.tolist(), 0)
            with torch.no_grad():
                kept = (judge(edits).argmax(1) == labels).float().mean()
            change = (edits - images).abs().mean()
            print(f"| {depth:g} | {scale:g} | {change:.1%} | {kept:.1%} |", flush=True)
            rows.append(edits[columns])
    fractals = draw_fractals(_COLUMNS, images.shape[-1], images.shape[1])
    rows.append(fractals)
    rows.append(DiffuseMix(seam=_SEAM)(images[columns], edits[columns], fractals))
    pixels = torch.cat(rows).repeat_interleave(2, 2).repeat_interleave(2, 3)
    save_image(pixels, options.sheet, nrow=_COLUMNS)


if __name__ == "__main__":
    main()
