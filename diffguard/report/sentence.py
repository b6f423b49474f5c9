"""The verdict on an image in one sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from diffguard.report.decision import Decision
from diffguard.scores.fusion_rule import DIFFGUARD, FUSION, FUSION_BASELINES

# What decided, by stage of a cascade.
STAGES = {1: "the classifier's scores alone", 2: "the classifier and the diffusion model"}


@dataclass(frozen=True)
class Facts:
    """What the sentence reports.

    Attributes:
        prediction: The predicted label.
        probability: Its softmax probability, in [0, 1].
        p_values: Score -> conformal p-value, in (0, 1]; without the scores that were not computed.
        is_ood: The verdict.
        stage: The stage of a cascade that decided, 1 or 2; None without a cascade.
        uses_diffusion: Whether the decision uses a score of the diffusion model.
    """

    prediction: str
    probability: float
    p_values: Mapping[str, float]
    is_ood: bool
    stage: int | None = None
    uses_diffusion: bool = True


def sentence(facts: Facts, decision: Decision) -> str:
    """The verdict on an image, with the reasons.

    Args:
        facts: What is known about the image.
        decision: The rule of decision; its score has a p-value.

    Example:
        >>> p_values = {"diffguard": 0.004, "fusion_baselines": 0.1, "fusion": 0.02}
        >>> facts = Facts("three", 0.62, p_values, is_ood=True)
        >>> sentence(facts, Decision("fusion", 0.95)).split("; ")[1]
        'redrawn as “three”, it changed more than 99% of ID images do (p = 0.004)'
    """
    sure = f"{min(facts.probability, 1):.1%}"
    parts = [f"The classifier sees “{facts.prediction}” with a probability of {sure}"]
    if DIFFGUARD in facts.p_values:
        parts.append(_change(facts))
    elif not facts.uses_diffusion:
        # The pictures may still show a reconstruction, which was made for them alone.
        parts.append("the decision did not need the diffusion model")
    if FUSION_BASELINES in facts.p_values and decision.score == FUSION:
        p_value = facts.p_values[FUSION_BASELINES]
        kind = "unusual" if p_value <= 1 - decision.accept else "not unusual"
        parts.append(f"the classifier's own scores are {kind} (p = {p_value:.2g})")
    if facts.stage is not None:
        parts.append(f"stage {facts.stage} decided, {STAGES[facts.stage]}")
    side = "at most" if facts.is_ood else "above"
    verdict = "OOD" if facts.is_ood else "ID"
    p_value = facts.p_values[decision.score]
    parts.append(f"{decision.score} has p = {p_value:.2g}, {side} {decision.limit}: {verdict}.")
    return "; ".join(parts)


def _change(facts: Facts) -> str:
    """What the diffusion model made of the image."""
    p_value = facts.p_values[DIFFGUARD]
    # Rounded down, so that 99.9% is never written as all.
    share = math.floor(100 * (1 - p_value))
    start = f"redrawn as “{facts.prediction}”, it changed"
    return f"{start} more than {share}% of ID images do (p = {p_value:.2g})"
