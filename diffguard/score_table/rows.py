"""One row of the score table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

HEAD_COLUMNS = ("dataset", "index", "path", "label", "prediction", "probability")
TAIL_COLUMNS = ("stop_step", "network_passes", "error")
# Precedes the tail in the table of a cascade.
STAGE_COLUMN = "stage"
# Stages of a cascade. Without one, the diffusion model takes part in the scores of every image.
BASELINES_STAGE, DIFFUSION_STAGE = 1, 2


@dataclass(frozen=True)
class ScoreRow:
    """The result of an evaluation for one image; an unreadable image has only an `error`.

    Attributes:
        dataset: Name of the set.
        index: Place of the image in its set, 0-based.
        path: Path of the image.
        label: Its class, −1 for OOD.
        prediction: Predicted class.
        probability: Softmax probability of the prediction, in [0, 1].
        scores: Score name -> finite value, higher = more OOD. If the baselines decided alone, those
            of the diffusion model are missing.
        stage: 1 if the baselines decided alone, 2 if the diffusion model took part.
        stop_step: Inversion step at which the image stopped.
        network_passes: Passes of the diffusion network spent on the image.
        error: Why the image could not be scored; empty if it was scored.
    """

    dataset: str
    index: int
    path: str
    label: int
    prediction: int | None = None
    probability: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    stage: int | None = None
    stop_step: int | None = None
    network_passes: int | None = None
    error: str = ""
