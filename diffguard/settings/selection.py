"""Which scores a run computes, and which images it passes to the diffusion model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diffguard.settings.detector import DetectorSettings, score_names
from diffguard.settings.score_names import baseline_score_names, complete_score_names

Skip = Literal["none", "clear", "all"]


@dataclass(frozen=True)
class Selection:
    """The scores that a run computes.

    Attributes:
        settings: The detector's settings.
        name: The only score that is needed; None needs all.
    """

    settings: DetectorSettings
    name: str | None = None

    @property
    def plain(self) -> list[str]:
        """The plain scores that are computed: all baselines, and the parts of the score."""
        names = score_names(self.settings, derived=False)
        if self.name is None:
            return names
        rule = self.settings.fusion_rule()
        parts = rule.parts_of(self.name) if self.name in rule.derived else [self.name]
        return [name for name in names if name in (*parts, *self.settings.baselines)]

    @property
    def names(self) -> list[str]:
        """All scores that follow from the plain ones, in the order of the table's columns."""
        plain, rule = set(self.plain), self.settings.fusion_rule()
        parts = {name: set(rule.parts_of(name)) for name in rule.derived}
        return [name for name in score_names(self.settings) if parts.get(name, {name}) <= plain]

    @property
    def skip(self) -> Skip:
        """Which images skip the diffusion model: `all`, in a cascade `clear` ones, or `none`."""
        if self.name in baseline_score_names(self.settings):
            return "all"
        is_complete = self.name is None or self.name in complete_score_names(self.settings)
        return "clear" if is_complete else "none"
