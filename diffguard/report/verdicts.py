"""The table of verdicts on a folder of images."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffguard.errors import UserError
from diffguard.printing import say
from diffguard.score_table.cells import to_cell
from diffguard.score_table.rows import BASELINES_STAGE
from diffguard.score_table.table import ScoreTable
from diffguard.scores.calibration import Calibration
from diffguard.scores.conformal import as_percent
from diffguard.storage.files import replace_file

_COLUMNS = (
    *("path", "prediction", "probability"),
    *("score", "percentile", "p_value", "verdict", "stage"),
)


@dataclass(frozen=True)
class Decision:
    """How scores become verdicts.

    Attributes:
        score: The score that decides.
        accept: Share of ID images to accept, in (0, 1).
        fdr: If given, images are flagged at this false discovery rate in (0, 1) instead.
    """

    score: str
    accept: float
    fdr: float | None = None

    def check(self, calibration: Calibration) -> None:
        """Make sure that a calibration supports the decision.

        Raises:
            UserError: If a share is not in (0, 1), or needs more ID validation images.
        """
        calibration.judge(self.score, [], accept=self.accept, fdr=self.fdr)

    def rule(self) -> str:
        """The rule in words."""
        if self.fdr is not None:
            return f"at a false discovery rate of {as_percent(self.fdr)}"
        return f"at the threshold that accepts {as_percent(self.accept)} of ID images"

    def guarantee(self, calibration: Calibration) -> str:
        """What the rule guarantees, in one sentence."""
        source = f"the distribution of the {calibration.count:,} ID validation images"
        if self.fdr is not None:
            return (
                f"Guarantee: if the ID images follow {source}, at most {as_percent(self.fdr)} of "
                "the flagged images are ID on average."
            )
        low, high = calibration.accept_interval(self.accept)
        return (
            f"Guarantee: if new ID images follow {source}, at least {as_percent(self.accept)} of "
            f"them are accepted on average, and {low:.1%} to {high:.1%} with a probability of 95%."
        )


def report_images(
    table: ScoreTable,
    output: Path,
    calibration: Calibration,
    class_names: Sequence[str],
    decision: Decision,
) -> int:
    """Write `images.csv` and print a summary.

    Args:
        table: The scores of the folder's files.
        output: Folder to write to.
        calibration: The detector's calibration.
        class_names: Names of the classifier's classes.
        decision: How scores become verdicts.

    Returns:
        The number of files that could not be scored.

    Raises:
        UserError: If no file could be scored, or the decision needs more ID validation images.
    """
    skipped = [str(table.error[row]) for row in np.flatnonzero(~table.valid)]
    for reason in skipped:
        say(f"skipped: {reason}")
    rows = np.flatnonzero(table.valid)
    if not len(rows):
        raise UserError("none of the files is a readable image")
    scores = table.scores[decision.score][rows]
    judgment = calibration.judge(decision.score, scores, accept=decision.accept, fdr=decision.fdr)
    with (
        replace_file(output / "images.csv") as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for place, row in enumerate(rows):
            writer.writerow(
                [
                    to_cell(table.path[int(row)]),
                    to_cell(class_names[int(table.prediction[row])]),
                    repr(float(table.probability[row])),
                    repr(float(scores[place])),
                    f"{judgment.percentile[place]:.1f}",
                    repr(float(judgment.p_value[place])),
                    "ood" if judgment.is_ood[place] else "id",
                    int(table.stage[row]),
                ]
            )
    clear = np.count_nonzero(table.stage[rows] == BASELINES_STAGE)
    say(
        f"{len(rows)} images: {judgment.is_ood.sum()} flagged as OOD by {decision.score} "
        f"{decision.rule()}; {len(skipped)} files skipped; {output / 'images.csv'}",
        *([f"{clear} images were decided by the baselines alone"] if clear else []),
        decision.guarantee(calibration),
    )
    return len(skipped)
