"""A stream of images in, a stream of scored images out: classify, reconstruct, compare.

Every network call has the detector's batch size, so that a score does not depend on the order of
the images or on what else is in flight.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from diffguard.batching import fixed_batch_size, padded
from diffguard.classifiers.cam import cam_mask, grad_cam, scale_cam
from diffguard.classifiers.classifier import ClassifierOutput
from diffguard.engine.jobs import Job, Reconstruction
from diffguard.engine.reconstructor import Reconstructor
from diffguard.engine.reproducible import reproducible
from diffguard.errors import UserError
from diffguard.images import pixel_key
from diffguard.methods.items import Item, Scored
from diffguard.randomness import image_generator
from diffguard.score_table.rows import ScoreRow
from diffguard.scores.calibration import DIFFGUARD
from diffguard.scores.distances import Distance, Views

if TYPE_CHECKING:
    from diffguard.detector import Detector


@dataclass
class _InFlight:
    item: Item
    prediction: int
    probability: float
    output: ClassifierOutput
    baselines: dict[str, float]


class ScoreStream:
    """Scores images that are pushed in.

    Args:
        detector: What scores them.
        batch_size: Images of every network call, rounded up to a multiple of 8.
        derive: Whether the scores that need calibration are added; calibration runs without.
        unguided: Reconstruct without guidance too, even where no distance needs it.

    Attributes:
        reconstructor: The running reconstruction, with its count of calls.
    """

    def __init__(
        self, detector: Detector, batch_size: int, *, derive: bool = True, unguided: bool = False
    ) -> None:
        self.detector = detector
        self.batch_size = fixed_batch_size(batch_size)
        self.derive = derive
        recipe = detector.recipe()
        if unguided:
            recipe = replace(recipe, unguided=True)
        steering = recipe.steering
        self._draws_crops = steering is not None and steering.draws_crops
        self.reconstructor = Reconstructor(detector.denoiser, recipe, self.batch_size)
        self._incoming: deque[Item] = deque()
        self._flying: dict[int, _InFlight] = {}
        self._done: list[Reconstruction] = []

    @reproducible()
    def push(self, items: Iterable[Item]) -> list[Scored]:
        """Take images in and return those that are finished, in any order.

        Raises:
            UserError: Where a score is not finite, naming the image.
        """
        rows: list[Scored] = []
        for item in items:
            if item.error:
                row = ScoreRow(item.dataset, item.index, item.path, item.label, error=item.error)
                rows.append(Scored(item, row, None))
            else:
                self._incoming.append(item)
        while len(self._incoming) >= self.batch_size:
            self._done += self.reconstructor.push(self._classify())
        while len(self._done) >= self.batch_size:
            rows += self._compare()
        return rows

    @reproducible()
    def flush(self) -> list[Scored]:
        """Finish everything in flight."""
        rows: list[Scored] = []
        if self._incoming:
            self._done += self.reconstructor.push(self._classify())
        self._done += self.reconstructor.flush()
        while self._done:
            rows += self._compare()
        return rows

    def _classify(self) -> list[Job]:
        detector, size = self.detector, self.batch_size
        items = [self._incoming.popleft() for _ in range(min(size, len(self._incoming)))]
        device = detector.device
        images = torch.stack([item.image for item in items]).to(device)
        output = detector.classify(images, size)
        # What follows sees whole batches too: even a softmax may round by the number of rows.
        whole = _padded_output(output, size)
        predictions = whole.logits.argmax(1).tolist()[: len(items)]
        probabilities = whole.logits.float().softmax(-1).amax(1).tolist()[: len(items)]
        labels = [self._label(item, y) for item, y in zip(items, predictions, strict=True)]
        masks: Sequence[Tensor | None] = [None] * len(items)
        cut = detector.settings.guidance.cam_cut
        if cut is not None:
            target = torch.tensor(labels, device=device)
            cam = grad_cam(detector.classifier, padded(images, size), padded(target, size))
            masks = list(cam_mask(scale_cam(cam[: len(items)]), cut))
        baselines = detector.baselines.score(whole.logits, whole.features)
        jobs = []
        for row, item in enumerate(items):
            key = (pixel_key(item.image),) if self._draws_crops else ()
            job = Job(images[row], labels[row], key, masks[row])
            scores = {name: float(values[row]) for name, values in baselines.items()}
            one = output.select(slice(row, row + 1))
            self._flying[id(job)] = _InFlight(
                item, predictions[row], probabilities[row], one, scores
            )
            jobs.append(job)
        return jobs

    def _label(self, item: Item, predicted: int) -> int:
        if self.detector.settings.guidance.label == "prediction":
            return predicted
        if item.label >= 0:
            return item.label
        generator = image_generator(self.detector.seed, pixel_key(item.image), "oracle")
        return int(torch.randint(self.detector.classifier.num_classes, (), generator=generator))

    def _compare(self) -> list[Scored]:
        size = self.batch_size
        done, self._done = self._done[:size], self._done[size:]
        flying = [self._flying.pop(id(result.job)) for result in done]
        scores = self._distances(done, flying)
        for name in flying[0].baselines:
            scores[name] = np.array([one.baselines[name] for one in flying])
        calibration = self.detector.calibration
        if self.derive and calibration is not None:
            whole = {n: np.pad(c, (0, size - len(done)), "edge") for n, c in scores.items()}
            scores = calibration.derive(whole) | scores
        rows = []
        for position, (result, one) in enumerate(zip(done, flying, strict=True)):
            values = {name: float(column[position]) for name, column in scores.items()}
            rows.append(Scored(one.item, self._row(one, result, values), result))
        return rows

    def _distances(
        self, done: Sequence[Reconstruction], flying: Sequence[_InFlight]
    ) -> dict[str, np.ndarray]:
        detector, size = self.detector, self.batch_size
        images = torch.stack([result.job.image for result in done])
        known = ClassifierOutput.concatenate([one.output for one in flying])
        source = views_of(padded(images, size), _padded_output(known, size))
        compared = [*detector.distances.values(), *detector.unguided_distances.values()]
        guided = self._view([result.guided for result in done], compared)
        columns: dict[str, Tensor] = {}
        for name, distance in detector.distances.items():
            columns[f"{DIFFGUARD}/{name}"] = distance(source, guided)
        if detector.unguided_distances:
            plain = [r.unguided for r in done if r.unguided is not None]
            unguided = self._view(plain, list(detector.unguided_distances.values()))
            for name, distance in detector.unguided_distances.items():
                columns[f"{DIFFGUARD}/unguided/{name}"] = distance(unguided, guided)
        return {n: c[: len(done)].double().cpu().numpy() for n, c in columns.items()}

    def _view(self, reconstructions: Sequence[Tensor], distances: Sequence[Distance]) -> Views:
        """Reconstructions, and what the classifier makes of them where a distance looks at it."""
        images = padded(torch.stack(list(reconstructions)), self.batch_size)
        if all(distance.needs == "images" for distance in distances):
            return Views(images)
        layers = self.detector.layers
        return views_of(images, self.detector.classifier.forward_features(images, layers))

    def _row(self, one: _InFlight, result: Reconstruction, scores: dict[str, float]) -> ScoreRow:
        item = one.item
        for name, value in scores.items():
            if not math.isfinite(value):
                place = item.path or f"{item.dataset}[{item.index}]"
                networks = (
                    "classifier gives"
                    if name in one.baselines
                    else ("classifier and the diffusion model give")
                )
                raise UserError(
                    f"score {name} of image {place} is {value}: check that the {networks} finite "
                    "outputs (bf16 instead of fp16 may help)"
                )
        return ScoreRow(
            dataset=item.dataset,
            index=item.index,
            path=item.path,
            label=item.label,
            prediction=one.prediction,
            probability=one.probability,
            scores=scores,
            stop_step=result.stop_index + 1,
            network_passes=result.network_passes,
        )


def views_of(images: Tensor, output: ClassifierOutput) -> Views:
    """Images, and what the classifier makes of them, for the distances."""
    return Views(images, output.logits, output.features, output.layers)


def _padded_output(output: ClassifierOutput, size: int) -> ClassifierOutput:
    layers = {name: padded(value, size) for name, value in output.layers.items()}
    return ClassifierOutput(padded(output.logits, size), padded(output.features, size), layers)
