"""Jobs for the reconstruction engine, and its results in order."""

import torch

from diffguard.batching import fixed_batch_size
from diffguard.engine.classifier_guidance import ClassifierGuidance
from diffguard.engine.engine import Engine
from diffguard.engine.jobs import Job
from tests.helpers.tiny_models import (
    Clocked,
    ask_for_depth,
    sound_plan,
    tiny_classifier,
    two_layers,
)

CLASSES = 5


def jobs_of(count, plan=None, *, size=8, masks=False, dtype=torch.float32):
    """Images with different depths of a plan; every fifth has no label."""
    plan = plan or sound_plan(6)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, size, size, generator=generator, dtype=dtype)
    steps = torch.randint(1, len(plan) + 1, (count,), generator=generator)
    images = ask_for_depth(images, plan, steps)
    where = torch.rand(count, size, size, generator=generator) > 0.5
    where[1] = False
    return [
        Job(
            image,
            -1 if row % 5 == 4 else row % CLASSES,
            ("set", str(row)),
            where[row] if masks and row % 3 else None,
        )
        for row, image in enumerate(images)
    ]


def network_of(kind=two_layers, **options):
    return Clocked(kind(channels=3, **options))


def engine_of(denoiser, recipe, batch_size):
    return Engine(denoiser, recipe.sampler, recipe.program(), batch_size)


def run(denoiser, recipe, jobs, batch_size=8, portion=None):
    """Results in the order of the jobs, and the engine."""
    engine = engine_of(denoiser, recipe, fixed_batch_size(batch_size))
    done, portion = [], portion or len(jobs)
    for begin in range(0, len(jobs), portion):
        done += engine.push(jobs[begin : begin + portion])
    done += engine.flush()
    assert len(done) == len(jobs)
    where = {outcome.job.key: recipe.reconstruction(outcome) for outcome in done}
    return [where[job.key] for job in jobs], engine


def classifier_guidance_of(**options):
    classifier = tiny_classifier().double()
    return guidance_by(lambda images, t: classifier(images), **options)


def guidance_by(classify, scale, **options):
    """Classifier guidance of the whole image with blend, unless the options differ."""
    whole = {"blend": True, "crops": 0, "reduction": "mean", "shared_crops": False, "seed": 0}
    return ClassifierGuidance(classify, scale, **{**whole, **options})
