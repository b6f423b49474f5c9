"""The cost of a detector in weights and network passes, without loading weights or images."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from diffguard.batching import ROW_MULTIPLE
from diffguard.classifiers.build import build_classifier
from diffguard.classifiers.classifier import Classifier
from diffguard.classifiers.spec import ClassifierSpec
from diffguard.denoisers.custom import (
    build_any_denoiser,
    cast_weights,
    is_import_path,
    weight_parts,
)
from diffguard.denoisers.scheduler_config import schedule_from_config
from diffguard.denoisers.spec import DiffusionSpec
from diffguard.diffusion.denoiser import Denoiser
from diffguard.diffusion.schedule import NoiseSchedule
from diffguard.engine.classifier_guidance import ClassifierGuidance
from diffguard.engine.engine import Engine
from diffguard.engine.jobs import Job
from diffguard.engine.program import Program
from diffguard.methods.models import Models
from diffguard.methods.recipes import recipe_of
from diffguard.methods.registry import METHODS
from diffguard.settings.detector import DetectorSettings
from diffguard.settings.guidance import ClassifierFreeSettings
from diffguard.settings.methods import SECTIONS
from diffguard.storage.rebuilding import WithoutWeights


@dataclass(frozen=True)
class Part:
    """A network of a detector.

    Attributes:
        name: `classifier`, `network`, `autoencoder` or `context`.
        kind: Its class or architecture.
        parameters: Number of weights, buffers included.
        bytes: Memory of the weights.
    """

    name: str
    kind: str
    parameters: int
    bytes: int


@dataclass(frozen=True)
class Cost:
    """The cost of a detector.

    Attributes:
        parts: Its networks.
        fewest_passes: Network passes of the diffusion model for an image that stops at the first
            step and is not guided.
        most_passes: Network passes for an image that is inverted to the full depth and guided
            everywhere.
        is_cascade: Whether only images in doubt take these passes, and others none.
    """

    parts: list[Part]
    fewest_passes: int
    most_passes: int
    is_cascade: bool


def dry_run(
    classifier: ClassifierSpec,
    diffusion: DiffusionSpec,
    settings: DetectorSettings,
    *,
    dtype: torch.dtype = torch.float32,
    trusted: tuple[str, ...] = (),
) -> Cost:
    """Build the networks without memory for their weights, and count weights and passes.

    Args:
        classifier: The classifier; its weights are float32.
        diffusion: The diffusion model.
        settings: The detector's settings.
        dtype: Dtype of the diffusion model's weights.
        trusted: Import paths of further classes that the user has named.

    Raises:
        UserError: If a network cannot be built or the settings do not fit the networks.
    """
    custom = is_import_path(diffusion.network)
    with WithoutWeights():
        protected = build_classifier(classifier, resolved=True, trusted=trusted)
    # A user's class may compute its noise levels in its constructor.
    with torch.device("cpu" if custom else "meta"):
        denoiser = build_any_denoiser(diffusion, trusted)
    cast_weights(denoiser, dtype)
    parts = [_part("classifier", classifier.arch, protected.network)]
    for name, module in weight_parts(denoiser).items():
        parts.append(_part(name, type(module).__name__, module))
    schedule = denoiser.schedule if custom else schedule_from_config(diffusion.scheduler)
    stand_in = _StandIn(schedule, diffusion.num_classes, diffusion.null_class)
    fewest, most = count_passes(protected, stand_in, settings)
    return Cost(parts, fewest, most, settings.fusion.is_cascade)


def format_cost(cost: Cost) -> str:
    """A cost as a table and a sentence, for the terminal."""
    rows = [*cost.parts]
    total = Part("total", "", sum(p.parameters for p in rows), sum(p.bytes for p in rows))
    width = max(len(f"{p.name} {p.kind}") for p in rows)
    lines = [f"{'':{width}}  {'parameters':>14}  {'weights':>12}"]
    lines += [
        f"{f'{p.name} {p.kind}':{width}}  {p.parameters:>14,}  {p.bytes / 2**20:>8,.1f} MiB"
        for p in [*rows, total]
    ]
    few, most = cost.fewest_passes, cost.most_passes
    passes = f"{most}" if few == most else f"{few} to {most}"
    images = "image in doubt (others: 0)" if cost.is_cascade else "image"
    return "\n".join([*lines, f"network passes per {images}: {passes}"])


def _part(name: str, kind: str, module: nn.Module) -> Part:
    tensors = [*module.parameters(), *module.buffers()]
    return Part(
        name,
        kind,
        sum(t.numel() for t in tensors),
        sum(t.numel() * t.element_size() for t in tensors),
    )


class _StandIn:
    """A denoiser without a network, which takes the same passes as the real one."""

    def __init__(
        self, schedule: NoiseSchedule, num_classes: int | None, null_class: int | None
    ) -> None:
        self.schedule, self.num_classes, self.null_class = schedule, num_classes, null_class

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, z: Tensor) -> Tensor:
        return z

    def preview(self, z: Tensor) -> Tensor:
        return z

    def place_mask(self, mask: Tensor) -> Tensor:
        return mask

    def predict_noise(self, z_t: Tensor, t: Tensor, y: Tensor | None) -> Tensor:  # noqa: ARG002
        return torch.zeros_like(z_t)


def count_passes(
    classifier: Classifier,
    denoiser: _StandIn | Denoiser,
    settings: DetectorSettings,
    *,
    unguided: bool | None = None,
) -> tuple[int, int]:
    """The fewest and most network passes of an image, see `Cost`.

    The methods run on images of 2 × 2 pixels, without the networks.

    Args:
        classifier: The protected classifier.
        denoiser: The diffusion model.
        settings: The detector's settings.
        unguided: Whether images are reconstructed without guidance too; defaults to whether a
            distance of the settings needs it.
    """
    denoiser = _StandIn(denoiser.schedule, denoiser.num_classes, denoiser.null_class)
    models = Models(
        classifier,
        denoiser,
        _without_weights(settings),
        image_size=2,
        image_channels=1,
        noisy_classifier=nn.Identity(),
    )
    recipe = recipe_of(models, unguided=unguided)
    if isinstance(recipe.guidance, ClassifierGuidance):
        recipe = replace(recipe, guidance=replace(recipe.guidance, classify=_two_classes, crops=0))
    stops_early = bool(settings.early_stop.thresholds)
    guidance = settings.guidance
    masked = isinstance(guidance, ClassifierFreeSettings) and guidance.cam_cut is not None
    lowest = replace(recipe, max_steps=1) if stops_early else recipe

    def passes(mask: bool, recipe: Any) -> int:
        job = Job(torch.zeros(1, 2, 2), 0, ("",), torch.full((2, 2), mask) if masked else None)
        methods = [METHODS[name](models, recipe) for name in settings.methods]
        program = Program.joined(method.program() for method in methods)
        engine = Engine(denoiser, recipe.sampler, program, ROW_MULTIPLE)
        return (engine.push([job]) + engine.flush())[0].passes

    return passes(False, lowest), passes(True, recipe)


def _without_weights(settings: DetectorSettings) -> DetectorSettings:
    """Settings that take the same passes; distances change none, and may need weights."""
    methods = [name for name in SECTIONS if name in settings.methods]
    sections: dict[str, Any] = {name: getattr(settings, name).light() for name in methods}
    return DetectorSettings(
        sampler=settings.sampler,
        inversion=settings.inversion,
        synthesis=settings.synthesis,
        guidance=settings.guidance,
        label=settings.label,
        methods=settings.methods,
        distances=["l2"],
        unguided=["l2"] if settings.unguided else [],
        distance=["l2"],
        baselines=[],
        fused=[],
        decision="diffguard",
        **sections,
    )


def _two_classes(images: Tensor, t: Tensor) -> Tensor:  # noqa: ARG001
    value = images.flatten(1).sum(1)
    return torch.stack([value, -value], dim=1)
