"""Which scores depend on the seed of a detector."""

import pytest
import torch

from diffguard.methods.items import Item
from diffguard.methods.seed_use import depends_on_seed
from diffguard.settings.guidance import ClassifierGuidanceSettings, CropSettings
from diffguard.settings.reconstruction_methods import LmdSettings
from tests.helpers.tiny_detector import build_detector, small_settings

IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def guided(**crops):
    return ClassifierGuidanceSettings(scale=2.0, crops=CropSettings(number=2, size=4, **crops))


def scores_with(detector, seed):
    detector.models.seed = seed
    stream = detector.stream(8, derive=False)
    items = [Item(image, index=place) for place, image in enumerate(IMAGES)]
    rows = [image.row for image in stream.push(items) + stream.flush()]
    return {row.index: row.scores for row in rows}


@pytest.mark.parametrize(
    ("changes", "depends"),
    [
        ({}, False),
        ({"methods": ["diffguard", "guidance_norm"]}, False),
        ({"methods": ["diffguard", "minority"]}, True),
        ({"methods": ["diffguard", "diffnb"]}, True),
        ({"methods": ["diffguard", "lmd"], "lmd": LmdSettings(distance="l2")}, True),
        ({"guidance": guided()}, True),
        ({"guidance": guided(shared=True)}, False),
        ({"label": "oracle"}, True),
    ],
)
def test_the_seed_changes_scores_if_and_only_if_a_method_draws_by_it(changes, depends):
    detector = build_detector(small_settings(**changes), calibrated=False)
    assert depends_on_seed(detector.models) == depends
    assert (scores_with(detector, 0) != scores_with(detector, 1)) == depends
