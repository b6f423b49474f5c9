"""The work of each score: exact numbers of passes, and times that are not zero."""

from contextlib import contextmanager

import pytest
import torch

from diffguard.methods.items import Item
from diffguard.settings.fusion import FusionSettings
from diffguard.settings.guidance import (
    ClassifierFreeSettings,
    ClassifierGuidanceSettings,
    CropSettings,
)
from diffguard.settings.reconstruction_methods import LmdSettings
from diffguard.settings.sections import EarlyStopSettings, InversionSettings
from tests.helpers.tiny_detector import build_detector, small_settings

IMAGES = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(5))
EARLY = EarlyStopSettings(thresholds={"psnr": 8.0})


def settings_of(**changes):
    return small_settings(inversion=InversionSettings(depth=1.0), **changes)


def scored(detector, **options):
    """Rows, and the work."""
    stream = detector.stream(8, **options)
    items = [Item(image, index=i) for i, image in enumerate(IMAGES)]
    rows = [image.row for image in stream.push(items) + stream.flush()]
    return rows, stream.meter.work(stream.engine.rows)


def total(work, field, score=None):
    return sum(getattr(w, field) for w in work if score is None or score in w.needed_by)


@contextmanager
def calls_of(network):
    """Images that a network sees, and images whose output is differentiated."""
    counts = {"forward": 0, "backward": 0}

    def hook(_module, inputs, output):
        counts["forward"] += len(inputs[0])
        if output.requires_grad:
            rows = len(output)
            output.register_hook(
                lambda _: counts.__setitem__("backward", counts["backward"] + rows)
            )

    handle = network.register_forward_hook(hook)
    yield counts
    handle.remove()


DETECTORS = {
    "classifier-free": {"baselines": ["msp", "odin", "knn"], "unguided": ["l2"]},
    "masked": {"guidance": ClassifierFreeSettings(scale=2.0, cam_cut=0.2)},
    "classifier": {
        # Every call is full, so that none of the passes is padding.
        "guidance": ClassifierGuidanceSettings(scale=1.0, crops=CropSettings(number=3, size=4)),
    },
    "early stop": {"early_stop": EarlyStopSettings(thresholds={"psnr": 8.0, "logits_l1": 0.0})},
    "methods": {
        "methods": ["diffguard", "guidance_norm", "diffnb", "lmd"],
        "lmd": LmdSettings(repeats=1, distance="l2"),
        "unguided": ["l2"],
        "early_stop": EARLY,
    },
}


@pytest.mark.parametrize("name", DETECTORS)
def test_all_passes_are_counted(name):
    detector = build_detector(settings_of(**DETECTORS[name]))
    with calls_of(detector.classifier.network) as calls:
        rows, work = scored(detector)
    assert total(work, "diffusion_passes") == sum(row.network_passes for row in rows)
    assert total(work, "classifier_passes") == calls["forward"]
    assert total(work, "gradients") == calls["backward"]
    assert total(work, "images") == len(IMAGES)
    for part in work:
        assert part.seconds > 0
        assert not (part.diffusion_passes and part.part != "diffusion")


def test_a_score_takes_the_passes_of_a_run_for_it_alone():
    detector = build_detector(settings_of(**DETECTORS["methods"]))
    _, work = scored(detector)
    passes = {}
    for name in detector.score_names(derived=False):
        alone, its_work = scored(detector, only=name)
        passes[name] = total(work, "diffusion_passes", name)
        assert passes[name] == sum(row.network_passes for row in alone)
        assert total(its_work, "diffusion_passes", name) == passes[name]
    assert passes["msp"] == 0 < passes["diffguard/l2"] < passes["diffguard/unguided/l2"]
    assert total(work, "classifier_passes", "msp") == len(IMAGES)


def test_clear_images_of_a_cascade_take_no_passes_of_the_diffusion_model():
    fusion = FusionSettings("cascade", band=[0.3, 0.9])
    rows, work = scored(build_detector(settings_of(fusion=fusion)))
    doubtful = sum(row.stage == 2 for row in rows)
    assert 0 < doubtful < len(rows)
    assert total(work, "diffusion_passes") == sum(row.network_passes for row in rows)
    # The distances classify reconstructions of images in doubt alone.
    assert total(work, "classifier_passes") == len(rows) + doubtful
