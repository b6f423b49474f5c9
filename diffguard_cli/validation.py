"""Scoring the validation sets of a checkpoint's config, on which settings are chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from datamodules.benchmark_sets import BenchmarkSets
from datamodules.config import DataConfig, IDSets, OODSets
from datamodules.ood import OODDataModule
from diffguard.detector import Detector
from diffguard.errors import UserError
from diffguard.methods.baseline_fits import fit_baselines
from diffguard.methods.items import Scored, items_of


def validation_data(config: Mapping[str, Any], limit: int | None) -> OODDataModule:
    """The data of a config without its test sets.

    Args:
        config: The `data` section.
        limit: Images per set; None for all.

    Raises:
        UserError: If the config names no OOD validation set, or one that is also a test set.
    """
    if not config.get("ood_validation"):
        raise UserError(
            "the checkpoint's config has no OOD validation set to choose settings on: train with "
            "one in data.ood_validation"
        )
    values = {**config, "limit": limit}
    sets = {"id": IDSets(**config["id"]), "ood": OODSets(**config["ood"])}
    BenchmarkSets(DataConfig(**{**values, **sets}))  # refuses to choose on test sets
    values["id"] = IDSets(**{**config["id"], "test": None})
    values["ood"] = OODSets()
    return OODDataModule(DataConfig(**values))


def best_device() -> str:
    """CUDA if it is available, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@torch.inference_mode()
def score_validation(
    detector: Detector, data: OODDataModule
) -> tuple[dict[str, dict[str, np.ndarray]], list[Scored]]:
    """Score the validation sets.

    Baselines that are fitted to the ID images get cross-fitted scores of them, as in a calibration.

    Args:
        detector: The detector.
        data: The DataModule.

    Returns:
        Set -> score -> `(n,)`, and the scored images.
    """
    stream = detector.stream(data.read_size, derive=False)
    results: list[Scored] = []
    images = data.stream("validation")
    for batch in data.stream_loader(images):
        results += stream.push(items_of(batch))
    results += stream.flush()
    names = detector.score_names(derived=False)
    table: dict[str, dict[str, np.ndarray]] = {}
    for part in data.evaluation_sets("validation"):
        rows = [image.row for image in results if image.row.dataset == part.name]
        rows.sort(key=lambda row: row.index)
        table[part.name] = {name: np.array([row.scores[name] for row in rows]) for name in names}
    id_images = images.only(images.select[images.select[:, 0] == 0])
    loader = data.stream_loader(id_images)
    fitted = fit_baselines(detector.models, loader, data.read_size).scores
    table[next(iter(table))] |= {name: values.numpy() for name, values in fitted.items()}
    return table, results
