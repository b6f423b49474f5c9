"""Calibration on ID validation images: normalization of scores, fusion and verdicts.

OOD images are never used here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from diffguard.errors import UserError
from diffguard.scores.conformal import Judgment, accepted_interval, judge, threshold
from diffguard.scores.negative_log_p import NegativeLogP
from diffguard.scores.tandem import tandem

DIFFGUARD = "diffguard"
FUSION = "fusion"
FUSION_BASELINES = "fusion_baselines"

# With fewer images, the share that a threshold accepts is too uncertain.
ENOUGH_IMAGES = 200
# Folds of the cross-fitted scores. With 20, thresholds of 400 images would accept slightly too few.
_FOLDS = 50


@dataclass(frozen=True)
class FusionRule:
    """How the scores of an image are combined.

    Attributes:
        distance: The distances that the `diffguard` score combines.
        baselines: All baselines; each is also fused with `diffguard` alone.
        fused: The baselines that `fusion` combines with `diffguard`.
        comparator: The baselines that `fusion_baselines` combines; None takes those of `fused`.
        band: For a tandem, the two quantiles in [0, 1) between which an image is in doubt; None
            averages the distances instead.
    """

    distance: Sequence[str] = ()
    baselines: Sequence[str] = ()
    fused: Sequence[str] = ()
    comparator: Sequence[str] | None = None
    band: tuple[float, float] | None = None

    @property
    def parts(self) -> list[str]:
        """The plain scores that are combined."""
        distances = [f"{DIFFGUARD}/{name}" for name in self.distance]
        return [*distances, *self.baselines] if self.fused else distances

    @property
    def derived(self) -> list[str]:
        """The scores that are combined of others and need calibration."""
        if not self.fused:
            return [DIFFGUARD]
        fusions = (f"{FUSION}/{name}" for name in self.baselines)
        return [DIFFGUARD, FUSION, *fusions, FUSION_BASELINES]


@dataclass
class Calibration:
    """Scores of the ID validation images, and the rules derived from them.

    Attributes:
        scores: Score -> `(n,)` float64 of the n ID validation images, higher = more OOD; derived
            scores included. They normalize the scores of new images.
        rule: How scores are combined.
        features: `(m, D)` float32, the classifier's features of some of the images, to measure a
            drift; None if they are unknown.

    Example:
        >>> values = torch.arange(100, dtype=torch.float64)
        >>> rule = FusionRule(distance=["l2"], baselines=["msp"], fused=["msp"])
        >>> calibration = Calibration.fit({"diffguard/l2": values, "msp": values}, rule)
        >>> calibration.threshold("msp", accept=0.95)
        95.0
        >>> judgment = calibration.judge("msp", [49.0, 99.0], accept=0.95)
        >>> judgment.percentile.tolist(), judgment.is_ood.tolist()
        ([50.0, 100.0], [False, True])
    """

    scores: dict[str, Tensor]
    rule: FusionRule = field(default_factory=FusionRule)
    features: Tensor | None = None
    _normalizers: dict[str, NegativeLogP] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def fit(
        cls, scores: Mapping[str, Tensor], rule: FusionRule, features: Tensor | None = None
    ) -> Calibration:
        """Calibrate on the plain scores of ID validation images; derived scores are added.

        Args:
            scores: Score -> `(n,)` of the n ID validation images, higher = more OOD.
            rule: How scores are combined.
            features: `(m, D)` of some of the images.

        Raises:
            UserError: If there are fewer than two images or a score does not vary.
        """
        for name, values in scores.items():
            if len(values) < 2 or float(values.std()) == 0:
                raise UserError(
                    f"score {name} of the ID validation images does not vary over {len(values)} "
                    "images: check these images and the detector's settings"
                )
        calibration = cls._of_parts(scores, rule)
        calibration.features = features
        derived = calibration.derive({n: v.numpy() for n, v in calibration.scores.items()})
        calibration.scores |= {name: torch.from_numpy(v) for name, v in derived.items()}
        return calibration

    @classmethod
    def _of_parts(cls, scores: Mapping[str, Tensor], rule: FusionRule) -> Calibration:
        """A calibration that derives scores of images, without the validation images' fusion."""
        calibration = cls({name: values.double().cpu() for name, values in scores.items()}, rule)
        table = {name: values.numpy() for name, values in calibration.scores.items()}
        calibration.scores[DIFFGUARD] = torch.from_numpy(calibration.diffguard(table))
        return calibration

    def negative_log_p(self, name: str, values: np.ndarray) -> np.ndarray:
        """Negative log p-values `(N,)` of the values `(N,)` of a score; see `NegativeLogP`."""
        if name not in self._normalizers:
            self._normalizers[name] = NegativeLogP(self.scores[name].numpy())
        return self._normalizers[name](values)

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

        All are means of negative log p-values: `fusion` of `diffguard` and the mean of the fused
        baselines, `fusion/<baseline>` of `diffguard` and that baseline alone, and
        `fusion_baselines` of the baselines to compare `fusion` with.

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
        fused = np.mean([parts[name] for name in self.rule.fused], axis=0)
        derived[FUSION] = (diffguard + fused) / 2
        derived |= {f"{FUSION}/{name}": (diffguard + part) / 2 for name, part in parts.items()}
        comparator = self.rule.fused if self.rule.comparator is None else self.rule.comparator
        derived[FUSION_BASELINES] = np.mean([parts[name] for name in comparator], axis=0)
        return derived

    @cached_property
    def held_out(self) -> dict[str, Tensor]:
        """Derived score -> `(n,)` of the validation images, each normalized by others.

        A new image is normalized by images that do not include it. In `scores`, a validation image
        is normalized by itself too, which lowers its score; a threshold on these scores would
        accept too few new images. Cross-fitting with 50 folds is leave-one-out up to 50 images.
        """
        parts = {name: self.scores[name] for name in self.rule.parts}
        result = {name: torch.empty(self.count, dtype=torch.float64) for name in self.rule.derived}
        folds = min(self.count, _FOLDS)
        for first in range(folds):
            fold = torch.zeros(self.count, dtype=torch.bool)
            fold[first::folds] = True
            others = self._of_parts({n: v[~fold] for n, v in parts.items()}, self.rule)
            derived = others.derive({n: v[fold].numpy() for n, v in parts.items()})
            for name, values in derived.items():
                result[name][fold] = torch.from_numpy(values)
        return result

    @property
    def count(self) -> int:
        """Number n of ID validation images."""
        return len(next(iter(self.scores.values())))

    def reference(self, name: str) -> Tensor:
        """Scores `(n,)` of the validation images that a new image's score is compared with.

        Raises:
            UserError: For an unknown score.
        """
        if name not in self.scores:
            raise UserError(
                f"the detector has no score {name!r}, expected one of {', '.join(self.scores)}"
            )
        return self.held_out[name] if name in self.rule.derived else self.scores[name]

    def threshold(self, name: str, accept: float) -> float:
        """The score above which an image is OOD; see `diffguard.scores.conformal`.

        Args:
            name: Name of the score.
            accept: Share of ID images to accept, in (0, 1).

        Raises:
            UserError: For an unknown score, or a share that is not in (0, 1) or needs more images.
        """
        return threshold(self.reference(name), accept)

    def judge(
        self, name: str, scores: ArrayLike, *, accept: float, fdr: float | None = None
    ) -> Judgment:
        """Judge images by one score; see `diffguard.scores.conformal`.

        Args:
            name: Name of the score.
            scores: `(N,)` its value of each image, higher = more OOD.
            accept: Share of ID images to accept, in (0, 1).
            fdr: If given, images are flagged at this false discovery rate in (0, 1) instead.

        Raises:
            UserError: For an unknown score, or a share that is not in (0, 1) or needs more images.
        """
        return judge(self.reference(name), scores, accept=accept, fdr=fdr)

    def accept_interval(self, accept: float) -> tuple[float, float]:
        """95% interval of the share of new ID images that a threshold at `accept` accepts."""
        return accepted_interval(self.count, accept)
