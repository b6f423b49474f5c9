import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from diffguard.diffusion.plan import respace
from diffguard.diffusion.schedule import NoiseSchedule, expand
from diffguard.errors import UserError

PREDICTIONS = ("epsilon", "v_prediction", "sample")


@pytest.mark.parametrize("prediction", PREDICTIONS)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), t=st.integers(0, 999))
def test_a_perfect_network_predicts_the_noise(prediction, seed, t):
    schedule = NoiseSchedule.cosine(prediction_type=prediction)
    generator = torch.Generator().manual_seed(seed)
    x0, noise = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64).unbind()
    steps = torch.full((3,), t)
    x = schedule.add_noise(x0, noise, steps)
    result = schedule.to_noise(schedule.training_target(x0, noise, steps), x, steps)
    torch.testing.assert_close(result, noise, rtol=1e-8, atol=1e-8)


def test_expand_takes_shape_and_dtype():
    result = expand(torch.tensor([1.0, 2.0], dtype=torch.float64), torch.zeros(2, 3, 4, 4))
    assert result.shape == (2, 1, 1, 1)
    assert result.dtype == torch.float32


@settings(max_examples=50, deadline=None)
@given(total=st.integers(1, 1000), data=st.data())
def test_even_spacing_spans_the_schedule(total, data):
    steps = data.draw(st.integers(1, total))
    timesteps = respace(total, steps, "even")
    assert len(timesteps) == steps
    assert bool((timesteps.diff() > 0).all())
    assert timesteps[0] == 0
    assert steps == 1 or timesteps[-1] == total - 1


@pytest.mark.parametrize("steps", [1, 3, 7, 40, 1000])
def test_trailing_spacing_is_that_of_diffusers(steps):
    scheduler = DDIMScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    assert torch.equal(respace(1000, steps, "trailing").flip(0), scheduler.timesteps)


@pytest.mark.parametrize("betas", [torch.full((1000,), 0.5), torch.tensor([1e-20, 0.1])])
def test_betas_without_signal_or_without_noise_are_refused(betas):
    with pytest.raises(UserError, match=r"betas .* leave a share of the signal.*check the sched"):
        NoiseSchedule(betas.double())


@pytest.mark.parametrize(
    "schedule",
    [NoiseSchedule.linear(4000), NoiseSchedule.cosine(4000), NoiseSchedule.scaled_linear(1000)],
)
def test_published_schedules_leave_signal(schedule):
    assert 0 < schedule.alphas_cumprod[-1] < schedule.alphas_cumprod[0] < 1
