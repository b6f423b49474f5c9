"""An image on its way through a stream of scores, and its row of the score table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from diffguard.classifiers.classifier import ClassifierOutput
from diffguard.errors import UserError
from diffguard.methods.items import Item
from diffguard.score_table.rows import BASELINES_STAGE, DIFFUSION_STAGE, ScoreRow


@dataclass
class ImageInFlight:
    """A classified image that is not finished.

    Attributes:
        item: The image as it came in.
        image: `(C, H, W)` on the device.
        prediction: The predicted class.
        probability: Its softmax probability, in [0, 1].
        output: The classifier's output, one row.
        baselines: Baseline -> score, higher = more OOD.
    """

    item: Item
    image: Tensor
    prediction: int
    probability: float
    output: ClassifierOutput
    baselines: dict[str, float]


def check_features(features: Tensor, items: Sequence[Item]) -> None:
    """Refuse features that are not finite; some baselines cannot score them at all."""
    finite = features.isfinite().all(1)
    if not finite.all():
        item = items[int(finite.int().argmin())]
        raise UserError(
            f"the classifier's features of image {_place(item)} are not finite: check its weights, "
            "mean and std, or use float32 instead of half precision"
        )


def _place(item: Item) -> str:
    return item.path or f"{item.dataset}[{item.index}]"


def row_of(
    image: ImageInFlight,
    scores: dict[str, float],
    passes: int | None,
    stop_index: int | None = None,
) -> ScoreRow:
    """The row of an image; `passes` is None if it skipped the diffusion model."""
    item = image.item
    for name, value in scores.items():
        if not math.isfinite(value):
            networks = (
                "classifier gives"
                if name in image.baselines
                else "classifier and the diffusion model give"
            )
            raise UserError(
                f"score {name} of image {_place(item)} is {value}: check that the {networks} "
                "finite outputs (a smaller guidance scale, or bf16 instead of fp16, may help)"
            )
    return ScoreRow(
        dataset=item.dataset,
        index=item.index,
        path=item.path,
        label=item.label,
        prediction=image.prediction,
        probability=image.probability,
        scores=scores,
        stage=BASELINES_STAGE if passes is None else DIFFUSION_STAGE,
        stop_step=None if stop_index is None else stop_index + 1,
        network_passes=passes or 0,
    )
