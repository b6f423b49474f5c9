"""Throughput and AUROC of a cascade on streams with few and with many OOD images.

    python benchmarks/cascade.py diffguard/pretrained/demo/detector.ckpt --output docs/figures

scores streams with 1%, 10% and 50% OOD images by the mean of all parts, by the baselines alone and
by the cascade, and then with one further ingredient after the other: fewer steps, no pass for a
distance that enters no score, bfloat16 (if the CPU computes in it) and a compiled network. Each row
is calibrated anew on ID validation images. All rows are measured in one run with one thread, in
seconds of this process, which other load on the machine changes little. The AUROC is that of all
images of the test sets, up to a limit.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.config import DataConfig, IDSets, OODSets
from datamodules.ood import OODDataModule
from diffguard.checkpoint.file import read_checkpoint
from diffguard.detector import Detector
from diffguard.methods.items import Item, items_of
from diffguard.methods.stream import Skip
from diffguard.report.metrics import auroc
from diffguard.settings.plain import completed

SHARES = (0.01, 0.1, 0.5)
BATCH_SIZE = 64
# Steps of the whole schedule, the depth of the inversion, and distances to the image alone.
SAMPLER = {"sampler.steps": 10, "inversion.depth": 0.6}
GUIDED = {"unguided": [], "distance": ["feature_cosine", "ssim_reflect"]}
CASCADE = {"fusion.rule": "cascade"}


@dataclass(frozen=True)
class Variant:
    """One row of the table.

    Attributes:
        name: Its name.
        changes: Dotted settings that differ from the checkpoint's.
        skip: Which images skip the diffusion model.
        bf16: Whether networks compute in bfloat16.
    """

    name: str
    changes: Mapping[str, Any]
    skip: Skip = "clear"
    bf16: bool = False


@dataclass(frozen=True)
class Measurement:
    """The results of a variant.

    Attributes:
        name: Its name.
        rates: Images per second of each stream.
        passes: Network passes per image of each stream.
        id_passes: Network passes per ID test image.
        aurocs: AUROC on each OOD set.
    """

    name: str
    rates: Sequence[float]
    passes: Sequence[float]
    id_passes: float
    aurocs: Mapping[str, float]


def variants() -> Iterator[Variant]:
    """The rows; those after the cascade add one ingredient each."""
    yield Variant("mean", {}, skip="none")
    yield Variant("baselines alone", {}, skip="all")
    changes: dict[str, Any] = dict(CASCADE)
    yield Variant("cascade", dict(changes))
    changes |= SAMPLER
    yield Variant("+ fewer steps", dict(changes))
    changes |= GUIDED
    yield Variant("+ no unguided synthesis", dict(changes))
    bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if bf16:
        yield Variant("+ bfloat16", dict(changes), bf16=True)
    yield Variant("+ compiled network", changes | {"compile": True}, bf16=bf16)


def main(argv: Sequence[str]) -> int:
    """Measure all rows; print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("ckpt", type=Path)
    parser.add_argument("--limit", type=int, default=300, help="images per test set")
    parser.add_argument("--length", type=int, default=400, help="images per stream")
    parser.add_argument("--output", type=Path, default=Path())
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    content = read_checkpoint(options.ckpt)
    sets, groups, validation = read_images(content["config"]["data"], options.limit)
    streams = [stream_images(sets, groups, share, options.length) for share in SHARES]
    print("| | " + " | ".join(f"{s:.0%} OOD" for s in SHARES) + " | passes | near | far |")
    print("| --- |" + " ---: |" * (len(SHARES) + 3), flush=True)
    rows: list[Measurement] = []
    for variant in variants():
        rows.append(measure(variant, content, sets, streams, validation))
        print(table_row(rows[-1], rows[0], groups), flush=True)
    values = {"shares": SHARES, "groups": groups, "rows": [asdict(row) for row in rows]}
    path = options.output / "cascade.json"
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return 0


def read_images(
    config: Mapping[str, Any], limit: int
) -> tuple[dict[str, Tensor], dict[str, str], tuple[Tensor, Tensor]]:
    """The images of all test sets, their groups, and the ID validation images with labels."""
    sections = {"id": IDSets(**config["id"]), "ood": OODSets(**config["ood"])}
    data = OODDataModule(DataConfig(**{**config, **sections, "limit": limit}))
    data.prepare_data()
    items = [i for b in data.stream_loader(data.stream("test")) for i in items_of(b)]
    sets = {n: torch.stack([i.image for i in items if i.dataset == n]) for n in data.groups}
    batches = list(data.stream_loader(data.id_stream("validation")))
    images = torch.cat([batch["image"] for batch in batches])
    return sets, dict(data.groups), (images, torch.cat([batch["label"] for batch in batches]))


def stream_images(
    sets: Mapping[str, Tensor], groups: Mapping[str, str], share: float, length: int
) -> Tensor:
    """A random stream with a share of OOD images, in equal numbers of all OOD sets."""
    rng = np.random.default_rng(0)
    names = [name for name, group in groups.items() if group != "id"]
    (id_set,) = (sets[name] for name, group in groups.items() if group == "id")
    ood_count = round(share * length)
    images = [id_set[int(i)] for i in rng.integers(len(id_set), size=length - ood_count)]
    for number in range(ood_count):
        ood_set = sets[names[number % len(names)]]
        images.append(ood_set[int(rng.integers(len(ood_set)))])
    return torch.stack([images[int(i)] for i in rng.permutation(length)])


def measure(
    variant: Variant,
    content: Mapping[str, Any],
    sets: Mapping[str, Tensor],
    streams: Sequence[Tensor],
    validation: tuple[Tensor, Tensor],
) -> Measurement:
    """Calibrate a variant, score the test sets and time the streams."""
    detector = Detector.from_checkpoint(content, settings=changed(content["settings"], variant))
    decision = "fusion_baselines" if variant.skip == "all" else "fusion"
    with precision(variant):
        detector.calibrate([validation], batch_size=BATCH_SIZE, progress=False)
        scores, passes = {}, {}
        for name, images in sets.items():
            scores[name], passes[name], _ = score(detector, images, variant, decision)
        timed = [score(detector, images, variant, decision) for images in streams]
    id_set = next(iter(sets))
    return Measurement(
        variant.name,
        [len(images) / seconds for images, (_, _, seconds) in zip(streams, timed, strict=True)],
        [passes for _, passes, _ in timed],
        passes[id_set],
        {n: float(auroc(scores[id_set], v)) for n, v in scores.items() if n != id_set},
    )


def changed(settings: Mapping[str, Any], variant: Variant) -> dict[str, Any]:
    """The settings of a variant."""
    values = deepcopy(completed(settings))
    for name, value in variant.changes.items():
        *path, key = name.split(".")
        section = values
        for part in path:
            section = section[part]
        section[key] = value
    return values


def precision(variant: Variant) -> AbstractContextManager[Any]:
    """Enters the precision of a variant."""
    return torch.autocast("cpu", torch.bfloat16) if variant.bf16 else nullcontext()


@torch.inference_mode()
def score(
    detector: Detector, images: Tensor, variant: Variant, decision: str
) -> tuple[Tensor, float, float]:
    """Scores `(N,)`, network passes per image, and seconds of this process."""
    began = time.process_time()
    stream = detector.stream(BATCH_SIZE, skip=variant.skip)
    items = [Item(image, index=index) for index, image in enumerate(images)]
    rows = [result.row for result in stream.push(items) + stream.flush()]
    seconds = time.process_time() - began
    values = torch.tensor([row.scores[decision] for row in rows], dtype=torch.float64)
    return values, float(np.mean([row.network_passes or 0 for row in rows])), seconds


def table_row(row: Measurement, base: Measurement, groups: Mapping[str, str]) -> str:
    """Images per second with their ratio to the mean's, passes per ID image, AUROC in %."""
    cells = [f"{r:.1f} ({r / b:.1f}×)" for r, b in zip(row.rates, base.rates, strict=True)]
    cells.append(f"{row.id_passes:.1f}")
    for group in ("near", "far"):
        values = [value for name, value in row.aurocs.items() if groups[name] == group]
        cells.append(f"{100 * np.mean(values):.2f}" if values else "–")
    return f"| {row.name} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
