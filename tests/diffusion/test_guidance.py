import pytest
import torch
from torch.nn import functional as F

from diffguard.diffusion.crops import crop_nearest, draw_boxes
from diffguard.diffusion.guidance import blend_clean, classifier_free, classifier_gradient
from diffguard.images import resize_mask
from tests.helpers.engine_runs import guidance_by
from tests.helpers.reference_networks import predict
from tests.helpers.tiny_models import denoiser_of, smooth_classifier, sound_plan, two_layers

BOXES = torch.tensor([[[5, 1, 2], [8, 0, 0]], [[4, 3, 0], [7, 1, 1]]])


@pytest.mark.parametrize("boxes", [None, BOXES], ids=["whole", "crops"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_gradient_equals_finite_differences(boxes, reduction):
    u = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    labels, scale, crop = torch.tensor([1, 3]), 2.5, 6

    def objective(u):
        views = [(u + 1) / 2]
        if boxes is not None:
            views = list(crop_nearest(views[0], boxes.transpose(0, 1), crop))
        likelihoods = [
            F.log_softmax(smooth_classifier(v), -1)[range(2), labels].sum() for v in views
        ]
        total = torch.stack(likelihoods)
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
    guidance = guidance_by(lambda images, t: smooth_classifier(images), scale=2.0)
    gradient = guidance.gradient(
        denoiser, x, noise, t, alpha,
        labels=labels, keys=[()] * 2, steps=[0, 0], batch_size=8,
    )  # fmt: skip
    u = blend_clean(x, noise, alpha)
    torch.testing.assert_close(gradient, classifier_gradient(smooth_classifier, u, labels, 2.0))
    # Low noise shows the state, high noise the clean estimate.
    clean = (x - (1 - alpha).sqrt().view(2, 1, 1, 1) * noise) / alpha.sqrt().view(2, 1, 1, 1)
    for row, share in enumerate((1 - alpha).sqrt()):
        torch.testing.assert_close(u[row], x[row].lerp(clean[row], share))


def test_mask_guides_only_inside():
    null, label = torch.zeros(1, 2, 4, 4), torch.ones(1, 2, 4, 4)
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, :4, :2] = True
    guided = classifier_free(null, label, 5.0, mask)
    expected = torch.zeros(4, 4)
    expected[:2, :1] = 5.0
    assert torch.equal(guided, expected.expand(1, 2, 4, 4))
    assert torch.equal(resize_mask(mask, (4, 4))[0], expected > 0)


def test_crops_belong_to_seed_image_and_step():
    def guidance(seed, shared=False):
        return guidance_by(
            lambda images, t: images, scale=1.0, crops=4, crop_size=4, seed=seed,
            shared_crops=shared,
        )  # fmt: skip

    def boxes(seed, key, step, shared=False):
        return guidance(seed, shared).boxes((32, 32), [key], [step])[0]

    first = boxes(0, ("a", "1"), 2)
    assert torch.equal(first, boxes(0, ("a", "1"), 2))
    for other in ((1, ("a", "1"), 2), (0, ("b", "1"), 2), (0, ("a1", ""), 2), (0, ("a", "1"), 3)):
        assert not torch.equal(first, boxes(*other))
    # Together as alone.
    pair = guidance(0).boxes((32, 32), [("a", "1"), ("b", "1")], [2, 0])
    assert torch.equal(pair, torch.stack([first, boxes(0, ("b", "1"), 0)]))
    # Shared crops go on from step to step as if the image were the only one.
    shared = boxes(0, ("a", "1"), 2, shared=True)
    assert torch.equal(shared, boxes(0, ("b", "2"), 2, shared=True))
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(shared, draw_boxes(generator, 12, (32, 32), 4)[8:])


def test_classifier_of_noisy_images_gets_the_timestep():
    denoiser, seen = denoiser_of(two_layers()), []

    def classify(images, t):
        seen.append(t.tolist())
        return smooth_classifier(images) * t.view(-1, 1)

    guidance = guidance_by(classify, scale=1.0, blend=False)
    x, t = torch.randn(3, 3, 8, 8), torch.tensor([10, 20, 30])
    guidance.gradient(
        denoiser, x, torch.zeros_like(x), t, torch.tensor([0.9, 0.8, 0.7]),
        labels=torch.tensor([0, -1, 1]), keys=[()] * 3, steps=[0] * 3, batch_size=4,
    )  # fmt: skip
    assert seen == [[10, 30, 10, 10]]
