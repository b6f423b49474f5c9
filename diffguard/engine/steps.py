"""The steps of many trajectories at once, each at its own timestep.

Every network call has the same number of rows; missing ones are padding.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diffguard.batching import padded
from diffguard.diffusion.ddim import ddim_step, synthesis_step
from diffguard.diffusion.denoiser import Denoiser
from diffguard.diffusion.early_stop import should_stop
from diffguard.diffusion.guidance import classifier_free
from diffguard.engine.classifier_guidance import ClassifierGuidance
from diffguard.engine.in_flight import Role
from diffguard.engine.labels import network_labels
from diffguard.engine.recipe import ClassifierFree, Recipe
from diffguard.engine.trajectories import Passes, Trajectories


class Steps:
    """Makes the steps of a table of trajectories.

    Args:
        denoiser: The diffusion model.
        recipe: How to reconstruct the images.
        batch_size: Rows of every network call.
        trajectories: The table.
    """

    def __init__(
        self, denoiser: Denoiser, recipe: Recipe, batch_size: int, trajectories: Trajectories
    ) -> None:
        self.denoiser = denoiser
        self.recipe = recipe
        self.batch_size = batch_size
        self.trajectories = trajectories

    def request_passes(self, rows: np.ndarray) -> None:
        """Ask for the network passes that the next step of trajectories needs."""
        table, recipe = self.trajectories, self.recipe
        inverts = table.role[rows] == Role.INVERSION
        # With the label, and without it as well.
        label = both = np.zeros(len(rows), dtype=bool)
        if recipe.inversion == "label":
            label = inverts & (table.label[rows] >= 0)
        elif recipe.inversion == "guided" and recipe.inversion_scale != 0:
            label = inverts & (table.label[rows] >= 0)
            both = inverts & (recipe.inversion_scale != 1)
        if isinstance(recipe.guidance, ClassifierFree):
            guided = table.guided[rows] & ~inverts
            label = label | guided
            # At scale 1 without a mask, guidance is the noise with the label alone.
            both = both | (guided & (table.is_masked(rows) | (recipe.guidance.scale != 1)))
        table.request(rows, null=~label | both, label=label)

    @torch.no_grad()
    def predict(self, passes: Passes) -> np.ndarray:
        """Make network passes in one call.

        Returns:
            The rows whose next step has all its passes.

        Raises:
            UserError: If an image has no label and the model has classes but no null class.
        """
        table, rows = self.trajectories, passes.rows
        x, t = table.states(rows), self.recipe.plan.timesteps[torch.from_numpy(table.step[rows])]
        noise = self.denoiser.predict_noise(
            padded(x, self.batch_size),
            padded(t, self.batch_size).to(x.device, non_blocking=True),
            self._labels(passes, x.device),
        )[: len(x)].to(x)
        return table.store(passes, noise)

    def _labels(self, passes: Passes, device: torch.device) -> Tensor | None:
        labels = torch.from_numpy(self.trajectories.label[passes.rows])
        classes = network_labels(self.denoiser, labels, torch.from_numpy(passes.with_label))
        if classes is None:
            return None
        return padded(classes, self.batch_size).to(device, non_blocking=True)

    @torch.no_grad()
    def move(self, rows: np.ndarray) -> None:
        """Move trajectories one step, except those that a classifier guides."""
        table, recipe = self.trajectories, self.recipe
        inverts, index = table.role[rows] == Role.INVERSION, torch.from_numpy(table.step[rows])
        # An inversion starts from the image itself, which is not clipped.
        clip = torch.from_numpy(~inverts | (table.step[rows] > 0)) if recipe.clip else None
        up, (_, low, high) = torch.from_numpy(inverts), recipe.plan.inversion(index)
        _, start, end = recipe.plan.synthesis(index)
        before, after = torch.where(up, low, start), torch.where(up, high, end)
        x = ddim_step(table.states(rows), self._noise(rows, inverts), before, after, clip=clip)
        table.move(rows, x)

    def _noise(self, rows: np.ndarray, inverts: np.ndarray) -> Tensor:
        """Noise of rows, with classifier-free guidance in rows that saw the label."""
        table, recipe = self.trajectories, self.recipe
        noise, mixes = table.null_noise(rows), table.mixes[rows]
        groups: list[tuple[np.ndarray, float, Tensor | None]] = []
        if len(inverting := np.flatnonzero(mixes & inverts)):
            scale = recipe.inversion_scale if recipe.inversion == "guided" else 1.0
            groups.append((inverting, scale, None))
        if isinstance(recipe.guidance, ClassifierFree):
            guided = np.flatnonzero(mixes & ~inverts)
            for places, mask in table.by_mask(rows[guided]):
                groups.append((guided[places], recipe.guidance.scale, mask))
        for places, scale, mask in groups:
            label = table.label_noise(rows[places])
            noise[places] = classifier_free(noise[places], label, scale, mask)
        return noise

    def move_by_classifier(self, rows: np.ndarray) -> None:
        """Move guided syntheses one step, guided by the classifier."""
        table, recipe, guidance = self.trajectories, self.recipe, self.recipe.guidance
        if not isinstance(guidance, ClassifierGuidance):
            raise TypeError("the recipe has no classifier guidance")
        index = torch.from_numpy(table.step[rows])
        t, alpha, _ = recipe.plan.synthesis(index)
        x, noise = table.states(rows), table.null_noise(rows)
        gradient = guidance.gradient(
            self.denoiser, x, noise, t, alpha,
            labels=torch.from_numpy(table.label[rows]),
            keys=[image.job.key for image in table.images(rows)],
            steps=(table.start[rows] - table.step[rows]).tolist(),
            batch_size=self.batch_size,
        )  # fmt: skip
        x = synthesis_step(x, noise, recipe.plan, index, clip=recipe.clip, gradient=gradient)
        table.move(rows, x)

    @torch.no_grad()
    def stops(self, rows: np.ndarray) -> np.ndarray:
        """Which inversions early stop ends, `(N,)` bool: their states are far from their images."""
        previews = [i.preview for i in self.trajectories.images(rows) if i.preview is not None]
        image = padded(torch.stack(previews), self.batch_size)
        state = self.denoiser.preview(padded(self.trajectories.states(rows), self.batch_size))
        qualities = torch.stack([quality(state, image) for quality, _ in self.recipe.qualities])
        thresholds = [threshold for _, threshold in self.recipe.qualities]
        return should_stop(qualities[:, : len(rows)], thresholds).cpu().numpy()
