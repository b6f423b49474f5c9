"""Guidance beyond the reference files, against libraries and general laws."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torchvision.transforms import functional as TF

from diffguard.diffusion.crops import crop_nearest, draw_boxes, place_boxes
from diffguard.diffusion.guidance import blend_clean, classifier_free, classifier_gradient
from diffguard.diffusion.schedule import predict_clean
from diffguard.errors import UserError
from diffguard.randomness import image_generator
from tests.helpers.engine_runs import guidance_by
from tests.helpers.reference_networks import predict
from tests.helpers.tiny_models import (
    denoiser_of,
    smooth_classifier,
    sound_plan,
    tiny_classifier,
    two_layers,
)

BOXES = torch.tensor([[[5, 1, 2], [8, 0, 0]], [[4, 3, 0], [7, 1, 1]], [[6, 2, 1], [3, 5, 4]]])

noises = st.integers(0, 2**16).map(
    lambda seed: torch.randn(2, 3, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
)


def placed_boxes(generator, crops, size, smallest):
    """Boxes as they are drawn for a single image."""
    draws = torch.rand(crops, 3, generator=generator, dtype=torch.float64)
    return place_boxes(draws, size, smallest)


class TestClassifierGuidance:
    """Gradients of the classifier, of whole images and of crops."""

    def test_rows_without_label_reach_no_classifier_and_get_no_gradient(self):
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

    def test_blend_is_the_clean_estimate_at_full_noise_and_the_state_without_noise(self):
        x, noise = torch.randn(2, 2, 3, 8, 8, dtype=torch.float64)
        alpha = torch.tensor([1e-9, 1 - 1e-9], dtype=torch.float64)
        u, clean = blend_clean(x, noise, alpha), predict_clean(x, noise, alpha)
        torch.testing.assert_close(u[0], clean[0], rtol=1e-4, atol=0)
        torch.testing.assert_close(u[1], x[1], rtol=0, atol=1e-3)
        assert torch.equal(blend_clean(x, noise, alpha, blend=False), x)

    def test_each_row_gets_the_gradient_of_its_own_crops(self):
        u, labels = torch.randn(3, 3, 8, 8), torch.tensor([1, -1, 2])
        options = {"crop_size": 6, "reduction": "mean"}
        actual = classifier_gradient(smooth_classifier, u, labels, 2.0, boxes=BOXES, **options)
        assert not actual[1].any()
        for row in ([0], [2]):
            alone = classifier_gradient(
                smooth_classifier,
                u[row],
                labels[row],
                2.0,
                boxes=BOXES[row],
                output_size=6,
                **options,
            )
            torch.testing.assert_close(actual[row], alone)

    def test_crops_at_once_limits_the_batch_of_the_classifier(self):
        shown = []

        def classify(images):
            shown.append(len(images))
            return smooth_classifier(images)

        u, labels = torch.randn(3, 3, 8, 8), torch.tensor([1, 0, 2])
        boxes = torch.cat([BOXES, BOXES.flip(1)], dim=1)[:, :3]
        options = {"boxes": boxes, "crop_size": 5}
        actual = classifier_gradient(classify, u, labels, 1.0, **options)
        for count in (2, 1):
            again = classifier_gradient(classify, u, labels, 1.0, crops_at_once=count, **options)
            torch.testing.assert_close(again, actual)
        assert shown == [9, 6, 3, 3, 3, 3]

    @pytest.mark.parametrize(("side", "calls"), [(64, [16]), (500, [8, 8])])
    def test_large_classifier_gets_fewer_crops_per_call(self, side, calls):
        shown = []

        def classify(images, t):
            shown.append(len(images))
            return smooth_classifier(images) * (1 + t.view(-1, 1) / 1000)

        x, times = torch.randn(8, 3, 8, 8), torch.arange(8) * 100
        guidance = guidance_by(classify, 1.0, blend=False, crops=2, crop_size=6, input_size=side)

        def gradient(rows):
            half = torch.full((len(rows),), 0.5)
            return guidance.gradient(
                denoiser_of(two_layers()), x[rows], x[rows], times[rows], half,
                labels=torch.tensor(rows) % 3, keys=[(str(row),) for row in rows],
                steps=[0] * len(rows), batch_size=8,
            )  # fmt: skip

        together = gradient(list(range(8)))
        assert shown == calls
        # Each crop gets the timestep of its own image.
        for row in (0, 5):
            torch.testing.assert_close(gradient([row])[0], together[row])

    def test_crop_options_do_not_change_the_gradient_of_whole_images(self):
        u, labels = torch.randn(3, 3, 8, 8), torch.tensor([1, 0, 2])
        whole = classifier_gradient(smooth_classifier, u, labels, 2.0)
        for reduction in ("sum", "mean"):
            options = {"crop_size": 6, "output_size": 4, "reduction": reduction}
            actual = classifier_gradient(smooth_classifier, u, labels, 2.0, **options)
            assert torch.equal(actual, whole)

    def test_crops_without_size_are_refused(self):
        u, labels = torch.zeros(3, 3, 8, 8), torch.tensor([0, 1, 2])
        with pytest.raises(UserError, match="crops need a crop_size"):
            classifier_gradient(smooth_classifier, u, labels, 1.0, boxes=BOXES)

    @pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
    def test_gradient_is_the_same_without_autograd(self, mode):
        classifier, labels = tiny_classifier(), torch.tensor([1, 2])
        u = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        expected = classifier_gradient(classifier, u, labels, 1.0)
        with mode():
            u = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
            actual = classifier_gradient(classifier, u, torch.tensor([1, 2]), 1.0)
        assert torch.equal(actual, expected)
        assert all(p.grad is None for p in classifier.parameters())

    def test_crops_of_an_image_do_not_depend_on_its_batch(self):
        plan, denoiser, classifier = (
            sound_plan(),
            denoiser_of(two_layers(size=16)),
            tiny_classifier(),
        )
        guidance = guidance_by(
            lambda images, t: classifier(images), scale=2.0, crops=3, crop_size=8, seed=5
        )
        x = torch.randn(4, 3, 16, 16)
        index, labels = torch.tensor([2, 5, 1, 7]), torch.tensor([0, 3, -1, 2])
        t, alpha, _ = plan.synthesis(index)
        noise = predict(denoiser)(x, t)

        def gradient(rows):
            return guidance.gradient(
                denoiser, x[rows], noise[rows], t[rows], alpha[rows], labels=labels[rows],
                keys=[("set", str(row)) for row in rows], steps=index[rows].tolist(), batch_size=8,
            )  # fmt: skip

        together = gradient([0, 1, 2, 3])
        assert torch.equal(gradient([3, 1, 0, 2]), together[[3, 1, 0, 2]])
        for row in range(4):
            assert torch.equal(gradient([row]), together[[row]])


class TestClassifierFreeGuidance:
    """Scales and masks of classifier-free guidance."""

    @settings(max_examples=30, deadline=None)
    @given(noises, st.floats(0, 20))
    def test_uniform_masks_give_the_null_and_the_guided_noise(self, noises, scale):
        null, label = noises
        nowhere, everywhere = torch.zeros(3, 6, 6, dtype=bool), torch.ones(3, 6, 6, dtype=bool)
        assert torch.equal(classifier_free(null, label, scale, nowhere), null)
        guided = classifier_free(null, label, scale)
        assert torch.equal(classifier_free(null, label, scale, everywhere), guided)

    @settings(max_examples=30, deadline=None)
    @given(noises)
    def test_scales_zero_and_one_give_the_null_and_the_label_noise(self, noises):
        null, label = noises
        assert torch.equal(classifier_free(null, label, 0.0), null)
        assert torch.equal(classifier_free(null, label, 1.0), label)
        torch.testing.assert_close(classifier_free(null, label, 3.0), 3 * label - 2 * null)


class TestCrops:
    """Boxes and the pixels in them."""

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_crops_equal_nearest_neighbor_resizing(self, data):
        height, width, size = (data.draw(st.integers(1, 24)) for _ in range(3))
        side = data.draw(st.integers(1, min(height, width)))
        # Otherwise a pixel may lie on an edge, and the float32 arithmetic of the library decides.
        assume(math.gcd(side, size) in (1, side, size))
        x, y = data.draw(st.integers(0, width - side)), data.draw(st.integers(0, height - side))
        image = torch.rand(1, 2, height, width)
        expected = F.interpolate(
            TF.crop(image, y, x, side, side), size=(size, size), mode="nearest"
        )
        actual = crop_nearest(image, torch.tensor([[[side, x, y]]]), size)
        assert torch.equal(actual[0], expected)

    @settings(max_examples=40, deadline=None)
    @given(
        draw=st.sampled_from([draw_boxes, placed_boxes]),
        seed=st.integers(0, 2**16),
        size=st.tuples(st.integers(2, 40), st.integers(2, 40)),
        smallest=st.integers(1, 50),
    )
    def test_boxes_lie_inside_the_image(self, draw, seed, size, smallest):
        side, x, y = draw(torch.Generator().manual_seed(seed), 20, size, smallest).unbind(1)
        height, width = size
        assert bool((side >= min(smallest, *size)).all())
        assert bool((side <= min(size)).all())
        assert bool(((x >= 0) & (x + side <= width)).all())
        assert bool(((y >= 0) & (y + side <= height)).all())

    @pytest.mark.parametrize("draw", [draw_boxes, placed_boxes])
    def test_boxes_reach_every_part_of_the_image(self, draw):
        side, x, y = draw(torch.Generator().manual_seed(0), 2000, (8, 20), 4).unbind(1)
        assert sorted(set(side.tolist())) == [4, 5, 6, 7]
        assert (int((x + side).max()), int((y + side).max())) == (20, 8)
        assert (int(x.min()), int(y.min())) == (0, 0)
        # Side, x and y are drawn apart: every combination occurs.
        boxes = draw(torch.Generator().manual_seed(2), 4000, (8, 8), 4)
        assert len(boxes.unique(dim=0)) == 25 + 16 + 9 + 4

    def test_image_generator_depends_on_every_part_of_the_key(self):
        draws = {
            int(torch.randint(2**31, (), generator=image_generator(*parts)))
            for parts in ((0, "a", "b"), (0, "ab", ""), (0, "a"), (1, "a", "b"), (0, "b", "a"))
        }
        assert len(draws) == 5
        # Scores must stay the same from one release to the next.
        assert image_generator(0, "set", "key", 1).initial_seed() == 3033230604303795850
