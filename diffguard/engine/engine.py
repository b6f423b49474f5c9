"""A stream of images in, a stream of outcomes out.

Many trajectories run at a time, each at its own timestep. Their next network passes are gathered
into calls of one fixed shape, and new images start as others finish. The batch stays full although
every image has its own depth, and the outcome of an image does not depend on its neighbors.
`plain.py` has DiffGuard's algorithm for one image.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

import numpy as np
import torch

from diffguard.batching import in_fixed_batches
from diffguard.diffusion.denoiser import Denoiser
from diffguard.engine.encoding import encode, noised
from diffguard.engine.jobs import Job, Source
from diffguard.engine.observation import Observation
from diffguard.engine.outcome import Outcome
from diffguard.engine.program import NoisedImage, Phase, Program, Synthesis
from diffguard.engine.routes import Node, Route, Routes
from diffguard.engine.sampler import Sampler
from diffguard.engine.steps import Steps
from diffguard.engine.trajectories import ImageInFlight, Trajectories


class Engine:
    """Runs a program for a stream of jobs, in calls of one shape.

    Args:
        denoiser: The diffusion model.
        sampler: How states move between noise levels.
        program: What is computed for each image.
        batch_size: Images of every network call.
        most_steps: If given, shorten each part of the program to this many steps, to measure the
            speed.

    Attributes:
        calls: Calls of the diffusion model so far.
        rows: Rows of those calls without padding; `rows / (calls · batch_size)` is the fill.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        sampler: Sampler,
        program: Program,
        batch_size: int,
        *,
        most_steps: int | None = None,
    ) -> None:
        self.denoiser, self.sampler, self.program = denoiser, sampler, program
        self.batch_size = batch_size
        self.calls = 0
        self.rows = 0
        self._routes = routes = Routes(program, sampler.plan, most_steps)
        # One batch per queue, so that a full table always has a full queue.
        queues = 1 + bool(routes.waits.any()) + bool(routes.classifiers)
        memory = sampler.solver.memory
        self._table = Trajectories((queues + 1) * batch_size, routes.most_rows, memory)
        self._steps = Steps(denoiser, sampler, routes, batch_size, self._table)
        self._observation = Observation(
            routes.observers,
            routes.observes,
            routes.null & routes.label,
            self._table,
            denoiser.preview,
            batch_size,
            self._steps.step_of,
        )
        self._jobs: deque[Job] = deque()
        self._sources: deque[Source] = deque()
        # Rows that wait for their observers, and rows that wait for a classifier's gradient.
        self._observer_rows: deque[int] = deque()
        self._classifier_rows: deque[int] = deque()
        self._final_images: list[ImageInFlight] = []

    def push(self, jobs: Iterable[Job]) -> list[Outcome]:
        """Add images and return the finished ones; others stay in flight."""
        self._jobs.extend(jobs)
        self._run(final=False)
        return self._drain(final=False)

    def flush(self) -> list[Outcome]:
        """Finish everything in flight."""
        self._run(final=True)
        return self._drain(final=True)

    def _run(self, *, final: bool) -> None:
        full, table = self.batch_size, self._table
        while True:
            self._admit(final=final)
            if len(self._observer_rows) >= full:
                self._observe()
            elif len(self._classifier_rows) >= full:
                self._guide()
            elif table.pending_count >= full:
                self._denoise(final=final)
            elif not final and table.has_room:
                return
            elif self._observer_rows:
                self._observe()
            elif not self._classifier_rows and not table.pending_count:
                return
            # The fuller call wastes less.
            elif len(self._classifier_rows) >= table.pending_count:
                self._guide()
            else:
                self._denoise(final=final)

    def _admit(self, *, final: bool) -> None:
        while self._table.has_room:
            if not self._sources:
                if not self._jobs or (len(self._jobs) < self.batch_size and not final):
                    return
                self._encode()
            self._start(ImageInFlight(self._sources.popleft()))

    def _encode(self) -> None:
        jobs = [self._jobs.popleft() for _ in range(min(self.batch_size, len(self._jobs)))]
        previews = any(observer.sees_previews for observer in self._routes.observers)
        self._sources += encode(self.denoiser, jobs, self.batch_size, previews=previews)

    def _start(self, image: ImageInFlight) -> None:
        self._table.enter()
        for node in self._routes.route(image.source.reach).roots:
            state, phase = image.source.clean, node.phase
            if isinstance(phase, Synthesis) and isinstance(phase.start, NoisedImage):
                state = noised(image.source, phase.start, self.sampler.plan)
            self._begin(self._table.add(image, state), node, 0)

    def _begin(self, row: int, node: Node, stop: int, *, follows: bool = False) -> None:
        """Begin a phase; `stop` is the last step of the phase that it follows."""
        keeps_memory = follows and self.sampler.solver.keeps_memory
        table, routes, number = self._table, self._routes, node.number
        table.begin(row, number, routes.first_step(node, stop), keeps_memory=keeps_memory)
        self._observation.begin(row)
        table.request(row, null=routes.null[number], label=routes.label[number])

    def _denoise(self, *, final: bool) -> None:
        """One call of the diffusion model, and the steps that it completes."""
        table, routes = self._table, self._routes
        left = None
        if final:
            # At the end of the stream all finish together, so that the last calls are full.
            left = routes.steps_left(table.node, table.step)
        passes = table.take(self.batch_size, left)
        rows = self._steps.predict(passes)
        self.calls += 1
        self.rows += len(passes.rows)
        by_classifier = routes.classifier[table.node[rows]] >= 0
        self._classifier_rows.extend(rows[by_classifier].tolist())
        self._advance(rows[~by_classifier])

    def _guide(self) -> None:
        self._advance(_take(self._classifier_rows, self.batch_size), by_classifier=True)

    def _advance(self, rows: np.ndarray, *, by_classifier: bool = False) -> None:
        if not len(rows):
            return
        noise = self._steps.noise(rows)
        if self._routes.sees_passes:
            self._observation.show_passes(rows, self._steps.shown(rows).x, noise)
        complete = self._steps.advance(rows, noise, by_classifier=by_classifier)
        self._steps.request_passes(rows[~complete])
        ready = rows[complete]
        waits = self._routes.waits[self._table.node[ready]]
        self._observer_rows.extend(ready[waits].tolist())
        self._proceed(ready[~waits], np.zeros(len(ready) - np.count_nonzero(waits), dtype=bool))

    @torch.no_grad()
    def _observe(self) -> None:
        rows = _take(self._observer_rows, self.batch_size)
        self._proceed(rows, self._observation.show_steps(rows))

    def _proceed(self, rows: np.ndarray, stops: np.ndarray) -> None:
        """Begin the next step of trajectories, or end the phases of those that stop."""
        table, routes = self._table, self._routes
        node, step = table.node[rows], table.step[rows]
        up, last = routes.up[node], routes.last[node]
        ends = stops | np.where(up, step >= last, step <= last)
        table.step[rows[~ends]] += np.where(up, 1, -1)[~ends]
        self._steps.request_passes(rows[~ends])
        for row in rows[ends].tolist():
            self._end_phase(row)

    def _end_phase(self, row: int) -> None:
        table, image = self._table, self._table.image[row]
        node, stop = self._routes.nodes[table.node[row]], int(table.step[row])
        image.last_step[node.number] = stop
        if node.is_kept:
            image.states[node.number] = table.x[row].clone()
        self._observation.end(row, image)
        if not node.children:
            if table.end(row) is not None:
                self._final_images.append(image)
            return
        siblings = [row, *(table.fork(row) for _ in node.children[1:])]
        for place, (sibling, child) in enumerate(zip(siblings, node.children, strict=True)):
            self._begin(sibling, child, stop, follows=True)
            for leader in siblings[:place]:
                # They are at the same state; at the same step, one pass serves both.
                if table.step[leader] == table.step[sibling]:
                    table.share(sibling, leader)

    @torch.no_grad()
    def _drain(self, *, final: bool) -> list[Outcome]:
        """Decode finished states, a full batch at a time until the end."""
        size, outcomes = self.batch_size, []
        while len(self._final_images) >= (1 if final else size):
            batch, self._final_images = self._final_images[:size], self._final_images[size:]
            outcomes += self._outcomes(batch)
        return outcomes

    def _outcomes(self, images: list[ImageInFlight]) -> list[Outcome]:
        routes = [self._routes.route(image.source.reach) for image in images]
        outcomes = [self._outcome(i, r) for i, r in zip(images, routes, strict=True)]
        for phase in self.program.pictures:
            numbers = [route.nodes[phase].number for route in routes]
            states = [image.states[n] for image, n in zip(images, numbers, strict=True)]
            pictures = in_fixed_batches(self.denoiser.decode, torch.stack(states), self.batch_size)
            for outcome, picture in zip(outcomes, pictures, strict=True):
                outcome.pictures[phase] = picture
        return outcomes

    def _outcome(self, image: ImageInFlight, route: Route) -> Outcome:
        """The results of the program, without pictures, when all trajectories have ended."""
        nodes, gradients = route.nodes, Counter[frozenset[Phase]]()
        for numbers, count in image.passes_for.items():
            for number in numbers:
                if self._routes.classifier[number] >= 0:
                    gradients[route.phases((number,))] += count
        return Outcome(
            job=image.source.job,
            passes_for={route.phases(n): count for n, count in image.passes_for.items()},
            gradients_for=dict(gradients),
            last_step={phase: image.last_step[node.number] for phase, node in nodes.items()},
            states={phase: image.states[nodes[phase].number] for phase in self.program.states},
            pictures={},
            values={
                (phase, observer): image.values[node.number, observer]
                for phase, node in nodes.items()
                for observer in node.observers
                if observer.values
            },
        )


def _take(queue: deque[int], most: int) -> np.ndarray:
    return np.array([queue.popleft() for _ in range(min(most, len(queue)))], dtype=np.int64)
