"""How scores become verdicts."""

from __future__ import annotations

from dataclasses import dataclass

from diffguard.scores.calibration import Calibration
from diffguard.scores.conformal import as_percent


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

    @property
    def limit(self) -> str:
        """The largest p-value of an image that is flagged, in words."""
        if self.fdr is not None:
            return f"the limit for a false discovery rate of {as_percent(self.fdr)}"
        return f"the limit of {1 - self.accept:.6g}"
