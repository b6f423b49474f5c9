"""The table of verdicts on a folder of images."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffguard.errors import UserError
from diffguard.printing import say
from diffguard.score_table.cells import to_cell
from diffguard.score_table.table import ScoreTable
from diffguard.scores.calibration import Calibration
from diffguard.storage.files import replace_file


def report_images(
    table: ScoreTable,
    output: Path,
    calibration: Calibration,
    class_names: Sequence[str],
    decision: str,
    accept: float,
) -> int:
    """Write `images.csv` and print a summary line.

    Args:
        table: The scores of the folder's files.
        output: Folder to write to.
        calibration: The detector's calibration.
        class_names: Names of the classifier's classes.
        decision: The decision score.
        accept: Share of ID images that the threshold accepts, in (0, 1).

    Returns:
        The number of files that could not be scored.

    Raises:
        UserError: If no file could be scored.
    """
    skipped = [str(table.error[row]) for row in np.flatnonzero(~table.valid)]
    for reason in skipped:
        say(f"skipped: {reason}")
    rows = np.flatnonzero(table.valid)
    if not len(rows):
        raise UserError("none of the files is a readable image")
    scores = table.scores[decision][rows].tolist()
    percentiles, is_ood = calibration.verdict(decision, scores, accept)
    with (
        replace_file(output / "images.csv") as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["path", "prediction", "probability", "score", "percentile", "verdict"])
        for row, score, percentile, ood in zip(rows, scores, percentiles, is_ood, strict=True):
            writer.writerow(
                [
                    to_cell(table.path[int(row)]),
                    to_cell(class_names[int(table.prediction[row])]),
                    repr(float(table.probability[row])),
                    repr(score),
                    f"{percentile:.1f}",
                    "ood" if ood else "id",
                ]
            )
    say(
        f"{len(rows)} images: {sum(is_ood)} flagged as OOD by {decision} at the threshold that "
        f"accepts {accept:.0%} of ID images; {len(skipped)} files skipped; {output / 'images.csv'}"
    )
    return len(skipped)
