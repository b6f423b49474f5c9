"""A quick detector on a diffusion model of any family."""

from conftest import small_settings
from tiny_families import CLASSES
from tiny_models import tiny_classifier

from diffguard.detector import Detector
from diffguard.settings import GuidanceSettings, InversionSettings, SamplerSettings


def settings_for(denoiser, **changes):
    kind = "classifier" if denoiser.null_class is None else "classifier_free"
    return small_settings(
        sampler=SamplerSettings(steps=3),
        inversion=InversionSettings(depth=0.67),
        guidance=GuidanceSettings(kind=kind, scale=3.0, **changes),
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
