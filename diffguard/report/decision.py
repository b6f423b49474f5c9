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
        is_exact: Whether the guarantee is exact: neither the score nor anything that it depends on
            was fitted to the ID validation images.
    """

    score: str
    accept: float
    fdr: float | None = None
    is_exact: bool = False

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
        start, least, about = "Guarantee", "at least ", ""
        if not self.is_exact:
            start = (
                f"Approximate guarantee, because {self.score} is fitted to the validation images"
            )
            least = about = "about "
        if self.fdr is not None:
            return (
                f"{start}: if the ID images follow {source}, at most {about}{as_percent(self.fdr)} "
                "of the flagged images are ID on average."
            )
        low, high = calibration.accept_interval(self.accept)
        return (
            f"{start}: if new ID images follow {source}, {least}{as_percent(self.accept)} of them "
            f"are accepted on average, and {low:.1%} to {high:.1%} with a probability of "
            f"{about}95%."
        )

    @property
    def limit(self) -> str:
        """The largest p-value of an image that is flagged, in words."""
        if self.fdr is not None:
            return f"the limit for a false discovery rate of {as_percent(self.fdr)}"
        return f"the limit of {1 - self.accept:.6g}"
