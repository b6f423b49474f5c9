"""Reconstructions that several detectors share."""

import pytest
import torch

from benchmarks.shared_reconstructions import SharedEngine
from diffguard.denoisers.pixel import PixelDenoiser
from diffguard.diffusion.ddim import Ddim
from diffguard.diffusion.plan import SamplingPlan
from diffguard.diffusion.schedule import NoiseSchedule
from diffguard.engine.engine import Engine
from diffguard.engine.jobs import Job
from diffguard.engine.program import ClassifierFree, Inversion, Program, Synthesis
from diffguard.engine.sampler import Sampler
from tests.helpers.tiny_models import two_layers

IMAGES = torch.rand(11, 1, 8, 8, generator=torch.Generator().manual_seed(0))
PICTURE = Synthesis(Inversion(3), ClassifierFree(2.0))


def engine(kind, **options):
    schedule = NoiseSchedule.linear()
    denoiser = PixelDenoiser(two_layers(channels=1, classes=4), schedule, 8, 1, 4, 4)
    plan = SamplingPlan.build(schedule, 4)
    sampler = Sampler(plan, Ddim(plan.pairing))
    return kind(denoiser, sampler, Program(pictures=(PICTURE,)), 8, **options)


def pictures_of(engine, labels):
    jobs = [
        Job(image, label, tag=row)
        for row, (image, label) in enumerate(zip(IMAGES, labels, strict=True))
    ]
    outcomes = [*engine.push(jobs), *engine.flush()]
    assert sorted(outcome.job.tag for outcome in outcomes) == list(range(len(IMAGES)))
    ordered = sorted(outcomes, key=lambda outcome: outcome.job.tag)
    return torch.stack([outcome.pictures[PICTURE] for outcome in ordered])


def test_an_image_and_a_label_are_reconstructed_once_to_the_same_picture():
    memory, labels = {}, [row % 4 for row in range(11)]
    first, again, other = (engine(SharedEngine, memory=memory) for _ in range(3))
    plain = pictures_of(engine(Engine), labels)
    assert torch.equal(pictures_of(first, labels), plain)
    assert torch.equal(pictures_of(again, labels), plain)
    assert first.rows > 0
    assert again.rows == 0
    changed = [*labels[:-1], 3]
    assert torch.equal(pictures_of(other, changed), pictures_of(engine(Engine), changed))
    assert 0 < other.rows < first.rows


def test_jobs_that_depend_on_more_are_refused():
    masked = Job(IMAGES[0], 1, mask=torch.ones(8, 8, dtype=torch.bool))
    for job in (masked, Job(IMAGES[0], 1, key=("a",))):
        with pytest.raises(ValueError, match="not shared"):
            engine(SharedEngine, memory={}).push([job])
