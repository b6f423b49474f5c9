"""The engine with every solver: mixed depths, both forms of guidance, masks and early stop."""

import pytest
import torch

from diffguard.diffusion.schedule import NoiseSchedule
from diffguard.diffusion.solvers import SOLVERS, build_solver
from diffguard.engine.plain import reconstruct as plainly
from diffguard.engine.program import ClassifierFree
from diffguard.engine.recipe import Recipe
from tests.helpers.engine_runs import CLASSES, classifier_guidance_of, jobs_of, network_of, run
from tests.helpers.tiny_models import denoiser_of, sound_plan, stops_by_image

STATES = ("latent", "guided_state", "unguided_state")


def recipe_of(name, form):
    solver = build_solver(name, "target", NoiseSchedule.linear(), window=20, cutoff=100)
    options = {"inversion": "guided", "inversion_scale": 0.5, "guidance": ClassifierFree(3.0)}
    if form == "classifier":
        options = {"guidance": classifier_guidance_of(scale=5.0, crops=2, crop_size=6)}
    return Recipe(
        sound_plan(6), 5, clip=True, qualities=((stops_by_image, 0.0),), unguided=True,
        solver=solver, **options,
    )  # fmt: skip


def passes_of(solver, form, depth, *, guided, labeled):
    """Passes of an image that was inverted by `depth` steps."""
    toward_image, toward_noise = solver.warm_up
    inversion = solver.passes * depth + toward_noise
    synthesis = solver.passes * depth + (0 if solver.keeps_memory else toward_image)
    if form == "free" and labeled:
        inversion *= 2
    if not guided:
        return inversion + synthesis
    # The unguided synthesis shares its first pass with the guided one.
    return inversion + (2 if form == "free" else 1) * synthesis + synthesis - 1


@pytest.mark.parametrize("form", ["free", "classifier"])
@pytest.mark.parametrize("name", SOLVERS)
def test_equals_the_plain_algorithm_in_any_order_and_batch(name, form):
    classes = CLASSES if form == "free" else None
    denoiser = denoiser_of(network_of(classes=classes).double(), classes)
    recipe = recipe_of(name, form)
    jobs = jobs_of(12, recipe.plan, masks=form == "free", dtype=torch.float64)
    results, _ = run(denoiser, recipe, jobs)
    assert {result.stop_index for result in results} > {0, 1, 4}
    backward, _ = run(denoiser, recipe, jobs[::-1], portion=1)
    larger, _ = run(denoiser, recipe, jobs, batch_size=16)
    for job, result, other, wide in zip(jobs, results, backward[::-1], larger, strict=True):
        plain = plainly(denoiser, recipe, job)
        assert result.stop_index == plain.stop_index
        for state in STATES:
            value = getattr(result, state)
            torch.testing.assert_close(value, getattr(plain, state), rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(value, getattr(wide, state), rtol=1e-10, atol=1e-10)
            assert torch.equal(value, getattr(other, state))
        expected = passes_of(
            recipe.solver, form, result.stop_index + 1,
            guided=recipe.guides(job.label, job.mask), labeled=job.label >= 0,
        )  # fmt: skip
        assert result.network_passes == expected


@pytest.mark.parametrize("name", ["edict", "bdia"])
def test_exact_solvers_return_the_image_through_the_engine(name):
    recipe = recipe_of(name, "classifier")
    results, _ = run(
        denoiser_of(network_of().double()), recipe, jobs_of(9, recipe.plan, dtype=torch.float64)
    )
    for result in results:
        torch.testing.assert_close(result.unguided, result.job.image, rtol=0, atol=1e-9)
        assert torch.equal(result.guided, result.unguided) == (result.job.label < 0)
