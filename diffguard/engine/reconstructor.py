"""Invert, stop, synthesize: a stream of images in, a stream of reconstructions out.

Many trajectories run at a time, each at its own timestep. Their next network passes are gathered
into calls of one fixed shape, and new images start as others finish. The batch stays full although
every image has its own depth, and the result of an image does not depend on its neighbors.
`plain.py` has the algorithm for one image.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from diffguard.batching import in_fixed_batches
from diffguard.diffusion.denoiser import Denoiser
from diffguard.engine.classifier_guidance import ClassifierGuidance
from diffguard.engine.in_flight import ImageInFlight, Role
from diffguard.engine.jobs import Job, Reconstruction
from diffguard.engine.recipe import Recipe
from diffguard.engine.steps import Steps
from diffguard.engine.trajectories import Trajectories


class Reconstructor:
    """Runs a stream of jobs through the diffusion model in calls of one shape.

    Args:
        denoiser: The diffusion model.
        recipe: How to reconstruct the images.
        batch_size: Images of every network call.

    Attributes:
        calls: Calls of the diffusion model so far.
        rows: Rows of those calls without padding; `rows / (calls · batch_size)` is the fill.
    """

    def __init__(self, denoiser: Denoiser, recipe: Recipe, batch_size: int) -> None:
        self.denoiser = denoiser
        self.recipe = recipe
        self.batch_size = batch_size
        self.calls = 0
        self.rows = 0
        # One batch per queue, so that a full table always has a full queue.
        queues = 1 + bool(recipe.qualities) + isinstance(recipe.guidance, ClassifierGuidance)
        self._table = Trajectories((queues + 1) * batch_size, 1 + recipe.unguided)
        self._steps = Steps(denoiser, recipe, batch_size, self._table)
        self._waiting: deque[Job] = deque()
        self._encoded: deque[tuple[ImageInFlight, Tensor, bool]] = deque()
        # Rows that wait for early stop, and rows that wait for the classifier's gradient.
        self._inverted: deque[int] = deque()
        self._guided: deque[int] = deque()
        self._finished: list[ImageInFlight] = []

    def push(self, jobs: Iterable[Job]) -> list[Reconstruction]:
        """Add images and return the finished ones; others stay in flight."""
        self._waiting.extend(jobs)
        self._run(final=False)
        return self._drain(final=False)

    def flush(self) -> list[Reconstruction]:
        """Finish everything in flight."""
        self._run(final=True)
        return self._drain(final=True)

    def _run(self, *, final: bool) -> None:
        full, table = self.batch_size, self._table
        while True:
            self._admit(final=final)
            if len(self._inverted) >= full:
                self._stop_early()
            elif len(self._guided) >= full:
                self._guide()
            elif table.pending_count >= full:
                self._denoise(final=final)
            elif not final and table.has_room:
                return
            elif self._inverted:
                self._stop_early()
            elif not self._guided and not table.pending_count:
                return
            # The fuller call wastes less.
            elif len(self._guided) >= table.pending_count:
                self._guide()
            else:
                self._denoise(final=final)

    def _admit(self, *, final: bool) -> None:
        while self._table.has_room:
            if not self._encoded:
                if not self._waiting or (len(self._waiting) < self.batch_size and not final):
                    return
                self._encode()
            image, state, guided = self._encoded.popleft()
            row = self._table.add(image, state, guided=guided)
            self._steps.request_passes(np.array([row]))

    @torch.no_grad()
    def _encode(self) -> None:
        jobs = [self._waiting.popleft() for _ in range(min(self.batch_size, len(self._waiting)))]
        images = torch.stack([job.image for job in jobs])
        states = in_fixed_batches(self.denoiser.encode, images, self.batch_size)
        previews: Iterable[Tensor | None] = [None] * len(jobs)
        if self.recipe.qualities:
            # Once for all steps, because a latent model decodes here. Copies release the batch.
            batch = in_fixed_batches(self.denoiser.preview, states, self.batch_size)
            previews = [preview.clone() for preview in batch]
        for job, state, preview in zip(jobs, states, previews, strict=True):
            mask = job.mask
            placed = None if mask is None else self.denoiser.place_mask(mask.unsqueeze(0))[0]
            guided = self.recipe.guides(job.label, placed)
            self._encoded.append((ImageInFlight(job, placed, preview), state, guided))

    def _denoise(self, *, final: bool) -> None:
        """One call of the diffusion model, and the steps that it completes."""
        table = self._table
        # At the end of the stream all finish together, so that the last calls are full.
        passes = table.take(self.batch_size, longest_first=final)
        rows = self._steps.predict(passes)
        self.calls += 1
        self.rows += len(passes.rows)
        if isinstance(self.recipe.guidance, ClassifierGuidance):
            by_classifier = (table.role[rows] == Role.GUIDED) & table.guided[rows]
            self._guided.extend(rows[by_classifier].tolist())
            rows = rows[~by_classifier]
        if len(rows):
            self._steps.move(rows)
            inverts = table.role[rows] == Role.INVERSION
            self._after_inversion(rows[inverts])
            self._after_synthesis(rows[~inverts])

    def _after_inversion(self, rows: np.ndarray) -> None:
        if self.recipe.qualities:
            self._inverted.extend(rows.tolist())
        else:
            self._continue_inversion(rows, np.zeros(len(rows), dtype=bool))

    def _stop_early(self) -> None:
        rows = _take(self._inverted, self.batch_size)
        self._continue_inversion(rows, self._steps.stops(rows))

    def _continue_inversion(self, rows: np.ndarray, stops: np.ndarray) -> None:
        """Start the next inversion step, or the syntheses of images that stop."""
        table, recipe = self._table, self.recipe
        stops = stops | (table.step[rows] + 1 >= recipe.max_steps)
        table.step[rows[~stops]] += 1
        turning = rows[stops]
        depth = torch.from_numpy(table.step[turning])
        starts = recipe.plan.start_index(depth, recipe.extra_start, recipe.skip)
        for row, start in zip(turning.tolist(), starts.tolist(), strict=True):
            table.turn(row, start)
        self._steps.request_passes(rows)
        if recipe.unguided:
            # Without guidance both syntheses are the same.
            for row in turning[table.guided[turning]].tolist():
                table.branch(row)

    def _guide(self) -> None:
        rows = _take(self._guided, self.batch_size)
        self._steps.move_by_classifier(rows)
        self._after_synthesis(rows)

    def _after_synthesis(self, rows: np.ndarray) -> None:
        table = self._table
        ends = table.step[rows] == 0
        table.step[rows[~ends]] -= 1
        self._steps.request_passes(rows[~ends])
        for row in rows[ends].tolist():
            if (image := table.end(row)) is not None:
                self._finished.append(image)

    @torch.no_grad()
    def _drain(self, *, final: bool) -> list[Reconstruction]:
        """Decode finished states, a full batch at a time until the end."""
        size, results = self.batch_size, []
        while len(self._finished) >= (1 if final else size):
            batch, self._finished = self._finished[:size], self._finished[size:]
            results += self._reconstructions(batch)
        return results

    def _reconstructions(self, images: list[ImageInFlight]) -> list[Reconstruction]:
        guided = [image.final[Role.GUIDED] for image in images]
        results = [
            Reconstruction(
                job=image.job,
                guided=picture,
                unguided=None,
                stop_index=image.stop_index,
                network_passes=image.passes,
                latent=image.final[Role.INVERSION],
                guided_state=state,
                unguided_state=None,
            )
            for image, picture, state in zip(images, self._decode(guided), guided, strict=True)
        ]
        if self.recipe.unguided:
            unguided = [i.final.get(Role.UNGUIDED, i.final[Role.GUIDED]) for i in images]
            for result, picture, state in zip(
                results, self._decode(unguided), unguided, strict=True
            ):
                result.unguided, result.unguided_state = picture, state
        return results

    def _decode(self, states: list[Tensor]) -> Tensor:
        return in_fixed_batches(self.denoiser.decode, torch.stack(states), self.batch_size)


def _take(queue: deque[int], most: int) -> np.ndarray:
    return np.array([queue.popleft() for _ in range(min(most, len(queue)))], dtype=np.int64)
