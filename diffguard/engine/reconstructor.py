"""Invert, stop, synthesize: a stream of images in, a stream of reconstructions out.

A pool of trajectories is always running: each inverts, is guided or runs unguided, at its own
timestep. Their next network passes are gathered into calls of one fixed shape, and new images fill
the pool as others finish. The batch stays full although every image has its own depth, and the
result of an image does not depend on its neighbors. `plain.py` has the algorithm for one image.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from diffguard.batching import in_fixed_batches, padded
from diffguard.diffusion.ddim import ddim_step, synthesis_step
from diffguard.diffusion.denoiser import Denoiser
from diffguard.diffusion.early_stop import should_stop
from diffguard.diffusion.guidance import classifier_free
from diffguard.engine.classifier_guidance import ClassifierGuidance
from diffguard.engine.jobs import ClassifierFree, Job, Recipe, Reconstruction
from diffguard.engine.trajectories import Finished, Pool
from diffguard.errors import UserError


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
        self._waiting: deque[Job] = deque()
        self._encoded: deque[tuple[Job, Tensor, Tensor | None, Tensor | None]] = deque()
        self._measuring: deque[int] = deque()
        self._guiding: deque[int] = deque()
        self._finished: list[Finished] = []
        # One batch per queue, so that a full pool always has a full queue.
        queues = 1 + bool(recipe.qualities) + isinstance(recipe.guidance, ClassifierGuidance)
        self._pool = Pool((queues + 1) * batch_size)

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
        full = self.batch_size
        pool = self._pool
        while True:
            self._admit(final=final)
            if len(self._measuring) >= full:
                self._measure()
            elif len(self._guiding) >= full:
                self._guide()
            elif pool.pending_count >= full:
                self._denoise(final=final)
            elif not final and pool.has_room:
                return
            elif self._measuring:
                self._measure()
            elif not self._guiding and not pool.pending_count:
                return
            # The fuller call wastes less.
            elif len(self._guiding) >= pool.pending_count:
                self._guide()
            else:
                self._denoise(final=final)

    def _admit(self, *, final: bool) -> None:
        pool = self._pool
        while pool.has_room:
            if not self._encoded:
                if not self._waiting or (len(self._waiting) < self.batch_size and not final):
                    return
                self._encode()
            job, state, mask, shown = self._encoded.popleft()
            guided = self.recipe.guides(job.label, mask)
            slot = np.array([pool.admit(job, state, mask, guided=guided, shown=shown)])
            self._request_inversion(slot)

    @torch.no_grad()
    def _encode(self) -> None:
        jobs = [self._waiting.popleft() for _ in range(min(self.batch_size, len(self._waiting)))]
        images = torch.stack([job.image for job in jobs])
        states = in_fixed_batches(self.denoiser.encode, images, self.batch_size)
        shown: Iterable[Tensor | None] = [None] * len(jobs)
        if self.recipe.qualities:
            # Once for all steps, because a latent model decodes here.
            shown = in_fixed_batches(self.denoiser.preview, states, self.batch_size)
        for job, state, image in zip(jobs, states, shown, strict=True):
            mask = job.mask
            placed = None if mask is None else self.denoiser.place_mask(mask.unsqueeze(0))[0]
            self._encoded.append((job, state, placed, image))

    @torch.no_grad()
    def _denoise(self, *, final: bool) -> None:
        """One call of the diffusion model, and the steps that it completes."""
        pool = self._pool
        # At the end of the stream all finish together, so that the last calls are full.
        passes = pool.take(self.batch_size, longest_first=final)
        rows = pool.rows(passes)
        x, t = pool.states(rows), self.recipe.plan.timesteps[torch.from_numpy(pool.index[rows])]
        labels = self._labels(pool.sees_label(passes), pool.label[pool.slots(passes)], x.device)
        noise = self.denoiser.predict_noise(
            padded(x, self.batch_size),
            padded(t, self.batch_size).to(x.device, non_blocking=True),
            labels,
        )[: len(x)].to(x)
        self.calls += 1
        self.rows += len(x)
        ready = pool.store(passes, noise)
        if isinstance(self.recipe.guidance, ClassifierGuidance):
            guided = pool.is_main(ready) & ~pool.inverts(ready) & pool.guided[pool.slots(ready)]
            self._guiding.extend(ready[guided].tolist())
            ready = ready[~guided]
        if len(ready):
            self._step(ready)

    def _labels(
        self, wanted: np.ndarray, labels: np.ndarray, device: torch.device
    ) -> Tensor | None:
        denoiser = self.denoiser
        if denoiser.num_classes is None:
            return None
        if denoiser.null_class is not None:
            labels = np.where(wanted, labels, denoiser.null_class)
        elif (labels < 0).any():
            raise UserError(
                "an image without label (-1) needs a diffusion model with a null class, but this "
                "one has classes only: give every image a label"
            )
        return padded(torch.from_numpy(labels), self.batch_size).to(device, non_blocking=True)

    def _step(self, rows: np.ndarray) -> None:
        """Move trajectories one step, except those that a classifier guides."""
        pool, recipe = self._pool, self.recipe
        inverts, index = pool.inverts(rows), torch.from_numpy(pool.index[rows])
        # An inversion starts from the image itself, which is not clipped.
        clip = torch.from_numpy(~inverts | (pool.index[rows] > 0)) if recipe.clip else None
        up, (_, low, high) = torch.from_numpy(inverts), recipe.plan.inversion(index)
        _, start, end = recipe.plan.synthesis(index)
        before, after = torch.where(up, low, start), torch.where(up, high, end)
        x = ddim_step(pool.states(rows), self._noise(rows, inverts), before, after, clip=clip)
        pool.move(rows, x)
        self._end_inversion_steps(rows[inverts])
        self._end_synthesis_steps(rows[~inverts])

    def _noise(self, rows: np.ndarray, inverts: np.ndarray) -> Tensor:
        """Noise of rows, with classifier-free guidance in rows that saw the label."""
        pool, recipe = self._pool, self.recipe
        noise = pool.null_noise(rows)
        seen = pool.is_main(rows) & pool.with_label[pool.slots(rows)]
        mixed: list[tuple[np.ndarray, float, Tensor | None]] = []
        if len(inverting := np.flatnonzero(seen & inverts)):
            scale = recipe.inversion_scale if recipe.inversion == "guided" else 1.0
            mixed.append((inverting, scale, None))
        if isinstance(recipe.guidance, ClassifierFree):
            guided = np.flatnonzero(seen & ~inverts)
            for places, mask in pool.by_mask(rows[guided]):
                mixed.append((guided[places], recipe.guidance.scale, mask))
        for places, scale, mask in mixed:
            label = pool.label_noise(rows[places])
            noise[places] = classifier_free(noise[places], label, scale, mask)
        return noise

    def _end_inversion_steps(self, slots: np.ndarray) -> None:
        if self.recipe.qualities:
            self._measuring.extend(slots.tolist())
        else:
            self._continue_inversion(slots, np.zeros(len(slots), dtype=bool))

    @torch.no_grad()
    def _measure(self) -> None:
        """Compare states with their images and stop those that are far enough."""
        slots = _take(self._measuring, self.batch_size)
        pool = self._pool
        state = padded(pool.states(slots), self.batch_size)
        image = padded(pool.images(slots), self.batch_size)
        seen = self.denoiser.preview(state)
        qualities = torch.stack([quality(seen, image) for quality, _ in self.recipe.qualities])
        thresholds = [threshold for _, threshold in self.recipe.qualities]
        stop = should_stop(qualities[:, : len(slots)], thresholds)
        self._continue_inversion(slots, stop.cpu().numpy())

    def _continue_inversion(self, slots: np.ndarray, stop: np.ndarray) -> None:
        pool, recipe = self._pool, self.recipe
        stop = stop | (pool.index[slots] + 1 >= recipe.max_steps)
        deeper, turned = slots[~stop], slots[stop]
        pool.index[deeper] += 1
        self._request_inversion(deeper)
        reached = torch.from_numpy(pool.index[turned])
        starts = recipe.plan.start_index(reached, recipe.extra_start, recipe.skip)
        for slot, start in zip(turned.tolist(), starts.tolist(), strict=True):
            pool.begin_synthesis(slot, start, unguided=recipe.unguided)
        self._request_synthesis(turned)

    def _request_inversion(self, slots: np.ndarray) -> None:
        pool, recipe = self._pool, self.recipe
        guided = recipe.inversion == "guided"
        label = pool.label[slots] >= 0
        if recipe.inversion == "null" or (guided and recipe.inversion_scale == 0):
            label = np.zeros_like(label)
        both = guided and recipe.inversion_scale != 1
        pool.request(slots, null=~label | both, label=label)

    def _request_synthesis(self, slots: np.ndarray) -> None:
        pool, recipe = self._pool, self.recipe
        label = both = np.zeros(len(slots), dtype=bool)
        if isinstance(recipe.guidance, ClassifierFree):
            label = pool.guided[slots]
            # At scale 1 guidance is the conditional noise alone.
            both = pool.is_masked(slots) | (recipe.guidance.scale != 1)
        pool.request(slots, null=~label | both, label=label)

    def _guide(self) -> None:
        """Move trajectories one step towards the image, guided by the classifier."""
        guidance = self.recipe.guidance
        if not isinstance(guidance, ClassifierGuidance):
            return
        slots = _take(self._guiding, self.batch_size)
        pool, recipe = self._pool, self.recipe
        index = torch.from_numpy(pool.index[slots])
        t, alpha, _ = recipe.plan.synthesis(index)
        x, noise = pool.states(slots), pool.null_noise(slots)
        gradient = guidance.gradient(
            self.denoiser, x, noise, t, alpha,
            labels=torch.from_numpy(pool.label[slots]),
            keys=[pool.jobs[slot].key for slot in slots.tolist()],
            steps=(pool.start[slots] - pool.index[slots]).tolist(),
            batch_size=self.batch_size,
        )  # fmt: skip
        x = synthesis_step(x, noise, recipe.plan, index, clip=recipe.clip, gradient=gradient)
        pool.move(slots, x)
        self._end_synthesis_steps(slots)

    def _end_synthesis_steps(self, rows: np.ndarray) -> None:
        pool = self._pool
        more = pool.index[rows] > 0
        going = rows[more]
        pool.index[going] -= 1
        main = pool.is_main(going)
        self._request_synthesis(going[main])
        pool.request_auxiliary(pool.slots(going[~main]))
        for row in rows[~more].tolist():
            if (done := pool.finish(row)) is not None:
                self._finished.append(done)

    @torch.no_grad()
    def _drain(self, *, final: bool) -> list[Reconstruction]:
        """Decode finished states, a full batch at a time until the end."""
        count = len(self._finished) if final else len(self._finished) // self.batch_size
        count = count if final else count * self.batch_size
        done, self._finished = self._finished[:count], self._finished[count:]
        results = []
        for begin in range(0, count, self.batch_size):
            part = done[begin : begin + self.batch_size]
            guided = self._decode([row.guided for row in part])
            unguided: list[Tensor | None] = [None] * len(part)
            if self.recipe.unguided:
                unguided = list(self._decode([row.unguided for row in part]))
            for row, image, plain in zip(part, guided, unguided, strict=True):
                results.append(
                    Reconstruction(
                        job=row.job,
                        guided=image,
                        unguided=plain,
                        stop_index=row.stop_index,
                        network_passes=row.passes,
                        latent=row.latent,
                        guided_state=row.guided,
                        unguided_state=None if plain is None else row.unguided,
                    )
                )
        return results

    def _decode(self, states: list[Tensor]) -> Tensor:
        return in_fixed_batches(self.denoiser.decode, torch.stack(states), self.batch_size)


def _take(queue: deque[int], most: int) -> np.ndarray:
    return np.array([queue.popleft() for _ in range(min(most, len(queue)))], dtype=np.int64)
