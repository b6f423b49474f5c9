"""Learning rate schedules of any length."""

import pytest
import torch

from diffguard.training.optimization import build_optimizer, build_schedule
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


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_biases_of_normalization_have_their_own_rate_and_the_same_decay(optimizer):
    norm = torch.nn.BatchNorm2d(2)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), norm)
    settings = ClassifierTraining(
        optimizer=optimizer, lr=0.1, weight_decay=0.5, warmup=0.3, norm_bias_lr_factor=8
    )
    optimizer = build_optimizer(network, settings)
    others, biases = optimizer.param_groups
    assert [id(parameter) for parameter in biases["params"]] == [id(norm.bias)]
    assert len(others["params"]) == 3
    assert biases["lr"] * biases["weight_decay"] == others["lr"] * others["weight_decay"]
    schedule = build_schedule(optimizer, settings, 10)
    for _ in range(3):
        optimizer.step()
        schedule.step()
        assert biases["lr"] == pytest.approx(8 * others["lr"])


def test_without_batch_normalization_all_weights_have_one_rate():
    settings = ClassifierTraining(norm_bias_lr_factor=8)
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
    (group,) = build_optimizer(network, settings).param_groups
    assert len(group["params"]) == 4
