"""The section of a detector's settings that defines how `fusion` combines its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from diffguard.errors import UserError
from diffguard.scores.fusion_rule import FUSION, FUSION_BASELINES, CascadeRule
from diffguard.settings.values import check_values, refuse_unused

Rule = Literal["mean", "cascade"]


@dataclass(frozen=True)
class FusionSettings:
    """How `fusion` combines the baselines with the diffusion model.

    Attributes:
        rule: `mean` of all parts, or a `cascade`: the fused baselines decide clear images, which
            then skip the diffusion model, and the mean of all parts decides the others.
        band: Cascade: shares of the ID validation images below the two scores of the fused
            baselines between which an image is in doubt.
        budget: Cascade: most network passes per ID image, on average. The lower end of the band is
            then found on the ID validation images, and its upper end is the default.

    Raises:
        UserError: For a value out of range or without effect.
    """

    rule: Rule = "mean"
    band: list[float] = field(default_factory=lambda: [0.8, 0.995])
    budget: float | None = None

    def __post_init__(self) -> None:
        name = "detector.fusion"
        check_values(self, name)
        if len(self.band) != 2 or not 0 <= self.band[0] < self.band[1] <= 1:
            raise UserError(f"{name}.band must be two rising shares in [0, 1], got {self.band}")
        if self.budget is not None and self.budget <= 0:
            raise UserError(f"{name}.budget must be above 0, got {self.budget:g}")
        if self.rule != "cascade":
            owner = f"{name}.rule cascade"
            refuse_unused(self, name, {"band": owner, "budget": owner})
        elif self.budget is not None:
            refuse_unused(self, name, {"band": f"a cascade without {name}.budget"})

    @property
    def is_cascade(self) -> bool:
        """Whether clear images skip the diffusion model."""
        return self.rule == "cascade"

    def cascade_rule(self, baselines: Sequence[str]) -> CascadeRule | None:
        """When the baselines of stage one decide alone; None if they never do."""
        if not self.is_cascade:
            return None
        low, high = self.band
        return CascadeRule(baselines, (low, high), self.budget)


def check_tandem(combine: str, distance: Sequence[str], band: Sequence[float]) -> None:
    """Check the settings that combine several distances in tandem.

    Args:
        combine: How they are combined.
        distance: The distances.
        band: The shares of the ID validation images between which a case is in doubt.

    Raises:
        UserError: Naming the setting.
    """
    if combine == "tandem" and len(distance) < 2:
        raise UserError(
            "detector.combine tandem needs two or more in detector.distance, got "
            f"{distance[0]} alone"
        )
    if len(band) != 2 or not 0 < band[0] < band[1] < 1:
        raise UserError(
            f"detector.tandem_band must be two rising shares between 0 and 1, got {band}"
        )


def check_cascade(stage_one: Sequence[str], baselines: Sequence[str], decision: str) -> None:
    """Check that images which skip the diffusion model have the scores that a cascade needs.

    Args:
        stage_one: The fused baselines.
        baselines: All baselines.
        decision: The score that decides.

    Raises:
        UserError: Naming the setting.
    """
    if not stage_one:
        raise UserError(
            "detector.fusion.rule cascade begins with the fused baselines, and there is none: name "
            "one of detector.baselines in detector.fused"
        )
    if decision not in (FUSION, FUSION_BASELINES, *baselines):
        raise UserError(
            f"detector.decision is {decision}, which clear images of a cascade lack: decide by "
            f"{FUSION}, or set detector.fusion.rule to mean"
        )


def check_compared(compared: Sequence[str], baselines: Sequence[str], reason: str) -> None:
    """Check that `fusion_baselines` needs no diffusion model.

    Args:
        compared: The scores that it combines.
        baselines: All baselines.
        reason: The setting for which it must not.

    Raises:
        UserError: Naming a score that is not a baseline.
    """
    methods = [name for name in compared if name not in baselines]
    if methods:
        raise UserError(
            f"{reason} needs fusion_baselines without the diffusion model, and it combines "
            f"{methods[0]}: name baselines alone in detector.comparator"
        )
