"""The table of verdicts on images."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np

from diffguard.errors import UserError
from diffguard.printing import say
from diffguard.report.gallery import Gallery
from diffguard.score_table.cells import to_cell
from diffguard.score_table.rows import BASELINES_STAGE
from diffguard.score_table.table import ScoreTable
from diffguard.storage.files import replace_file

_COLUMNS = (
    *("path", "prediction", "probability"),
    *("score", "percentile", "p_value", "verdict", "stage"),
)
# Characters of a file's name that the name of its panel keeps.
_KEPT = 60


def list_skipped(table: ScoreTable) -> int:
    """Print the files that could not be scored, with the reason.

    Returns:
        Their number.

    Raises:
        UserError: If no file could be scored.
    """
    skipped = [str(table.error[row]) for row in np.flatnonzero(~table.valid)]
    for reason in skipped:
        say(f"skipped: {reason}")
    if len(skipped) == len(table):
        raise UserError("none of the files is a readable image")
    return len(skipped)


def report_images(gallery: Gallery, output: Path, *, explain: bool = False) -> None:
    """Write `images.csv` and print a summary.

    Args:
        gallery: The images with their verdicts.
        output: Folder to write to.
        explain: Add the columns `explanation`, the verdict in one sentence, and `panel`, the file
            that shows the pictures.
    """
    table, judge, judgment = gallery.table, gallery.judge, gallery.judgment
    scores = table.scores[judge.decision.score]
    with (
        replace_file(output / "images.csv") as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow([*_COLUMNS, *(("explanation", "panel") if explain else ())])
        for place, row in enumerate(gallery.rows.tolist()):
            cells = [
                to_cell(table.path[row]),
                to_cell(judge.class_names[int(table.prediction[row])]),
                repr(float(table.probability[row])),
                repr(float(scores[row])),
                f"{judgment.percentile[place]:.1f}",
                repr(float(judgment.p_value[place])),
                "ood" if judgment.is_ood[place] else "id",
                int(table.stage[row]),
            ]
            if explain:
                cells += [to_cell(gallery.image(row).text), panel_name(table, row)]
            writer.writerow(cells)
    decision, count = judge.decision, len(gallery.rows)
    clear = np.count_nonzero(table.stage[gallery.rows] == BASELINES_STAGE)
    say(
        f"{count} images: {judgment.is_ood.sum()} flagged as OOD by {decision.score} "
        f"{decision.rule()}; {len(table) - count} files skipped; {output / 'images.csv'}",
        *([f"{clear} images were decided by the baselines alone"] if clear else []),
        decision.guarantee(judge.calibration),
    )


def panel_name(table: ScoreTable, row: int) -> str:
    """The file of an image's panel, relative to the folder of the results."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(table.path[row]).stem)[:_KEPT]
    return f"explanations/{row:05}_{stem}.png"
