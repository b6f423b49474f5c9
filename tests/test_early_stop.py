import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffguard.early_stop import calibrate_threshold, calibrate_thresholds, should_stop, stop_index
from diffguard.errors import UserError

# Few distinct values, so that ties with the threshold occur.
levels = st.integers(0, 8).map(lambda k: k / 8)


def trajectories(draw, steps, measures, images):
    values = draw(st.lists(levels, min_size=steps * measures * images, max_size=None))
    return torch.tensor(values[: steps * measures * images]).view(steps, measures, images)


def test_any_quality_strictly_below_its_threshold_stops():
    qualities = torch.tensor([[1.0, 2.0, 3.0, 1.0], [5.0, 5.0, 4.0, 4.0]])
    assert should_stop(qualities, [2.0, 5.0]).tolist() == [True, False, True, True]
    assert should_stop(qualities, [None, 5.0]).tolist() == [False, False, True, True]
    assert should_stop(qualities, [2.0, None]).tolist() == [True, False, False, True]
    assert should_stop(qualities, [None, None]).tolist() == [False] * 4


def test_number_of_thresholds_must_fit():
    with pytest.raises(ValueError, match="zip"):
        should_stop(torch.zeros(2, 3), [1.0])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_an_image_stops_as_if_it_were_alone(data):
    steps, measures, images = (data.draw(st.integers(1, n)) for n in (8, 2, 4))
    qualities = trajectories(data.draw, steps, measures, images)
    thresholds = data.draw(st.lists(st.none() | levels, min_size=measures, max_size=measures))
    cap = data.draw(st.integers(1, steps))
    index, reached = stop_index(qualities, thresholds, cap)
    for image in range(images):
        expected, ended = cap - 1, False
        for step in range(cap):
            values = qualities[step, :, image].tolist()
            pairs = zip(values, thresholds, strict=True)
            if any(t is not None and value < t for value, t in pairs):
                expected, ended = step, True
                break
        assert (int(index[image]), bool(reached[image])) == (expected, ended)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_calibration_comes_as_near_to_the_depth_as_any_threshold(data):
    steps, images = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 5))
    qualities = trajectories(data.draw, steps, 1, images)
    cap = data.draw(st.integers(1, steps))
    wanted = data.draw(st.floats(1, cap))

    def miss(threshold):
        index, _ = stop_index(qualities, [threshold], cap)
        return abs(float((index + 1).double().mean()) - wanted)

    found = calibrate_threshold(qualities[:, 0], wanted, cap)
    every = [-1.0, 2.0, *(k / 8 for k in range(9))]
    assert miss(found) <= min(map(miss, every)) + 1e-9


def test_calibration_reaches_the_mean_depth():
    generator = torch.Generator().manual_seed(0)
    falling = 50 - torch.rand(20, 64, generator=generator).cumsum(0)
    for share in (0.1, 0.35, 0.8, 1.0):
        threshold = calibrate_threshold(falling, share * 20, 20)
        index, _ = stop_index(falling.unsqueeze(1), [threshold], 20)
        assert float((index + 1).double().mean()) == pytest.approx(share * 20, abs=0.5 / 64 + 1e-9)


def test_several_qualities_reach_the_mean_depth_together():
    generator = torch.Generator().manual_seed(0)
    falling = 50 - torch.rand(20, 3, 64, generator=generator).cumsum(0)
    for share in (0.1, 0.35, 0.8):
        thresholds = calibrate_thresholds(falling, share * 20, 20)
        index, _ = stop_index(falling, thresholds, 20)
        assert float((index + 1).double().mean()) == pytest.approx(share * 20, abs=4 / 64)
        alone = [stop_index(falling[:, [m]], [thresholds[m]], 20)[0] for m in range(3)]
        depths = [float((one + 1).double().mean()) for one in alone]
        assert max(depths) - min(depths) <= 2 / 64
    only = calibrate_thresholds(falling[:, :1], 7, 20)
    assert only == [calibrate_threshold(falling[:, 0], 7, 20)]


@pytest.mark.parametrize("depth", [0.5, 4.5])
def test_impossible_depth_is_refused(depth):
    with pytest.raises(UserError, match=r"the mean depth must be 1 … 4 steps"):
        calibrate_threshold(torch.zeros(4, 2), depth, 4)
