"""Every setting of a detector changes its results, or is refused where it cannot."""

import math
from copy import deepcopy
from dataclasses import fields, is_dataclass

import pytest
import torch

from diffguard.checkpoint.file import read_checkpoint
from diffguard.classifiers.small_cnn import TimedCNN
from diffguard.detector import Detector
from diffguard.errors import UserError
from diffguard.settings.checks import check_settings
from diffguard.settings.detector import DetectorSettings, from_dict, to_dict
from tests.helpers.format1 import FOLDER
from tests.helpers.tiny_detector import build_detector

FREE = {
    "sampler": {"steps": 6},
    "inversion": {"depth": 0.67, "condition": "guided", "scale": 1.5},
    "early_stop": {"thresholds": {"psnr": 4.0}},
    "guidance": {"scale": 2.0, "cam_cut": 0.3},
    "distances": ["logits_l1", "l2"],
    "unguided": ["l2"],
    "distance": ["logits_l1", "l2"],
    "combine": "tandem",
    "baselines": ["msp", "knn", "vim"],
    "fused": ["knn"],
    "knn_k": 3,
}
GUIDED = {
    **FREE,
    "inversion": {"depth": 0.5},
    "guidance": {
        "kind": "classifier",
        "scale": 2.0,
        "crops": {"number": 2, "size": 6, "shared": True},
    },
}
WHOLE = {**GUIDED, "guidance": {"kind": "classifier", "scale": 2.0}}
# Setting -> the settings beside which it has an effect, and another value of it.
CHANGES = {
    "sampler.steps": (FREE, 8),
    "sampler.spacing": (FREE, "shifted"),
    "sampler.pairing": (FREE, "current"),
    "sampler.first_level": (FREE, "first"),
    "sampler.clip": (FREE, True),
    "inversion.depth": (FREE, 0.34),
    "inversion.condition": (WHOLE, "label"),
    "inversion.scale": (FREE, 3.0),
    "early_stop.thresholds": (FREE, {"psnr": 5.0}),
    "guidance.kind": (FREE, "classifier"),
    "guidance.scale": (FREE, 4.0),
    "guidance.cam_cut": (FREE, None),
    "guidance.classifier": (GUIDED, "noisy"),
    "guidance.blend": (WHOLE, False),
    "guidance.crops.number": (GUIDED, 3),
    "guidance.crops.size": (GUIDED, 5),
    "guidance.crops.reduction": (GUIDED, "sum"),
    "guidance.crops.shared": (GUIDED, False),
    "guidance.crops.seed": (GUIDED, 7),
    "guidance.extra_start": (FREE, 1),
    "guidance.skip": (FREE, 1),
    "guidance.label": (FREE, "oracle"),
    "distances": (FREE, ["logits_l1", "l2", "l1"]),
    "unguided": (FREE, ["l2", "l1"]),
    "distance": (FREE, ["l2", "logits_l1"]),
    "combine": (FREE, "mean"),
    "tandem_band": (FREE, [0.2, 0.8]),
    "baselines": (FREE, ["msp", "knn", "vim", "mls"]),
    "fused": (FREE, ["knn", "vim"]),
    "decision": (FREE, "diffguard"),
    "accept": (FREE, 0.5),
    "knn_k": (FREE, 5),
    "vim_dim": (FREE, 3),
}
# What calibration does with them, and what only makes a detector faster, is tested elsewhere.
ELSEWHERE = {
    "early_stop.mean_depth",
    "reference_images",
    "perceptual_weights",
    "compile",
    "channels_last",
}


def with_value(values, name, value):
    values = deepcopy(values)
    *path, last = name.split(".")
    section = values
    for key in path:
        section = section.setdefault(key, {})
    section[last] = value
    return values


def names_of(settings, before=""):
    for one in fields(settings):
        value = getattr(settings, one.name)
        if is_dataclass(value):
            yield from names_of(value, f"{before}{one.name}.")
        else:
            yield before + one.name


def outcome(values, images):
    """Everything that a detector says of images."""
    settings = from_dict(values)
    detector = build_detector(settings, noisy_classifier=TimedCNN(3, 1, 4))
    rows = [one.row for one in detector.score_images(images)]
    limit = detector.calibration.threshold(settings.decision, settings.accept)
    decided = [(row.scores[settings.decision], limit) for row in rows]
    return [(row.scores, row.stop_step, row.network_passes) for row in rows], decided


def test_all_settings_are_named_here():
    assert {*CHANGES, *ELSEWHERE} == set(names_of(DetectorSettings()))


@pytest.fixture(scope="module")
def outcomes():
    """Outcomes by settings; each is computed once."""
    return {}


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_that_is_taken_has_an_effect(name, outcomes, images):
    values, other = CHANGES[name]
    changed = with_value(values, name, other)
    if name == "guidance.classifier":
        changed["guidance"]["blend"] = False
    if name == "guidance.kind":
        changed["guidance"]["cam_cut"] = None
    for one in (values, changed):
        if str(one) not in outcomes:
            outcomes[str(one)] = outcome(one, images[:4])
    assert outcomes[str(values)] != outcomes[str(changed)]


PLAIN = {"guidance": {"kind": "classifier"}}
IDLE = [
    ({}, "guidance.blend", False, "guidance.kind classifier"),
    ({}, "guidance.crops.size", 6, "crops.number above 0"),
    ({}, "guidance.crops.reduction", "sum", "crops.number above 0"),
    ({}, "guidance.crops.shared", True, "crops.number above 0"),
    ({}, "guidance.crops.seed", 3, "crops.shared true"),
    (PLAIN, "guidance.crops.size", 6, "crops.number above 0"),
    (with_value(GUIDED, "guidance.crops.shared", False), "guidance.crops.seed", 3, "shared true"),
    (with_value({}, "guidance.skip", 2), "guidance.extra_start", 1, "without .*skip"),
    ({}, "inversion.scale", 2.0, "inversion.condition guided"),
    (with_value({}, "inversion.condition", "label"), "inversion.scale", 2.0, "condition guided"),
    ({}, "tandem_band", [0.4, 0.9], "combine tandem"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "name", "value", "said"), IDLE)
def test_a_setting_without_effect_is_refused(values, name, value, said):
    default = DetectorSettings()
    for key in name.split("."):
        default = getattr(default, key)
    check_settings(from_dict(with_value(values, name, default)), 8)
    with pytest.raises(UserError, match=f"detector.{name} .* has no effect here.*{said}") as error:
        check_settings(from_dict(with_value(values, name, value)), 8)
    assert "\n" not in str(error.value)


BAD = [
    ("guidance.scale", -1.0, "guidance.scale must be at least 0"),
    ("inversion.scale", -1.0, "inversion.scale must be at least 0"),
    ("sampler.steps", 0, "sampler.steps must be at least 1"),
    ("tandem_band", [], "must be two rising shares"),
    ("tandem_band", [0.5], "must be two rising shares"),
    ("tandem_band", [0.5, 0.9, 0.95], "must be two rising shares"),
    ("tandem_band", [0.9, 0.5], "must be two rising shares"),
    *(
        (name, value, "must be a finite number")
        for name in ("guidance.scale", "inversion.depth", "inversion.scale", "accept")
        for value in (math.nan, math.inf)
    ),
    ("guidance.cam_cut", math.nan, "cam_cut must be a finite number"),
    ("early_stop.thresholds", {"psnr": math.nan}, "thresholds.psnr must be a finite number"),
    ("early_stop.mean_depth", math.inf, "mean_depth must be a finite number"),
    ("tandem_band", [0.5, math.nan], "tandem_band.1 must be a finite number"),
]


@pytest.mark.parametrize(("name", "value", "said"), BAD)
def test_values_out_of_range_are_refused(name, value, said):
    with pytest.raises(UserError, match=said) as error:
        check_settings(from_dict(with_value({}, name, value)), 8)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_an_image_has_at_least_one_pixel(size):
    with pytest.raises(UserError, match="image_size must be a whole number of at least 1"):
        check_settings(DetectorSettings(), size)


def test_an_old_checkpoint_with_settings_without_effect_still_loads(tmp_path):
    content = torch.load(FOLDER / "format1_free.ckpt", weights_only=True)
    before = content["settings"]
    idle = {"inversion.scale": 2.0, "guidance.blend": False, "tandem_band": [0.2, 0.3]}
    for name, value in idle.items():
        content["settings"] = with_value(content["settings"], name, value)
    content["settings"]["guidance"]["crops"] |= {"size": 5, "seed": 4}
    torch.save(content, tmp_path / "old.ckpt")
    Detector.load(tmp_path / "old.ckpt")
    cleaned = read_checkpoint(tmp_path / "old.ckpt")["settings"]
    assert cleaned["guidance"] == before["guidance"]
    assert cleaned["inversion"] == before["inversion"]


def test_a_quality_that_is_switched_off_is_not_measured(images):
    values = {**to_dict(DetectorSettings()), **FREE}
    off = {**values, "early_stop": {"thresholds": {"psnr": 9.0, "ssim": None}, "mean_depth": None}}
    detector = build_detector(from_dict(off))
    measured = []
    for name, quality in detector.method.qualities.items():
        detector.method.qualities[name] = lambda *views, n=name, q=quality: (
            measured.append(n),
            q(*views),
        )[1]
    detector.score(images[:4])
    assert set(measured) == {"psnr"}
