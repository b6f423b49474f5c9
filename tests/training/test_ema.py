"""The moving average of weights."""

import pytest
import torch
from torch import nn

from diffguard.training.ema import EMA


def test_the_average_follows_its_recursion_with_warm_up():
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = EMA(module, decay=0.25)
    expected = module[0].weight.detach().clone()
    for step in range(5):
        module[0].weight.data.add_(torch.randn(2, 3))
        module[1].running_mean.add_(1.0)
        average.update(module, step)
        decay = min(0.25, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module[0].weight.detach()
    torch.testing.assert_close(average.module[0].weight, expected)
    torch.testing.assert_close(average.module[1].running_mean, module[1].running_mean)
    assert not any(p.requires_grad for p in average.parameters())


def test_the_average_of_half_precision_weights_follows_them():
    # A thousandth of a step is less than bfloat16 can add to a weight of 1.
    module = torch.nn.Linear(1, 1, bias=False).bfloat16()
    module.weight.data.fill_(1.0)
    ema = EMA(module, decay=0.999)
    module.weight.data.fill_(1.25)
    for _ in range(3000):
        ema.update(module, 10**6)
    assert ema.module.weight.dtype == torch.float32
    assert float(ema.module.weight) == pytest.approx(1.25 - 0.25 * 0.999**3000, abs=1e-4)
