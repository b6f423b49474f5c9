"""Calibration of a scorer on ID images in this process."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.utils.data import Dataset

from diffguard.batching import check_batch_size
from diffguard.errors import UserError
from diffguard.inputs.labeled import LabeledImages
from diffguard.methods.fit import fit_calibration, fit_models
from diffguard.methods.items import Item
from diffguard.methods.reference import TrainingImages
from diffguard.methods.scorer import Scorer
from diffguard.report.progress import StageProgress
from diffguard.scores.baseline_table import VALIDATION_BASELINES
from diffguard.settings.detector import DetectorSettings


def calibrated(
    scorer: Scorer,
    validation: Iterable[Any] | Dataset[Any],
    reference: Iterable[Any] | Dataset[Any] | None,
    accept: float | None,
    batch_size: int,
    progress: bool,
    check_labels: bool = True,
) -> Scorer:
    """A calibrated scorer with the models of another; see `Detector.calibrate`.

    Args:
        scorer: The scorer, which stays as it is.
        validation: ID validation images with labels, as for `LabeledImages`.
        reference: ID training images with labels; None uses the features that the scorer has.
        accept: Share of ID images that the threshold accepts; None keeps that of the settings.
        batch_size: Images of every network call, at least 1.
        progress: Show how many validation images are scored, on standard error.
        check_labels: Whether a classifier with another order of classes is an error or a warning.

    Raises:
        UserError: If the classifier and the images do not fit together, a baseline needs training
            images and there are none, a score does not vary, or a baseline is fitted to validation
            images that are shuffled.
    """
    check_batch_size(batch_size)
    form = (scorer.image_size, scorer.image_channels, batch_size)
    images, training = LabeledImages(validation, *form), None
    _check_order(images, scorer.settings)
    if reference is not None:
        labeled = LabeledImages(reference, *form)
        batches = partial(LabeledImages, labeled.data, *form)
        training = TrainingImages(labeled.count, batches)
    fitted = fit_models(
        scorer.eval().models,
        images,
        training,
        batch_size,
        _warn,
        reference=scorer.reference if training is None else None,
        refuse=check_labels,
    )
    models = fitted.models
    if accept is not None:
        models = models.with_settings(replace(models.settings, accept=accept))
    result = Scorer(models, reference=fitted.reference, fits=fitted.fits).to(scorer.device)
    console = Console(stderr=True, quiet=not progress)
    with StageProgress("calibrate", images.count(), console=console) as bar:
        scores, passes = plain_scores(result, images, batch_size, bar.update)
    result.calibration = fit_calibration(
        scores | fitted.validation_scores,
        models.settings,
        _warn,
        fitted.features,
        passes,
        fitted.quality,
    )
    return result


def plain_scores(
    scorer: Scorer,
    batches: Iterable[Mapping[str, Any]],
    batch_size: int,
    report: Callable[[int], None],
) -> tuple[dict[str, Tensor], Tensor]:
    """Score images from batches, without the scores that need calibration.

    Args:
        scorer: The scorer.
        batches: Batches with `image`, `(N, C, H, W)` of the working size.
        batch_size: Images of every network call.
        report: Is called with the number of images that are scored.

    Returns:
        Score -> `(n,)` float64 of all n images, in their order, and their network passes `(n,)`.
    """
    stream, rows, count = scorer.stream(batch_size, derive=False), [], 0
    for batch in batches:
        items = [Item(image, index=count + i) for i, image in enumerate(batch["image"])]
        count += len(items)
        rows += [result.row for result in stream.push(items)]
        report(len(rows))
    rows += [result.row for result in stream.flush()]
    report(len(rows))
    rows.sort(key=lambda row: row.index)
    scores = {
        name: torch.tensor([row.scores[name] for row in rows], dtype=torch.float64)
        for name in scorer.score_names(derived=False)
    }
    return scores, torch.tensor([row.network_passes for row in rows])


def _check_order(images: LabeledImages, settings: DetectorSettings) -> None:
    """Refuse a shuffled loader if images of several readings are matched by their order."""
    names = [name for name in settings.baselines if name in VALIDATION_BASELINES]
    if names and images.is_shuffled:
        raise UserError(
            f"baseline {names[0]} needs the ID validation images in the same order each time they "
            "are read, and their loader shuffles them: give a loader without shuffle"
        )


def _warn(line: str) -> None:
    warnings.warn(line.removeprefix("warning: "), stacklevel=5)
