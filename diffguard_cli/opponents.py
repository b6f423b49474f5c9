"""The baselines that an evaluation compares DiffGuard with, the best one chosen on validation."""

from __future__ import annotations

import numpy as np
import torch

from datamodules.evaluation_stream import EvaluationStream
from datamodules.image_set import MissingDataError
from datamodules.ood import OODDataModule
from diffguard.methods.items import Scored, items_of
from diffguard.methods.scorer import Scorer
from diffguard.report.opponents import Opponents
from diffguard.score_table.rows import ScoreRow
from diffguard_cli.one_standard_error import column_auroc


@torch.inference_mode()
def validated_opponents(detector: Scorer, data: OODDataModule, batch_size: int) -> Opponents:
    """Score the OOD validation sets with the baselines; the diffusion model is not used.

    The ID scores are those of the calibration.

    Args:
        detector: The calibrated detector, on its device.
        data: The DataModule.
        batch_size: Images of every network call.

    Returns:
        The baselines of the settings; without AUROC if the OOD validation sets are not configured
        or absent.

    Raises:
        UserError: If an image is unreadable (`data.on_error: stop`).
    """
    names = tuple(detector.settings.baselines)
    stream = validation_stream(data)
    if isinstance(stream, str):
        return Opponents(names, reason=stream)
    scores = detector.stream(batch_size, derive=False, skip="all")
    results: list[Scored] = []
    for batch in data.stream_loader(stream):
        results += scores.push(items_of(batch))
    results += scores.flush()
    calibration, rows = detector.require_calibration(), _rows_by_set(results)
    if not rows:
        return Opponents(names, reason="no OOD validation image is readable")
    auroc = {}
    for name in names:
        columns = {key: np.array([row.scores[name] for row in rows[key]]) for key in rows}
        auroc[name] = column_auroc({"id": calibration.scores[name].numpy(), **columns})
    return Opponents(names, auroc, tuple(rows))


def validation_stream(data: OODDataModule) -> EvaluationStream | str:
    """The OOD validation images, or why there are none.

    Raises:
        UserError: If a source is wrong.
    """
    if not data.config.ood_validation:
        return "data.ood_validation names no OOD validation set"
    try:
        stream = data.stream("validation")
    except MissingDataError as error:
        return f"a validation set is absent ({error.absent})"
    select = stream.select[stream.select[:, 0] > 0]  # the ID set is the first
    return stream.only(select) if len(select) else "the OOD validation sets are absent"


def _rows_by_set(results: list[Scored]) -> dict[str, list[ScoreRow]]:
    rows: dict[str, list[ScoreRow]] = {}
    for image in sorted(results, key=lambda image: (image.row.dataset, image.row.index)):
        if not image.row.error:
            rows.setdefault(image.row.dataset, []).append(image.row)
    return rows
