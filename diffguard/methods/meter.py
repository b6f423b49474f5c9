"""The network passes and the time that each score takes, counted while images are scored.

Work is recorded with the scores that need it: the classifier's pass over an image is needed by all
of them, a pass of the diffusion model by those that read one of the phases that it serves.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from diffguard.engine.classifier_guidance import ClassifierGuidance
from diffguard.engine.outcome import Outcome
from diffguard.engine.program import ClassifierFree, Phase
from diffguard.methods.method import Method
from diffguard.methods.models import Models
from diffguard.score_table.timing import CLASSIFIER, DIFFUSION, Work
from diffguard.settings.guidance import ClassifierFreeSettings


class Meter:
    """Counts the work of a stream of scores.

    Args:
        models: The networks and settings.
        methods: Their detection methods.
        baselines: The baselines that are scored.
        batch_size: Images of every network call.
    """

    def __init__(
        self, models: Models, methods: Sequence[Method], baselines: Sequence[str], batch_size: int
    ) -> None:
        self._classifier, self._device = models.classifier, models.device
        self._batch_size = batch_size
        self._phases = {
            name: frozenset(method.phases(name))
            for method in methods
            for name in method.score_names
        }
        self._scores = {CLASSIFIER: (*baselines, *self._phases)}
        self._scores |= {name: (name,) for name in baselines}
        self._scores |= {method.name: tuple(method.score_names) for method in methods}
        self._work: dict[tuple[str, tuple[str, ...]], Work] = {}
        self._diffusion_seconds = 0.0
        recipe = methods[0].recipe
        self._inversion, guidance = recipe.invert, recipe.guidance
        # Classifier passes of a gradient; those of a step of early stop, which sees two images.
        self._crops = max(1, guidance.crops) if isinstance(guidance, ClassifierGuidance) else 1
        thresholds = models.settings.early_stop.thresholds
        qualities = [models.distance(name) for name, t in thresholds.items() if t is not None]
        self._step_passes = 2 * sum(quality.needs != "images" for quality in qualities)
        free = models.settings.guidance
        self._has_masks = isinstance(free, ClassifierFreeSettings) and free.cam_cut is not None

    @contextmanager
    def measure(self, part: str, images: int) -> Iterator[None]:
        """Count the time and the classifier's passes of a block.

        Args:
            part: `CLASSIFIER`, a baseline, or a method that makes scores of its outcomes.
            images: Images in its calls; the other rows are padding.
        """
        work = self._part(part, self._scores[part])
        work.images += images if part == CLASSIFIER else 0
        began = time.perf_counter()
        with _counted(self._classifier) as calls:
            yield
        work.seconds += self._seconds_since(began)
        work.classifier_passes += calls.rows * images / self._batch_size
        work.gradients += calls.gradient_rows * images / self._batch_size

    @contextmanager
    def diffusion(self) -> Iterator[None]:
        """Count the time of the diffusion model, with guidance and early stop."""
        began = time.perf_counter()
        yield
        self._diffusion_seconds += self._seconds_since(began)

    def count(self, outcomes: Iterable[Outcome]) -> None:
        """Count the passes of outcomes."""
        for outcome in outcomes:
            for phases, count in outcome.passes_for.items():
                self._add(phases, diffusion=count)
            for phases, count in outcome.gradients_for.items():
                self._add(phases, forward=count * self._crops, backward=count * self._crops)
            if self._step_passes and self._inversion in outcome.last_step:
                steps = outcome.last_step[self._inversion] + 1
                self._add(frozenset([self._inversion]), forward=steps * self._step_passes)
            if self._has_masks:
                self._add(frozenset(filter(_is_masked, outcome.last_step)), forward=1, backward=1)

    def work(self, passes: int) -> list[Work]:
        """The work so far.

        Args:
            passes: Passes of the diffusion model so far; each takes an equal share of its time.
        """
        seconds = self._diffusion_seconds / passes if passes else 0.0
        return [
            replace(work, seconds=work.seconds + seconds * work.diffusion_passes)
            for work in self._work.values()
        ]

    def _add(
        self, phases: frozenset[Phase], *, diffusion: int = 0, forward: int = 0, backward: int = 0
    ) -> None:
        scores = tuple(name for name, needed in self._phases.items() if needed & phases)
        if scores:
            work = self._part(DIFFUSION, scores)
            work.diffusion_passes += diffusion
            work.classifier_passes += forward
            work.gradients += backward

    def _part(self, part: str, scores: tuple[str, ...]) -> Work:
        return self._work.setdefault((part, scores), Work(part, list(scores)))

    def _seconds_since(self, began: float) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - began


@dataclass
class _Calls:
    """Rows of the calls of a network, and of the gradients of its outputs."""

    rows: int = 0
    gradient_rows: int = 0

    def add(self, _network: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Count a call; a forward hook."""
        rows = len(inputs[0])
        self.rows += rows
        if output.requires_grad:
            output.register_hook(lambda _gradient: self._add_gradient(rows))

    def _add_gradient(self, rows: int) -> None:
        self.gradient_rows += rows


@contextmanager
def _counted(network: nn.Module) -> Iterator[_Calls]:
    calls = _Calls()
    handle = network.register_forward_hook(calls.add)
    try:
        yield calls
    finally:
        handle.remove()


def _is_masked(phase: Phase) -> bool:
    return isinstance(phase.guidance, ClassifierFree) and phase.guidance.masked
