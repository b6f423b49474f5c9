import pytest
import torch

from diffguard.early_stop import calibrate_threshold, should_stop
from diffguard.errors import UserError


def test_any_quality_strictly_below_its_threshold_stops():
    qualities = torch.tensor([[1.0, 2.0, 3.0, 1.0], [5.0, 5.0, 4.0, 4.0]])
    assert should_stop(qualities, [2.0, 5.0]).tolist() == [True, False, True, True]
    assert should_stop(qualities, [None, 5.0]).tolist() == [False, False, True, True]
    assert should_stop(qualities, [2.0, None]).tolist() == [True, False, False, True]
    assert should_stop(qualities, [None, None]).tolist() == [False] * 4


def test_number_of_thresholds_must_fit():
    with pytest.raises(ValueError, match="zip"):
        should_stop(torch.zeros(2, 3), [1.0])


@pytest.mark.parametrize("depth", [0.5, 4.5])
def test_impossible_depth_is_refused(depth):
    with pytest.raises(UserError, match=r"the mean depth must be 1 … 4 steps"):
        calibrate_threshold(torch.zeros(4, 2), depth, 4)
