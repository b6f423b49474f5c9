r"""LMD (Liu et al., ICML 2023): hide parts of the image, inpaint them, and compare.

A checkerboard hides half of the image. The diffusion model fills it in without a label, starting
from noise. After each step the known pixels are replaced by the image, noised to the level of the
states, $\sqrt{\bar\alpha}\,x_0 + \sqrt{1-\bar\alpha}\,\epsilon$ (RePaint; Lugmayr et al., 2022).
This is repeated, each time with other noise and with the checkerboard inverted. The score is the
median distance between the image and its inpaintings. It takes `repeats` syntheses from the highest
noise level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffguard.classifiers.classifier import ClassifierOutput
from diffguard.diffusion.schedule import expand
from diffguard.engine.jobs import Source
from diffguard.engine.observer import Observer, Sight
from diffguard.engine.outcome import Outcome
from diffguard.engine.program import NoisedImage, Program, Synthesis
from diffguard.methods.method import Method
from diffguard.methods.picture_distances import picture_distances
from diffguard.randomness import image_generator


@dataclass(frozen=True)
class Inpainting(Observer):
    """Replaces the known pixels of states by those of the noised image.

    Attributes:
        squares: Squares of the checkerboard along each side.
        repeat: Number of the inpainting; every other one hides the other squares.
        seed: The noise depends on the seed, the image, the repeat and the step.
    """

    sees_steps = True

    squares: int
    repeat: int
    seed: int

    def on_step(self, sight: Sight) -> None:
        """Replace the pixels; see `Observer`."""
        clean = torch.stack([source.clean for source in sight.sources])
        pairs = zip(sight.sources, sight.steps, strict=True)
        noise = torch.stack([self._noise(source, step) for source, step in pairs]).to(clean)
        alpha = expand(sight.step.alpha_next, clean)
        image = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        height, width = clean.shape[-2:]
        hidden = checkerboard(self.squares, height, width, self.repeat).to(clean.device)
        sight.x = torch.where(hidden, sight.x, image)

    def _noise(self, source: Source, step: int) -> Tensor:
        generator = image_generator(self.seed, *source.job.key, "inpainting", self.repeat, step)
        return torch.randn(source.clean.shape, generator=generator)


def checkerboard(squares: int, height: int, width: int, repeat: int) -> Tensor:
    """The pixels `(height, width)` that are hidden, bool.

    Args:
        squares: Squares along each side.
        height: Height in pixels.
        width: Width in pixels.
        repeat: An odd one hides the top left square.
    """
    rows = torch.arange(height) * squares // height
    columns = torch.arange(width) * squares // width
    return (rows.unsqueeze(1) + columns + repeat) % 2 == 1


class Lmd(Method):
    """LMD; see `Method`."""

    name = "lmd"

    def program(self) -> Program:
        """The inpaintings."""
        settings, seed = self.models.settings.lmd, self.models.seed
        top = len(self.recipe.plan) - 1
        phases = [
            Synthesis(
                NoisedImage(top, repeat, seed, noise="alone"),
                observers=(Inpainting(settings.squares, repeat, seed),),
            )
            for repeat in range(settings.repeats)
        ]
        return Program(pictures=tuple(phases))

    def scores(
        self,
        outcomes: Sequence[Outcome],
        output: ClassifierOutput,  # noqa: ARG002
        batch_size: int,
    ) -> dict[str, np.ndarray]:
        """`lmd`; see `Method`."""
        models, phases = self.models, self.program().pictures
        distance = models.distance(models.settings.lmd.distance)
        distances = picture_distances(models.classifier, [distance], phases, outcomes, batch_size)
        return {self.name: np.median(distances[..., 0].numpy(), axis=1)}
