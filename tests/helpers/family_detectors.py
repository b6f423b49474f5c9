"""A fast detector with a diffusion model of any family."""

from diffguard.detector import Detector
from diffguard.settings.guidance import ClassifierFreeSettings, ClassifierGuidanceSettings
from diffguard.settings.sections import InversionSettings, SamplerSettings
from tests.helpers.tiny_detector import small_settings
from tests.helpers.tiny_families import CLASSES
from tests.helpers.tiny_models import tiny_classifier


def settings_for(denoiser, **changes):
    free = denoiser.null_class is not None
    form = ClassifierFreeSettings if free else ClassifierGuidanceSettings
    return small_settings(
        sampler=SamplerSettings(steps=3),
        inversion=InversionSettings(depth=0.67),
        guidance=form(scale=3.0, **changes),
        distances=["l2"],
        distance=["l2"],
        unguided=["l2"],
        baselines=["msp"],
        fused=[],
        decision="diffguard",
    )


def detector_of(denoiser, **changes):
    classifier = tiny_classifier(denoiser.num_classes or CLASSES)
    return Detector(
        classifier, denoiser, settings_for(denoiser, **changes), image_size=16, image_channels=3
    )
