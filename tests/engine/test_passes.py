"""The cost of a reconstruction: the least network passes, in calls that are always full."""

import pytest
import torch

from diffguard.diffusion.plan import SamplingPlan
from diffguard.diffusion.schedule import NoiseSchedule
from diffguard.engine.jobs import Job
from diffguard.engine.program import ClassifierFree
from diffguard.engine.recipe import Recipe
from tests.helpers.engine_runs import (
    CLASSES,
    classifier_guidance_of,
    engine_of,
    jobs_of,
    network_of,
    run,
)
from tests.helpers.tiny_models import (
    ask_for_depth,
    denoiser_of,
    sound_plan,
    stops_by_image,
    two_layers,
)

STEPS = 25


@pytest.mark.parametrize("extra", [0, 1])
def test_passes_of_classifier_guidance_are_the_least_needed(extra):
    # The pixel model's pairing; the authors' program starts synthesis one step further up.
    plan = SamplingPlan.build(NoiseSchedule.linear(), STEPS, "stride", "current")
    denoiser = denoiser_of(network_of().double())
    recipe = Recipe(
        plan, 22, guidance=classifier_guidance_of(scale=3.0), unguided=True, extra_start=extra,
        qualities=((stops_by_image, 0.0),),
    )  # fmt: skip
    results, engine = run(denoiser, recipe, jobs_of(10, plan, dtype=torch.float64))
    assert len({result.stop_index for result in results}) > 4
    for result in results:
        s = result.stop_index
        synthesis = min(s + 2 + extra, STEPS)
        if result.job.label >= 0:
            assert result.network_passes == (s + 1) + 2 * synthesis - 1
        else:
            assert result.network_passes == (s + 1) + synthesis
            assert torch.equal(result.guided, result.unguided)
    assert engine.rows == sum(result.network_passes for result in results)


@pytest.mark.parametrize("scale", [1.0, 0.0])
@pytest.mark.parametrize("unguided", [False, True])
def test_passes_of_classifier_guidance_at_other_scales(scale, unguided):
    denoiser = denoiser_of(two_layers().double())
    guidance = classifier_guidance_of(scale=scale)
    recipe = Recipe(sound_plan(STEPS), STEPS, guidance=guidance, unguided=unguided)
    images = torch.rand(8, 3, 8, 8, dtype=torch.float64)
    results, _ = run(denoiser, recipe, [Job(image, 1, (str(n),)) for n, image in enumerate(images)])
    # The classifier's gradient costs no pass; without guidance both syntheses are one.
    both = unguided and scale != 0
    expected = STEPS + (2 * STEPS - 1 if both else STEPS)
    assert {result.network_passes for result in results} == {expected}


def passes(*, scale=3.0, mask=None, label=2, **options):
    denoiser = denoiser_of(two_layers(classes=CLASSES), CLASSES)
    recipe = Recipe(sound_plan(STEPS), STEPS, guidance=ClassifierFree(scale), **options)
    job = Job(torch.rand(3, 8, 8), label, ("a",), mask)
    (result,), _ = run(denoiser, recipe, [job])
    return result.network_passes


def test_passes_of_classifier_free_guidance_are_the_least_needed():
    nowhere, somewhere = torch.zeros(8, 8, dtype=bool), torch.eye(8, dtype=bool)
    assert passes() == passes(mask=somewhere) == 25 + 2 * 25
    assert passes(mask=nowhere) == passes(label=-1) == passes(scale=0.0) == 25 + 25
    assert passes(scale=1.0) == 25 + 25
    assert passes(scale=1.0, mask=somewhere) == 25 + 2 * 25
    assert passes(unguided=True) == passes(unguided=True, mask=somewhere) == 25 + 3 * 25 - 1
    # At scale 1 the guided synthesis has no pass without label to share.
    assert passes(unguided=True, scale=1.0) == 25 + 2 * 25
    assert passes(unguided=True, label=-1) == passes(unguided=True, mask=nowhere) == 25 + 25
    assert passes(inversion="label") == 25 + 2 * 25
    assert passes(inversion="label", label=-1) == 25 + 25
    assert passes(inversion="guided", inversion_scale=2.0) == 2 * 25 + 2 * 25
    assert passes(inversion="guided", inversion_scale=1.0) == 25 + 2 * 25
    assert passes(inversion="guided", inversion_scale=0.0) == 25 + 2 * 25


class Watched:
    """A function of batches that counts the rows which are no copy of the first: no padding."""

    def __init__(self, function):
        self.function, self.rows = function, []

    def __call__(self, x, *rest):
        differs = (x[1:] != x[:1]).flatten(1).any(1)
        self.rows.append(1 + int(differs.sum()))
        return self.function(x, *rest)


@pytest.mark.parametrize("kind", ["free", "free with reference", "classifier"])
def test_every_call_is_full_until_the_stream_ends_for_any_depths(kind):
    plan, full, count = sound_plan(STEPS), 8, 120
    by_classifier = kind == "classifier"
    classes = None if by_classifier else CLASSES
    network = network_of(size=4, classes=classes)
    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(5, STEPS + 1, (count,), generator=generator)
    assert set(steps.tolist()) == set(range(5, STEPS + 1))
    images = ask_for_depth(torch.rand(count, 3, 4, 4), plan, steps)
    jobs = [Job(image, row % CLASSES, (str(row),)) for row, image in enumerate(images)]
    quality, guidance = Watched(stops_by_image), ClassifierFree(3.0)
    if by_classifier:
        guidance = classifier_guidance_of(scale=3.0)
        network, guidance.classify = network.double(), Watched(guidance.classify)
        for job in jobs:
            job.image = job.image.double()
    recipe = Recipe(
        plan, STEPS, guidance=guidance, unguided=kind != "free", qualities=((quality, 0.0),),
    )  # fmt: skip
    engine = engine_of(denoiser_of(network, classes), recipe, full)
    done = []
    for begin in range(0, count, full):
        done += engine.push(jobs[begin : begin + full])
        assert engine.rows == engine.calls * full
    assert engine.rows > 1000
    assert set(quality.rows) == {full}
    assert not by_classifier or set(guidance.classify.rows) == {full}
    done += engine.flush()
    made = {outcome.job.key: outcome.last_step[recipe.invert] + 1 for outcome in done}
    assert [made[job.key] for job in jobs] == steps.tolist()
    assert engine.rows == sum(outcome.passes for outcome in done)
    # The end of so short a stream is seen in the share over the whole run.
    assert 0.8 < engine.rows / (engine.calls * full) < 1
