"""The last stage: fit baselines, depth and threshold of a detector on ID images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from diffguard.checkpoint.build import timed_cnn
from diffguard.checkpoint.file import diffusion_weights
from diffguard.classifiers.classifier import Classifier
from diffguard.classifiers.spec import ClassifierSpec
from diffguard.denoisers.custom import weight_parts
from diffguard.detector import Detector
from diffguard.diffusion.denoiser import Denoiser
from diffguard.methods.diffguard import DiffGuard
from diffguard.methods.fit import Warn, check_classifier, fit_early_stop, fit_reference
from diffguard.score_table.table import ScoreTable
from diffguard.scores.baselines import (
    FEATURE_BASELINES,
    Reference,
)
from diffguard.scores.calibration import ENOUGH_IMAGES, Calibration
from diffguard.settings.detector import DetectorSettings
from diffguard.storage.state_dict import weights_hash
from diffguard.storage.weights import load_tensors
from diffguard_cli.models import LoadedDiffusion
from diffguard_cli.run import Run
from diffguard_cli.scoring import ScoringRun, free_run
from lightning_modules.trainer import cast_weights, scoring_trainer


def calibrate(
    run: Run,
    settings: DetectorSettings,
    classifier: tuple[Classifier, ClassifierSpec],
    diffusion: LoadedDiffusion,
    title: str,
) -> None:
    """Score the ID validation images and write the calibrated detector."""
    pl.seed_everything(run.seed, verbose=False)
    noisy = None
    if run.noisy_classifier_file.is_file():
        noisy = timed_cnn(load_tensors(run.noisy_classifier_file))
    # Taken now: scoring may bring the weights to half precision, the file keeps them in full.
    weights = diffusion_weights(diffusion.denoiser, diffusion.reference)
    cast_weights(diffusion.denoiser, run.trainer)
    models = (classifier[0], diffusion.denoiser, noisy)
    networks = [classifier[0].network, *weight_parts(diffusion.denoiser).values(), noisy]
    identity = {"models": weights_hash([one for one in networks if one is not None])}
    detector = calibrated(run, settings, *models, title, run.folder, identity)
    if rank_zero_only.rank == 0:
        detector.save(run.detector_file, classifier[1], diffusion.spec, run.config, weights=weights)


def calibrated(
    run: Run,
    settings: DetectorSettings,
    classifier: Classifier,
    denoiser: Denoiser,
    noisy_classifier: nn.Module | None,
    title: str,
    folder: Path,
    identity: Mapping[str, Any],
    *,
    reference: Reference | None = None,
) -> Detector:
    """A detector calibrated on ID validation images; an interrupted calibration resumes.

    Args:
        run: The run.
        settings: The detector's settings.
        classifier: The protected classifier.
        denoiser: The diffusion model.
        noisy_classifier: The classifier of noisy images, if there is one.
        title: What the progress bar calls it.
        folder: The scores go to `calibration` in it, or beside that if it holds other scores.
        identity: Values that identify the models.
        reference: Features of ID training images; None computes them if a baseline needs them.
    """
    data = run.data
    options: dict[str, Any] = {
        "image_size": data.image_size,
        "image_channels": data.channels,
        "noisy_classifier": noisy_classifier,
        "seed": run.seed,
    }
    trainer = scoring_trainer(run.trainer, title)
    precision = trainer.precision_plugin.test_step_context
    method = DiffGuard(classifier, denoiser, settings, **options)
    method.to(trainer.strategy.root_device)
    loader = data.stream_loader(data.id_stream("validation"))
    check_classifier(method, loader, settings, data.read_size, run.say)
    identity = {**identity, "precision": run.trainer.precision}
    if reference is None and needs_reference(settings):
        # Lists are often sorted by class: the first images would be of a few classes only.
        stream = data.id_stream("train", settings.reference_images)
        identity["reference"] = stream.sets[0].fingerprint()
        with precision():
            reference = fit_reference(method, data.stream_loader(stream), data.read_size)
    with precision():
        fitted = _with_fitted_depth(method, data)
    detector = Detector(classifier, denoiser, fitted, reference=reference, **options)
    table = _score_validation(run, detector, folder, identity, trainer, settings)
    detector.calibration = fit_calibration(table, fitted, run.say)
    return detector


def _with_fitted_depth(method: DiffGuard, data: Any) -> DetectorSettings:
    """The method's settings, with fitted thresholds of early stop if a mean depth is set."""
    settings = method.settings
    if settings.early_stop.mean_depth is None:
        return settings
    loader = data.stream_loader(data.id_stream("validation"))
    thresholds = fit_early_stop(method, loader, data.read_size)
    thresholds = settings.early_stop.thresholds | thresholds
    return replace(settings, early_stop=replace(settings.early_stop, thresholds=thresholds))


def _score_validation(
    run: Run,
    detector: Detector,
    folder: Path,
    identity: Mapping[str, Any],
    trainer: pl.Trainer,
    settings: DetectorSettings,
) -> ScoreTable:
    """Score the ID validation images, under `settings` as they were before anything was fitted."""

    def run_in(place: Path) -> ScoringRun:
        return ScoringRun(
            detector,
            run.data,
            run.data.id_stream("validation"),
            place,
            identity,
            derive=False,
            settings=settings,
            threads=run.trainer.threads,
        )

    scoring = free_run(folder / "calibration", trainer, run_in)
    return ScoreTable.read(scoring.run(trainer))


def fit_calibration(table: ScoreTable, settings: DetectorSettings, warn: Warn) -> Calibration:
    """Calibrate from the score table of ID validation images, those that could be read."""
    scores = {name: torch.from_numpy(values[table.valid]) for name, values in table.scores.items()}
    calibration = Calibration.fit(scores, settings.fusion_rule())
    count = int(table.valid.sum())
    if count < ENOUGH_IMAGES:
        low, high = calibration.accept_interval(settings.accept)
        warn(
            f"warning: with only {count} ID validation images, the threshold accepts "
            f"{low:.0%} to {high:.0%} of new ID images (95% interval), where "
            f"{settings.accept:.0%} was asked for; {ENOUGH_IMAGES} or more narrow it"
        )
    return calibration


def needs_reference(settings: DetectorSettings) -> bool:
    """Whether a baseline is fitted on ID training images."""
    return any(name in FEATURE_BASELINES for name in settings.baselines)
