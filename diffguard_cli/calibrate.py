"""The last stage: fit baselines, depth and threshold of a detector on ID images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only

from diffguard.checkpoint.build import timed_cnn
from diffguard.checkpoint.file import diffusion_weights
from diffguard.classifiers.classifier import Classifier
from diffguard.classifiers.spec import ClassifierSpec
from diffguard.denoisers.custom import weight_parts
from diffguard.detector import Detector
from diffguard.methods.diffguard import DiffGuard
from diffguard.methods.fit import Warn, check_classifier, fit_early_stop, fit_reference
from diffguard.score_table.table import ScoreTable
from diffguard.scores.baselines import FEATURE_BASELINES, Reference
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
    # Before they are cast: scoring may use half precision, but the file keeps full precision.
    weights = diffusion_weights(diffusion.denoiser, diffusion.reference)
    cast_weights(diffusion.denoiser, run.trainer)
    method = DiffGuard(
        classifier[0],
        diffusion.denoiser,
        settings,
        image_size=run.data.image_size,
        image_channels=run.data.channels,
        noisy_classifier=noisy,
        seed=run.seed,
    )
    networks = [classifier[0].network, *weight_parts(diffusion.denoiser).values(), noisy]
    identity = {"models": weights_hash([network for network in networks if network is not None])}
    detector = calibrated(run, method, identity, title)
    if rank_zero_only.rank == 0:
        detector.save(run.detector_file, classifier[1], diffusion.spec, run.config, weights=weights)


def calibrated(
    run: Run,
    method: DiffGuard,
    identity: Mapping[str, Any],
    title: str,
    reference: Reference | None = None,
) -> Detector:
    """A detector calibrated on ID validation images; an interrupted calibration resumes.

    The scores go to `calibration` in the run's folder, or beside it if it holds other scores.

    Args:
        run: The run.
        method: The method with its models and settings.
        identity: Values that identify the models.
        title: Title of the progress bar.
        reference: Features of ID training images. If a baseline needs them, they default to those
            of `data`.

    Raises:
        UserError: If the classifier and the data do not fit together, or scoring fails.
    """
    data, settings = run.data, method.settings
    trainer = scoring_trainer(run.trainer, title)
    method.to(trainer.strategy.root_device)
    identity = {**identity, "precision": run.trainer.precision}
    validation = data.stream_loader(data.id_stream("validation"))
    check_classifier(method, validation, settings, data.read_size, run.say)
    with trainer.precision_plugin.test_step_context():
        if reference is None and needs_reference(settings):
            # Lists are often sorted by class, so the first images would show only a few classes.
            stream = data.id_stream("train", settings.reference_images)
            identity["reference"] = stream.sets[0].fingerprint()
            reference = fit_reference(method, data.stream_loader(stream), data.read_size)
        thresholds = fit_early_stop(method, validation, data.read_size)
    detector = _detector(method, _with_thresholds(settings, thresholds), reference)
    table = _score_validation(run, detector, identity, trainer, settings)
    detector.calibration = fit_calibration(table, detector.settings, run.say)
    return detector


def _with_thresholds(
    settings: DetectorSettings, thresholds: Mapping[str, float]
) -> DetectorSettings:
    """Settings with fitted thresholds of early stop."""
    stop = settings.early_stop
    return replace(settings, early_stop=replace(stop, thresholds={**stop.thresholds, **thresholds}))


def _detector(
    method: DiffGuard, settings: DetectorSettings, reference: Reference | None
) -> Detector:
    """The detector of a method's models, with other settings."""
    return Detector(
        method.classifier,
        method.denoiser,
        settings,
        image_size=method.image_size,
        image_channels=method.image_channels,
        reference=reference,
        noisy_classifier=method.noisy_classifier,
        seed=method.seed,
    )


def _score_validation(
    run: Run,
    detector: Detector,
    identity: Mapping[str, Any],
    trainer: pl.Trainer,
    settings: DetectorSettings,
) -> ScoreTable:
    """Score the ID validation images; `settings` are those before anything was fitted."""

    def run_in(folder: Path) -> ScoringRun:
        return ScoringRun(
            detector,
            run.data,
            run.data.id_stream("validation"),
            folder,
            identity,
            derive=False,
            settings=settings,
            threads=run.trainer.threads,
        )

    scoring = free_run(run.folder / "calibration", trainer, run_in)
    return ScoreTable.read(scoring.run(trainer).table)


def fit_calibration(table: ScoreTable, settings: DetectorSettings, warn: Warn) -> Calibration:
    """Calibrate from the score table of ID validation images, those that could be read."""
    scores = {name: torch.from_numpy(values[table.valid]) for name, values in table.scores.items()}
    calibration = Calibration.fit(scores, settings.fusion_rule())
    count = int(table.valid.sum())
    if count < ENOUGH_IMAGES:
        low, high = calibration.accept_interval(settings.accept)
        warn(
            f"warning: with only {count} ID validation images, the threshold accepts "
            f"{low:.0%} to {high:.0%} of new ID images (95% interval) instead of "
            f"{settings.accept:.0%}; {ENOUGH_IMAGES} or more images narrow the interval"
        )
    return calibration


def needs_reference(settings: DetectorSettings) -> bool:
    """Whether a baseline is fitted on ID training images."""
    return any(name in FEATURE_BASELINES for name in settings.baselines)
