"""The steps of many trajectories at once, each at its own timestep.

Every network call has the same number of rows; missing ones are padding.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from diffguard.batching import padded
from diffguard.diffusion.denoiser import Denoiser
from diffguard.diffusion.guidance import classifier_free
from diffguard.diffusion.levels import Levels
from diffguard.diffusion.solver import Shown, Step
from diffguard.engine.labels import network_labels
from diffguard.engine.routes import Routes
from diffguard.engine.sampler import Sampler
from diffguard.engine.trajectories import Passes, Trajectories


class Steps:
    """Makes the steps of a table of trajectories.

    Args:
        denoiser: The diffusion model.
        sampler: How states move.
        routes: The phases of the trajectories.
        batch_size: Rows of every network call.
        trajectories: The table.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        sampler: Sampler,
        routes: Routes,
        batch_size: int,
        trajectories: Trajectories,
    ) -> None:
        self.denoiser, self.sampler, self.routes = denoiser, sampler, routes
        self.batch_size, self.trajectories = batch_size, trajectories
        self._ends_clean = bool(routes.ends_clean.any())

    @cached_property
    def _levels(self) -> Levels:
        # The first image shows the device of the states.
        return Levels(self.sampler.plan, self.trajectories.x.device)

    def request_passes(self, rows: np.ndarray) -> None:
        """Ask for the network passes that the next step of trajectories needs."""
        node = self.trajectories.node[rows]
        self.trajectories.request(rows, null=self.routes.null[node], label=self.routes.label[node])

    def step_of(self, rows: np.ndarray) -> Step:
        """The steps of rows."""
        table, routes = self.trajectories, self.routes
        node = table.node[rows]
        up, step = routes.up[node], table.step[rows]
        places = step + len(self.sampler.plan) * up
        columns = np.stack([places, table.count[rows], table.part[rows]])
        places_on_device, count, part = table.on_device(columns).unbind()
        # An inversion starts from the image itself, which is not clipped.
        clip = table.on_device(~up | (step > 0)) if self.sampler.clip else None
        result = self._levels.at(places_on_device, table.on_device(up), count, part, clip)
        if not self._ends_clean:
            return result
        cleans = routes.ends_clean[node] & (step <= routes.last[node])
        is_clean = table.on_device(cleans)
        return replace(result, alpha_next=torch.where(is_clean, 1.0, result.alpha_next))

    @torch.no_grad()
    def predict(self, passes: Passes) -> np.ndarray:
        """Make network passes in one call.

        Returns:
            The rows whose next step has all its passes.

        Raises:
            UserError: If an image has no label and the model has classes but no null class.
        """
        table, rows = self.trajectories, passes.rows
        padding = np.repeat(rows[:1], self.batch_size - len(rows))
        shown = self.shown(np.concatenate([rows, padding]))
        noise = self.denoiser.predict_noise(shown.x, shown.t, self._labels(passes))
        return table.store(passes, noise[: len(rows)].to(shown.x))

    @torch.no_grad()
    def advance(
        self, rows: np.ndarray, noise: Tensor, *, by_classifier: bool = False
    ) -> np.ndarray:
        """Let the solver use the passes of trajectories.

        Args:
            rows: Their rows.
            noise: `(N, …)`, see `noise`.
            by_classifier: Whether classifiers guide them; then at most `batch_size` rows.

        Returns:
            `(N,)` bool, which rows have made a step; the others need further passes.
        """
        table, solver = self.trajectories, self.sampler.solver
        gradient = self._gradient(rows, noise) if by_classifier else None
        x, memory = table.states(rows)
        table.move(rows, *solver.advance(x, memory, self.step_of(rows), noise, gradient))
        complete = self._complete(rows)
        complete_rows = rows[complete]
        table.part[complete_rows] = 0
        table.count[complete_rows] += 1
        table.phase_step[complete_rows] += 1
        return complete

    def shown(self, rows: np.ndarray) -> Shown:
        """What the network is shown in the next passes of rows."""
        x, memory = self.trajectories.states(rows)
        return self.sampler.solver.shown(x, memory, self.step_of(rows))

    def _complete(self, rows: np.ndarray) -> np.ndarray:
        """Count a pass of rows; `(N,)` bool, which of them have all passes of their step."""
        table, solver = self.trajectories, self.sampler.solver
        toward_image, toward_noise = solver.warm_up
        if solver.passes == 1 and not (toward_image or toward_noise):
            return np.ones(len(rows), dtype=bool)
        table.part[rows] += 1
        warm_up = np.where(self.routes.up[table.node[rows]], toward_noise, toward_image)
        return table.part[rows] >= solver.passes + warm_up * (table.count[rows] == 0)

    def _labels(self, passes: Passes) -> Tensor | None:
        labels = torch.from_numpy(self.trajectories.label[passes.rows])
        classes = network_labels(self.denoiser, labels, torch.from_numpy(passes.with_label))
        if classes is None:
            return None
        return padded(classes, self.batch_size).to(self.trajectories.x.device, non_blocking=True)

    @torch.no_grad()
    def noise(self, rows: np.ndarray) -> Tensor:
        """Noise `(N, …)` of rows, with classifier-free guidance in rows that saw the label."""
        table, noise = self.trajectories, self.trajectories.null_noise(rows)
        mixes = self.routes.mix[table.node[rows]]
        for number, mix in enumerate(self.routes.mixes):
            places = np.flatnonzero(mixes == number)
            if len(places):
                subset = rows[places]
                masks = [image.source.mask for image in table.images(subset)] if mix.masked else []
                mask = torch.stack([m for m in masks if m is not None]) if masks else None
                null, label = table.null_noise(subset), table.label_noise(subset)
                mixed = classifier_free(null, label, mix.scale, mask)
                noise.index_copy_(0, table.on_device(places), mixed)
        return noise

    def _gradient(self, rows: np.ndarray, noise: Tensor) -> Tensor:
        """The gradient `(N, …)` of the classifiers that guide rows."""
        table, shown = self.trajectories, self.shown(rows)
        gradient = torch.zeros_like(noise)
        numbers = self.routes.classifier[table.node[rows]]
        for number, guidance in enumerate(self.routes.classifiers):
            places = np.flatnonzero(numbers == number)
            if not len(places):
                continue
            subset, index = rows[places], table.on_device(places)
            part = guidance.gradient(
                self.denoiser,
                *(v.index_select(0, index) for v in (shown.x, noise, shown.t, shown.alpha)),
                labels=torch.from_numpy(table.label[subset]),
                keys=[image.source.job.key for image in table.images(subset)],
                steps=table.phase_step[subset].tolist(),
                batch_size=self.batch_size,
            )
            gradient.index_copy_(0, index, part)
        return gradient
