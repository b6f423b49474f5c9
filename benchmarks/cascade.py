"""Throughput and AUROC of a cascade on streams with few and with many OOD images.

    python benchmarks/cascade.py diffguard/pretrained/demo/detector.ckpt --output docs/figures

scores streams with 1%, 10% and 50% OOD images by the mean of all parts, by the baselines alone and
by the cascade, and then with one further ingredient after the other: fewer steps, no pass for a
distance that does not enter the decision, bfloat16 (if the CPU computes in it) and a compiled
network. Rows with other steps or networks are calibrated anew on ID validation images. The AUROC is
that of all images of the test sets.

Afterwards, the streams are timed in rounds over all rows, with one thread and in CPU seconds of
this process, so that other load on the machine affects all rows alike. The rate is that of the
fastest round.
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
from diffguard.report.metrics import auroc
from diffguard.settings.plain import completed

SHARES = (0.01, 0.1, 0.5)
BATCH_SIZE = 32
# Cheaper than what `diffguard tune` chooses on the validation sets, as is the distance without the
# unguided reconstruction.
SAMPLER = {"sampler.steps": 10, "inversion.depth": 0.6}
GUIDED = {"distance": ["feature_cosine", "ssim_reflect"]}


@dataclass(frozen=True)
class Variant:
    """One row of the table.

    Attributes:
        name: Its name.
        changes: Dotted settings that differ from the checkpoint's.
        decision: The score that decides.
        computes_all: Whether scores that the decision does not need are computed too.
        bf16: Whether networks compute in bfloat16.
    """

    name: str
    changes: Mapping[str, Any]
    decision: str = "fusion"
    computes_all: bool = True
    bf16: bool = False


@dataclass(frozen=True)
class Measurement:
    """The results of a variant.

    Attributes:
        name: Its name.
        rates: Images per CPU second of each stream.
        id_passes: Network passes per ID test image.
        aurocs: AUROC on each OOD set.
    """

    name: str
    rates: list[float]
    id_passes: float
    aurocs: Mapping[str, float]


def variants(band: Sequence[float] | None) -> Iterator[Variant]:
    """The rows; those after the cascade add one ingredient each.

    Args:
        band: The band of the cascade; defaults to that of the checkpoint.
    """
    yield Variant("mean", {})
    yield Variant("baselines alone", {}, decision="fusion_baselines", computes_all=False)
    changes: dict[str, Any] = {"fusion.rule": "cascade"}
    if band is not None:
        changes["fusion.band"] = list(band)
    yield Variant("cascade", dict(changes))
    changes |= SAMPLER
    yield Variant("+ fewer steps", dict(changes))
    changes |= GUIDED
    yield Variant("+ no unused pass", dict(changes), computes_all=False)
    bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if bf16:
        yield Variant("+ bfloat16", dict(changes), computes_all=False, bf16=True)
    changes |= {"compile": True}
    yield Variant("+ compiled network", dict(changes), computes_all=False, bf16=bf16)


def main(argv: Sequence[str]) -> int:
    """Measure all rows; print and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("ckpt", type=Path)
    parser.add_argument("--limit", type=int, help="images per set for the AUROC; all by default")
    parser.add_argument("--length", type=int, default=500, help="images per stream")
    parser.add_argument("--rounds", type=int, default=2, help="measurements of each stream")
    parser.add_argument("--band", type=float, nargs=2, help="two shares; default: the checkpoint's")
    parser.add_argument("--output", type=Path, default=Path())
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    content = read_checkpoint(options.ckpt)
    sets, groups, validation = read_images(content["config"]["data"])
    streams = [stream_images(sets, groups, share, options.length) for share in SHARES]
    sets = {name: images[: options.limit] for name, images in sets.items()}
    print({name: len(images) for name, images in sets.items()}, len(validation[0]), flush=True)
    subjects: list[tuple[Variant, Detector]] = []
    rows: list[Measurement] = []
    for variant in variants(options.band):
        detector = calibrated(variant, content, validation)
        subjects.append((variant, detector))
        rows.append(quality(variant, detector, sets))
        print(variant.name, rows[-1], flush=True)
    for _ in range(options.rounds):
        for (variant, detector), row in zip(subjects, rows, strict=True):
            rates = [len(s) / score(detector, s, variant)[2] for s in streams]
            row.rates[:] = np.maximum(row.rates, rates).tolist()
            print(variant.name, rates, flush=True)
    print("| | " + " | ".join(f"{s:.0%} OOD" for s in SHARES) + " | passes | near | far |")
    print("| --- |" + " ---: |" * (len(SHARES) + 3))
    print("\n".join(table_row(row, rows[0], groups) for row in rows))
    values = {"shares": SHARES, "groups": groups, "rows": [asdict(row) for row in rows]}
    path = options.output / "cascade.json"
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return 0


def read_images(
    config: Mapping[str, Any],
) -> tuple[dict[str, Tensor], dict[str, str], tuple[Tensor, Tensor]]:
    """The images of all test sets, their groups, and the ID validation images with labels."""
    sections = {"id": IDSets(**config["id"]), "ood": OODSets(**config["ood"])}
    data = OODDataModule(DataConfig(**{**config, **sections}))
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


def calibrated(
    variant: Variant, content: Mapping[str, Any], validation: tuple[Tensor, Tensor]
) -> Detector:
    """The detector of a variant."""
    detector = Detector.from_checkpoint(content, settings=changed(content["settings"], variant))
    if all(name.startswith("fusion.") for name in variant.changes):
        return detector
    with precision(variant):
        return detector.calibrate([validation], batch_size=BATCH_SIZE, progress=False)


def quality(variant: Variant, detector: Detector, sets: Mapping[str, Tensor]) -> Measurement:
    """Score the test sets."""
    scores, passes = {}, {}
    for name, images in sets.items():
        scores[name], passes[name], _ = score(detector, images, variant)
    id_set = next(iter(sets))
    aurocs = {n: float(auroc(scores[id_set], v)) for n, v in scores.items() if n != id_set}
    return Measurement(variant.name, [0.0] * len(SHARES), passes[id_set], aurocs)


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
def score(detector: Detector, images: Tensor, variant: Variant) -> tuple[Tensor, float, float]:
    """Scores `(N,)`, network passes per image, and CPU seconds of this process."""
    began = time.process_time()
    only = None if variant.computes_all else variant.decision
    with precision(variant):
        stream = detector.stream(BATCH_SIZE, only=only)
        items = [Item(image, index=index) for index, image in enumerate(images)]
        rows = [result.row for result in stream.push(items) + stream.flush()]
    seconds = time.process_time() - began
    values = torch.tensor([row.scores[variant.decision] for row in rows], dtype=torch.float64)
    return values, float(np.mean([row.network_passes or 0 for row in rows])), seconds


def table_row(row: Measurement, base: Measurement, groups: Mapping[str, str]) -> str:
    """Images per CPU second with their ratio to the mean's, passes per ID image, AUROC in %."""
    cells = [f"{r:.1f} ({r / b:.1f}×)" for r, b in zip(row.rates, base.rates, strict=True)]
    cells.append(f"{row.id_passes:.1f}")
    for group in ("near", "far"):
        values = [value for name, value in row.aurocs.items() if groups[name] == group]
        cells.append(f"{100 * np.mean(values):.2f}" if values else "–")
    return f"| {row.name} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
