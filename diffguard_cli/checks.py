"""Checks of the data and the classifier before training."""

from __future__ import annotations

import torch

from diffguard.classifiers.build import build_classifier
from diffguard.classifiers.preprocessing import assumptions
from diffguard.errors import UserError
from diffguard.methods.checks import check_steps, sees_labels
from diffguard.methods.classifier_trial import try_classifier
from diffguard.scores.baseline_checks import check_classes, check_head_baselines, check_neighbors
from diffguard.settings.detector import DetectorSettings
from diffguard_cli.classifier_model import classifier_spec, load_classifier
from diffguard_cli.config import ClassifierConfig, DiffusionConfig
from diffguard_cli.diffusion_model import load_trained, to_train
from diffguard_cli.run import Run

# Number of images that try out an untrained network.
_TRIAL_IMAGES = 2


def check_data(run: Run, settings: DetectorSettings | None) -> None:
    """Check the labels of the training and validation images.

    Args:
        run: The run.
        settings: The detector's settings; None if no detector is made.

    Raises:
        UserError: If there are fewer than two classes, a label exceeds the classes, a class lacks
            images for a baseline that is fitted per class, or there are fewer images than
            neighbors.
    """
    data = run.data
    if data.num_classes < 2:
        raise UserError(
            f"the ID data have one class ({data.class_names[0]}): expected two or more, as "
            "sub-folders of data.id.train or in data.class_names"
        )
    for part in ("train", "validation"):
        if not data.sets.id.source(part):
            continue
        present = set(data.id_stream(part).sets[0].labels.tolist())
        empty = [name for k, name in enumerate(data.class_names) if k not in present]
        if empty:
            run.say(
                f"note: {len(empty)} of {data.num_classes} classes have no ID {part} images: "
                f"{', '.join(map(str, empty[:5]))}{', …' if len(empty) > 5 else ''}"
            )
    if settings is not None and settings.needs_reference and data.sets.id.source("train"):
        reference = data.id_stream("train", settings.reference_images).sets[0]
        check_classes(settings.baselines, reference.labels, data.class_names)
        images = len(data.id_stream("train"))
        check_neighbors(settings.baselines, settings.baseline_parameters, images)


def check_untrained(run: Run, config: ClassifierConfig, settings: DetectorSettings | None) -> None:
    """Try out the classifier, with random weights if it is still to be trained.

    Args:
        run: The run.
        config: The `classifier` section.
        settings: The detector's settings; None if no detector is made.

    Raises:
        UserError: If the detector cannot use this classifier.
    """
    with torch.random.fork_rng(devices=[]):
        if config.ckpt is None:
            spec = classifier_spec(config, run.data)
            classifier = build_classifier(spec, trusted=[config.arch]).eval()
        else:
            classifier = load_classifier(run, config)[0].eval()
        side = run.data.image_size
        images = torch.rand(_TRIAL_IMAGES, run.data.channels, side, side)
    if settings is None:
        settings = DetectorSettings(baselines=[], fused=[], decision="diffguard")
    if config.cam_layer is not None:
        classifier.layer(config.cam_layer)
    check_head_baselines(settings.baselines, classifier.head, settings.baseline_parameters)
    try_classifier(classifier, images, settings)


def check_given_diffusion(run: Run, config: DiffusionConfig, settings: DetectorSettings) -> None:
    """Load the diffusion model of the config before training, which may take hours.

    Args:
        run: The run.
        config: The `diffusion` section.
        settings: The detector's settings.

    Raises:
        UserError: If it cannot be loaded, or does not fit the data or the settings.
    """
    with torch.random.fork_rng(devices=[]):
        if config.ckpt is not None:
            model = load_trained(run, config, same_classes=sees_labels(settings)).denoiser
        elif config.finetune is not None:
            model = to_train(run, config)[0]
        else:
            return
    check_steps(settings, len(model.schedule))


def report_assumptions(run: Run, config: ClassifierConfig) -> None:
    """Report the preprocessing assumed for a classifier without published values."""
    channels = config.channels or run.data.channels
    if line := assumptions(config.arch, run.data.num_classes, channels, config.mean):
        run.say(line)
