"""A stream of images in, a stream of scored images out: classify, reconstruct, compare.

Every network call has the same batch size, so that a score does not depend on the order of the
images or on the other images in flight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from diffguard.batching import fixed_batch_size, padded
from diffguard.classifiers.classifier import ClassifierOutput
from diffguard.engine.engine import Engine
from diffguard.engine.jobs import Job
from diffguard.engine.outcome import Outcome
from diffguard.engine.program import Program
from diffguard.engine.reproducible import reproducible
from diffguard.methods.in_flight import ImageInFlight, check_features, row_of
from diffguard.methods.items import Item, Scored
from diffguard.methods.jobs import jobs_of
from diffguard.methods.meter import Meter
from diffguard.methods.method import Method
from diffguard.methods.models import Models
from diffguard.score_table.rows import ScoreRow
from diffguard.score_table.timing import CLASSIFIER
from diffguard.scores.baselines import Baselines
from diffguard.scores.calibration import Calibration
from diffguard.scores.fusion_rule import DIFFGUARD, FUSION, FUSION_BASELINES
from diffguard.settings.selection import Skip


class ScoreStream:
    """Scores images that are pushed in.

    Args:
        models: The networks and settings.
        methods: Their detection methods; at least one.
        baselines: Post-hoc detectors that are scored too.
        calibration: Adds the scores that need calibration; None leaves them out.
        batch_size: Images of every network call, rounded up to a multiple of 8.
        most_steps: See `Engine`.
        skip: Which images skip the diffusion model, and have none of its scores: in a cascade those
            that are `clear`, `all` or `none`.

    Attributes:
        engine: The engine, with its count of calls.
        meter: Counts what each score takes.
    """

    def __init__(
        self,
        models: Models,
        methods: Sequence[Method],
        baselines: Baselines,
        calibration: Calibration | None,
        batch_size: int,
        *,
        most_steps: int | None = None,
        skip: Skip = "clear",
    ) -> None:
        self.models, self.methods, self.recipe = models, methods, methods[0].recipe
        self.baselines = baselines
        self.calibration = calibration
        self.batch_size = fixed_batch_size(batch_size)
        self.layers = sorted({layer for method in methods for layer in method.layers})
        program = Program.joined(method.program() for method in methods)
        self.engine = Engine(
            self.models.denoiser,
            self.recipe.sampler,
            program,
            self.batch_size,
            most_steps=most_steps,
        )
        self.meter = Meter(models, methods, baselines.names, self.batch_size)
        self._is_random = self.recipe.draws_crops or program.draws_noise
        self.skip = skip
        self._reconstructs = any(method.name == DIFFGUARD for method in methods)
        self._incoming: deque[Item] = deque()
        # Classified images that need the diffusion model; it gets them in full batches.
        self._doubtful: deque[ImageInFlight] = deque()
        self._outcomes: list[Outcome] = []

    @reproducible()
    def push(self, items: Iterable[Item]) -> list[Scored]:
        """Take images in and return those that are finished, in any order.

        Raises:
            UserError: If a score is not finite, naming the image.
        """
        rows: list[Scored] = []
        for item in items:
            if item.error:
                row = ScoreRow(item.dataset, item.index, item.path, item.label, error=item.error)
                rows.append(Scored(item, row, None))
            else:
                self._incoming.append(item)
        while len(self._incoming) >= self.batch_size:
            rows += self._classify()
        while len(self._doubtful) >= self.batch_size:
            self._reconstruct()
        while len(self._outcomes) >= self.batch_size:
            rows += self._compare()
        return rows

    @reproducible()
    def flush(self) -> list[Scored]:
        """Finish everything in flight."""
        rows: list[Scored] = []
        if self._incoming:
            rows += self._classify()
        while self._doubtful:
            self._reconstruct()
        self._reconstruct(final=True)
        while self._outcomes:
            rows += self._compare()
        return rows

    def _classify(self) -> list[Scored]:
        """Classify a batch; returns the images that the baselines decide."""
        models, size = self.models, self.batch_size
        items = [self._incoming.popleft() for _ in range(min(size, len(self._incoming)))]
        measure = partial(self.meter.measure, images=len(items))
        with measure(CLASSIFIER):
            images = torch.stack([item.image for item in items]).to(models.device)
            output = models.classify(images, size, self.layers)
            check_features(output.features, items)
            # Even a softmax may round by the number of rows, so all that follows sees whole
            # batches.
            whole = output.padded(size)
            predictions = whole.logits.argmax(1).tolist()[: len(items)]
            probabilities = whole.logits.float().softmax(-1).amax(1).tolist()[: len(items)]
        scores = self.baselines.score(whole.logits, whole.features, padded(images, size), measure)
        baselines = {name: values.numpy() for name, values in scores.items()}
        batch = [
            ImageInFlight(
                item,
                images[row],
                predictions[row],
                probabilities[row],
                output.select(slice(row, row + 1)),
                {name: float(values[row]) for name, values in baselines.items()},
            )
            for row, item in enumerate(items)
        ]
        clear = self._are_clear(baselines)
        fusions = self._fusions_of_clear(baselines) if clear.any() else {}
        rows = []
        for place, image in enumerate(batch):
            if clear[place]:
                values = {n: float(v[place]) for n, v in fusions.items() if not np.isnan(v[place])}
                row = row_of(image, values | image.baselines, None)
                rows.append(Scored(image.item, row, None))
            else:
                self._doubtful.append(image)
        return rows

    def _are_clear(self, baselines: Mapping[str, np.ndarray]) -> NDArray[np.bool_]:
        """Whether images skip the diffusion model, `(N,)`."""
        calibration = self.calibration
        if self.skip == "clear" and calibration and calibration.rule.cascade:
            return ~calibration.in_doubt(baselines)
        return np.full(self.batch_size, self.skip == "all")

    def _fusions_of_clear(self, baselines: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The fused scores of images without the diffusion model, NaN if they need it."""
        derived = self._derive(baselines)
        return {name: derived[name] for name in (FUSION, FUSION_BASELINES) if name in derived}

    def _derive(self, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The scores that need calibration, of a whole batch; NaN if a part is missing."""
        if self.calibration is None:
            return {}
        parts = dict.fromkeys(self.calibration.rule.parts, np.full(self.batch_size, np.nan))
        return self.calibration.derive({**parts, **scores})

    def _reconstruct(self, *, final: bool = False) -> None:
        """Give the engine the next batch of images; `final` finishes those in flight instead."""
        with self.meter.diffusion():
            outcomes = self.engine.flush() if final else self.engine.push(self._jobs())
        self.meter.count(outcomes)
        self._outcomes += outcomes

    def _jobs(self) -> list[Job]:
        """Jobs of the engine for a batch of images."""
        size = self.batch_size
        batch = [self._doubtful.popleft() for _ in range(min(size, len(self._doubtful)))]
        images = torch.stack([image.image for image in batch])
        predictions = [image.prediction for image in batch]
        items = [image.item for image in batch]
        jobs = jobs_of(self.models, items, images, predictions, size, is_random=self._is_random)
        for image, job in zip(batch, jobs, strict=True):
            job.tag = image
        return jobs

    def _compare(self) -> list[Scored]:
        size = self.batch_size
        outcomes, self._outcomes = self._outcomes[:size], self._outcomes[size:]
        tags: list[ImageInFlight] = [outcome.job.tag for outcome in outcomes]
        output = ClassifierOutput.concatenate([tag.output for tag in tags])
        scores: dict[str, np.ndarray] = {}
        for method in self.methods:
            with self.meter.measure(method.name, len(outcomes)):
                scores |= method.scores(outcomes, output, size)
        for name in tags[0].baselines:
            scores[name] = np.array([tag.baselines[name] for tag in tags])
        if self.calibration is not None:
            whole = {n: np.pad(c, (0, size - len(outcomes)), "edge") for n, c in scores.items()}
            rule, derived = self.calibration.rule, self._derive(whole)
            present = [name for name in derived if set(rule.parts_of(name)) <= scores.keys()]
            scores = {name: derived[name] for name in present} | scores
        rows = []
        for position, (outcome, tag) in enumerate(zip(outcomes, tags, strict=True)):
            values = {name: float(column[position]) for name, column in scores.items()}
            result = self.recipe.reconstruction(outcome) if self._reconstructs else None
            row = row_of(tag, values, outcome.passes, None if result is None else result.stop_index)
            rows.append(Scored(tag.item, row, result))
        return rows
