"""DiffGuard's recipe, resolved from the settings of a detector."""

from __future__ import annotations

from diffguard.diffusion.solver import Solver
from diffguard.diffusion.solvers import build_solver
from diffguard.engine.classifier_guidance import ClassifierGuidance
from diffguard.engine.program import ClassifierFree
from diffguard.engine.recipe import Recipe
from diffguard.methods.models import Models
from diffguard.settings.guidance import ClassifierFreeSettings


def recipe_of(models: Models, *, unguided: bool | None = None) -> Recipe:
    """How images are inverted and reconstructed.

    Args:
        models: The networks and settings of a detector.
        unguided: Whether to reconstruct without guidance too; defaults to whether a distance of
            the settings needs it.
    """
    settings, plan = models.settings, models.plan
    thresholds = settings.early_stop.thresholds
    return Recipe(
        plan=plan,
        max_steps=settings.inversion.most_steps(len(plan)),
        clip=settings.sampler.clip,
        solver=_solver(models),
        inversion=settings.inversion.condition,
        inversion_scale=settings.inversion.scale,
        qualities=[
            (quality, thresholds[name])
            for name, quality in models.qualities.items()
            if thresholds[name] is not None
        ],
        guidance=_guidance(models),
        unguided=bool(settings.unguided) if unguided is None else unguided,
        extra_start=settings.synthesis.extra_start,
        skip=settings.synthesis.skip,
    )


def _solver(models: Models) -> Solver:
    sampler, schedule = models.settings.sampler, models.denoiser.schedule
    shift = sampler.time_shift
    return build_solver(
        sampler.solver, sampler.pairing, schedule, window=shift.window, cutoff=shift.cutoff
    )


def _guidance(models: Models) -> ClassifierFree | ClassifierGuidance:
    guidance, classifier = models.settings.guidance, models.classifier
    if isinstance(guidance, ClassifierFreeSettings):
        return ClassifierFree(guidance.scale)
    noisy = None if guidance.model == "protected" else models.noisy_classifier
    crops, size = guidance.crops, classifier.size
    return ClassifierGuidance(
        # Random crops are classified whole, without the classifier's own center crop.
        classify=noisy or (lambda images, _t: classifier(images, crop=not crops.number)),
        scale=guidance.scale,
        blend=guidance.blend,
        crops=crops.number,
        crop_size=crops.size or (None if size is None else min(size)),
        input_size=None if size is None else max(size),
        reduction=crops.reduction,
        shared_crops=crops.shared,
        seed=crops.seed if crops.shared else models.seed,
    )
