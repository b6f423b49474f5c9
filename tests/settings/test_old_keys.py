"""Settings with the keys of earlier versions are refused with the new keys, or translated."""

import json

import pytest
import torch

from diffguard.checkpoint.file import read_checkpoint
from diffguard.errors import UserError
from diffguard.settings.detector import DetectorSettings
from diffguard.settings.guidance import (
    ClassifierFreeSettings,
    ClassifierGuidanceSettings,
    CropSettings,
)
from diffguard.settings.old_keys import refuse_old_option, translated
from diffguard.settings.plain import from_dict, to_dict
from diffguard.settings.sections import SynthesisSettings
from tests.helpers.format1 import FOLDER
from tests.helpers.old_settings import version_2

SETTINGS = [
    DetectorSettings(),
    DetectorSettings(guidance=ClassifierFreeSettings(2.0, cam_cut=0.3)),
    DetectorSettings(guidance=ClassifierGuidanceSettings(crops=CropSettings(2, 6, shared=True))),
    DetectorSettings(
        synthesis=SynthesisSettings(skip=3),
        guidance=ClassifierGuidanceSettings(2.0, model="noisy", blend=False),
        label="oracle",
    ),
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_settings_of_version_2_are_translated(settings):
    plain = to_dict(settings)
    assert translated(version_2(plain)) == plain
    # A manifest is compared with the order of its keys.
    assert json.dumps(translated(version_2(plain))) == json.dumps(plain)
    assert translated(plain) == plain


@pytest.mark.parametrize("guidance", [None, 3, "classifier", {}, {"kind": []}, {"kind": "free"}])
def test_settings_that_are_not_of_version_2_are_left_to_the_reader(guidance):
    translated({"guidance": guidance})


@pytest.mark.parametrize(
    ("key", "new"),
    [
        ("kind", "detector.guidance.kind is now detector.guidance"),
        ("scale", "detector.classifier_free.scale or detector.classifier.scale"),
        ("cam_cut", "detector.classifier_free.cam_cut"),
        ("classifier", "detector.guidance.classifier is now detector.classifier.model"),
        ("blend", "detector.classifier.blend"),
        ("crops", "detector.classifier.crops"),
        ("extra_start", "detector.synthesis.extra_start"),
        ("skip", "detector.synthesis.skip"),
        ("label", "detector.label"),
    ],
)
def test_an_old_key_is_refused_with_the_new_one(key, new):
    with pytest.raises(UserError) as error:
        from_dict({"guidance": {key: None}})
    assert str(error.value).endswith(new)
    for word in (f"--detector.guidance.{key}", f"--detector.guidance.{key}=1"):
        with pytest.raises(UserError) as error:
            refuse_old_option(word)
        assert str(error.value).endswith(new)


def test_old_keys_are_named_with_their_subkeys_and_all_at_once():
    with pytest.raises(
        UserError, match=r"crops\.number is now detector\.classifier\.crops\.number$"
    ):
        refuse_old_option("--detector.guidance.crops.number=3")
    line = (
        "detector.guidance.kind is now detector.guidance; "
        "detector.guidance.scale is now detector.classifier.scale"
    )
    with pytest.raises(UserError, match=f"^{line}$"):
        from_dict({"guidance": {"kind": "classifier", "scale": 2.0}})
    refuse_old_option("--detector.guidance=classifier")
    refuse_old_option("--detector.guidance.scal=1")


def test_crops_without_effect_in_an_old_checkpoint_are_the_defaults(tmp_path):
    content = torch.load(FOLDER / "format1_classifier.ckpt", weights_only=True)
    for crops, kept in (({"number": 0, "size": 5}, {}), ({"number": 2, "size": 5}, {"size": 5})):
        content["settings"]["guidance"]["crops"] |= {
            **crops,
            "shared": False,
            "seed": 4,
            "reduction": "mean",
        }
        torch.save(content, tmp_path / "old.ckpt")
        cleaned = read_checkpoint(tmp_path / "old.ckpt")["settings"]["classifier"]["crops"]
        assert CropSettings(**cleaned) == CropSettings(crops["number"], **kept)
