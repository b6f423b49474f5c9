"""Drift: whether images as a whole differ from the ID validation images of a scorer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from diffguard.engine.reproducible import reproducible
from diffguard.errors import UserError
from diffguard.inputs.working import Images, working_images
from diffguard.methods.checks import check_unlabeled
from diffguard.methods.reference import classified
from diffguard.methods.scorer import Scorer
from diffguard.scores.drift import Drift, FeatureSample, compare


def check_drift(scorer: Scorer) -> None:
    """Make sure that a scorer can measure a drift.

    Raises:
        UserError: If it was calibrated by a version that kept no features.
    """
    if scorer.require_calibration().features is None:
        raise UserError(
            "the detector holds no features of its ID validation images, with which a drift is "
            "measured: it is older than this measurement, so calibrate it again"
        )


@reproducible()
def drift_of(
    scorer: Scorer, scores: ArrayLike, batches: Iterable[Mapping[str, Any]], batch_size: int
) -> Drift:
    """Compare scored images with the ID validation images.

    Args:
        scorer: The calibrated scorer, on its device.
        scores: `(N,)` decision scores of the images.
        batches: Batches of some of the images, at least one of them readable.
        batch_size: Rows of each classifier call.

    Raises:
        UserError: If the scorer is not calibrated, or has no features of validation images.
    """
    check_drift(scorer)
    calibration, sample = scorer.require_calibration(), FeatureSample()
    assert calibration.features is not None
    for output, _ in classified(scorer.models, batches, batch_size):
        sample.add(output.features)
    reference = calibration.reference(scorer.decision)
    return compare(reference, scores, calibration.features, sample.features())


class DriftScorer(Scorer):
    """A scorer that also tests images as a whole; see `Scorer`."""

    def drift(self, images: Images, *, batch_size: int = 64) -> Drift:
        """Test whether images as a whole differ from the ID validation images.

        The decision scores of all images are compared, and the classifier's features of at most
        `diffguard.scores.drift.SAMPLE_SIZE` of them, chosen at random.

        Args:
            images: N images in any form, see `inputs.working.working_images`; at least one.
            batch_size: Images of every network call, at least 1.

        Returns:
            The p-values of both tests.

        Raises:
            UserError: For images that `working_images` refuses, without images or calibration, if
                the calibration has no features of validation images, or if the settings need true
                labels.
        """
        check_unlabeled(self.settings)
        check_drift(self)
        working = working_images(images, self.image_size, self.image_channels)
        if not len(working):
            raise UserError("there is no image to compare with the ID validation images: give some")
        scores = self.score(working, batch_size=batch_size)
        return drift_of(self, scores, _batches(working, batch_size), batch_size)


def _batches(images: Tensor, batch_size: int) -> Iterator[Mapping[str, Any]]:
    """Images of unknown classes, as `classified` takes them."""
    for part in images.split(batch_size):
        yield {"image": part, "label": torch.full((len(part),), -1), "error": [""] * len(part)}
