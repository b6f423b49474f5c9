import json
import pickle
from copy import deepcopy
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace

import pytest

from diffguard.diffusion.solver import EXACT
from diffguard.errors import UserError
from diffguard.settings.detector import DetectorSettings
from diffguard.settings.guidance import (
    FORMS,
    ClassifierFreeSettings,
    ClassifierGuidanceSettings,
    CropSettings,
)
from diffguard.settings.plain import from_dict, to_dict
from diffguard.settings.sections import (
    EarlyStopSettings,
    InversionSettings,
    SamplerSettings,
    SynthesisSettings,
)
from tests.helpers.tiny_detector import build_detector, small_settings

CHANGED = DetectorSettings(
    sampler=SamplerSettings(steps=7, spacing="stride", pairing="current", clip=True),
    inversion=InversionSettings(depth=0.4, condition="guided", scale=1.5),
    early_stop=EarlyStopSettings({"psnr": 20.0, "ssim": None}, mean_depth=0.3),
    synthesis=SynthesisSettings(skip=2),
    guidance=ClassifierGuidanceSettings(scale=9.0, crops=CropSettings(number=4, size=6)),
    label="oracle",
    distances=["l2", "ssim"],
    unguided=["l2"],
    distance=["unguided/l2"],
    fused=[],
    decision="diffguard",
    vim_dim=12,
    perceptual_weights="weights",
)


MASKED = DetectorSettings(guidance=ClassifierFreeSettings(scale=2.0, cam_cut=-0.2))


@pytest.mark.parametrize("settings", [DetectorSettings(), CHANGED, MASKED])
def test_settings_survive_plain_text(settings):
    plain = json.loads(json.dumps(to_dict(settings)))
    result = from_dict(plain)
    assert result == settings
    for entry in fields(settings):
        assert type(getattr(result, entry.name)) is type(getattr(settings, entry.name))
    assert set(plain) & set(FORMS) == {plain["guidance"]} == {settings.guidance.form}


def test_settings_are_copied_and_changed_as_data_classes_are():
    assert deepcopy(CHANGED) == CHANGED
    assert pickle.loads(pickle.dumps(CHANGED)) == CHANGED
    free = replace(CHANGED, guidance=ClassifierFreeSettings())
    assert to_dict(free)["guidance"] == "classifier_free"
    with pytest.raises(UserError, match=r"accept must lie between"):
        replace(CHANGED, accept=2.0)
    with pytest.raises(FrozenInstanceError):
        CHANGED.accept = 0.5


def test_a_plain_copy_is_the_callers_own():
    settings = DetectorSettings()
    to_dict(settings)["distances"].append("ssim")
    assert settings == DetectorSettings()


def test_what_is_not_named_has_its_default():
    result = from_dict(
        {"guidance": "classifier", "classifier": {"crops": {"number": 3}}, "knn_k": 5}
    )
    assert result.guidance.crops == CropSettings(number=3)
    assert result.knn_k == 5
    assert result.guidance.scale == ClassifierGuidanceSettings().scale
    assert result.sampler == SamplerSettings()


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
        ({"guidance": "classifier", "classifier": {"crops": {"count": 3}}}, "count"),
        ({"guidance": "classifier", "classifier": {"cam_cut": 0.5}}, "cam_cut"),
        ({"classifier_free": {"blend": False}}, "blend"),
    ],
)
def test_an_unknown_key_is_named_with_the_known_ones(values, key):
    with pytest.raises(UserError, match=f"'{key}' is not a detector setting, expected one of"):
        from_dict(values)


def test_every_setting_is_described():
    def check(settings):
        for entry in fields(settings):
            assert f"    {entry.name}: " in settings.__doc__, entry.name
            if is_dataclass(getattr(settings, entry.name)):
                check(getattr(settings, entry.name))

    check(DetectorSettings())
    check(DetectorSettings(guidance=ClassifierGuidanceSettings()))


@pytest.mark.parametrize("solver", EXACT)
def test_exact_solvers_need_the_levels_of_the_inversion(solver):
    values = {"sampler": {"solver": solver, "pairing": "current"}}
    with pytest.raises(UserError, match=f"solver {solver} needs detector.sampler.pairing target"):
        from_dict(values)
    for start in ({"extra_start": 1}, {"skip": 0}):
        values = {"sampler": {"solver": solver}, "synthesis": start}
        with pytest.raises(UserError, match=f"solver {solver} returns from the level.*leave out"):
            from_dict(values)


def test_a_quality_that_is_switched_off_is_not_measured(images):
    stop = EarlyStopSettings(thresholds={"psnr": 9.0, "ssim": None})
    detector = build_detector(small_settings(early_stop=stop))
    measured = []
    for name, quality in detector.models.qualities.items():
        detector.models.qualities[name] = lambda *views, n=name, q=quality: (
            measured.append(n),
            q(*views),
        )[1]
    detector.score(images[:4])
    assert set(measured) == {"psnr"}
