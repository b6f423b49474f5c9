"""Early stop, CAM and metrics beyond the reference files, against libraries and general laws."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve as sklearn_roc_curve

from diffguard.classifiers.cam import grad_cam, scale_cam
from diffguard.diffusion.early_stop import (
    calibrate_threshold,
    calibrate_thresholds,
    should_stop,
    stop_index,
)
from diffguard.errors import UserError
from diffguard.report.metrics import auroc, compute_metrics, roc_curve
from tests.helpers.sklearn_values import sklearn_metrics
from tests.helpers.tiny_models import tiny_classifier, tiny_transformer

# Few distinct values, so that ties with the threshold occur.
levels = st.integers(0, 8).map(lambda k: k / 8)


def trajectories(draw, steps, measures, images):
    values = draw(st.lists(levels, min_size=steps * measures * images, max_size=None))
    return torch.tensor(values[: steps * measures * images]).view(steps, measures, images)


def falling(steps, *shape):
    """Qualities that fall from step to step, no two alike."""
    drops = torch.rand(steps, *shape, generator=torch.Generator().manual_seed(0))
    return 50 - drops.cumsum(0)


def depths(qualities, thresholds, cap):
    """Inversion steps that each image makes, as numpy's float64."""
    return stop_index(qualities, thresholds, cap)[0].double().numpy() + 1


def color_images(n, *size):
    return torch.rand(n, 3, *size, generator=torch.Generator().manual_seed(1))


def draws(n_id, n_ood, digits=None, scale=1.0):
    rng = np.random.default_rng([n_id, n_ood])
    parts = rng.normal(0, 1, n_id) * scale, rng.normal(1, 1.5, n_ood) * scale
    return tuple(torch.from_numpy(part if digits is None else part.round(digits)) for part in parts)


def spread(*values):
    return torch.tensor(values, dtype=torch.float64)


CASES = {
    "plain": draws(400, 300),
    "ties": draws(400, 300, digits=0),
    "some ties": draws(100, 90, digits=1),
    "unbalanced": draws(1000, 7),
    "unbalanced the other way": draws(7, 1000),
    "one of each": draws(1, 1),
    "twenty": draws(20, 20),
    "constant": (torch.zeros(5), torch.zeros(3)),
    "separable": (torch.arange(10.0), torch.arange(20.0, 25.0)),
    "inverted": (torch.arange(20.0, 25.0), torch.arange(10.0)),
    "large logits": draws(200, 200, scale=300.0),
    "tiny float32": tuple(part.float() for part in draws(200, 200, scale=1e-7)),
    "bfloat16 of a network": tuple(part.bfloat16().requires_grad_() for part in draws(60, 50)),
    "integers": (torch.tensor([1, 2, 2, 3]), torch.tensor([2, 3, 4])),
    "signed zero": (spread(0.0, -1.0), spread(-0.0, 1.0)),
}


tied_scores = st.lists(st.integers(-4, 4), min_size=1, max_size=25)


class TestEarlyStop:
    """The step at which an image stops, and thresholds for a mean depth."""

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_image_stops_as_if_it_were_alone(self, data):
        steps, measures, images = (data.draw(st.integers(1, n)) for n in (8, 2, 4))
        qualities = trajectories(data.draw, steps, measures, images)
        thresholds = data.draw(st.lists(st.none() | levels, min_size=measures, max_size=measures))
        cap = data.draw(st.integers(1, steps))
        index, reached = stop_index(qualities, thresholds, cap)
        for image in range(images):
            seen = [bool(should_stop(step[:, [image]], thresholds)) for step in qualities][:cap]
            expected = seen.index(True) if any(seen) else cap - 1
            assert (int(index[image]), bool(reached[image])) == (expected, any(seen))

    @settings(max_examples=80, deadline=None)
    @given(st.data())
    def test_no_threshold_comes_nearer_to_the_depth(self, data):
        steps, images = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 5))
        qualities = trajectories(data.draw, steps, 1, images)
        cap = data.draw(st.integers(1, steps))
        depth = data.draw(st.floats(1, cap))

        def miss(threshold):
            return abs(depths(qualities, [threshold], cap).mean() - depth)

        actual = calibrate_threshold(qualities[:, 0], depth, cap)
        every = [-1.0, 2.0, *(k / 8 for k in range(9))]
        assert miss(actual) <= min(map(miss, every)) + 1e-9

    @pytest.mark.parametrize("share", [0.05, 0.1, 0.35, 0.8, 1.0])
    def test_threshold_reaches_the_mean_depth(self, share):
        qualities = falling(20, 64)
        threshold = calibrate_threshold(qualities, share * 20, 20)
        reached = depths(qualities.unsqueeze(1), [threshold], 20).mean()
        assert reached == pytest.approx(share * 20, abs=0.5 / 64 + 1e-9)
        # It lies midway between two qualities, so that their last bits do not decide.
        if 0.05 < share < 1:
            ranked = np.sort(qualities.double().numpy(), axis=None)
            place = np.searchsorted(ranked, threshold)
            assert threshold == pytest.approx(ranked[place - 1 : place + 1].mean(), abs=1e-12)

    @pytest.mark.parametrize("share", [0.1, 0.35, 0.8])
    def test_thresholds_of_several_qualities_reach_the_mean_depth_together(self, share):
        qualities = falling(20, 3, 64)
        qualities[:, 1] *= 100
        thresholds = calibrate_thresholds(qualities, share * 20, 20)
        assert depths(qualities, thresholds, 20).mean() == pytest.approx(share * 20, abs=4 / 64)
        # Each alone would end the images at one depth.
        alone = [depths(qualities[:, [m]], [thresholds[m]], 20).mean() for m in range(3)]
        assert max(alone) - min(alone) <= 2 / 64

    def test_threshold_of_one_quality_is_the_same_from_both_functions(self):
        qualities = falling(20, 1, 64)
        actual = calibrate_thresholds(qualities, 7, 20)
        assert actual == [calibrate_threshold(qualities[:, 0], 7, 20)]

    def test_wrong_number_of_thresholds_is_refused(self):
        with pytest.raises(ValueError, match="zip"):
            should_stop(torch.zeros(2, 3), [1.0])

    @pytest.mark.parametrize("depth", [0.5, 4.5])
    def test_impossible_depth_is_refused(self, depth):
        with pytest.raises(UserError, match=r"the mean depth must be 1 to 4 steps"):
            calibrate_threshold(torch.zeros(4, 2), depth, 4)


class TestCam:
    """Grad-CAM of whole classifiers."""

    @pytest.mark.parametrize("options", [{}, {"class_token": False, "global_pool": "avg"}])
    def test_cam_of_a_vision_transformer_has_the_size_of_the_images(self, options):
        classifier = tiny_transformer(**options)
        actual = grad_cam(classifier, color_images(2, 32, 32), torch.tensor([1, 6]))
        assert classifier.cam_layer == "blocks.1.norm1"
        assert actual.shape == (2, 32, 32)
        assert bool(actual.isfinite().all())
        assert float(actual.amax()) > 0

    @pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
    @pytest.mark.parametrize("build", [tiny_classifier, tiny_transformer])
    def test_cam_is_the_same_inside_inference_mode(self, build, mode):
        classifier = build()
        expected = grad_cam(classifier, color_images(2, 32, 32), torch.tensor([1, 2]))
        with mode():
            actual = grad_cam(classifier, color_images(2, 32, 32), torch.tensor([1, 2]))
        assert torch.equal(actual, expected)
        assert not actual.requires_grad
        assert all(p.grad is None for p in classifier.parameters())

    def test_cam_has_the_size_of_the_images(self):
        actual = grad_cam(tiny_classifier(), color_images(1, 24, 32), torch.tensor([1]))
        assert actual.shape == (1, 24, 32)

    def test_each_map_is_scaled_by_itself(self):
        pair = torch.stack([torch.eye(3), torch.eye(3) * 50 + 7])
        scaled = scale_cam(pair)
        torch.testing.assert_close(scaled[0], scaled[1])
        assert torch.equal(scale_cam(torch.full((1, 2, 2), 3.0)), torch.zeros(1, 2, 2))
        # The published offset halves a map whose range it equals.
        assert float(scale_cam(torch.tensor([[[0.0, 1e-7]]])).max()) == pytest.approx(0.5)


class TestMetrics:
    """OOD metrics against scikit-learn."""

    @pytest.mark.parametrize("case", CASES)
    def test_metrics_equal_scikit_learn(self, case):
        tensors = CASES[case]
        id_scores, ood_scores = (part.detach().double().numpy() for part in tensors)
        expected = sklearn_metrics(id_scores, ood_scores)
        is_ood = np.r_[np.zeros(len(id_scores)), np.ones(len(ood_scores))]
        scores = np.concatenate([id_scores, ood_scores])
        assert compute_metrics(*tensors) == pytest.approx(expected, abs=1e-12)
        assert auroc(*tensors) == pytest.approx(expected["auroc"], abs=1e-12)
        # Every point of the curve.
        curve = sklearn_roc_curve(is_ood, scores, drop_intermediate=False)
        for actual, values in zip(roc_curve(*tensors), curve, strict=False):
            assert actual.dtype == torch.float64
            np.testing.assert_allclose(actual.numpy(), values, atol=1e-15)

    @settings(max_examples=60, deadline=None)
    @given(tied_scores, tied_scores)
    def test_metrics_equal_scikit_learn_on_any_ties(self, id_scores, ood_scores):
        metrics = compute_metrics(torch.tensor(id_scores), torch.tensor(ood_scores))
        assert metrics == pytest.approx(sklearn_metrics(id_scores, ood_scores), abs=1e-12)

    @pytest.mark.parametrize(
        ("id_scores", "ood_scores", "message"),
        [
            ([0.0, math.nan], [math.inf, 1.0], "2 of 4 scores are NaN or infinite"),
            ([0.0, 1.0], [], "there is no OOD image among 2 scores"),
            ([], [1.0], "there is no ID image among 1 scores"),
        ],
    )
    def test_incomparable_scores_are_refused(self, id_scores, ood_scores, message):
        for function in (compute_metrics, roc_curve):
            with pytest.raises(UserError, match=message):
                function(torch.tensor(id_scores), torch.tensor(ood_scores))
