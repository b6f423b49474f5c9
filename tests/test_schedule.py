import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffguard.errors import UserError
from diffguard.schedule import NoiseSchedule, expand, respace

PREDICTIONS = ("epsilon", "v_prediction", "sample")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"beta_schedule": "steps"}, "beta schedule 'steps' is not known"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ({"prediction_type": "flow"}, "prediction type 'flow' is not known"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatch.* has no betas"),
    ],
)
def test_refuses_what_it_does_not_know(config, message):
    with pytest.raises(UserError, match=message):
        NoiseSchedule.from_diffusers(config)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), t=st.integers(0, 999))
def test_a_perfect_network_predicts_the_noise(prediction, seed, t):
    schedule = NoiseSchedule.cosine(prediction_type=prediction)
    generator = torch.Generator().manual_seed(seed)
    x0, noise = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64).unbind()
    steps = torch.full((3,), t)
    x = schedule.add_noise(x0, noise, steps)
    found = schedule.to_noise(schedule.training_target(x0, noise, steps), x, steps)
    torch.testing.assert_close(found, noise, rtol=1e-8, atol=1e-8)


def test_expand_takes_shape_and_dtype():
    found = expand(torch.tensor([1.0, 2.0], dtype=torch.float64), torch.zeros(2, 3, 4, 4))
    assert found.shape == (2, 1, 1, 1)
    assert found.dtype == torch.float32


@settings(max_examples=50, deadline=None)
@given(total=st.integers(1, 1000), data=st.data())
def test_even_spacing_spans_the_schedule(total, data):
    steps = data.draw(st.integers(1, total))
    timesteps = respace(total, steps, "even")
    assert len(timesteps) == steps
    assert bool((timesteps.diff() > 0).all())
    assert timesteps[0] == 0
    assert steps == 1 or timesteps[-1] == total - 1


@pytest.mark.parametrize(
    ("steps", "spacing", "message"),
    [
        (300, "stride", "no integer stride gives 300 of 1000"),
        (0, "even", r"steps must lie in 1 … 1000, got 0"),
        (1001, "even", r"got 1001"),
        (10, "odd", "spacing 'odd' is not known"),
    ],
)
def test_impossible_spacing_is_refused(steps, spacing, message):
    with pytest.raises(UserError, match=message):
        respace(1000, steps, spacing)
