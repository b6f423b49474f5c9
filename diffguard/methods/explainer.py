"""Explains a verdict: pictures, scores and one sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from diffguard.errors import UserError
from diffguard.inputs.working import AnImage, working_images
from diffguard.methods.checks import check_unlabeled
from diffguard.methods.items import Item, Scored
from diffguard.methods.pictures import panel_rows
from diffguard.methods.scorer import Scorer
from diffguard.methods.verdicts import Verdict, Verdicts
from diffguard.report import figures
from diffguard.report.decision import Decision
from diffguard.report.panel import PanelRow, panel
from diffguard.report.sentence import Facts, sentence
from diffguard.score_table.rows import BASELINES_STAGE, DIFFUSION_STAGE, ScoreRow
from diffguard.scores.conformal import p_values
from diffguard.settings.selection import Selection

_BATCH_SIZE = 8


@dataclass(frozen=True, eq=False)
class Explanation:
    """A verdict with its reasons.

    Attributes:
        verdict: The verdict.
        scores: Score -> value, higher = more OOD; without the scores that were not computed.
        p_values: Score -> conformal p-value, in (0, 1], lower = more OOD.
        pictures: The input, its reconstructions, and where they differ.
        text: What the classifier and the diffusion model made of the image, in one sentence.
    """

    verdict: Verdict
    scores: dict[str, float]
    p_values: dict[str, float]
    pictures: PanelRow = field(repr=False)
    text: str

    def figure(self) -> figures.Figure:
        """The pictures side by side: a matplotlib figure, which `savefig` writes to a file."""
        return panel([self.pictures], self.text)

    def __str__(self) -> str:
        return self.text


class Explainer(Scorer):
    """A scorer that explains its verdicts; see `Scorer`."""

    def explain(self, image: AnImage, *, accept: float | None = None) -> Explanation:
        """Explain the verdict on one image.

        Args:
            image: An image in any form, see `inputs.working.working_images`.
            accept: Share of ID images to accept, in (0, 1); defaults to `settings.accept`.

        Raises:
            UserError: For several images, and as `predict`.
        """
        check_unlabeled(self.settings)
        calibration, name = self.require_calibration(), self.decision
        decision = Decision(name, self.settings.accept if accept is None else accept)
        decision.check(calibration)
        images = working_images(image, self.image_size, self.image_channels)
        if len(images) != 1:
            raise UserError(f"explain takes one image, got {len(images)}: call it for each of them")
        stream = self.stream(_BATCH_SIZE, unguided=True, skip="none")
        scored: Scored = [*stream.push([Item(images[0])]), *stream.flush()][0]
        names = self.classifier.class_names
        row = replace(scored.row, stage=self._deciding_stage(scored.row))
        verdict = Verdicts.from_rows([row], calibration, name, decision.accept, class_names=names)[
            0
        ]
        scores = {key: value for key, value in row.scores.items() if math.isfinite(value)}
        p_values_of_row = {
            key: float(p_values(calibration.reference(key), [value])[0])
            for key, value in scores.items()
            if key in calibration.scores
        }
        facts = Facts(
            prediction=verdict.class_name,
            probability=verdict.probability,
            p_values=p_values_of_row,
            is_ood=verdict.is_ood,
            stage=row.stage if calibration.rule.cascade is not None else None,
            uses_diffusion=row.stage == DIFFUSION_STAGE,
        )
        (pictures,) = panel_rows(self.models, [scored], name)
        return Explanation(verdict, scores, p_values_of_row, pictures, sentence(facts, decision))

    def _deciding_stage(self, row: ScoreRow) -> int:
        """The stage that decides, although the diffusion model redrew the image in any case."""
        scores = {name: np.full(_BATCH_SIZE, value) for name, value in row.scores.items()}
        in_doubt = self.in_doubt(scores, Selection(self.settings, self.decision))
        return DIFFUSION_STAGE if in_doubt[0] else BASELINES_STAGE
