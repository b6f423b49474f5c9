"""Calibration on ID validation images: fused scores, thresholds and verdicts.

OOD images are never used here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from diffguard.errors import UserError
from diffguard.scores.conformal import Judgment, accepted_interval, judge, threshold
from diffguard.scores.cross_fitting import FOLDS
from diffguard.scores.fusion import Fusion
from diffguard.scores.fusion_rule import FusionRule
from diffguard.scores.reconstruction import ReconstructionQuality

# With fewer images, the share that a threshold accepts is too uncertain.
ENOUGH_IMAGES = 200


@dataclass
class Calibration:
    """Scores of the ID validation images, and the rules derived from them.

    Attributes:
        scores: Score -> `(n,)` float64 of the n ID validation images, higher = more OOD; derived
            scores included. They normalize the scores of new images. Those of a baseline that is
            fitted to these images are cross-fitted.
        rule: How scores are combined.
        features: `(m, D)` float32, the classifier's features of some of the images, to measure a
            drift; None if they are unknown.
        passes: `(n,)` float64 network passes of the images; None if they are unknown.
        quality: How well some of the images are reconstructed; None if it is unknown.

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
    passes: Tensor | None = None
    quality: ReconstructionQuality | None = None

    @classmethod
    def fit(
        cls,
        scores: Mapping[str, Tensor],
        rule: FusionRule,
        features: Tensor | None = None,
        passes: Tensor | None = None,
        quality: ReconstructionQuality | None = None,
    ) -> Calibration:
        """Calibrate on the plain scores of ID validation images; derived scores are added.

        Args:
            scores: Score -> `(n,)` of the n ID validation images, higher = more OOD.
            rule: How scores are combined.
            features: `(m, D)` of some of the images.
            passes: `(n,)` float64 network passes of the images.
            quality: How well some of the images are reconstructed.

        Raises:
            UserError: If there are fewer than two images, a score does not vary, or the budget of a
                cascade is too small.
        """
        for name, values in scores.items():
            if len(values) < 2 or float(values.std()) == 0:
                raise UserError(
                    f"score {name} of the ID validation images does not vary over {len(values)} "
                    "images: check these images and the detector's settings"
                )
        parts = {name: values.double().cpu() for name, values in scores.items()}
        columns = {name: values.numpy() for name, values in parts.items()}
        fusion = Fusion.of_parts(columns, rule, None if passes is None else passes.numpy())
        if rule.cascade is not None and fusion.band.is_empty:
            raise UserError(
                f"detector.fusion.budget {rule.cascade.budget:g} does not suffice for a single one "
                "of the ID validation images: raise it"
            )
        derived = {name: torch.from_numpy(v) for name, v in fusion.derive(columns).items()}
        return cls(parts | derived, rule, features, passes, quality)

    @cached_property
    def fusion(self) -> Fusion:
        """Combines the scores of images, normalized by those of the validation images."""
        passes = None if self.passes is None else self.passes.numpy()
        return Fusion({name: v.numpy() for name, v in self.scores.items()}, self.rule, passes)

    def derive(self, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The scores that need calibration, of `(N,)` plain ones; see `Fusion.derive`."""
        return self.fusion.derive(scores)

    def in_doubt(self, scores: Mapping[str, np.ndarray]) -> NDArray[np.bool_]:
        """Whether the fusion of images needs the diffusion model; see `Fusion.in_doubt`."""
        return self.fusion.in_doubt(scores)

    @cached_property
    def held_out(self) -> dict[str, Tensor]:
        """Derived score -> `(n,)` of the validation images, each normalized by others.

        A new image is normalized by images that do not include it. In `scores`, a validation image
        is normalized by itself too, which lowers its score; a threshold on these scores would
        accept too few new images. Cross-fitting with 50 folds is leave-one-out up to 50 images.
        """
        parts = {name: self.scores[name] for name in self.rule.parts}
        result = {name: torch.empty(self.count, dtype=torch.float64) for name in self.rule.derived}
        folds = min(self.count, FOLDS)
        for first in range(folds):
            fold = torch.zeros(self.count, dtype=torch.bool)
            fold[first::folds] = True
            passes = None if self.passes is None else self.passes[~fold].numpy()
            columns = {n: v[~fold].numpy() for n, v in parts.items()}
            others = Fusion.of_parts(columns, self.rule, passes)
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
