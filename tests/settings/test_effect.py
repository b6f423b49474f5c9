"""Every setting of a detector changes its results, or is refused if it cannot."""

import math
from copy import deepcopy

import pytest
import torch

from diffguard.checkpoint.file import read_checkpoint
from diffguard.classifiers.small_cnn import TimedCNN
from diffguard.detector import Detector
from diffguard.errors import UserError
from diffguard.settings.detector import DetectorSettings
from diffguard.settings.guidance import FORMS, ClassifierGuidanceSettings
from diffguard.settings.image_size import check_image_size
from diffguard.settings.plain import from_dict, to_dict, with_guidance
from tests.helpers.format1 import FOLDER
from tests.helpers.tiny_detector import build_detector

FREE = {
    "sampler": {"steps": 6},
    "inversion": {"depth": 0.67, "condition": "guided", "scale": 1.5},
    "early_stop": {"thresholds": {"psnr": 4.0}},
    "classifier_free": {"scale": 2.0, "cam_cut": 0.3},
    "distances": ["logits_l1", "l2"],
    "unguided": ["l2"],
    "distance": ["logits_l1", "l2"],
    "combine": "tandem",
    "baselines": ["msp", "knn", "vim"],
    "fused": ["knn"],
    "knn_k": 3,
}
TUNED = {**FREE, "baselines": ["knn", "gen", "nci", "react", "ash", "scale", "dice", "odin"]}
CASCADE = {**FREE, "fusion": {"rule": "cascade", "band": [0.3, 0.9]}}
BUDGET = {**FREE, "fusion": {"rule": "cascade", "budget": 3.0}}
MASKED = {**FREE, "comparison": {"masking": "layers"}}
SHIFTED = {**FREE, "sampler": {"steps": 6, "solver": "time_shift"}}
NOISED = {
    **FREE,
    "methods": ["diffguard", "diffnb", "minority"],
    "diffnb": {"depth": 0.34, "repeats": 1},
    "minority": {"repeats": 1},
}
WHOLE = {
    **with_guidance(FREE, "classifier", {"scale": 2.0}),
    "inversion": {"depth": 0.5},
}
GUIDED = {
    **WHOLE,
    "classifier": {"scale": 2.0, "crops": {"number": 2, "size": 6, "shared": True}},
}
# Setting -> the settings beside which it has an effect, and another value of it.
CHANGES = {
    "sampler.solver": (FREE, "pndm"),
    "sampler.steps": (FREE, 8),
    "sampler.spacing": (FREE, "shifted"),
    "sampler.pairing": (FREE, "current"),
    "sampler.first_level": (FREE, "first"),
    "sampler.clip": (FREE, True),
    "sampler.time_shift.window": (SHIFTED, 100),
    "sampler.time_shift.cutoff": (SHIFTED, 900),
    "inversion.depth": (FREE, 0.34),
    "inversion.condition": (WHOLE, "label"),
    "inversion.scale": (FREE, 3.0),
    "early_stop.thresholds": (FREE, {"psnr": 5.0}),
    "synthesis.extra_start": (FREE, 1),
    "synthesis.skip": (FREE, 1),
    "guidance": (FREE, "classifier"),
    "classifier_free.scale": (FREE, 4.0),
    "classifier_free.cam_cut": (FREE, None),
    "classifier.scale": (WHOLE, 4.0),
    "classifier.model": (GUIDED, "noisy"),
    "classifier.blend": (WHOLE, False),
    "classifier.crops.number": (GUIDED, 3),
    "classifier.crops.size": (GUIDED, 5),
    "classifier.crops.reduction": (GUIDED, "sum"),
    "classifier.crops.shared": (GUIDED, False),
    "classifier.crops.seed": (GUIDED, 7),
    "label": (FREE, "oracle"),
    "methods": (FREE, ["diffguard", "guidance_norm"]),
    "diffnb.depth": (NOISED, 0.5),
    "diffnb.repeats": (NOISED, 2),
    "diffnb.scale": (NOISED, 1.0),
    "diffnb.distance": (NOISED, "l2"),
    "minority.depth": (NOISED, 0.8),
    "minority.repeats": (NOISED, 2),
    "minority.distance": (NOISED, "ssim"),
    "distances": (FREE, ["logits_l1", "l2", "l1"]),
    "unguided": (FREE, ["l2", "l1"]),
    "comparison.masking": (FREE, "black"),
    "comparison.cam_cut": (MASKED, 0.6),
    "distance": (FREE, ["l2", "logits_l1"]),
    "combine": (FREE, "mean"),
    "tandem_band": (FREE, [0.2, 0.8]),
    "baselines": (FREE, ["msp", "knn", "vim", "mls"]),
    "fused": (FREE, ["knn", "vim"]),
    "comparator": (FREE, ["knn", "vim"]),
    "fusion.rule": (FREE, "cascade"),
    "fusion.band": (CASCADE, [0.6, 0.9]),
    "fusion.budget": (BUDGET, 9.0),
    "decision": (FREE, "diffguard"),
    "accept": (FREE, 0.5),
    "gen_classes": (TUNED, 2),
    "knn_k": (FREE, 5),
    "vim_dim": (FREE, 3),
    "nci_alpha": (TUNED, 0.1),
    **{f"{name}_percentile": (TUNED, 0.3) for name in ("react", "ash", "scale")},
    "dice_sparsity": (TUNED, 0.3),
    "odin_temperature": (TUNED, 10.0),
    "odin_step": (TUNED, 0.1),
}
# What calibration does with them, and what only makes a detector faster, is tested elsewhere.
ELSEWHERE = {
    *("diffpath.components", "diffpath.images"),
    *(f"ddpm_ood.{name}" for name in ("levels", "depth", "distances", "images")),
    *(f"lmd.{name}" for name in ("repeats", "squares", "distance")),
    *(f"msma.{name}" for name in ("levels", "components", "images")),
    "early_stop.mean_depth",
    *("reference_images", "perceptual_weights", "compile", "channels_last"),
}


def with_value(values, name, value):
    values = deepcopy(values)
    *path, last = name.split(".")
    section = values
    for key in path:
        section = section.setdefault(key, {})
    section[last] = value
    return values


def names_of(plain, before=""):
    for name, value in plain.items():
        if isinstance(value, dict) and name != "thresholds":
            yield from names_of(value, f"{before}{name}.")
        else:
            yield before + name


def outcome(values, images):
    """All results of a detector on images."""
    settings = from_dict(values)
    detector = build_detector(settings, noisy_classifier=TimedCNN(3, 1, width=4))
    rows = [one.row for one in detector.score_images(images)]
    limit = detector.calibration.threshold(settings.decision, settings.accept)
    decided = [(row.scores[settings.decision], limit) for row in rows]
    return [(row.scores, row.stop_step, row.network_passes) for row in rows], decided


def test_all_settings_are_named_here():
    names = set()
    for settings in (DetectorSettings(), DetectorSettings(guidance=ClassifierGuidanceSettings())):
        names |= set(names_of(to_dict(settings)))
    assert {*CHANGES, *ELSEWHERE} == names


@pytest.fixture(scope="module")
def outcomes():
    """Outcomes by settings; each is computed once."""
    return {}


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_that_is_taken_has_an_effect(name, outcomes, images):
    values, other = CHANGES[name]
    changed = with_value(values, name, other)
    if name == "classifier.model":
        changed["classifier"]["blend"] = False
    if name == "guidance":
        changed = with_guidance(values, other, {"scale": 2.0})
    for one in (values, changed):
        if str(one) not in outcomes:
            outcomes[str(one)] = outcome(one, images[:4])
    assert outcomes[str(values)] != outcomes[str(changed)]


PLAIN = {"guidance": "classifier"}
UNSHARED = with_value(GUIDED, "classifier.crops.shared", False)
IDLE = [
    (PLAIN, "classifier.crops.size", 6, "crops.number above 0"),
    (PLAIN, "classifier.crops.reduction", "sum", "crops.number above 0"),
    (PLAIN, "classifier.crops.shared", True, "crops.number above 0"),
    (PLAIN, "classifier.crops.seed", 3, "crops.shared true"),
    (UNSHARED, "classifier.crops.seed", 3, "shared true"),
    (with_value({}, "synthesis.skip", 2), "synthesis.extra_start", 1, "without .*skip"),
    ({}, "inversion.scale", 2.0, "inversion.condition guided"),
    (with_value({}, "inversion.condition", "label"), "inversion.scale", 2.0, "condition guided"),
    ({}, "tandem_band", [0.4, 0.9], "combine tandem"),
    ({}, "odin_step", 0.1, "baseline odin, which detector.baselines lacks"),
    ({}, "fusion.band", [0.4, 0.9], "fusion.rule cascade"),
    ({}, "fusion.budget", 4.0, "fusion.rule cascade"),
    ({"fusion": {"rule": "cascade", "budget": 4.0}}, "fusion.band", [0.4, 0.9], "without .*budget"),
    ({}, "sampler.time_shift.window", 50, "solver time_shift"),
    ({}, "sampler.time_shift.cutoff", 50, "solver time_shift"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "name", "value", "said"), IDLE)
def test_a_setting_without_effect_is_refused(values, name, value, said):
    default = to_dict(from_dict({"guidance": values.get("guidance", "classifier_free")}))
    for key in name.split("."):
        default = default[key]
    from_dict(with_value(values, name, default))
    with pytest.raises(UserError, match=f"detector.{name} .* has no effect here.*{said}") as error:
        from_dict(with_value(values, name, value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("form", FORMS)
def test_settings_of_the_other_form_of_guidance_are_refused(form):
    (other,) = set(FORMS) - {form}
    for section in ({}, {"scale": 2.0}):
        with pytest.raises(UserError, match=f"{other} has no effect .*detector.guidance is {form}"):
            from_dict({"guidance": form, other: section})


BAD = [
    ("classifier_free.scale", -1.0, "classifier_free.scale must be at least 0"),
    ("classifier_free.scale", 1e30, "classifier_free.scale must be at most 1,000,000, got 1e"),
    ("guidance", "free", "guidance must be classifier_free or classifier, got 'free'"),
    ("label", "truth", "label must be prediction or oracle, got 'truth'"),
    ("inversion.scale", -1.0, "inversion.scale must be at least 0"),
    ("inversion.scale", 1e30, "inversion.scale must be at most 1,000,000"),
    ("sampler.steps", 0, "sampler.steps must be at least 1"),
    ("sampler.spacing", "odd", "sampler.spacing must be even or"),
    ("sampler.solver", "euler", "sampler.solver must be ddim or pndm or .*, got 'euler'"),
    ("sampler.time_shift.window", 1, "time_shift.window must be at least 2 timesteps, got 1"),
    ("sampler.time_shift.cutoff", -1, "time_shift.cutoff must be at least 0, got -1"),
    ("inversion.depth", 0.0, r"inversion.depth must lie in \(0, 1\]"),
    ("inversion.condition", "none", "inversion.condition must be null or label or guided"),
    ("early_stop.mean_depth", 0.5, "mean_depth needs a quality"),
    ("early_stop.thresholds", {"nope": 1.0}, "unknown distance 'nope': choose from l1, l2"),
    ("synthesis.extra_start", -1, "synthesis.extra_start must be at least 0, got -1"),
    ("classifier_free.cam_cut", 1.5, r"cam_cut must lie in \[-1, 1\], got 1.5"),
    ("distances", ["logits_l1", "nope"], "unknown distance 'nope'"),
    ("unguided", ["nope"], "unknown distance 'nope'"),
    ("distance", ["nope"], "unknown distance 'nope'"),
    ("distance", ["unguided/nope"], "unknown distance 'nope'"),
    ("distance", ["dists"], "distance names dists, which is not computed"),
    ("distance", [], "distance names nothing, which is not computed"),
    ("distances", [], "detector.distances and detector.unguided name no distance: name one"),
    ("fused", ["knn", "knn"], "detector.fused names knn more than once: name it once"),
    ("distance", ["l2", "l2"], "detector.distance names l2 more than once"),
    ("combine", "tandem", "tandem needs two or more in detector.distance, got logits_l1"),
    ("baselines", ["msp", "knn", "nope"], "'nope' is not known"),
    ("comparator", [], "name at least one there and one in detector.fused"),
    ("fused", ["nope"], "which detector.baselines and detector.methods lack"),
    ("fused", [], "decision is fusion, but nothing is fused"),
    ("decision", "nope", "there is no score 'nope', expected auto or one of diffguard, diffguard/"),
    ("accept", 1.0, "accept must lie between 0 and 1"),
    ("knn_k", 0, "detector.knn_k must be at least 1, got 0"),
    ("vim_dim", -3, "detector.vim_dim must be at least 1, got -3"),
    ("ash_percentile", 1.0, "detector.ash_percentile must be below 1, got 1.0"),
    ("reference_images", 0, "detector.reference_images must be at least 1, got 0"),
    ("tandem_band", [], "must be two rising shares"),
    ("tandem_band", [0.5], "must be two rising shares"),
    ("tandem_band", [0.5, 0.9, 0.95], "must be two rising shares"),
    ("tandem_band", [0.9, 0.5], "must be two rising shares"),
    *(
        (name, value, "must be a finite number")
        for name in ("classifier_free.scale", "inversion.depth", "inversion.scale", "accept")
        for value in (math.nan, math.inf)
    ),
    ("classifier_free.cam_cut", math.nan, "cam_cut must be a finite number"),
    ("early_stop.thresholds", {"psnr": math.nan}, "thresholds.psnr must be a finite number"),
    ("early_stop.mean_depth", math.inf, "mean_depth must be a finite number"),
    ("tandem_band", [0.5, math.nan], "tandem_band.1 must be a finite number"),
]


@pytest.mark.parametrize(("name", "value", "said"), BAD)
def test_values_out_of_range_are_refused(name, value, said):
    with pytest.raises(UserError, match=said) as error:
        from_dict(with_value({}, name, value))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"scale": -1.0}, "detector.classifier.scale must be at least 0"),
        ({"scale": 1e30}, "detector.classifier.scale must be at most 1,000,000"),
        ({"scale": math.nan}, "detector.classifier.scale must be a finite number"),
        ({"model": "other"}, "detector.classifier.model must be protected or noisy, got 'other'"),
        ({"model": "noisy"}, "detector.classifier.model noisy .* set .*blend to false"),
        ({"crops": {"number": -3}}, "crops.number must be 0, .* got -3"),
        ({"crops": {"number": 10**6}}, "crops.number must be 0, .* to 10,000"),
        ({"crops": {"number": 2, "size": 0}}, "crops.size must be 1 to"),
    ],
)
def test_values_out_of_range_of_classifier_guidance_are_refused(section, said):
    with pytest.raises(UserError, match=said) as error:
        from_dict({"guidance": "classifier", "classifier": section})
    assert "\n" not in str(error.value)


def test_guidance_is_one_of_the_settings_classes():
    with pytest.raises(UserError, match=r"ClassifierFreeSettings or .*, got 'free'"):
        DetectorSettings(guidance="free")


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_an_image_has_at_least_one_pixel(size):
    with pytest.raises(UserError, match="image_size must be a whole number of at least 1"):
        check_image_size(DetectorSettings().reconstruction_distances, size)


def test_an_old_checkpoint_with_settings_without_effect_still_loads(tmp_path):
    content = torch.load(FOLDER / "format1_free.ckpt", weights_only=True)
    before = read_checkpoint(FOLDER / "format1_free.ckpt")["settings"]
    idle = {"inversion.scale": 2.0, "guidance.blend": False, "tandem_band": [0.2, 0.3]}
    idle |= {"guidance.skip": 1, "guidance.extra_start": 2}
    for name, value in idle.items():
        content["settings"] = with_value(content["settings"], name, value)
    content["settings"]["guidance"]["crops"] |= {"size": 5, "seed": 4}
    torch.save(content, tmp_path / "old.ckpt")
    Detector.load(tmp_path / "old.ckpt")
    cleaned = read_checkpoint(tmp_path / "old.ckpt")["settings"]
    assert cleaned == {**before, "synthesis": {"skip": 1, "extra_start": 0}}
