"""The gallery of a report: scored images with their verdicts, reasons and pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffguard.report.decision import Decision
from diffguard.report.html.thumbnails import Thumbnail
from diffguard.report.panel import GUIDED
from diffguard.report.sentence import Facts, sentence
from diffguard.score_table.rows import BASELINES_STAGE
from diffguard.score_table.table import ScoreTable
from diffguard.scores.calibration import Calibration
from diffguard.scores.conformal import Floats, Judgment, p_values
from diffguard.scores.fusion_rule import FUSION_BASELINES

MOST_IMAGES = 2000
"""Images of a gallery; more would make the page slow."""


@dataclass(frozen=True)
class Judge:
    """What turns scores into verdicts.

    Attributes:
        calibration: The detector's calibration.
        class_names: Names of the classifier's classes.
        decision: The rule of decision.
    """

    calibration: Calibration
    class_names: Sequence[str]
    decision: Decision

    @property
    def needs_no_diffusion(self) -> bool:
        """Whether the deciding score is of the classifier alone, for every image."""
        name, rule = self.decision.score, self.calibration.rule
        parts = rule.parts_of(name) if name == FUSION_BASELINES else [name]
        return set(parts) <= set(rule.baselines)

    def judge(self, table: ScoreTable, rows: np.ndarray) -> Judgment:
        """Judge the rows of a table together.

        Raises:
            UserError: If the rule needs more ID validation images.
        """
        decision = self.decision
        scores = table.scores[decision.score][rows]
        return self.calibration.judge(
            decision.score, scores, accept=decision.accept, fdr=decision.fdr
        )


@dataclass(frozen=True)
class GalleryImage:
    """One image of the gallery.

    Attributes:
        name: Path of its file, or set and index.
        dataset: Name of its set.
        label: The true label of an ID image; empty if it is OOD or unknown.
        facts: Prediction, p-values, verdict and stage.
        score: The deciding score, higher = more OOD.
        scores: Score -> value, without the scores that were not computed.
        text: The verdict in one sentence.
        outcome: `correct`, `false alarm` (an ID image that is flagged) or `missed OOD`; empty if it
            is unknown whether the image is ID.
        pictures: Its pictures, the input first.
    """

    name: str
    dataset: str
    label: str
    facts: Facts
    score: float
    scores: Mapping[str, float]
    text: str
    outcome: str
    pictures: Sequence[Thumbnail]

    @property
    def is_redrawn(self) -> bool:
        """Whether its pictures show the guided reconstruction."""
        return any(picture.head == GUIDED for picture in self.pictures)

    @property
    def has_no_pass(self) -> bool:
        """Whether it has no reconstruction because the diffusion model was not needed."""
        return not (self.is_redrawn or self.facts.uses_diffusion)


class Gallery:
    """Makes the images of a gallery.

    Args:
        table: All scored images; a false discovery rate judges them together.
        judge: What turns scores into verdicts.

    Attributes:
        rows: `(M,)` the rows of the readable images.
        judgment: Their verdicts.

    Raises:
        UserError: If the rule of decision needs more ID validation images.
    """

    def __init__(self, table: ScoreTable, judge: Judge) -> None:
        self.table, self.judge = table, judge
        self.rows = np.flatnonzero(table.valid)
        self.judgment = judge.judge(table, self.rows)
        self._places = {int(row): place for place, row in enumerate(self.rows)}
        self._p_values = {
            name: _p_values(judge.calibration, name, values[self.rows])
            for name, values in table.scores.items()
            if name in judge.calibration.scores
        }

    def image(self, row: int, pictures: Sequence[Thumbnail] = (), group: str = "") -> GalleryImage:
        """The image of a readable row.

        Args:
            row: Row of the table.
            pictures: Its pictures, the input first.
            group: `id`, `near` or `far`, if it is known.
        """
        table, names, place = self.table, self.judge.class_names, self._places[row]
        dataset, label = table.dataset_names[table.dataset[row]], int(table.label[row])
        scores = {name: float(column[row]) for name, column in table.scores.items()}
        p_values_of_row = {name: float(column[place]) for name, column in self._p_values.items()}
        has_stages = self.judge.calibration.rule.cascade is not None
        # The diffusion model may have made scores that do not decide.
        stage = BASELINES_STAGE if self.judge.needs_no_diffusion else int(table.stage[row])
        facts = Facts(
            prediction=names[int(table.prediction[row])],
            probability=float(table.probability[row]),
            p_values={name: p for name, p in p_values_of_row.items() if math.isfinite(p)},
            is_ood=bool(self.judgment.is_ood[place]),
            stage=stage if has_stages else None,
            uses_diffusion=stage != BASELINES_STAGE,
        )
        return GalleryImage(
            name=table.path[row] or f"{dataset}[{table.index[row]}]",
            dataset=dataset,
            label=names[label] if 0 <= label < len(names) else "",
            facts=facts,
            score=scores[self.judge.decision.score],
            scores={name: value for name, value in scores.items() if math.isfinite(value)},
            text=sentence(facts, self.judge.decision),
            outcome=_outcome(group, is_ood=facts.is_ood),
            pictures=pictures,
        )


def _outcome(group: str, *, is_ood: bool) -> str:
    if not group:
        return ""
    if (group == "id") != is_ood:
        return "correct"
    return "false alarm" if is_ood else "missed OOD"


def _p_values(calibration: Calibration, name: str, values: Floats) -> Floats:
    """The p-values of a score; NaN if it was not computed."""
    finite = np.isfinite(values)
    result = np.full(len(values), np.nan)
    result[finite] = p_values(calibration.reference(name), values[finite])
    return result
