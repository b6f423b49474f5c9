"""The classifier that a config describes or names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffguard.classifiers.build import build_classifier
from diffguard.classifiers.classifier import Classifier
from diffguard.classifiers.spec import ClassifierSpec, resolve_spec
from diffguard.classifiers.weights import load_weights
from diffguard.errors import UserError
from diffguard_cli.config import ClassifierConfig
from diffguard_cli.run import Run


def classifier_spec(config: ClassifierConfig, data: Any) -> ClassifierSpec:
    """The complete spec of a config's classifier.

    Published values are resolved now, because libraries may change them later.
    """
    spec = ClassifierSpec(
        arch=config.arch,
        num_classes=data.num_classes,
        kwargs=dict(config.kwargs),
        channels=config.channels or data.channels,
        size=config.size,
        resize=config.resize,
        interpolation=config.interpolation,
        mean=config.mean,
        std=config.std,
        feature_layer=config.feature_layer,
        cam_layer=config.cam_layer,
        class_names=list(data.class_names),
    )
    return resolve_spec(spec)


def load_classifier(run: Run, config: ClassifierConfig) -> tuple[Classifier, ClassifierSpec]:
    """Load the classifier of this run, or of `classifier.ckpt`.

    Raises:
        UserError: If it does not exist, or its weights do not fit.
    """
    spec = classifier_spec(config, run.data)
    if config.ckpt is None and config.pretrained and not run.classifier_file.is_file():
        return build_classifier(spec, pretrained=True), spec
    path = Path(config.ckpt) if config.ckpt else run.classifier_file
    if config.ckpt is None and not path.is_file():
        raise UserError(
            f"{run.folder} has no trained classifier: add classifier to stages, or name its "
            "weights in classifier.ckpt"
        )
    classifier = build_classifier(spec, trusted=[config.arch])
    load_weights(classifier, path, config.arch)
    return classifier, spec
