import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_networks import predict
from tiny_models import denoiser_of, sound_plan, tiny_classifier, two_layers
from torch.nn import functional as F

from diffguard.guidance import (
    blend_clean,
    classifier_free,
    classifier_gradient,
    crop_nearest,
    draw_boxes,
    image_generator,
    resize_mask,
)
from diffguard.steering import ClassifierSteering

BOXES = torch.tensor([[[5, 1, 2], [8, 0, 0]], [[4, 3, 0], [7, 1, 1]]])


def smooth_classifier(images):
    """Twice differentiable, so that finite differences are exact enough; any size."""
    weight = torch.linspace(-1, 1, 4 * 3 * 9, dtype=images.dtype).sin().view(4, 3, 3, 3)
    return torch.tanh(F.conv2d(images, 2 * weight, padding=1)).mean((2, 3)) * 5


@pytest.mark.parametrize("boxes", [None, BOXES], ids=["whole", "crops"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_gradient_equals_finite_differences(boxes, reduction):
    u = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    labels, scale, crop = torch.tensor([1, 3]), 2.5, 6

    def objective(u):
        views = [(u + 1) / 2]
        if boxes is not None:
            views = [crop_nearest(views[0], boxes[:, k], crop) for k in range(boxes.shape[1])]
        found = [F.log_softmax(smooth_classifier(v), -1)[range(2), labels].sum() for v in views]
        total = torch.stack(found)
        return scale * float(total.sum() if reduction == "sum" else total.mean())

    gradient = classifier_gradient(
        smooth_classifier, u, labels, scale, boxes=boxes, crop_size=crop, reduction=reduction
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        direction = torch.randn(u.shape, generator=generator, dtype=torch.float64) * 1e-5
        slope = (objective(u + direction) - objective(u - direction)) / 2
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=1e-6, abs=1e-13)


def test_clean_gradient_is_that_of_the_blended_image():
    # Nothing passes through the diffusion model: the blend only says where the gradient is taken.
    plan, denoiser = sound_plan(), denoiser_of(two_layers().double())
    x, index = torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.tensor([3, 6])
    t, alpha, _ = plan.synthesis(index)
    noise, labels = predict(denoiser)(x, t), torch.tensor([0, 2])
    steering = ClassifierSteering(lambda images, t: smooth_classifier(images), scale=2.0)
    found = steering.gradient(
        denoiser, x, noise, t, alpha,
        labels=labels, keys=[()] * 2, steps=[0, 0], batch_size=8,
    )  # fmt: skip
    u = blend_clean(x, noise, alpha)
    torch.testing.assert_close(found, classifier_gradient(smooth_classifier, u, labels, 2.0))
    assert torch.equal(blend_clean(x, noise, alpha, blend=False), x)
    # Low noise shows the state, high noise the clean estimate.
    clean = (x - (1 - alpha).sqrt().view(2, 1, 1, 1) * noise) / alpha.sqrt().view(2, 1, 1, 1)
    for row, share in enumerate((1 - alpha).sqrt()):
        torch.testing.assert_close(u[row], x[row].lerp(clean[row], share))


def test_rows_without_label_are_not_shown_and_get_no_gradient():
    shown = []

    def classify(images):
        shown.append(len(images))
        return smooth_classifier(images)

    u = torch.randn(3, 3, 8, 8)
    gradient = classifier_gradient(classify, u, torch.tensor([-1, 2, -1]), 1.0)
    assert shown == [1]
    assert not gradient[[0, 2]].any()
    alone = classifier_gradient(classify, u[1:2], torch.tensor([2]), 1.0)
    torch.testing.assert_close(gradient[1:2], alone)
    for labels, scale in (([-1, -1, -1], 1.0), ([0, 1, 2], 0.0)):
        assert not classifier_gradient(classify, u, torch.tensor(labels), scale).any()
    assert len(shown) == 2


def test_the_same_inside_inference_mode():
    classifier, labels = tiny_classifier(), torch.tensor([1, 2])
    u = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = classifier_gradient(classifier, u, labels, 1.0)
    with torch.inference_mode():
        u = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        found = classifier_gradient(classifier, u, torch.tensor([1, 2]), 1.0)
    assert torch.equal(found, expected)
    assert all(p.grad is None for p in classifier.parameters())


noises = st.integers(0, 2**16).map(
    lambda seed: torch.randn(2, 3, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
)


@settings(max_examples=30, deadline=None)
@given(noises, st.floats(0, 20))
def test_masks_of_one_value(noises, scale):
    null, label = noises
    nowhere, everywhere = torch.zeros(3, 6, 6, dtype=bool), torch.ones(3, 6, 6, dtype=bool)
    assert torch.equal(classifier_free(null, label, scale, nowhere), null)
    guided = classifier_free(null, label, scale)
    assert torch.equal(classifier_free(null, label, scale, everywhere), guided)


@settings(max_examples=30, deadline=None)
@given(noises)
def test_scales_without_effect(noises):
    null, label = noises
    assert torch.equal(classifier_free(null, label, 0.0), null)
    assert torch.equal(classifier_free(null, label, 1.0), label)
    torch.testing.assert_close(classifier_free(null, label, 3.0), 3 * label - 2 * null)


def test_mask_guides_only_inside():
    null, label = torch.zeros(1, 2, 4, 4), torch.ones(1, 2, 4, 4)
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, :4, :2] = True
    guided = classifier_free(null, label, 5.0, mask)
    expected = torch.zeros(4, 4)
    expected[:2, :1] = 5.0
    assert torch.equal(guided, expected.expand(1, 2, 4, 4))
    assert torch.equal(resize_mask(mask, (4, 4))[0], expected > 0)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_crops_are_nearest_neighbour(data):
    height, width, size = (data.draw(st.integers(1, 24)) for _ in range(3))
    side = data.draw(st.integers(1, min(height, width)))
    x, y = data.draw(st.integers(0, width - side)), data.draw(st.integers(0, height - side))
    image = torch.rand(1, 2, height, width)
    cut = image[:, :, y : y + side, x : x + side]
    found = crop_nearest(image, torch.tensor([[side, x, y]]), size)
    pixels = torch.arange(size) * side // size
    assert torch.equal(found, cut[:, :, pixels][:, :, :, pixels])
    if size % side == 0 or side % size == 0:
        assert torch.equal(found, F.interpolate(cut, size=(size, size), mode="nearest"))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    size=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    smallest=st.integers(1, 50),
)
def test_boxes_lie_inside_the_image(seed, size, smallest):
    side, x, y = draw_boxes(torch.Generator().manual_seed(seed), 20, size, smallest).unbind(1)
    height, width = size
    assert bool((side >= min(smallest, *size)).all())
    assert bool((side <= min(size)).all())
    assert bool(((x >= 0) & (x + side <= width)).all())
    assert bool(((y >= 0) & (y + side <= height)).all())


def test_boxes_reach_all_of_the_image():
    side, x, y = draw_boxes(torch.Generator().manual_seed(0), 2000, (8, 20), 4).unbind(1)
    assert sorted(set(side.tolist())) == [4, 5, 6, 7]
    assert (int((x + side).max()), int((y + side).max())) == (20, 8)
    assert (int(x.min()), int(y.min())) == (0, 0)


def test_crops_of_an_image_do_not_depend_on_its_neighbours():
    plan, denoiser, classifier = sound_plan(), denoiser_of(two_layers(size=16)), tiny_classifier()
    steering = ClassifierSteering(
        lambda images, t: classifier(images), scale=2.0, crops=3, crop_size=8, seed=5
    )
    x = torch.randn(4, 3, 16, 16)
    index, labels = torch.tensor([2, 5, 1, 7]), torch.tensor([0, 3, -1, 2])
    t, alpha, _ = plan.synthesis(index)
    noise = predict(denoiser)(x, t)

    def gradient(rows):
        return steering.gradient(
            denoiser, x[rows], noise[rows], t[rows], alpha[rows], labels=labels[rows],
            keys=[("set", str(row)) for row in rows], steps=index[rows].tolist(), batch_size=8,
        )  # fmt: skip

    together = gradient([0, 1, 2, 3])
    assert torch.equal(gradient([3, 1, 0, 2]), together[[3, 1, 0, 2]])
    for row in range(4):
        assert torch.equal(gradient([row]), together[[row]])


def test_crops_belong_to_seed_image_and_step():
    def steering(seed, shared=False):
        return ClassifierSteering(
            lambda images, t: images, scale=1.0, crops=4, crop_size=4, seed=seed,
            shared_crops=shared,
        )  # fmt: skip

    def boxes(seed, key, step, shared=False):
        return steering(seed, shared).boxes((32, 32), key, step)

    own = boxes(0, ("a", "1"), 2)
    assert torch.equal(own, boxes(0, ("a", "1"), 2))
    for other in ((1, ("a", "1"), 2), (0, ("b", "1"), 2), (0, ("a1", ""), 2), (0, ("a", "1"), 3)):
        assert not torch.equal(own, boxes(*other))
    # Shared crops go on from step to step as if the image were the only one.
    shared = boxes(0, ("a", "1"), 2, shared=True)
    assert torch.equal(shared, boxes(0, ("b", "2"), 2, shared=True))
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(shared, draw_boxes(generator, 12, (32, 32), 4)[8:])


def test_image_generator_takes_every_part():
    draws = {
        int(torch.randint(2**31, (), generator=image_generator(*parts)))
        for parts in ((0, "a", "b"), (0, "ab", ""), (0, "a"), (1, "a", "b"), (0, "b", "a"))
    }
    assert len(draws) == 5


def test_a_classifier_of_noisy_images_is_told_the_time():
    denoiser, seen = denoiser_of(two_layers()), []

    def classify(images, t):
        seen.append(t.tolist())
        return smooth_classifier(images) * t.view(-1, 1)

    steering = ClassifierSteering(classify, scale=1.0, blend=False)
    x, t = torch.randn(3, 3, 8, 8), torch.tensor([10, 20, 30])
    steering.gradient(
        denoiser, x, torch.zeros_like(x), t, torch.tensor([0.9, 0.8, 0.7]),
        labels=torch.tensor([0, -1, 1]), keys=[()] * 3, steps=[0] * 3, batch_size=4,
    )  # fmt: skip
    assert seen == [[10, 30, 10, 10]]
