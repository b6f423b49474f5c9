"""Learning rate schedules of any length."""

import pytest
import torch

from diffguard.training.optimization import build_schedule
from diffguard.training.settings import ClassifierTraining


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 20])
def test_one_cycle_takes_any_number_of_steps(steps, warmup):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
    schedule = build_schedule(optimizer, ClassifierTraining(lr=0.1, warmup=warmup), steps)
    # The schedule is moved on after the last step too.
    for _ in range(steps):
        optimizer.step()
        schedule.step()
        assert 0 <= schedule.get_last_lr()[0] <= 0.1 + 1e-9
