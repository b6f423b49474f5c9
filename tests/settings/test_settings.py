import json
from dataclasses import fields, is_dataclass

import pytest

from diffguard.errors import UserError
from diffguard.settings.detector import DetectorSettings, from_dict, to_dict
from diffguard.settings.sections import (
    CropSettings,
    EarlyStopSettings,
    GuidanceSettings,
    InversionSettings,
    SamplerSettings,
)

CHANGED = DetectorSettings(
    sampler=SamplerSettings(steps=7, spacing="stride", pairing="current", clip=True),
    inversion=InversionSettings(depth=0.4, condition="guided", scale=1.5),
    early_stop=EarlyStopSettings({"psnr": 20.0, "ssim": None}, mean_depth=0.3),
    guidance=GuidanceSettings(
        kind="classifier", scale=9.0, cam_cut=-0.2, crops=CropSettings(number=4, size=6), skip=2
    ),
    distances=["l2", "ssim"],
    unguided=["l2"],
    distance=["unguided/l2"],
    fused=[],
    decision="diffguard",
    vim_dim=12,
    perceptual_weights="weights",
)


@pytest.mark.parametrize("settings", [DetectorSettings(), CHANGED])
def test_settings_survive_plain_text(settings):
    plain = json.loads(json.dumps(to_dict(settings)))
    found = from_dict(plain)
    assert found == settings
    for one in fields(settings):
        assert type(getattr(found, one.name)) is type(getattr(settings, one.name))
    assert isinstance(found.guidance.crops, CropSettings)


def test_a_plain_copy_is_the_callers_own():
    settings = DetectorSettings()
    to_dict(settings)["distances"].append("ssim")
    assert settings == DetectorSettings()


def test_what_is_not_named_has_its_default():
    found = from_dict({"guidance": {"crops": {"number": 3}}, "knn_k": 5})
    assert found.guidance.crops == CropSettings(number=3)
    assert found.knn_k == 5
    assert found.guidance.scale == DetectorSettings().guidance.scale
    assert found.sampler == SamplerSettings()


def test_two_settings_share_no_list():
    first, second = DetectorSettings(), DetectorSettings()
    first.distances.append("ssim")
    first.early_stop.thresholds["psnr"] = 1.0
    assert second == DetectorSettings()


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"nope": 1}, "nope"),
        ({"sampler": {"step": 3}}, "step"),
        ({"guidance": {"crops": {"count": 3}}}, "count"),
    ],
)
def test_an_unknown_key_is_named_with_the_known_ones(values, key):
    with pytest.raises(UserError, match=f"'{key}' is not a detector setting, expected one of"):
        from_dict(values)


def test_every_setting_is_described():
    def check(settings):
        for one in fields(settings):
            assert f"    {one.name}: " in settings.__doc__, one.name
            if is_dataclass(getattr(settings, one.name)):
                check(getattr(settings, one.name))

    check(DetectorSettings())
