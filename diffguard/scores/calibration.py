"""Calibration on ID validation images: normalization of scores, fusion and thresholds.

OOD images are never used here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from diffguard.errors import UserError
from diffguard.scores.tandem import tandem

DIFFGUARD = "diffguard"
FUSION = "fusion"
FUSION_BASELINES = "fusion_baselines"

# Up to this quantile, p-values are counted on the validation images; above, a tail is fitted.
_KNEE = 0.9
# With fewer images, the share that a threshold accepts is too uncertain.
ENOUGH_IMAGES = 200


@dataclass(frozen=True)
class FusionRule:
    """How the scores of an image are combined.

    Attributes:
        distance: The distances that the `diffguard` score combines.
        baselines: All baselines; each is also fused with `diffguard` alone.
        fused: The baselines that `fusion` combines with `diffguard`.
        band: For a tandem, the two quantiles in [0, 1) between which an image is in doubt; None
            averages the distances instead.
    """

    distance: Sequence[str] = ()
    baselines: Sequence[str] = ()
    fused: Sequence[str] = ()
    band: tuple[float, float] | None = None


@dataclass
class Calibration:
    """Scores of the ID validation images, and the rules derived from them.

    Attributes:
        scores: Score -> `(n,)` float64 of the n ID validation images, higher = more OOD; derived
            scores included.
        rule: How scores are combined.

    Example:
        >>> values = torch.arange(100, dtype=torch.float64)
        >>> rule = FusionRule(distance=["l2"], baselines=["msp"], fused=["msp"])
        >>> calibration = Calibration.fit({"diffguard/l2": values, "msp": values}, rule)
        >>> calibration.threshold("msp", accept=0.95)
        94.0
        >>> calibration.percentile("msp", 49.0)
        50.0
        >>> calibration.p_value("msp", 91.0)
        0.09900990099009901
    """

    scores: dict[str, Tensor]
    rule: FusionRule = field(default_factory=FusionRule)

    @classmethod
    def fit(cls, scores: Mapping[str, Tensor], rule: FusionRule) -> Calibration:
        """Calibrate on the plain scores of ID validation images; derived scores are added.

        Args:
            scores: Score -> `(n,)` of the n ID validation images, higher = more OOD.
            rule: How scores are combined.

        Raises:
            UserError: If there are fewer than two images or a score does not vary.
        """
        calibration = cls({}, rule)
        for name, values in scores.items():
            if len(values) < 2 or float(values.std()) == 0:
                raise UserError(
                    f"score {name} of the ID validation images does not vary over {len(values)} "
                    "images: check data.id.validation and the detector's settings"
                )
            calibration.scores[name] = values.double().cpu()
        table = {name: values.numpy() for name, values in calibration.scores.items()}
        combined = calibration.diffguard(table)
        calibration.scores[DIFFGUARD] = torch.from_numpy(combined)
        derived = calibration.derive(table)
        calibration.scores |= {name: torch.from_numpy(v) for name, v in derived.items()}
        return calibration

    def negative_log_p(self, name: str, values: np.ndarray) -> np.ndarray:
        """Negative log p-value: -log of the share of ID images that score at least as high.

        Up to the 90% quantile of the ID validation images, the share is counted and interpolated
        between scores, so that rounding errors of a score stay small. Above it, where images are
        rare, an exponential tail with their mean excess keeps far outliers in order. If a score is
        heavy-tailed, this tail is too light, and far outliers weigh more in a mean of scores than
        their true p-values would.

        Args:
            name: Name of the score.
            values: `(N,)` its values, higher = more OOD.

        Returns:
            `(N,)`, at least 0 and increasing with the score.
        """
        ordered = np.sort(self.scores[name].numpy())
        levels, smaller = np.unique(ordered, return_index=True)
        # If the highest scores are equal, some images must still lie above the knee.
        knee = min(float(np.quantile(ordered, _KNEE)), float(levels[-2]))
        excess = float((ordered[ordered > knee] - knee).mean())
        # Counting one more image on both sides avoids a share of 0.
        above = len(ordered) - smaller
        body = np.interp(
            np.minimum(values, knee), levels, -np.log((above + 1) / (len(ordered) + 1))
        )
        return body + np.maximum(values - knee, 0.0) / excess

    def diffguard(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """The `diffguard` score `(N,)`: the chosen distance, or several combined by p-values."""
        names = [f"{DIFFGUARD}/{name}" for name in self.rule.distance]
        if len(names) == 1:
            return scores[names[0]].copy()
        parts = [self.negative_log_p(name, scores[name]) for name in names]
        if self.rule.band is None:
            return np.mean(parts, axis=0)
        low, high = -np.log1p(-np.array(self.rule.band))
        stages = [torch.from_numpy(part) for part in parts]
        return tandem(stages, [(float(low), float(high))] * (len(stages) - 1)).numpy()

    def derive(self, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The scores that need calibration: `diffguard` and its fusion with the baselines.

        All are means of negative log p-values: `fusion_baselines` of the fused baselines, `fusion`
        of `fusion_baselines` and `diffguard`, and `fusion/<baseline>` of `diffguard` and that
        baseline alone.

        Args:
            scores: Score -> `(N,)`, at least the chosen distances and the fused baselines.

        Returns:
            Derived score -> `(N,)`, higher = more OOD; without fusion if `rule.fused` is empty.
        """
        derived = {DIFFGUARD: self.diffguard(scores)}
        if not self.rule.fused:
            return derived
        diffguard = self.negative_log_p(DIFFGUARD, derived[DIFFGUARD])
        parts = {name: self.negative_log_p(name, scores[name]) for name in self.rule.baselines}
        baselines = np.mean([parts[name] for name in self.rule.fused], axis=0)
        derived[FUSION] = (diffguard + baselines) / 2
        derived |= {f"{FUSION}/{name}": (diffguard + part) / 2 for name, part in parts.items()}
        derived[FUSION_BASELINES] = baselines
        return derived

    def threshold(self, name: str, accept: float) -> float:
        """The score up to which at least a share `accept` of the ID validation images lies.

        Raises:
            UserError: For an unknown score or a share outside (0, 1).
        """
        if not 0 < accept < 1:
            raise UserError(f"the accepted share must lie between 0 and 1, got {accept:g}")
        ordered = self._values(name).sort().values
        return float(ordered[math.ceil(accept * len(ordered)) - 1])

    def percentile(self, name: str, value: float) -> float:
        """Share of the ID validation images, in percent, whose score is at most `value`."""
        reference = self._values(name)
        return 100.0 * float((reference <= value).double().mean())

    def p_value(self, name: str, value: float) -> float:
        """Conformal p-value: (1 + k) / (n + 1), k of the n ID validation images score this high.

        Under exchangeability, an ID image has a p-value of at most α with probability at most α.

        Args:
            name: Name of the score.
            value: Its value, higher = more OOD.

        Returns:
            The p-value in (0, 1], lower = more OOD.

        Raises:
            UserError: For an unknown score.
        """
        reference = self._values(name)
        return (1 + int((reference >= value).sum())) / (len(reference) + 1)

    def verdict(
        self, name: str, scores: Sequence[float], accept: float
    ) -> tuple[list[float], list[bool]]:
        """Judge images by one score.

        Args:
            name: The score.
            scores: Its value of each image, higher = more OOD.
            accept: Share of ID images that the threshold accepts, in (0, 1).

        Returns:
            The percentile of each image among the ID validation images, 0 … 100, and whether its
            score is above the threshold.

        Raises:
            UserError: For an unknown score or a share outside (0, 1).
        """
        threshold = self.threshold(name, accept)
        percentiles = [self.percentile(name, score) for score in scores]
        return percentiles, [score > threshold for score in scores]

    def accept_interval(self, accept: float) -> tuple[float, float]:
        """95% interval of the share of new ID images that a threshold at `accept` accepts.

        The r-th smallest of n scores accepts a Beta(r, n + 1 - r) distributed share.
        """
        from scipy.stats import beta

        count = len(next(iter(self.scores.values())))
        rank = math.ceil(accept * count)
        low, high = beta.ppf([0.025, 0.975], rank, count + 1 - rank)
        return float(low), float(high)

    def _values(self, name: str) -> Tensor:
        if name not in self.scores:
            raise UserError(
                f"the detector has no score {name!r}, expected one of {', '.join(self.scores)}"
            )
        return self.scores[name]
