"""The rule by which the scores of an image are combined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DIFFGUARD = "diffguard"
# Prefix of the distances between the two reconstructions of an image.
UNGUIDED = f"{DIFFGUARD}/unguided"
FUSION = "fusion"
FUSION_BASELINES = "fusion_baselines"


@dataclass(frozen=True)
class CascadeRule:
    """When the baselines decide alone, see `diffguard.scores.cascade`.

    Attributes:
        baselines: The baselines of stage one.
        shares: Shares of the ID validation images below the two ends of the band, in [0, 1].
        budget: If given, the lower end is found so that ID images take at most this many network
            passes on average.
    """

    baselines: Sequence[str]
    shares: tuple[float, float]
    budget: float | None = None


@dataclass(frozen=True)
class FusionRule:
    """How the scores of an image are combined.

    Attributes:
        distance: The distances that the `diffguard` score combines.
        baselines: All baselines; each is also fused with `diffguard` alone.
        fused: The baselines that `fusion` combines with `diffguard`.
        comparator: The baselines that `fusion_baselines` combines; defaults to `fused`, in
            a cascade those of stage one.
        band: For a tandem, the two quantiles in [0, 1) between which an image is in doubt; None
            averages the distances instead.
        cascade: When the baselines decide alone; None always fuses all parts.
    """

    distance: Sequence[str] = ()
    baselines: Sequence[str] = ()
    fused: Sequence[str] = ()
    comparator: Sequence[str] | None = None
    band: tuple[float, float] | None = None
    cascade: CascadeRule | None = None

    @property
    def parts(self) -> list[str]:
        """The plain scores that are combined."""
        distances = [f"{DIFFGUARD}/{name}" for name in self.distance]
        return [*distances, *self.baselines] if self.fused else distances

    def parts_of(self, name: str) -> list[str]:
        """The plain scores that a derived score combines.

        Args:
            name: A name in `derived`.
        """
        if name == FUSION_BASELINES:
            return list(self.compared)
        distances = [f"{DIFFGUARD}/{distance}" for distance in self.distance]
        if name == DIFFGUARD:
            return distances
        return [*distances, *(self.fused if name == FUSION else [name.removeprefix(f"{FUSION}/")])]

    def needs(self, name: str) -> list[str]:
        """The plain scores that an image must have for a derived score.

        Args:
            name: A name in `derived`.
        """
        stage_one = self.cascade.baselines if self.cascade and name == FUSION else ()
        return list(dict.fromkeys([*self.parts_of(name), *stage_one]))

    @property
    def compared(self) -> Sequence[str]:
        """The baselines that `fusion_baselines` combines."""
        if self.comparator is not None:
            return self.comparator
        return self.fused if self.cascade is None else self.cascade.baselines

    @property
    def derived(self) -> list[str]:
        """The scores that are combined of others and need calibration."""
        if not self.fused:
            return [DIFFGUARD]
        # In a cascade, an image that skips the diffusion model has no fusion with one baseline.
        names = self.baselines if self.cascade is None else ()
        return [DIFFGUARD, FUSION, *(f"{FUSION}/{name}" for name in names), FUSION_BASELINES]
