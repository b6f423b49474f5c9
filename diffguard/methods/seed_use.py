"""Whether the seed of a detector changes a score."""

from __future__ import annotations

from diffguard.engine.program import Program
from diffguard.methods.models import Models
from diffguard.methods.registry import build_methods


def depends_on_seed(models: Models) -> bool:
    """Whether a method draws noise, crops or labels by the seed.

    DDIM inversion and all baselines draw nothing.

    Args:
        models: The networks and settings.
    """
    methods = build_methods(models, {})
    program = Program.joined(method.program() for method in methods)
    draws_labels = models.settings.label != "prediction"
    return program.draws_noise or methods[0].recipe.draws_crops or draws_labels
