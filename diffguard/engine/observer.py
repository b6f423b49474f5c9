"""Observers: what happens alongside the steps of a phase."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffguard.diffusion.solver import Step
from diffguard.engine.jobs import Source


@dataclass
class Sight:
    """What an observer sees: B rows at a time, always a whole batch; the last ones may be padding.

    An observer may set `x` after a step, and updates `values` and `memory` in place.

    Attributes:
        x: `(B, …)` states.
        find_step: Looks up the step that the rows make or have made.
        index: `(B,)` int64 index of that step.
        steps: The same indices on the host.
        sources: The images of the rows.
        preview: Shows states as images, see `Denoiser.preview`.
        values: `(B, values)` float64, the numbers that the observer keeps for each image.
        memory: `(memory, B, …)`, the states that it keeps.
    """

    x: Tensor
    find_step: Callable[[], Step]
    index: Tensor
    steps: Sequence[int]
    sources: Sequence[Source]
    preview: Callable[[Tensor], Tensor]
    values: Tensor
    memory: Tensor

    @property
    def step(self) -> Step:
        """The step that the rows make or have made, with its levels."""
        return self.find_step()

    def image_previews(self) -> Tensor:
        """`(B, C, h, w)` the images, as `preview` shows clean states."""
        return torch.stack([s.preview for s in self.sources if s.preview is not None])


@dataclass
class PassSight(Sight):
    """What an observer sees of network passes; `x` is what the network was shown.

    Attributes:
        noise: `(B, …)` ε that makes the step, after classifier-free guidance.
        noise_null: `(B, …)` ε without the label, if `has_both`.
        noise_label: `(B, …)` ε with the label, if `has_both`.
        has_both: `(B,)` bool, whether passes without and with the label were made.
    """

    noise: Tensor
    noise_null: Tensor
    noise_label: Tensor
    has_both: Tensor


class Observer:
    """Watches a phase of each image; the methods do nothing unless they are overridden.

    Attributes:
        values: Numbers that it keeps for each image, 0 at the beginning of the phase. They are
            part of the outcome.
        memory: States that it keeps for each image during the phase.
        sees_passes: Whether `on_pass` is called.
        sees_steps: Whether `on_step` is called. Rows wait for it until they fill a batch.
        sees_previews: Whether it calls `Sight.image_previews`.
    """

    values: int = 0
    memory: int = 0
    sees_passes: bool = False
    sees_steps: bool = False
    sees_previews: bool = False

    def on_pass(self, sight: PassSight) -> None:
        """Called when the noise of a step is known, before the states move."""

    def on_step(self, sight: Sight) -> Tensor | None:  # noqa: ARG002
        """Called after a step.

        Returns:
            `(B,)` bool, which rows end their phase here; None for no row.
        """
        return None
