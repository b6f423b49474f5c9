"""The table of verdicts on a folder of images."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffguard.detector import Detector
from diffguard.errors import UserError
from diffguard.printing import say
from diffguard.score_table.cells import to_cell
from diffguard.score_table.table import ScoreTable
from diffguard.storage.files import replace_file

if TYPE_CHECKING:
    pass


def report_images(detector: Detector, table: ScoreTable, output: Path, accept: float | None) -> int:
    """Write `images.csv` and print a summary line.

    Args:
        detector: The calibrated detector.
        table: The scores of the folder's files.
        output: Where to write.
        accept: Share of ID images that the threshold accepts; None is the detector's.

    Returns:
        How many files could not be scored.

    Raises:
        UserError: If no file could be scored.
    """
    calibration, name = detector.calibration, detector.settings.decision
    if calibration is None:
        raise UserError("the detector is not calibrated: run train.py with stage calibrate")
    share = detector.settings.accept if accept is None else accept
    threshold = calibration.threshold(name, share)
    skipped = [str(table.error[row]) for row in np.flatnonzero(~table.valid)]
    for reason in skipped:
        say(f"skipped: {reason}")
    rows = np.flatnonzero(table.valid)
    if not len(rows):
        raise UserError("none of the files is an image that can be read")
    flagged = 0
    with (
        replace_file(output / "images.csv") as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["path", "prediction", "probability", "score", "percentile", "verdict"])
        for row in rows:
            score = float(table.scores[name][row])
            verdict = "ood" if score > threshold else "id"
            flagged += verdict == "ood"
            writer.writerow(
                [
                    to_cell(table.path[int(row)]),
                    to_cell(detector.classifier.class_names[int(table.prediction[row])]),
                    repr(float(table.probability[row])),
                    repr(score),
                    f"{calibration.percentile(name, score):.1f}",
                    verdict,
                ]
            )
    say(
        f"{len(rows)} images: {flagged} flagged as OOD by {name} at the threshold that accepts "
        f"{share:.0%} of ID images; {len(skipped)} files skipped; {output / 'images.csv'}"
    )
    return len(skipped)
