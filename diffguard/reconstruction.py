"""Invert, stop, synthesise: a stream of images in, a stream of reconstructions out.

A pool of trajectories is kept running. Whatever they do (invert, be guided, run unguided, at any
timestep), their next network passes are gathered into calls of one fixed shape, and the pool is
refilled as images finish. So the batch stays full although every image has its own depth, and an
image's result does not depend on its neighbours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from diffguard.batching import in_fixed_batches, padded
from diffguard.ddim import inversion_step, synthesis_step
from diffguard.denoisers import Denoiser
from diffguard.early_stop import should_stop
from diffguard.errors import UserError
from diffguard.guidance import classifier_free
from diffguard.pool import AUX, MAIN, Finished, Phase, Pool
from diffguard.recipe import Job, Recipe, Reconstruction


class Reconstructor:
    """Runs a stream of jobs through the diffusion model in calls of one shape.

    Args:
        denoiser: The diffusion model.
        recipe: What to do.
        batch_size: Rows of every network call.

    Attributes:
        calls: Calls of the diffusion model so far.
        rows: Rows of those calls that were no padding; `rows / (calls · batch_size)` is the fill.
    """

    def __init__(self, denoiser: Denoiser, recipe: Recipe, batch_size: int) -> None:
        self.denoiser = denoiser
        self.recipe = recipe
        self.batch_size = batch_size
        self.calls = 0
        self.rows = 0
        self._waiting: deque[Job] = deque()
        self._encoded: deque[tuple[Job, Tensor, Tensor | None]] = deque()
        self._measuring: deque[int] = deque()
        self._steering: deque[int] = deque()
        self._finished: list[Finished] = []
        # One batch per kind of queue: then some queue is full whenever the pool is.
        queues = 1 + bool(recipe.qualities) + (recipe.steering is not None)
        self._pool = Pool((queues + 1) * batch_size)

    def push(self, jobs: Iterable[Job]) -> list[Reconstruction]:
        """Take images in and return those that are finished; others stay in flight."""
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
            elif len(self._steering) >= full:
                self._steer()
            elif pool.pending_count >= full:
                self._denoise()
            elif not final and pool.has_room:
                return
            elif self._measuring:
                self._measure()
            elif self._steering:
                self._steer()
            elif pool.pending_count:
                self._denoise()
            else:
                return

    def _admit(self, *, final: bool) -> None:
        pool = self._pool
        while pool.has_room:
            if not self._encoded:
                if not self._waiting or (len(self._waiting) < self.batch_size and not final):
                    return
                self._encode()
            job, state, mask = self._encoded.popleft()
            if mask is not None and not bool(mask.any()):
                guided = False
            else:
                guided = job.label >= 0 and self._scale != 0
            slot = pool.admit(job, state, mask, guided=guided)
            null, label = self._inversion_passes(job.label)
            pool.request(slot, null=null, label=label)

    @property
    def _scale(self) -> float:
        steering = self.recipe.steering
        return self.recipe.scale if steering is None else steering.scale

    def _inversion_passes(self, label: int) -> tuple[bool, bool]:
        kind, scale = self.recipe.inversion, self.recipe.inversion_scale
        if kind == "null" or label < 0 or (kind == "guided" and scale == 0):
            return True, False
        return kind == "guided" and scale != 1, True

    @torch.no_grad()
    def _encode(self) -> None:
        jobs = [self._waiting.popleft() for _ in range(min(self.batch_size, len(self._waiting)))]
        images = torch.stack([job.image for job in jobs])
        states = in_fixed_batches(self.denoiser.encode, images, self.batch_size)
        for job, state in zip(jobs, states, strict=True):
            mask = job.mask
            placed = None if mask is None else self.denoiser.place_mask(mask.unsqueeze(0))[0]
            self._encoded.append((job, state, placed))

    @torch.no_grad()
    def _denoise(self) -> None:
        """One call of the diffusion model, and the steps that it completes."""
        pool = self._pool
        units = pool.take(self.batch_size)
        x = pool.x[units.role, units.slot]
        t = self.recipe.plan.timesteps[pool.index[units.role, units.slot]]
        noise = self.denoiser.predict_noise(
            padded(x, self.batch_size),
            padded(t, self.batch_size).to(x.device),
            self._labels(units.label, pool.labels(units.slot), x.device),
        )[: len(x)].to(x)
        self.calls += 1
        self.rows += len(x)
        main, aux = pool.store(units, noise)
        inverting = pool.phase[main] == Phase.INVERT
        self._step_inversion(main[inverting])
        main = main[~inverting]
        steered = pool.guided[main] & (self.recipe.steering is not None)
        self._steering.extend(main[steered].tolist())
        self._step_synthesis(main[~steered], MAIN)
        self._step_synthesis(aux, AUX)

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
        return padded(torch.from_numpy(labels), self.batch_size).to(device)

    def _step_inversion(self, slots: np.ndarray) -> None:
        if not len(slots):
            return
        pool, recipe = self._pool, self.recipe
        index = torch.from_numpy(pool.index[MAIN, slots])
        x, noise = pool.x[MAIN, slots], pool.noise[MAIN, slots]
        if recipe.inversion != "null":
            both = torch.from_numpy(pool.both[slots]).to(x.device)
            mixed = classifier_free(noise, pool.noise_label[slots], recipe.inversion_scale)
            single = torch.from_numpy(pool.label_only[slots]).to(x.device)
            noise = torch.where(_rows(both, x), mixed, noise)
            noise = torch.where(_rows(single, x), pool.noise_label[slots], noise)
        pool.x[MAIN, slots] = inversion_step(x, noise, recipe.plan, index, clip=recipe.clip)
        if recipe.qualities:
            self._measuring.extend(slots.tolist())
        else:
            self._continue_inversion(slots, np.zeros(len(slots), dtype=bool))

    @torch.no_grad()
    def _measure(self) -> None:
        """Compare states with their images and stop those that are far enough."""
        slots = _take(self._measuring, self.batch_size)
        pool = self._pool
        state = padded(pool.x[MAIN, slots], self.batch_size)
        clean = padded(pool.clean[slots], self.batch_size)
        seen, image = self.denoiser.preview(state), self.denoiser.preview(clean)
        qualities = torch.stack([quality(seen, image) for quality, _ in self.recipe.qualities])
        thresholds = [threshold for _, threshold in self.recipe.qualities]
        stop = should_stop(qualities[:, : len(slots)], thresholds)
        self._continue_inversion(slots, stop.cpu().numpy())

    def _continue_inversion(self, slots: np.ndarray, stop: np.ndarray) -> None:
        pool, recipe = self._pool, self.recipe
        stop = stop | (pool.index[MAIN, slots] + 1 >= recipe.max_steps)
        for slot in slots[~stop].tolist():
            pool.index[MAIN, slot] += 1
            null, label = self._inversion_passes(pool.jobs[slot].label)
            pool.request(slot, null=null, label=label)
        plan = recipe.plan
        for slot in slots[stop].tolist():
            reached = torch.tensor(pool.index[MAIN, slot])
            start = int(plan.start_index(reached, recipe.extra_start, recipe.skip))
            pool.begin_synthesis(slot, start, unguided=recipe.unguided)
            self._request_synthesis(slot)

    def _request_synthesis(self, slot: int) -> None:
        pool = self._pool
        if not pool.guided[slot] or self.recipe.steering is not None:
            pool.request(slot, null=True, label=False)
        else:
            # At scale 1 the conditional noise alone decides, wherever guidance applies.
            null = self.recipe.scale != 1 or pool.masks[slot] is not None
            pool.request(slot, null=null, label=True)

    def _step_synthesis(self, slots: np.ndarray, role: int) -> None:
        """Move trajectories one step to the image, classifier-free or unguided."""
        if not len(slots):
            return
        pool, recipe = self._pool, self.recipe
        index = torch.from_numpy(pool.index[role, slots])
        x, noise = pool.x[role, slots], pool.noise[role, slots]
        if role == MAIN and recipe.steering is None:
            noise = noise.clone()
            for rows, mask in pool.guided_rows(slots):
                chosen = slots[rows]
                noise[rows] = classifier_free(
                    noise[rows], pool.noise_label[chosen], recipe.scale, mask
                )
        self._finish_step(
            slots, role, synthesis_step(x, noise, recipe.plan, index, clip=recipe.clip)
        )

    def _steer(self) -> None:
        """Move trajectories one step to the image, guided by the classifier."""
        steering = self.recipe.steering
        if steering is None:
            return
        slots = _take(self._steering, self.batch_size)
        pool, recipe = self._pool, self.recipe
        index = torch.from_numpy(pool.index[MAIN, slots])
        t, alpha, _ = recipe.plan.synthesis(index)
        x, noise = pool.x[MAIN, slots], pool.noise[MAIN, slots]
        gradient = steering.gradient(
            self.denoiser, x, noise, t, alpha,
            labels=torch.from_numpy(pool.labels(slots)),
            keys=[pool.jobs[slot].key for slot in slots.tolist()],
            steps=(pool.start[slots] - pool.index[MAIN, slots]).tolist(),
            batch_size=self.batch_size,
        )  # fmt: skip
        x = synthesis_step(x, noise, recipe.plan, index, clip=recipe.clip, gradient=gradient)
        self._finish_step(slots, MAIN, x)

    def _finish_step(self, slots: np.ndarray, role: int, x: Tensor) -> None:
        pool = self._pool
        pool.x[role, slots] = x
        for slot in slots.tolist():
            if pool.index[role, slot] > 0:
                pool.index[role, slot] -= 1
                if role == MAIN:
                    self._request_synthesis(slot)
                else:
                    pool.request_aux(slot)
            elif pool.finish(slot, role):
                self._finished.append(pool.release(slot))

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


def _rows(flags: Tensor, like: Tensor) -> Tensor:
    return flags.view(-1, *[1] * (like.ndim - 1))
