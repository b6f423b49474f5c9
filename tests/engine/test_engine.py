import pytest
import torch

from diffguard.engine.jobs import Job
from diffguard.engine.plain import reconstruct as plainly
from diffguard.engine.program import ClassifierFree
from diffguard.engine.recipe import Recipe
from diffguard.errors import UserError
from diffguard.scores.formulas import psnr
from tests.helpers.engine_runs import (
    CLASSES,
    classifier_guidance_of,
    engine_of,
    guidance_by,
    jobs_of,
    network_of,
    run,
)
from tests.helpers.tiny_models import (
    denoiser_of,
    sound_plan,
    stops_by_image,
    tiny_classifier,
    tiny_unet,
    two_layers,
)

QUALITIES = ((stops_by_image, 0.0), (psnr, 7.0))
RECIPES = {
    "free": {"guidance": ClassifierFree(4.0)},
    "unguided": {},
    "label": {"guidance": ClassifierFree(2.0), "inversion": "label", "clip": True},
    "guided inversion": {
        "guidance": ClassifierFree(1.0), "inversion": "guided", "inversion_scale": 2.0,
    },
    "fixed skip": {"guidance": ClassifierFree(3.0), "skip": 2, "qualities": ()},
    "classifier": {"guidance": {"scale": 5.0}, "clip": True},
    "crops": {
        "guidance": {"scale": 5.0, "crops": 2, "crop_size": 6, "blend": False},
        "extra_start": 1,
    },
}  # fmt: skip


@pytest.mark.parametrize("pairing", ["current", "target"])
@pytest.mark.parametrize("name", RECIPES)
def test_equals_the_plain_algorithm(name, pairing):
    plan = sound_plan(8, pairing=pairing)
    options = {"unguided": True, "qualities": QUALITIES} | RECIPES[name]
    by_classifier = isinstance(options.get("guidance"), dict)
    if by_classifier:
        options["guidance"] = classifier_guidance_of(**options["guidance"])
    classes = None if by_classifier else CLASSES
    denoiser = denoiser_of(network_of(classes=classes).double(), classes)
    recipe = Recipe(plan, 7, **options)
    jobs = jobs_of(11, plan, masks=not by_classifier, dtype=torch.float64)
    results, _ = run(denoiser, recipe, jobs)
    depths = set()
    for job, result in zip(jobs, results, strict=True):
        plain = plainly(denoiser, recipe, job)
        assert result.stop_index == plain.stop_index
        for state in ("latent", "guided_state", "unguided_state", "guided", "unguided"):
            torch.testing.assert_close(getattr(result, state), getattr(plain, state))
        # The engine makes the pass that both syntheses begin with only once.
        shared = recipe.guides(job.label, job.mask) and (
            by_classifier or recipe.guidance.scale != 1 or job.mask is not None
        )
        assert result.network_passes == plain.network_passes - shared
        depths.add(plain.stop_index)
    assert len(depths) > 2 or not recipe.qualities


def test_order_portions_and_batch_size_do_not_change_a_result():
    denoiser = denoiser_of(network_of(tiny_unet, classes=CLASSES), CLASSES)
    recipe = Recipe(
        sound_plan(6),
        5,
        guidance=ClassifierFree(3.0),
        unguided=True,
        qualities=((stops_by_image, 0.0),),
    )
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
    guidance = guidance_by(lambda images, t: classifier(images), scale=5.0, crops=2, crop_size=6)
    recipe = Recipe(sound_plan(6), 5, guidance=guidance, qualities=((stops_by_image, 0.0),))
    jobs = jobs_of(12)
    forward, _ = run(denoiser, recipe, jobs)
    backward, _ = run(denoiser, recipe, jobs[::-1])
    for result, other in zip(forward, backward[::-1], strict=True):
        assert torch.equal(result.guided, other.guided)


@pytest.mark.parametrize("kind", ["scale", "mask", "label", "classifier", "none"])
def test_without_guidance_both_reconstructions_are_equal(kind):
    guidance = ClassifierFree(0.0 if kind == "scale" else 3.0)
    if kind == "classifier":
        guidance = classifier_guidance_of(scale=0.0)
    if kind == "none":
        guidance = None
    classes = None if kind == "classifier" else CLASSES
    denoiser = denoiser_of(two_layers(classes=classes).double(), classes)
    recipe = Recipe(sound_plan(6), 5, guidance=guidance, unguided=True)
    mask = torch.zeros(8, 8, dtype=bool) if kind == "mask" else None
    image = torch.rand(3, 8, 8, dtype=torch.float64)
    job = Job(image, -1 if kind == "label" else 1, ("a",), mask)
    (result,), _ = run(denoiser, recipe, [job])
    assert torch.equal(result.guided, result.unguided)
    assert not torch.equal(result.guided, image)


def test_full_mask_equals_no_mask():
    denoiser = denoiser_of(two_layers(classes=CLASSES), CLASSES)
    recipe, image = Recipe(sound_plan(6), 5, guidance=ClassifierFree(3.0)), torch.rand(3, 8, 8)
    pair = [Job(image, 1, ("a",)), Job(image, 1, ("b",), torch.ones(8, 8, dtype=bool))]
    (whole, masked), _ = run(denoiser, recipe, pair)
    assert torch.equal(whole.guided, masked.guided)


@pytest.mark.parametrize("inversion", ["null", "label", "guided"])
def test_every_call_has_one_shape_and_no_negative_label(inversion):
    network, seen = two_layers(classes=CLASSES), []
    forward = network.forward

    def spy(x, t, class_labels=None):
        seen.append((len(x), len(t), len(class_labels), int(class_labels.min())))
        return forward(x, t, class_labels)

    network.forward = spy
    recipe = Recipe(
        sound_plan(6), 5, guidance=ClassifierFree(3.0), inversion=inversion, inversion_scale=2.0
    )
    run(denoiser_of(network, CLASSES), recipe, jobs_of(13))
    assert {lengths[:3] for lengths in seen} == {(8, 8, 8)}
    assert min(low for *_, low in seen) >= 0


def test_results_are_returned_while_the_stream_runs():
    denoiser = denoiser_of(two_layers(classes=CLASSES), CLASSES)
    engine = engine_of(denoiser, Recipe(sound_plan(6), 5, guidance=ClassifierFree(3.0)), 8)
    jobs, done, most = jobs_of(80), 0, 0
    for begin in range(0, 80, 8):
        done += len(engine.push(jobs[begin : begin + 8]))
        most = max(most, begin + 8 - done)
    assert most <= 40
    assert done + len(engine.flush()) == 80
    assert engine.flush() == []


def test_inference_mode_does_not_change_a_result():
    classifier = tiny_classifier()
    guidance = guidance_by(lambda images, t: classifier(images), scale=5.0, crops=2, crop_size=6)
    recipe = Recipe(sound_plan(6), 5, guidance=guidance, unguided=True)
    expected, _ = run(denoiser_of(two_layers()), recipe, jobs_of(9))
    with torch.inference_mode():
        results, _ = run(denoiser_of(two_layers()), recipe, jobs_of(9))
    for result, other in zip(results, expected, strict=True):
        assert torch.equal(result.guided, other.guided)
        assert not result.guided.requires_grad


def test_image_without_label_needs_a_null_class():
    denoiser = denoiser_of(two_layers(1, 8, 3), 3)
    denoiser.null_class = None
    recipe, job = Recipe(sound_plan(), 2), Job(torch.rand(1, 8, 8), -1)
    with pytest.raises(UserError, match="null class"):
        engine_of(denoiser, recipe, 8).push([job] * 8)
    with pytest.raises(UserError, match="null class"):
        plainly(denoiser, recipe, job)
