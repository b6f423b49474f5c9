"""MSMA: norms of the predicted noise at several levels."""

import pytest
import torch

from diffguard.engine.recipe import Recipe
from diffguard.errors import UserError
from diffguard.images import pixel_key
from diffguard.methods.msma import Msma
from diffguard.methods.outcomes import outcomes_of
from diffguard.settings.mixture_methods import MsmaSettings
from diffguard.settings.sections import SamplerSettings
from tests.helpers.tiny_detector import build_detector, small_settings

IMAGES = torch.rand(11, 1, 8, 8, generator=torch.Generator().manual_seed(5)).double()


def method_of(solver="ddim"):
    settings = small_settings(
        methods=["diffguard", "msma"],
        msma=MsmaSettings(levels=4, components=2, images=11),
        sampler=SamplerSettings(steps=6, solver=solver),
    )
    models = build_detector(settings, calibrated=False, seed=3).models.double()
    recipe = Recipe(models.plan, 1)
    return Msma(models, recipe)


def outcomes_by_key(method, images, batch_size=8):
    batch = {"image": images, "label": torch.zeros(len(images)), "error": [""] * len(images)}
    sampler = method.recipe.sampler
    outcomes = outcomes_of(method.models, sampler, method.program(), [batch], batch_size)
    where = {pixel_key(outcome.job.image): outcome for outcome in outcomes}
    return [where[pixel_key(image)] for image in images]


def test_norms_equal_a_plain_loop_with_one_pass_for_each_level():
    method = method_of()
    denoiser, plan = method.models.denoiser, method.recipe.plan
    outcomes = outcomes_by_key(method, IMAGES)
    for image, outcome, norms in zip(IMAGES, outcomes, method._norms(outcomes), strict=True):
        assert outcome.passes == 4
        clean = denoiser.encode(image[None])
        expected = []
        for step in (0, 2, 3, 5):
            x = plan.alphas[step].sqrt() * clean
            null = torch.tensor([denoiser.null_class])
            expected.append(denoiser.predict_noise(x, plan.timesteps[step][None], null).norm())
        torch.testing.assert_close(norms, torch.stack(expected), rtol=1e-10, atol=0)


def test_scores_do_not_depend_on_order_and_batch():
    method = method_of()
    state = method.fit(outcomes_by_key(method, IMAGES))
    method = Msma(method.models, method.recipe, state)

    def scores(images, batch_size=8):
        return method.scores(outcomes_by_key(method, images, batch_size), None, 16)["msma"]

    expected = scores(IMAGES)
    assert (scores(IMAGES.flip(0))[::-1] == expected).all()
    assert scores(IMAGES, 16) == pytest.approx(expected, rel=1e-9)


def test_more_levels_than_steps_are_refused():
    with pytest.raises(UserError, match=r"msma.levels must be at most 6, the number of steps, got"):
        build_detector(small_settings(methods=["diffguard", "msma"]), calibrated=False)
    with pytest.raises(UserError, match=r"msma.levels must be at least 1, got 0"):
        MsmaSettings(levels=0)
    with pytest.raises(UserError, match=r"msma.images must be at least twice .*, 20, got 19"):
        MsmaSettings(components=10, images=19)
