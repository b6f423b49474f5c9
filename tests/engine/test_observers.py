"""Programs other than DiffGuard's, and the observers of their phases."""

from dataclasses import dataclass

import pytest
import torch

from diffguard.diffusion.ddim import ddim_step
from diffguard.diffusion.schedule import NoiseSchedule, predict_clean
from diffguard.engine.engine import Engine
from diffguard.engine.observer import Observer
from diffguard.engine.program import ClassifierFree, Inversion, NoisedImage, Program, Synthesis
from diffguard.engine.recipe import Recipe
from diffguard.randomness import image_generator
from tests.helpers.engine_runs import CLASSES, jobs_of, network_of
from tests.helpers.fake_gpu import Remote, fake_gpu
from tests.helpers.tiny_models import denoiser_of, sound_plan, two_layers

PLAN = sound_plan(6)


def outcomes_of(denoiser, program, jobs, batch_size=8, clip=False):
    engine = Engine(denoiser, Recipe(PLAN, 6, clip=clip).sampler, program, batch_size)
    done = {o.job.key: o for o in engine.push(jobs) + engine.flush()}
    assert engine.rows == sum(outcome.passes for outcome in done.values())
    return [done[job.key] for job in jobs]


@dataclass(frozen=True)
class Norms(Observer):
    """Keeps the norm of the noise at each step, the last noise and the number of passes."""

    sees_passes = True
    values = 7
    memory = 1

    def on_pass(self, sight):
        norm = sight.noise.flatten(1).norm(dim=1).double()
        sight.values.scatter_(1, sight.index.unsqueeze(1), norm.unsqueeze(1))
        sight.values[:, 6] += (sight.memory[0] == sight.noise).flatten(1).all(1)
        sight.memory[0] = sight.noise


@dataclass(frozen=True)
class Projection(Observer):
    """Replaces the first channel of the states by that of the image, and ends at a step."""

    sees_steps = True
    end: int

    def on_step(self, sight):
        clean = torch.stack([source.clean for source in sight.sources])
        sight.x = torch.cat([clean[:, :1], sight.x[:, 1:]], dim=1)
        return sight.index == self.end


def noised_state(job, clean, step):
    generator = image_generator(0, *job.key, "noise", 0, step)
    noise = torch.randn(clean.shape, generator=generator).to(clean)
    alpha = PLAN.alphas[step]
    return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise


def test_noised_images_and_clean_estimates_equal_a_plain_loop():
    denoiser = denoiser_of(network_of(classes=CLASSES).double(), CLASSES)
    jobs = jobs_of(11, PLAN, dtype=torch.float64)
    phases = [Synthesis(NoisedImage(step), last=step, ends_clean=True) for step in (1, 4)]
    program = Program(states=tuple(phases), watched=tuple((p, Norms()) for p in phases))
    assert program.draws_noise
    for job, outcome in zip(jobs, outcomes_of(denoiser, program, jobs), strict=True):
        assert outcome.passes == 2
        for step, phase in zip((1, 4), phases, strict=True):
            x = noised_state(job, denoiser.encode(job.image[None]), step)
            null = torch.tensor([denoiser.null_class])
            noise = denoiser.predict_noise(x, PLAN.timesteps[step][None], null)
            clean = predict_clean(x, noise, PLAN.alphas[step][None])
            torch.testing.assert_close(outcome.states[phase], clean[0], rtol=0, atol=1e-12)
            norms = outcome.values[phase, Norms()]
            torch.testing.assert_close(norms[step], noise.norm(), rtol=1e-12, atol=0)
            assert norms.count_nonzero() == 1


def test_an_observer_changes_states_and_ends_a_phase():
    denoiser = denoiser_of(network_of(classes=CLASSES).double(), CLASSES)
    jobs = jobs_of(11, PLAN, dtype=torch.float64)
    inversion = Inversion(6, observers=(Projection(2),))
    program = Program(states=(inversion,), watched=((inversion, Norms()),))
    for job, outcome in zip(jobs, outcomes_of(denoiser, program, jobs), strict=True):
        x = clean = denoiser.encode(job.image[None])
        norms = []
        for step in range(3):
            index = torch.tensor([step])
            t, before, after = PLAN.inversion(index)
            noise = denoiser.predict_noise(x, t, torch.tensor([denoiser.null_class]))
            norms.append(noise.norm())
            x = ddim_step(x, noise, before, after)
            x = torch.cat([clean[:, :1], x[:, 1:]], dim=1)
        assert (outcome.last_step[inversion], outcome.passes) == (2, 3)
        torch.testing.assert_close(outcome.states[inversion], x[0], rtol=0, atol=1e-12)
        values = outcome.values[inversion, Norms()]
        torch.testing.assert_close(values[:3], torch.stack(norms), rtol=1e-12, atol=0)
        # The memory holds the noise of the step before, and begins anew for each image.
        assert not values[3:].any()


def test_programs_share_equal_phases_and_first_passes():
    denoiser = denoiser_of(two_layers(classes=CLASSES).double(), CLASSES)
    jobs = [job for job in jobs_of(20, PLAN, dtype=torch.float64) if job.label >= 0]
    inversion = Inversion(3)
    scales = [ClassifierFree(2.0), ClassifierFree(3.0), None]
    ends = [Synthesis(inversion, scale) for scale in scales]
    parts = [Program(states=(end,), pictures=(end,)) for end in (*ends, ends[0])]
    joined = outcomes_of(denoiser, Program.joined(parts), jobs)
    for number, end in enumerate(ends):
        alone = outcomes_of(denoiser, parts[number], jobs)
        for outcome, other in zip(joined, alone, strict=True):
            assert torch.equal(outcome.pictures[end], other.pictures[end])
    # One inversion; of the first step one pass without and one with the label serve all three.
    assert {outcome.passes for outcome in joined} == {3 + 3 * (2 + 2 + 1) - 3}


def test_images_without_effective_guidance_make_each_phase_once():
    denoiser = denoiser_of(two_layers(classes=CLASSES).double(), CLASSES)
    jobs = [job for job in jobs_of(20, PLAN, dtype=torch.float64) if job.label < 0]
    ends = [Synthesis(Inversion(3), scale) for scale in (ClassifierFree(2.0), None)]
    program = Program(states=tuple(ends))
    for outcome in outcomes_of(denoiser, program, jobs):
        assert outcome.passes == 3 + 3
        assert torch.equal(*(outcome.states[end] for end in ends))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("watched", [False, True])
def test_a_network_call_waits_for_no_copy_from_the_device(watched, prediction, monkeypatch):
    """All that a call needs stands on the device; only images that end are looked at."""
    copies = []

    def count(owner, name):
        original = getattr(owner, name)

        def spy(tensor, *args, **kwargs):
            if isinstance(tensor, Remote):
                copies.append(name)
            return original(tensor, *args, **kwargs)

        monkeypatch.setattr(owner, name, spy)

    for name in ("item", "__bool__", "__int__", "__float__", "cpu", "numpy"):
        count(torch.Tensor, name)
    count(Remote, "tolist")
    recipe = Recipe(PLAN, 6, guidance=ClassifierFree(3.0), unguided=True, clip=True)
    programs = [recipe.program()]
    if watched:
        programs += [Program(watched=((recipe.invert, Norms()),))]
    with fake_gpu() as device:
        schedule = NoiseSchedule.linear(prediction_type=prediction)
        denoiser = denoiser_of(two_layers(classes=CLASSES), CLASSES, schedule).to(device)
        engine = Engine(denoiser, recipe.sampler, Program.joined(programs), 8)
        jobs = jobs_of(16)
        for job in jobs:
            job.image = job.image.to(device)
        assert len(engine.push(jobs) + engine.flush()) == 16
    assert engine.calls > 20
    assert copies == []
