"""Drift of images that a scorer has scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from numpy.typing import ArrayLike

from diffguard.engine.reproducible import reproducible
from diffguard.errors import UserError
from diffguard.methods.fit import classified
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
