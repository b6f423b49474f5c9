"""Whether a network can serve as the protected classifier, tried on a few images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffguard.classifiers.cam import grad_cam
from diffguard.classifiers.classifier import Classifier
from diffguard.classifiers.layer_masking import layer_masked
from diffguard.errors import UserError
from diffguard.scores.baseline_checks import SUMMED_BASELINES, check_activations
from diffguard.scores.baseline_table import BASELINES
from diffguard.settings.detector import DetectorSettings
from diffguard.settings.guidance import ClassifierFreeSettings

# Rounding errors of outputs, as a share of the largest.
_ROUNDING = 1e-3


def try_classifier(classifier: Classifier, images: Tensor, settings: DetectorSettings) -> None:
    """Make sure that a classifier gives logits, the same ones twice, and the gradients in use.

    Args:
        classifier: The classifier, in evaluation mode.
        images: Some images `(N, C, H, W)` in [0, 1].
        settings: The detector's settings: which gradients and baselines are in use.

    Raises:
        UserError: One line that says what the network does instead.
    """
    with torch.no_grad():
        logits, again = classifier(images).float(), classifier(images).float()
    if not logits.isfinite().all():
        raise UserError(
            "the classifier gives outputs that are not finite: check its weights and its "
            "preprocessing (mean and std)"
        )
    if float((logits - again).abs().max()) > _ROUNDING * float(logits.abs().max()):
        raise UserError(
            "the classifier returns different outputs for the same images: expected a "
            "network without randomness in evaluation mode, such as nn.Dropout instead of "
            "F.dropout without `training=self.training`"
        )
    _check_logits(logits, settings.baselines)
    _check_baselines(classifier, images, settings.baselines)
    if settings.comparison.masking != "none":
        _check_gradient(classifier, images, "detector.comparison.masking")
        cam = grad_cam(classifier, images, logits.argmax(1))
        if settings.comparison.masking == "layers":
            layer_masked(classifier, images, cam > 0)
    guidance = settings.guidance
    if isinstance(guidance, ClassifierFreeSettings):
        if guidance.cam_cut is not None:
            _check_gradient(classifier, images, "detector.classifier_free.cam_cut")
            grad_cam(classifier, images, logits.argmax(1))
    elif guidance.model == "protected":
        _check_gradient(classifier, images, "detector.guidance classifier")


def looks_like_sigmoid(logits: Tensor) -> bool:
    """Whether outputs `(N, K)` of many images all lie in [0, 1], as behind a sigmoid."""
    return bool(((logits >= 0) & (logits <= 1)).all())


def _check_logits(logits: Tensor, baselines: Sequence[str]) -> None:
    sums = logits.sum(1)
    if (logits >= 0).all() and ((sums - 1).abs() < _ROUNDING).all():
        raise UserError(
            "the classifier gives probabilities (its outputs are at least 0 and their sum is 1), "
            "expected logits: take the softmax out of its forward"
        )
    if "energy" in baselines and (logits.logsumexp(1).abs() < _ROUNDING).all():
        raise UserError(
            "the classifier gives log-probabilities, whose baseline energy is always 0: take "
            "the log-softmax out of its forward, or leave energy out of detector.baselines"
        )


def _check_baselines(classifier: Classifier, images: Tensor, baselines: Sequence[str]) -> None:
    if set(baselines) & set(SUMMED_BASELINES):
        with torch.no_grad():
            check_activations(baselines, classifier.forward_features(images).features)
    for name in baselines:
        if BASELINES[name].input == "images":
            _check_gradient(classifier, images, f"baseline {name}")


def _check_gradient(classifier: Classifier, images: Tensor, setting: str) -> None:
    with torch.enable_grad():
        x = images.detach().clone().requires_grad_()
        logits = classifier(x)
        gradient = None
        if logits.requires_grad:
            (gradient,) = torch.autograd.grad(logits.sum(), x, allow_unused=True)
    if gradient is None:
        raise UserError(
            "the classifier's outputs have no gradient with respect to the images, which "
            f"{setting} needs: take torch.no_grad, .detach() and the like out of its forward"
        )
