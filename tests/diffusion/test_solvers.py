import math

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, PNDMScheduler

from diffguard.diffusion.levels import Levels
from diffguard.diffusion.path import Path
from diffguard.diffusion.plan import SamplingPlan
from diffguard.diffusion.schedule import NoiseSchedule
from diffguard.diffusion.solvers import SOLVERS, build_solver
from tests.helpers.reference_networks import predict
from tests.helpers.solver_runs import downward, round_trip, run, upward
from tests.helpers.tiny_models import denoiser_of, sound_plan, two_layers

SCHEDULE = NoiseSchedule.linear()


def solver_of(name, pairing="target"):
    return build_solver(name, pairing, SCHEDULE, window=20, cutoff=200)


def random_network(dtype=torch.float64):
    """A nonlinear network that is not trained."""
    return predict(denoiser_of(two_layers(1).to(dtype)))


def random_images(count=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(count, 1, 8, 8, generator=generator, dtype=torch.float64) * 2 - 1).to(dtype)


@pytest.mark.parametrize("pairing", ["target", "current"])
def test_ddim_shows_the_timesteps_and_levels_of_the_plan(pairing):
    plan, solver = sound_plan(pairing=pairing), solver_of("ddim", pairing)
    index, zeros, x = torch.arange(8), torch.zeros(8, dtype=torch.int64), torch.zeros(8, 1)
    for up, expected in ((True, plan.inversion(index)), (False, plan.synthesis(index))):
        step = Levels(plan).step(torch.full((8,), up), index, zeros, zeros)
        shown = solver.shown(x, x.new_zeros(0, 8, 1), step)
        for value, level in zip((shown.t, step.alpha, step.alpha_next), expected, strict=True):
            assert torch.equal(value, level)
        assert torch.equal(shown.alpha, step.alpha)


@pytest.mark.parametrize("first_level", ["clean", "first"])
@torch.no_grad()
def test_pndm_equals_diffusers(first_level):
    clean = first_level == "clean"
    scheduler = PNDMScheduler(skip_prk_steps=True, steps_offset=int(not clean))
    scheduler.alphas_cumprod = SCHEDULE.alphas_cumprod
    scheduler.final_alpha_cumprod = torch.ones(()) if clean else SCHEDULE.alphas_cumprod[0]
    scheduler.set_timesteps(10)
    spacing = "stride" if clean else "shifted"
    plan = SamplingPlan.build(SCHEDULE, 10, spacing, first_level=first_level)
    x, network = torch.randn(2, 1, 8, 8, dtype=torch.float64), random_network()
    result, _ = run(solver_of("pndm"), plan, network, x, downward(9))
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t.expand(2)), int(t), x).prev_sample
    torch.testing.assert_close(result, x, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("steps", [6, 20])
@torch.no_grad()
def test_dpm_solver_equals_diffusers(steps):
    scheduler = DPMSolverMultistepScheduler(beta_start=1e-4, beta_end=0.02)
    scheduler.set_timesteps(steps)
    plan = plan_of(scheduler.timesteps.flip(0), torch.ones(1).double())
    # diffusers has its levels in float32, and still rounds states to it.
    alphas = torch.cat([plan.alphas_prev[:1], plan.alphas]).flip(0)
    scheduler.sigmas = ((1 - alphas) / alphas).sqrt()
    x, network = torch.randn(2, 1, 8, 8, dtype=torch.float64), random_network()
    result, _ = run(solver_of("dpm_solver_pp"), plan, network, x, downward(steps - 1))
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t.expand(2)), t, x).prev_sample
    torch.testing.assert_close(result, x, rtol=1e-5, atol=1e-5)


def plan_of(timesteps, lowest):
    """A plan of any timesteps."""
    alphas = SCHEDULE.alphas_cumprod[timesteps]
    below, above = torch.cat([lowest, alphas[:-1]]), torch.cat([alphas[1:], lowest.new_zeros(1)])
    return SamplingPlan(timesteps, alphas, below, above, "target")


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("name", ["edict", "bdia"])
def test_exact_solvers_return_the_image(name, clip):
    x, plan, network, solver = random_images(), sound_plan(16), random_network(), solver_of(name)
    for depth in (1, 2, 12, 16):
        result = round_trip(solver, plan, network, x, depth, clip=clip)
        torch.testing.assert_close(result, x, rtol=0, atol=1e-9)
    latent, _ = run(solver, plan, network, x, upward(12), clip=clip)
    without_memory, _ = run(solver, plan, network, latent, downward(11), clip=clip)
    assert (without_memory - x).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["edict", "bdia"])
def test_exact_solvers_in_lower_precision(name):
    x, plan = random_images(dtype=torch.float32), sound_plan(16)
    narrow = random_network(torch.bfloat16)
    result = round_trip(solver_of(name), plan, random_network(torch.float32), x, 12)
    assert 0 < (result - x).abs().max() < 1e-3
    # Rounding is coarse in a network in bfloat16, but it is the same in both directions.
    result = round_trip(solver_of(name), plan, lambda x, t: narrow(x.bfloat16(), t).float(), x, 12)
    assert 0 < (result - x).abs().max() < 0.1


# Exponents of the error in the step, toward the image and toward noise.
ORDERS = {
    "ddim": (0.9, 0.9),
    "pndm": (1.8, 1.8),
    "dpm_solver_pp": (1.8, 1.6),
    "edict": (0.9, 0.9),
    "bdia": (1.8, 1.6),
}


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("name", ORDERS)
def test_the_error_falls_with_the_order_of_the_solver(name, up):
    # The probability-flow ODE of Gaussian data keeps the place of a state in the distribution.
    mean, variance = 0.2, 0.3

    def noise(x, t):
        alpha = SCHEDULE.alphas_cumprod[t].view(-1, 1, 1, 1)
        spread = alpha * variance + 1 - alpha
        return (1 - alpha).sqrt() * (x - alpha.sqrt() * mean) / spread

    def moved(x, alpha, alpha_to):
        spread, spread_to = (a * variance + 1 - a for a in (alpha, alpha_to))
        return alpha_to.sqrt() * mean + (x - alpha.sqrt() * mean) * (spread_to / spread).sqrt()

    errors, x = [], random_images(2)
    for steps in (10, 80):
        timesteps = torch.arange(99, 980, 880 // steps)
        plan = plan_of(timesteps[1:], SCHEDULE.alphas_cumprod[timesteps[:1]])
        low, high = plan.alphas_prev[0], plan.alphas[-1]
        program = upward(steps) if up else downward(steps - 1)
        result, _ = run(solver_of(name), plan, noise, x, program)
        exact = moved(x, low, high) if up else moved(x, high, low)
        errors.append((result - exact).abs().max().item())
    order = math.log2(errors[0] / errors[1]) / math.log2(80 / 10)
    assert order > ORDERS[name][up]


@pytest.mark.parametrize("name", SOLVERS)
def test_rows_at_any_depth_share_calls(name):
    x, plan, network, solver = random_images(6), sound_plan(8), random_network(), solver_of(name)
    programs = [upward(depth) + downward(depth - 1) for depth in (6, 1, 3, 2)]
    programs += [downward(5), upward(4)]
    weights = torch.linspace(-1, 1, 6).view(-1, 1, 1, 1)

    def guide(shown, noise, rows):
        return weights[rows] * (shown.x + noise)

    options = {"clip": True, "guide": guide}
    together, passes = run(solver, plan, network, x, programs, staggered=True, **options)
    for row, program in enumerate(programs):
        state = x[row : row + 1]
        options["guide"] = lambda shown, noise, _, row=row: guide(shown, noise, [row])
        alone, count = run(solver, plan, network, state, program, **options)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-12, atol=1e-12)
        assert passes[row] == count[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ddim", 24), ("pndm", 26), ("dpm_solver_pp", 24), ("edict", 48), ("bdia", 25),
        ("time_shift", 24),
    ],
)  # fmt: skip
def test_passes_of_a_round_trip(name, expected):
    program = upward(12) + downward(11)
    _, passes = run(solver_of(name), sound_plan(16), random_network(), random_images(), program)
    assert passes == [expected] * 3


def test_time_shift_shows_the_timestep_that_fits_the_state():
    # States of timestep 599 with the noise of timesteps 605, 590 and 800, and one below the cutoff.
    solver, levels = solver_of("time_shift"), Levels(sound_plan(16))
    zeros = torch.zeros(4, dtype=torch.int64)
    step = levels.step(zeros.bool(), torch.tensor([9, 9, 9, 2]), zeros, zeros)
    assert step.t.tolist() == [599, 599, 599, 133]
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    spread = (1 - SCHEDULE.alphas_cumprod[[605, 590, 800, 140]]).sqrt()
    x = x / x.flatten(1).std(1).view(-1, 1, 1, 1) * spread.view(-1, 1, 1, 1)
    shown = solver.shown(x, x.new_zeros(0, *x.shape), step)
    assert shown.t.tolist() == [605, 590, 609, 133]
    assert torch.equal(shown.x, x)
    upward_step = levels.step(~zeros.bool(), torch.tensor([10, 10, 10, 3]), zeros, zeros)
    # An inversion step shows a higher timestep than that of the state, shifted by as much.
    assert solver.shown(x, x.new_zeros(0, *x.shape), upward_step).t.tolist() == [672, 657, 676, 200]


@pytest.mark.parametrize("name", SOLVERS)
def test_a_path_makes_the_same_steps(name):
    x, plan, network, solver = random_images(2), sound_plan(8), random_network(), solver_of(name)
    path, passes = Path(solver, plan, x, clip=True), []

    def noise(x, t):
        passes.append(t)
        return network(x, t)

    *_, latent = path.invert(noise, 5)
    *_, image = path.fork().synthesize(noise, 4, lambda shown, eps, _: shown.x + eps)
    *_, again = path.fork().synthesize(noise, 4, lambda shown, eps, _: shown.x + eps)
    assert torch.equal(image, again)
    assert torch.equal(latent, path.x)
    expected, count = run(
        solver, plan, network, x, upward(5) + downward(4), clip=True,
        guide=lambda shown, eps, _: shown.x + eps,
    )  # fmt: skip
    torch.testing.assert_close(image, expected, rtol=1e-12, atol=1e-12)
    synthesis = 5 * solver.passes + (0 if solver.keeps_memory else solver.warm_up[0])
    assert len(passes) == count[0] + synthesis
