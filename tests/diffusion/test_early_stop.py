import torch

from diffguard.diffusion.early_stop import should_stop


def test_any_quality_strictly_below_its_threshold_stops():
    qualities = torch.tensor([[1.0, 2.0, 3.0, 1.0], [5.0, 5.0, 4.0, 4.0]])
    assert should_stop(qualities, [2.0, 5.0]).tolist() == [True, False, True, True]
    assert should_stop(qualities, [None, 5.0]).tolist() == [False, False, True, True]
    assert should_stop(qualities, [2.0, None]).tolist() == [True, False, False, True]
    assert should_stop(qualities, [None, None]).tolist() == [False] * 4
