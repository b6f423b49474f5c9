"""LMD: inpaintings of hidden squares."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffguard.detector import Detector
from diffguard.diffusion.path import Path
from diffguard.engine.plain import Noise
from diffguard.errors import UserError
from diffguard.images import pixel_key
from diffguard.methods.lmd import Lmd, checkerboard
from diffguard.methods.outcomes import outcomes_of
from diffguard.methods.recipes import recipe_of
from diffguard.randomness import image_generator
from diffguard.settings.guidance import ClassifierGuidanceSettings
from diffguard.settings.reconstruction_methods import LmdSettings
from diffguard.settings.sections import SamplerSettings
from tests.helpers.tiny_detector import CLASSES, build_detector, small_settings
from tests.helpers.tiny_models import denoiser_of, two_layers

IMAGES = torch.rand(9, 1, 8, 8, generator=torch.Generator().manual_seed(5)).double()


def settings_of(solver="ddim", **changes):
    return small_settings(
        methods=["diffguard", "lmd"],
        lmd=LmdSettings(**{"repeats": 3, "squares": 4, "distance": "l2", **changes}),
        sampler=SamplerSettings(steps=6, solver=solver),
    )


def method_of(solver="ddim"):
    models = build_detector(settings_of(solver), calibrated=False, seed=3).models.double()
    return Lmd(models, recipe_of(models))


def outcomes_by_key(method, images, batch_size=8):
    batch = {"image": images, "label": torch.zeros(len(images)), "error": [""] * len(images)}
    sampler = method.recipe.sampler
    outcomes = outcomes_of(method.models, sampler, method.program(), [batch], batch_size)
    where = {outcome.job.key: outcome for outcome in outcomes}
    return [where[(pixel_key(image),)] for image in images]


def drawn(image, *parts):
    generator = image_generator(0, pixel_key(image), *parts)
    return torch.randn(image.shape, generator=generator).double()


def inpainted(method, image, repeat):
    """One inpainting by a plain loop; and the passes."""
    denoiser, sampler = method.models.denoiser, method.recipe.sampler
    plan, noise = sampler.plan, Noise(denoiser, -1)
    clean, top = denoiser.encode(image[None]), len(sampler.plan) - 1
    path = Path(sampler.solver, plan, drawn(image, "noise", repeat, top)[None], sampler.clip)
    hidden = checkerboard(4, 8, 8, repeat)
    for step, _ in zip(range(top, -1, -1), path.synthesize(noise, top), strict=True):
        alpha = plan.alphas_prev[step]
        fresh = drawn(image, "inpainting", repeat, step)
        visible = alpha.sqrt() * clean + (1 - alpha).sqrt() * fresh
        path.x = torch.where(hidden, path.x, visible)
    return denoiser.decode(path.x)[0], noise.passes


@pytest.mark.parametrize(("solver", "passes"), [("ddim", 18), ("dpm_solver_pp", 18), ("pndm", 21)])
def test_scores_equal_a_plain_loop(solver, passes):
    method = method_of(solver)
    outcomes = outcomes_by_key(method, IMAGES)
    for image, outcome, score in zip(
        IMAGES, outcomes, method.scores(outcomes, None, 16)["lmd"], strict=True
    ):
        plain = [inpainted(method, image, repeat) for repeat in range(3)]
        assert outcome.passes == passes == sum(count for _, count in plain)
        distances = [float((picture - image).norm()) for picture, _ in plain]
        for (picture, _), phase in zip(plain, method.program().pictures, strict=True):
            torch.testing.assert_close(outcome.pictures[phase], picture, rtol=0, atol=1e-10)
        assert score == pytest.approx(np.median(distances), rel=1e-10)


def test_scores_do_not_depend_on_order_and_batch():
    method = method_of()

    def scores(images, batch_size=8):
        return method.scores(outcomes_by_key(method, images, batch_size), None, 16)["lmd"]

    expected = scores(IMAGES)
    assert (scores(IMAGES.flip(0))[::-1] == expected).all()
    assert scores(IMAGES, 16) == pytest.approx(expected, rel=1e-9)


def test_visible_pixels_stay_and_hidden_pixels_do_not_matter():
    hidden = checkerboard(4, 8, 8, 0)
    assert (
        hidden[:4, :4].tolist()
        == [[False, False, True, True]] * 2 + [[True, True, False, False]] * 2
    )
    assert torch.equal(checkerboard(4, 8, 8, 1), ~hidden)
    method = method_of()
    (phase, *_), image = method.program().pictures, IMAGES[0]
    picture = outcomes_by_key(method, image[None])[0].pictures[phase]
    torch.testing.assert_close(picture[:, ~hidden], image[:, ~hidden], rtol=0, atol=1e-12)
    assert (picture - image)[:, hidden].abs().min() > 1e-6


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"lmd.squares must be at most 8, the side of .* got 9"):
        build_detector(settings_of(squares=9), calibrated=False)
    with pytest.raises(UserError, match="the solver edict does not allow"):
        settings_of("edict")
    for name in ("logits_l1", "nope"):
        with pytest.raises(
            UserError, match=rf"lmd.distance must be one of l1, l2, .* got '{name}'"
        ):
            LmdSettings(distance=name)
    with pytest.raises(UserError, match=r"lmd.repeats must be at least 1, got 0"):
        LmdSettings(repeats=0)
    with pytest.raises(UserError, match="ms_ssim needs images of at least 176 px"):
        build_detector(settings_of(distance="ms_ssim"), calibrated=False)
    with pytest.raises(UserError, match="lmd has no effect here"):
        small_settings(lmd=LmdSettings(repeats=3))
    detector = build_detector(calibrated=False)
    free = denoiser_of(two_layers(1, 8, CLASSES), CLASSES)
    free.null_class = None
    settings = replace(settings_of(), guidance=ClassifierGuidanceSettings())
    with pytest.raises(UserError, match="lmd needs passes without a label, and this"):
        Detector(detector.models.classifier, free, settings, image_size=8, image_channels=1)
