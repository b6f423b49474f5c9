import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from diffguard.denoisers.scheduler_config import schedule_from_config
from diffguard.diffusion.plan import SamplingPlan
from diffguard.diffusion.schedule import NoiseSchedule, predict_clean
from tests.helpers.ddim_runs import inversion_step, invert, synthesis_step, synthesize
from tests.helpers.reference_networks import predict
from tests.helpers.tiny_models import denoiser_of, sound_plan, tiny_unet

STEPS = 10
PREDICTIONS = ("epsilon", "v_prediction", "sample")
# Our options beside those of diffusers.
CONVENTIONS = {
    "stride": ("clean", {"steps_offset": 0, "set_alpha_to_one": True}),
    "shifted": ("first", {"steps_offset": 1, "set_alpha_to_one": False}),
}


def both(kind, prediction, spacing, clip=False):
    first_level, options = CONVENTIONS[spacing]
    scheduler = kind(
        prediction_type=prediction, timestep_spacing="leading", clip_sample=clip, **options
    )
    # diffusers multiplies in float32; its own levels serve both.
    scheduler.alphas_cumprod = schedule_from_config(scheduler.config).alphas_cumprod
    level = scheduler.alphas_cumprod[0]
    scheduler.final_alpha_cumprod = scheduler.initial_alpha_cumprod = (
        torch.ones_like(level) if options["set_alpha_to_one"] else level
    )
    scheduler.set_timesteps(STEPS)
    schedule = schedule_from_config(scheduler.config)
    network = tiny_unet().double()
    plan = SamplingPlan.build(schedule, STEPS, spacing, "target", first_level)
    return scheduler, network, predict(denoiser_of(network, schedule=schedule)), plan


@torch.no_grad()
def run(scheduler, network, x):
    states = []
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t).sample, t, x).prev_sample
        states.append(x)
    return torch.stack(states)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("spacing", CONVENTIONS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_synthesis_equals_diffusers(prediction, spacing, clip):
    scheduler, network, noise, plan = both(DDIMScheduler, prediction, spacing, clip)
    scheduler.register_to_config(clip_sample=clip)
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    states = torch.stack(list(synthesize(noise, x, plan, len(plan) - 1, clip=clip)))
    expected = run(scheduler if not clip else _Reclipped(scheduler), network, x)
    torch.testing.assert_close(states, expected, rtol=1e-6, atol=1e-6)


class _Reclipped:
    """diffusers clips the clean estimate; `use_clipped_model_output` recomputes ε from it."""

    def __init__(self, scheduler):
        self.scheduler, self.timesteps = scheduler, scheduler.timesteps

    def step(self, output, t, x):
        return self.scheduler.step(output, t, x, use_clipped_model_output=True)


@pytest.mark.parametrize("spacing", CONVENTIONS)
def test_inversion_equals_diffusers(spacing):
    scheduler, network, noise, plan = both(DDIMInverseScheduler, "epsilon", spacing)
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64) * 2 - 1
    states = torch.stack(list(invert(noise, x, plan, len(plan))))
    torch.testing.assert_close(states, run(scheduler, network, x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_kind_of_prediction_does_not_matter(prediction):
    # The same prediction as v or x_0 must lead every solver to the same result.
    plan, epsilon = sound_plan(STEPS), predict(denoiser_of(tiny_unet().double()))
    schedule = NoiseSchedule.linear(prediction_type=prediction)

    def predict_other(x, t):
        noise = epsilon(x, t)
        clean = predict_clean(x, noise, schedule.alphas_cumprod[t])
        return schedule.to_noise(schedule.training_target(clean, noise, t), x, t)

    x = torch.rand(2, 1, 8, 8, dtype=torch.float64) * 2 - 1
    states = torch.stack(list(invert(predict_other, x, plan, STEPS, clip=True)))
    expected = torch.stack(list(invert(epsilon, x, plan, STEPS, clip=True)))
    torch.testing.assert_close(states, expected, rtol=1e-6, atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    steps=st.integers(2, 40),
    share=st.floats(0.0, 1.0),
    clip=st.booleans(),
    convention=st.sampled_from(["target", "first", "current"]),
)
def test_constant_noise_comes_back_to_the_image(seed, steps, share, clip, convention):
    pairing = "current" if convention == "current" else "target"
    level = "first" if convention == "first" else "clean"
    plan = SamplingPlan.build(NoiseSchedule.linear(), steps, pairing=pairing, first_level=level)
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(2, 3, 4, 4, generator=generator, dtype=torch.float64) * 2 - 1
    constant = torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)

    def noise(x, t):
        return constant

    # With pairing "current" the image counts as noised by one level: its clean estimate may lie
    # outside the range, and the last step removes that noise.
    current = convention == "current"
    clip = clip and not current
    made = 1 + int(share * (steps - 2))
    *_, latent = invert(noise, image, plan, made, clip=clip)
    start = int(plan.start_index(torch.tensor(made - 1)))
    states = list(synthesize(noise, latent, plan, start, clip=clip))
    torch.testing.assert_close(states[-2 if current else -1], image, rtol=1e-6, atol=1e-6)


def test_every_sample_has_its_own_step():
    plan = sound_plan()
    x, noise, gradient = torch.randn(3, 8, 1, 4, 4, dtype=torch.float64)
    index = torch.tensor([0, 5, 2, 0, 7, 1, 1, 6])
    mixed = inversion_step(x, noise, plan, index, clip=True)
    guided = synthesis_step(x, noise, plan, index, clip=True, gradient=gradient)
    for k in range(len(x)):
        arguments = x[k : k + 1], noise[k : k + 1], plan, index[k : k + 1]
        assert torch.equal(mixed[k : k + 1], inversion_step(*arguments, clip=True))
        alone = synthesis_step(*arguments, clip=True, gradient=gradient[k : k + 1])
        assert torch.equal(guided[k : k + 1], alone)


def test_inversion_does_not_clip_the_image_itself():
    plan = sound_plan()
    x, noise = torch.randn(2, 2, 1, 4, 4) * 3
    first, later = torch.zeros(2, dtype=torch.int64), torch.full((2,), 3)
    free = inversion_step(x, noise, plan, first)
    assert torch.equal(inversion_step(x, noise, plan, first, clip=True), free)
    assert not torch.equal(
        inversion_step(x, noise, plan, later, clip=True), inversion_step(x, noise, plan, later)
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), index=st.integers(0, 7), clip=st.booleans())
def test_zero_gradient_equals_no_guidance(seed, index, clip):
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, 2, 1, 4, 4, generator=generator)
    steps = torch.full((2,), index)
    free = synthesis_step(x, noise, sound_plan(), steps, clip=clip)
    guided = synthesis_step(x, noise, sound_plan(), steps, clip=clip, gradient=torch.zeros_like(x))
    assert torch.equal(free, guided)


def test_solvers_make_the_requested_number_of_steps():
    plan, x = sound_plan(), torch.zeros(1, 1, 2, 2)
    seen = []

    def noise(x, t):
        seen.append(int(t))
        return x

    assert len(list(invert(noise, x, plan, 3))) == 3
    assert len(list(synthesize(noise, x, plan, 2))) == 3
    assert seen == plan.timesteps[[0, 1, 2, 2, 1, 0]].tolist()
