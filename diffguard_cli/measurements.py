"""What a run measures before it scores: the batch size, and whether faster networks pay."""

from __future__ import annotations

import sys
import time
from dataclasses import replace

import lightning.pytorch as pl
import torch
from torch import nn

from diffguard.batching import AUTO
from diffguard.cost import count_passes
from diffguard.engine.acceleration import CompileMode, check_compiler, set_compilation
from diffguard.engine.speed import seconds_per_call
from diffguard.errors import one_line
from diffguard.methods.batch_size import find_batch_size
from diffguard.methods.models import Models
from diffguard.methods.registry import build_methods
from diffguard.methods.scorer import Scorer
from diffguard.printing import say
from diffguard.settings.selection import Selection
from diffguard.training.precision import FULL_PRECISION
from diffguard_cli.scoring_terms import Terms

# A faster network must save this much of a run; otherwise its scores keep their last bits.
WORTH_SECONDS = 60.0
# No compilation of a network is expected to shorten its calls by more than this share.
_MOST_SAVED = 0.5


def measured(
    scorer: Scorer, selection: Selection, trainer: pl.Trainer, terms: Terms, images: int
) -> Terms:
    """The terms of a run, with what they leave open.

    Args:
        scorer: The scorer.
        selection: The scores that are computed.
        trainer: Brings the device and the precision.
        terms: The terms, of which `batch_size` and `compile` may be open.
        images: Number of images to score.
    """
    scorer = scorer.to(trainer.strategy.root_device)
    size = terms.batch_size or _fastest_batch_size(scorer, trainer, images)
    compile = terms.compile
    if compile is None:
        images = round(images * _share_in_doubt(scorer, selection) / trainer.world_size)
        calls = network_calls(scorer.models, images, size)
        with trainer.precision_plugin.test_step_context():
            compile, reason = _paying_compilation(scorer.models, size, calls)
        say(f"compilation: {'on' if compile else 'off'} ({reason})", file=sys.stderr)
    return replace(terms, batch_size=size, compile=compile)


def apply_compilation(scorer: Scorer, mode: CompileMode) -> None:
    """Compile the diffusion network as the run's terms say, if the settings leave it open."""
    network = getattr(scorer.denoiser, "network", None)
    if scorer.settings.compile == AUTO and isinstance(network, nn.Module):
        set_compilation(network, mode)


def _fastest_batch_size(scorer: Scorer, trainer: pl.Trainer, images: int) -> int:
    methods = build_methods(scorer.models, scorer.fits)
    assert scorer.baselines is not None
    with torch.inference_mode(), trainer.precision_plugin.test_step_context():
        size = find_batch_size(scorer.models, methods, scorer.baselines, images)
    say(f"batch size: {size}", file=sys.stderr)
    return size


def _share_in_doubt(scorer: Scorer, selection: Selection) -> float:
    """The share of ID images that the diffusion model gets."""
    if scorer.calibration is None:
        return 1.0
    scores = {name: values.numpy() for name, values in scorer.calibration.scores.items()}
    return float(scorer.in_doubt(scores, selection).mean())


def network_calls(models: Models, images: int, batch_size: int) -> float:
    """About how many calls of the diffusion model the scores of images take."""
    _, most = count_passes(models.classifier, models.denoiser, models.settings)
    return images * most / batch_size


def _paying_compilation(models: Models, batch_size: int, calls: float) -> tuple[bool, str]:
    """Whether compilation pays, and why. If it pays, the network is compiled afterwards."""
    network = getattr(models.denoiser, "network", None)
    if not isinstance(network, nn.Module):
        return False, "the diffusion model has no network that can be compiled"
    image = _blank_image(models)
    plain = seconds_per_call(models.denoiser, image, batch_size)
    if calls * plain * _MOST_SAVED < WORTH_SECONDS:
        return False, f"a short run of about {calls * plain:.0f} s"
    began = time.perf_counter()
    try:
        check_compiler(models.device)
        set_compilation(network, mode=True)
        compiled = seconds_per_call(models.denoiser, image, batch_size)
    except Exception as error:
        # Compilation is optional, and a compiler fails with many types of errors.
        set_compilation(network, mode=False)
        return False, one_line(error)
    saved = calls * (plain - compiled) - (time.perf_counter() - began)
    pays = saved > WORTH_SECONDS
    if not pays:
        set_compilation(network, mode=False)
    return pays, f"a network call takes {compiled:.3g} s instead of {plain:.3g} s"


def paying_precision(models: Models, batch_size: int, images: int) -> tuple[str, str]:
    """The precision that pays, `bf16-mixed` or `32-true`, and why.

    Args:
        models: The networks and settings, on their device.
        batch_size: Rows of every network call.
        images: Number of images to score.
    """
    image, calls = _blank_image(models), network_calls(models, images, batch_size)
    full = seconds_per_call(models.denoiser, image, batch_size)
    if calls * full < WORTH_SECONDS:
        return FULL_PRECISION, f"a short run of about {calls * full:.0f} s"
    try:
        with torch.autocast(models.device.type, torch.bfloat16):
            half = seconds_per_call(models.denoiser, image, batch_size)
    except RuntimeError as error:
        # Not every device computes in bfloat16.
        return FULL_PRECISION, one_line(error)
    pays = calls * (full - half) > WORTH_SECONDS
    reason = f"a network call takes {half:.3g} s in bfloat16 and {full:.3g} s in float32"
    return "bf16-mixed" if pays else FULL_PRECISION, reason


def _blank_image(models: Models) -> torch.Tensor:
    """A black image `(1, C, H, W)` of the working size."""
    side = models.image_size
    return torch.zeros(1, models.image_channels, side, side, device=models.device)
