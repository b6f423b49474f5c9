"""The last stage: ID images tell a detector its baselines' reference, depth and threshold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from diffguard.batching import ROW_MULTIPLE, in_fixed_batches, padded
from diffguard.checkpoint.file import diffusion_weights, save_detector, timed_cnn
from diffguard.classifiers.build import ClassifierSpec
from diffguard.classifiers.check import check_head, check_labels
from diffguard.classifiers.classifier import Classifier, ClassifierOutput
from diffguard.denoisers.base import Denoiser
from diffguard.denoisers.custom import weight_parts
from diffguard.detector import Detector
from diffguard.diffusion.ddim import invert
from diffguard.diffusion.early_stop import calibrate_thresholds
from diffguard.engine.reproducible import reproducible
from diffguard.errors import UserError
from diffguard.methods.checks import check_settings
from diffguard.methods.classifier_trial import looks_like_sigmoid, try_classifier
from diffguard.score_table.table import ScoreTable
from diffguard.scores.baselines import (
    FEATURE_BASELINES,
    HEAD_BASELINES,
    Reference,
    check_head_baselines,
)
from diffguard.scores.calibration import ENOUGH_IMAGES, Calibration
from diffguard.settings.detector import DetectorSettings, from_dict, to_dict
from diffguard.storage.weights import load_tensors, weights_hash
from diffguard_cli.models import LoadedDiffusion
from diffguard_cli.run import Run
from diffguard_cli.scoring import ScoringRun, free_run
from lightning_modules.trainer import cast_weights, scoring_trainer

Warn = Callable[[str], None]


def calibrate(
    run: Run,
    settings: DetectorSettings,
    classifier: tuple[Classifier, ClassifierSpec],
    diffusion: LoadedDiffusion,
    title: str,
) -> None:
    """Score the ID validation images, and keep the detector with what they tell."""
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
        save_detector(
            run.detector_file,
            detector,
            classifier[1],
            diffusion.spec,
            run.config,
            weights=weights,
        )


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
    """A detector calibrated on ID validation images; one that was interrupted goes on.

    Args:
        run: The run.
        settings: The detector's settings.
        classifier: The protected classifier.
        denoiser: The diffusion model.
        noisy_classifier: The classifier of noisy images, if there is one.
        title: What the progress bar calls it.
        folder: Where the scores go, to `calibration`, or beside it where that holds others.
        identity: What tells the models from others.
        reference: Features of ID training images; None computes them if a baseline needs them.
    """
    data = run.data
    # What is plain below must not hide a mistake until the images are scored.
    check_settings(settings, data.image_size)
    given: dict[str, Any] = {
        "image_size": data.image_size,
        "image_channels": data.channels,
        "noisy_classifier": noisy_classifier,
        "seed": run.seed,
    }
    trainer = scoring_trainer(run.trainer, title)
    asked, settings = settings, from_dict(to_dict(settings))
    plain = from_dict({**to_dict(settings), "baselines": [], "fused": [], "decision": "diffguard"})
    bare = Detector(classifier, denoiser, plain, **given)
    bare.to(trainer.strategy.root_device)
    precision = trainer.precision_plugin.test_step_context
    loader = data.stream_loader(data.id_stream("validation"))
    check_classifier(bare, loader, settings, data.read_size, run.say)
    identity = {**identity, "precision": run.trainer.precision}
    if reference is None and needs_reference(settings):
        # Lists are often sorted by class: the first images would be of a few classes only.
        stream = data.id_stream("train", settings.reference_images)
        identity["reference"] = stream.sets[0].fingerprint()
        with precision():
            reference = fit_reference(bare, data.stream_loader(stream), data.read_size)
    if settings.early_stop.mean_depth is not None:
        loader = data.stream_loader(data.id_stream("validation"))
        with precision():
            settings.early_stop.thresholds |= fit_early_stop(bare, loader, data.read_size)
    detector = Detector(classifier, denoiser, settings, reference=reference, **given)
    table = ScoreTable.read(
        free_run(
            folder / "calibration",
            trainer,
            lambda place: ScoringRun(
                detector,
                data,
                data.id_stream("validation"),
                place,
                identity,
                derive=False,
                settings=asked,
                threads=run.trainer.threads,
            ),
        ).run(trainer)
    )
    detector.calibration = fit_calibration(table, settings, run.say)
    return detector


@reproducible()
def fit_reference(detector: Detector, loader: Any, batch_size: int) -> Reference:
    """Features of ID training images for the feature baselines.

    Args:
        detector: A detector without feature baselines, on its device.
        loader: ID training images, not shuffled and not augmented.
        batch_size: Rows of each classifier call.
    """
    features, labels = [], []
    for output, true in _classified(detector, loader, batch_size):
        features.append(output.features.float().cpu())
        labels.append(true)
    return Reference(torch.cat(features), torch.cat(labels))


@reproducible()
def check_classifier(
    detector: Detector, loader: Any, settings: DetectorSettings, batch_size: int, warn: Warn
) -> None:
    """Make sure that the classifier knows the ID validation images, before they are scored.

    Raises:
        UserError: If its classes are in another order, its outputs are not logits or differ from
            pass to pass, a gradient in use is cut, or a baseline needs another last layer.
    """
    classifier = detector.classifier
    check_head_baselines(settings.baselines, classifier.head, settings.vim_dim)
    needs_head = [name for name in settings.baselines if name in HEAD_BASELINES]
    labels, predictions, sigmoid = [], [], True
    for images, true in _readable(loader):
        images = images.to(detector.device)
        if not labels:
            try_classifier(classifier, padded(images[:ROW_MULTIPLE], ROW_MULTIPLE), settings)
        output = detector.classify(images, batch_size)
        check_head(classifier.head, output, needs_head)
        sigmoid &= looks_like_sigmoid(output.logits)
        labels.append(true.cpu())
        predictions.append(output.logits.argmax(1).cpu())
    if not labels:
        raise UserError("no ID validation image can be read: check data.id.validation")
    if sigmoid:
        warn(
            "warning: all outputs of the classifier lie between 0 and 1, as behind a sigmoid, and "
            "are taken for logits: if they are not, take the sigmoid out of its forward"
        )
    names = classifier.class_names
    if warning := check_labels(torch.cat(labels), torch.cat(predictions), names):
        warn(warning)


def _classified(
    detector: Detector, loader: Any, batch_size: int
) -> Iterator[tuple[ClassifierOutput, torch.Tensor]]:
    """What the classifier makes of each batch, with the labels; unreadable images are left out."""
    for images, labels in _readable(loader):
        yield detector.classify(images.to(detector.device), batch_size), labels.cpu()


@reproducible()
def fit_early_stop(detector: Detector, loader: Any, batch_size: int) -> dict[str, float]:
    """Thresholds at which ID validation images stop, on average, at the depth asked for."""
    settings = detector.settings
    if settings.early_stop.mean_depth is None:
        return {}
    denoiser, plan, cap = detector.denoiser, detector.plan, detector.max_steps
    measures = detector.qualities

    def trace(images: torch.Tensor) -> torch.Tensor:
        clean = denoiser.encode(images)
        seen = denoiser.preview(clean)
        labels = detector.classifier(images).argmax(1)
        noise = partial(detector.inversion_noise, labels=labels)
        states = invert(noise, clean, plan, cap, clip=settings.sampler.clip)
        steps = [
            torch.stack([quality(denoiser.preview(x), seen) for quality in measures.values()], 1)
            for x in states
        ]
        return torch.stack(steps, dim=2)  # (N, M, S)

    traces = [
        in_fixed_batches(trace, images.to(detector.device), batch_size).cpu()
        for images, _ in _readable(loader)
    ]
    mean_steps = settings.early_stop.mean_depth * len(plan)
    # (N, M, S) -> (S, M, N)
    thresholds = calibrate_thresholds(torch.cat(traces).transpose(0, 2), mean_steps, cap)
    return dict(zip(measures, thresholds, strict=True))


def _readable(loader: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Images and labels of the batches, without the images that could not be read."""
    for batch in loader:
        kept = torch.tensor([not error for error in batch["error"]])
        if kept.any():
            yield batch["image"][kept], batch["label"][kept]


def fit_calibration(table: ScoreTable, settings: DetectorSettings, warn: Warn) -> Calibration:
    """Calibrate from the score table of ID validation images, those that could be read."""
    scores = {name: torch.from_numpy(values[table.valid]) for name, values in table.scores.items()}
    calibration = Calibration.fit(scores, settings)
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
