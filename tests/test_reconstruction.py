from functools import partial

import pytest
import torch
from reference_networks import predict
from tiny_models import (
    Clocked,
    ask_for_depth,
    denoiser_of,
    sound_plan,
    stops_by_image,
    tiny_classifier,
    tiny_unet,
    two_layers,
)

from diffguard.batching import fixed_batch_size
from diffguard.ddim import invert, synthesize
from diffguard.early_stop import should_stop
from diffguard.errors import UserError
from diffguard.guidance import classifier_free
from diffguard.measures import psnr
from diffguard.recipe import Job, Recipe
from diffguard.reconstruction import Reconstructor
from diffguard.schedule import NoiseSchedule, SamplingPlan
from diffguard.steering import ClassifierSteering

CLASSES = 5


def jobs_of(count, plan=None, *, size=8, masks=False, dtype=torch.float32):
    """Images that ask for different depths of a plan; every fifth has no label."""
    plan = plan or sound_plan(6)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, size, size, generator=generator, dtype=dtype)
    steps = torch.randint(1, len(plan) + 1, (count,), generator=generator)
    images = ask_for_depth(images, plan, steps)
    where = torch.rand(count, size, size, generator=generator) > 0.5
    where[1] = False
    return [
        Job(
            image,
            -1 if row % 5 == 4 else row % CLASSES,
            ("set", str(row)),
            where[row] if masks and row % 3 else None,
        )
        for row, image in enumerate(images)
    ]


def network_of(kind=two_layers, **options):
    return Clocked(kind(channels=3, **options))


def run(denoiser, recipe, jobs, batch_size=8, portion=None):
    """Results in the order of the jobs, and the engine."""
    engine = Reconstructor(denoiser, recipe, fixed_batch_size(batch_size))
    done, portion = [], portion or len(jobs)
    for begin in range(0, len(jobs), portion):
        done += engine.push(jobs[begin : begin + portion])
    done += engine.flush()
    assert len(done) == len(jobs)
    where = {result.job.key: result for result in done}
    return [where[job.key] for job in jobs], engine


def plainly(denoiser, recipe, job):
    """One image through the solvers, without the engine."""
    plan, label = recipe.plan, torch.tensor([job.label])
    mask = None if job.mask is None else job.mask.unsqueeze(0)

    def noise(x, t, scale=None, where=None):
        null = torch.full((1,), CLASSES)
        free = denoiser.num_classes is not None
        without = predict(denoiser, null if free else None)(x, t)
        if scale is None or job.label < 0:
            return without
        return classifier_free(without, predict(denoiser, label)(x, t), scale, where)

    scales = {"null": None, "label": 1.0, "guided": recipe.inversion_scale}
    inverting = partial(noise, scale=scales[recipe.inversion])
    clean = denoiser.encode(job.image.unsqueeze(0))
    stop = -1
    for latent in invert(inverting, clean, plan, recipe.max_steps, clip=recipe.clip):
        stop += 1
        seen = denoiser.preview(latent), denoiser.preview(clean)
        qualities = [quality(*seen) for quality, _ in recipe.qualities]
        if qualities and should_stop(torch.stack(qualities), [t for _, t in recipe.qualities]):
            break
    start = int(plan.start_index(torch.tensor(stop), recipe.extra_start, recipe.skip))

    def guide(x, eps, i):
        t, alpha, _ = plan.synthesis(torch.tensor([i]))
        return recipe.steering.gradient(
            denoiser, x, eps, t, alpha,
            labels=label, keys=[job.key], steps=[start - i], batch_size=1,
        )  # fmt: skip

    steered = recipe.steering is not None
    guided = noise if steered else partial(noise, scale=recipe.scale, where=mask)
    guide = guide if steered else None
    *_, found = synthesize(guided, latent, plan, start, clip=recipe.clip, guide=guide)
    *_, plain = synthesize(noise, latent, plan, start, clip=recipe.clip)
    return stop, latent[0], found[0], plain[0]


def steering_of(**options):
    classifier = tiny_classifier().double()
    return ClassifierSteering(lambda images, t: classifier(images), **options)


QUALITIES = ((stops_by_image, 0.0), (psnr, 7.0))
RECIPES = {
    "free": {"scale": 4.0},
    "label": {"scale": 2.0, "inversion": "label", "clip": True},
    "guided inversion": {"scale": 1.0, "inversion": "guided", "inversion_scale": 2.0},
    "fixed skip": {"scale": 3.0, "skip": 2, "qualities": ()},
    "steered": {"steering": {"scale": 5.0}, "clip": True},
    "crops": {
        "steering": {"scale": 5.0, "crops": 2, "crop_size": 6, "blend": False},
        "extra_start": 1,
    },
}


@pytest.mark.parametrize("pairing", ["current", "target"])
@pytest.mark.parametrize("name", RECIPES)
def test_equals_plain_loops(name, pairing):
    plan = sound_plan(8, pairing=pairing)
    options = {"unguided": True, "qualities": QUALITIES} | RECIPES[name]
    steered = "steering" in options
    if steered:
        options["steering"] = steering_of(**options["steering"])
    classes = None if steered else CLASSES
    denoiser = denoiser_of(network_of(classes=classes).double(), classes)
    recipe = Recipe(plan, 7, **options)
    jobs = jobs_of(11, plan, masks=not steered, dtype=torch.float64)
    results, _ = run(denoiser, recipe, jobs)
    depths = set()
    for job, result in zip(jobs, results, strict=True):
        stop, latent, guided, unguided = plainly(denoiser, recipe, job)
        assert result.stop_index == stop
        torch.testing.assert_close(result.latent, latent)
        torch.testing.assert_close(result.guided_state, guided)
        torch.testing.assert_close(result.unguided_state, unguided)
        torch.testing.assert_close(result.guided, denoiser.decode(guided[None])[0])
        torch.testing.assert_close(result.unguided, denoiser.decode(unguided[None])[0])
        depths.add(stop)
    assert len(depths) > 2 or not recipe.qualities


def test_order_portions_and_batch_size():
    denoiser = denoiser_of(network_of(tiny_unet, classes=CLASSES), CLASSES)
    recipe = Recipe(sound_plan(6), 5, scale=3.0, unguided=True, qualities=((stops_by_image, 0.0),))
    jobs = jobs_of(20, masks=True)
    expected, _ = run(denoiser, recipe, jobs)
    assert {result.stop_index for result in expected} == set(range(5))

    def same(results):
        for result, other in zip(results, expected, strict=True):
            assert result.stop_index == other.stop_index
            assert torch.equal(result.guided, other.guided)
            assert torch.equal(result.unguided, other.unguided)

    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    shuffled, _ = run(denoiser, recipe, [jobs[k] for k in order])
    same([shuffled[k] for k in order.argsort()])
    # Sizes up to 8 are one batch shape; and alone, every image is a padded batch.
    same(run(denoiser, recipe, jobs, batch_size=1)[0])
    same(run(denoiser, recipe, jobs, batch_size=3, portion=1)[0])
    same([run(denoiser, recipe, [job])[0][0] for job in jobs])
    larger, _ = run(denoiser, recipe, jobs, batch_size=16)
    for result, other in zip(larger, expected, strict=True):
        assert result.stop_index == other.stop_index
        torch.testing.assert_close(result.guided, other.guided, rtol=1e-3, atol=1e-5)


def test_crops_stay_with_the_image_in_any_order():
    denoiser, classifier = denoiser_of(network_of()), tiny_classifier()
    steering = ClassifierSteering(
        lambda images, t: classifier(images), scale=5.0, crops=2, crop_size=6
    )
    recipe = Recipe(sound_plan(6), 5, steering=steering, qualities=((stops_by_image, 0.0),))
    jobs = jobs_of(12)
    forward, _ = run(denoiser, recipe, jobs)
    backward, _ = run(denoiser, recipe, jobs[::-1])
    for result, other in zip(forward, backward[::-1], strict=True):
        assert torch.equal(result.guided, other.guided)


@pytest.mark.parametrize("extra", [0, 1])
def test_passes_of_classifier_guidance_are_the_least_needed(extra):
    plan = SamplingPlan.build(NoiseSchedule.linear(), 25, "stride", "current")
    denoiser = denoiser_of(network_of().double())
    recipe = Recipe(
        plan, 22, steering=steering_of(scale=3.0), unguided=True, extra_start=extra,
        qualities=((stops_by_image, 0.0),),
    )  # fmt: skip
    results, engine = run(denoiser, recipe, jobs_of(10, plan, dtype=torch.float64))
    for result in results:
        s = result.stop_index
        synthesis = int(plan.start_index(torch.tensor(s), extra)) + 1
        if result.job.label >= 0:
            assert result.network_passes == (s + 1) + 2 * synthesis - 1
        else:
            assert result.network_passes == (s + 1) + synthesis
            assert torch.equal(result.guided, result.unguided)
    assert engine.rows == sum(result.network_passes for result in results)


def passes(*, scale=3.0, mask=None, label=2, **options):
    denoiser = denoiser_of(two_layers(classes=CLASSES), CLASSES)
    recipe = Recipe(sound_plan(25), 25, scale=scale, **options)
    job = Job(torch.rand(3, 8, 8), label, ("a",), mask)
    (result,), _ = run(denoiser, recipe, [job])
    return result.network_passes


def test_passes_of_classifier_free_guidance_are_the_least_needed():
    nowhere, somewhere = torch.zeros(8, 8, dtype=bool), torch.eye(8, dtype=bool)
    assert passes() == passes(mask=somewhere) == 25 + 2 * 25
    assert passes(mask=nowhere) == passes(label=-1) == passes(scale=0.0) == 25 + 25
    assert passes(scale=1.0) == 25 + 25
    assert passes(scale=1.0, mask=somewhere) == 25 + 2 * 25
    assert passes(unguided=True) == 25 + 3 * 25 - 1
    assert passes(unguided=True, label=-1) == 25 + 25
    assert passes(inversion="label") == 25 + 2 * 25
    assert passes(inversion="guided", inversion_scale=2.0) == 2 * 25 + 2 * 25
    assert passes(inversion="guided", inversion_scale=0.0) == 25 + 2 * 25


@pytest.mark.parametrize("kind", ["scale", "mask", "label", "steered"])
def test_without_guidance_both_reconstructions_are_one(kind):
    scale = 0.0 if kind == "scale" else 3.0
    steering = steering_of(scale=0.0) if kind == "steered" else None
    classes = None if kind == "steered" else CLASSES
    denoiser = denoiser_of(two_layers(classes=classes).double(), classes)
    recipe = Recipe(sound_plan(6), 5, scale=scale, unguided=True, steering=steering)
    mask = torch.zeros(8, 8, dtype=bool) if kind == "mask" else None
    image = torch.rand(3, 8, 8, dtype=torch.float64)
    job = Job(image, -1 if kind == "label" else 1, ("a",), mask)
    (result,), _ = run(denoiser, recipe, [job])
    assert torch.equal(result.guided, result.unguided)
    assert not torch.equal(result.guided, image)


def test_a_full_mask_equals_none():
    denoiser = denoiser_of(two_layers(classes=CLASSES), CLASSES)
    recipe, image = Recipe(sound_plan(6), 5, scale=3.0), torch.rand(3, 8, 8)
    pair = [Job(image, 1, ("a",)), Job(image, 1, ("b",), torch.ones(8, 8, dtype=bool))]
    (whole, masked), _ = run(denoiser, recipe, pair)
    assert torch.equal(whole.guided, masked.guided)


@pytest.mark.parametrize("unguided", [False, True])
def test_the_batch_stays_full_whatever_the_depths(unguided):
    plan, denoiser = sound_plan(25), denoiser_of(network_of(size=4, classes=CLASSES), CLASSES)
    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(5, 26, (120,), generator=generator)
    images = ask_for_depth(torch.rand(120, 3, 4, 4), plan, steps)
    jobs = [Job(image, row % CLASSES, (str(row),)) for row, image in enumerate(images)]
    recipe = Recipe(plan, 25, scale=3.0, unguided=unguided, qualities=((stops_by_image, 0.0),))
    engine = Reconstructor(denoiser, recipe, 8)
    done = engine.push(jobs)
    assert engine.rows / (engine.calls * 8) >= 0.98
    done += engine.flush()
    made = {result.job.key: result.stop_index + 1 for result in done}
    assert [made[job.key] for job in jobs] == steps.tolist()


@pytest.mark.parametrize("inversion", ["null", "label", "guided"])
def test_every_call_has_one_shape_and_no_negative_label(inversion):
    network, seen = two_layers(classes=CLASSES), []
    forward = network.forward

    def spy(x, t, class_labels=None):
        seen.append((len(x), len(t), len(class_labels), int(class_labels.min())))
        return forward(x, t, class_labels)

    network.forward = spy
    recipe = Recipe(sound_plan(6), 5, scale=3.0, inversion=inversion, inversion_scale=2.0)
    run(denoiser_of(network, CLASSES), recipe, jobs_of(13))
    assert {lengths[:3] for lengths in seen} == {(8, 8, 8)}
    assert min(low for *_, low in seen) >= 0


def test_results_come_while_the_stream_runs():
    denoiser = denoiser_of(two_layers(classes=CLASSES), CLASSES)
    engine = Reconstructor(denoiser, Recipe(sound_plan(6), 5, scale=3.0), 8)
    jobs, done, most = jobs_of(80), 0, 0
    for begin in range(0, 80, 8):
        done += len(engine.push(jobs[begin : begin + 8]))
        most = max(most, begin + 8 - done)
    assert most <= 40
    assert done + len(engine.flush()) == 80
    assert engine.flush() == []


def test_the_same_inside_inference_mode():
    classifier = tiny_classifier()
    steering = ClassifierSteering(
        lambda images, t: classifier(images), scale=5.0, crops=2, crop_size=6
    )
    recipe = Recipe(sound_plan(6), 5, steering=steering, unguided=True)
    expected, _ = run(denoiser_of(two_layers()), recipe, jobs_of(9))
    with torch.inference_mode():
        found, _ = run(denoiser_of(two_layers()), recipe, jobs_of(9))
    for result, other in zip(found, expected, strict=True):
        assert torch.equal(result.guided, other.guided)
        assert not result.guided.requires_grad


def test_an_image_without_label_needs_a_null_class():
    denoiser = denoiser_of(two_layers(1, 8, 3), 3)
    denoiser.null_class = None
    recipe = Recipe(sound_plan(), 2)
    with pytest.raises(UserError, match="null class"):
        Reconstructor(denoiser, recipe, 8).push([Job(torch.rand(1, 8, 8), -1)] * 8)
