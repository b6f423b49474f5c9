"""The last stage: fit baselines, depth and threshold of a detector on ID images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only

from datamodules.ood import OODDataModule
from diffguard.checkpoint.build import timed_cnn
from diffguard.checkpoint.file import diffusion_weights
from diffguard.classifiers.classifier import Classifier
from diffguard.classifiers.spec import ClassifierSpec
from diffguard.denoisers.custom import cast_weights, weight_parts
from diffguard.detector import Detector
from diffguard.methods.fit import fit_calibration, fit_models
from diffguard.methods.models import Models
from diffguard.methods.reference import TrainingImages
from diffguard.methods.registry import Fits
from diffguard.methods.reuse import reusable_fits
from diffguard.score_table.table import ScoreTable
from diffguard.scores.build import check_weights
from diffguard.scores.reference import Reference
from diffguard.settings.detector import DetectorSettings
from diffguard.storage.state_dict import weights_hash
from diffguard.storage.weights import load_tensors
from diffguard.training.precision import weight_dtype
from diffguard_cli.arguments import EvaluationArguments
from diffguard_cli.auto_precision import with_precision
from diffguard_cli.diffusion_model import LoadedDiffusion
from diffguard_cli.free_folder import free_run
from diffguard_cli.run import Run
from diffguard_cli.scoring import ScoringRun
from lightning_modules.trainer import scoring_trainer


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
    cast_weights(diffusion.denoiser, weight_dtype(run.trainer.precision))
    models = Models(
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
    run = with_precision(run, models, identity, title)
    detector = calibrated(run, models, identity, title)
    save = rank_zero_only(detector.save)
    save(run.detector_file, classifier[1], diffusion.spec, run.config, weights=weights)


def calibrated(
    run: Run,
    models: Models,
    identity: Mapping[str, Any],
    title: str,
    reference: Reference | None = None,
    fits: Fits | None = None,
) -> Detector:
    """A detector calibrated on ID validation images; an interrupted calibration resumes.

    The scores go to `calibration` in the run's folder, or beside it if it holds other scores.

    Args:
        run: The run.
        models: The networks and settings.
        identity: Values that identify the models.
        title: Title of the progress bar.
        reference: Features of ID training images. If a baseline needs them, they default to those
            of `data`.
        fits: Fits of methods; the others are fitted on the training images of `data`.

    Raises:
        UserError: If the classifier and the data do not fit together, or scoring fails.
    """
    data, settings = run.data, models.settings
    trainer = scoring_trainer(run.trainer, title)
    models.to(trainer.strategy.root_device)
    identity = {**identity, "precision": run.trainer.precision}
    training, is_fitted = None, set(settings.fitted_methods) <= set(fits or {})
    if (reference is None and settings.needs_reference) or not is_fitted:
        # Lists are often sorted by class, so the first images would show only a few classes.
        images = data.id_stream("train", settings.reference_images).sets[0]
        identity["reference"] = images.identity()
        training = training_images(data)
    fitted = fit_models(
        models,
        data.stream_loader(data.id_stream("validation")),
        training,
        data.read_size,
        run.say,
        reference=reference,
        fits=fits,
        precision=trainer.precision_plugin.test_step_context,
        refuse=data.config.check_labels,
    )
    detector = Detector(**fitted.models.arguments, reference=fitted.reference, fits=fitted.fits)
    table = _score_validation(run, detector, identity, trainer, settings)
    scores = readable_scores(table) | fitted.validation_scores
    passes = torch.from_numpy(table.network_passes[table.valid])
    detector.calibration = fit_calibration(
        scores, detector.settings, run.say, fitted.features, passes, fitted.quality
    )
    return detector


def training_images(data: OODDataModule) -> TrainingImages:
    """The ID training images of a DataModule, without augmentation."""
    return TrainingImages(
        count=lambda: len(data.id_stream("train")),
        batches=lambda most: data.stream_loader(data.id_stream("train", most)),
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


def recalibrated(
    scoring: ScoringRun,
    make: Callable[[Path, Detector], ScoringRun],
    content: Mapping[str, Any],
    arguments: EvaluationArguments,
    difference: str,
    trainer: pl.Trainer,
) -> ScoringRun:
    """The same scoring run with a detector that is calibrated for changed settings or seed.

    Args:
        scoring: The scoring run with the checkpoint's detector.
        make: Makes a scoring run from its folder and its detector.
        content: The checkpoint's content.
        arguments: The command line.
        difference: What has changed, such as `detector.distances`, for the message.
        trainer: The trainer of the scoring run.

    Raises:
        UserError: If the folder belongs to another run, or the calibration fails.
    """
    # Refuse the folder of another run before the calibration, which takes long.
    scoring.check(trainer)
    old, folder, settings = scoring.detector, scoring.folder, arguments.detector
    run = Run(folder, arguments.data, arguments.trainer, old.seed, content["config"])
    same_images = settings.reference_images == old.settings.reference_images
    models = old.models.with_settings(settings)
    check_weights(settings.all_distances, settings.perceptual_weights)
    run.say(f"{difference} differs from the checkpoint: calibrating again")
    identity = {"checkpoint": scoring.identity["checkpoint"]}
    reference = old.reference if same_images else None
    # Methods may draw noise by the seed.
    is_reseeded = old.seed != content["seed"]
    fits = {} if is_reseeded else reusable_fits(old.fits, old.settings, settings)
    detector = calibrated(run, models, identity, "calibrate", reference, fits)
    return make(folder, detector)


def readable_scores(table: ScoreTable) -> dict[str, torch.Tensor]:
    """The scores of the images that could be read."""
    return {name: torch.from_numpy(values[table.valid]) for name, values in table.scores.items()}
