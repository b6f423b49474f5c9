"""Scores that are combined of others, on the scale of negative log p-values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from diffguard.errors import UserError
from diffguard.scores.cascade import Band, cascade
from diffguard.scores.fusion_rule import DIFFGUARD, FUSION, FUSION_BASELINES, FusionRule
from diffguard.scores.negative_log_p import NegativeLogP
from diffguard.scores.tandem import tandem

Floats = NDArray[np.float64]
Columns = Mapping[str, Floats]


class Fusion:
    """Combines the scores of images, each normalized by the scores of ID validation images.

    Args:
        reference: Score -> `(n,)` of the n ID validation images, higher = more OOD; the parts of
            the rule and `diffguard`.
        rule: How scores are combined.
        passes: `(n,)` network passes of these images; a budget needs them.
    """

    def __init__(self, reference: Columns, rule: FusionRule, passes: Floats | None = None) -> None:
        self.reference, self.rule, self.passes = reference, rule, passes
        self._normalizers: dict[str, NegativeLogP] = {}

    @classmethod
    def of_parts(cls, parts: Columns, rule: FusionRule, passes: Floats | None = None) -> Fusion:
        """A fusion from the plain scores alone; see the class."""
        diffguard = cls(parts, rule).diffguard(parts)
        return cls({**parts, DIFFGUARD: diffguard}, rule, passes)

    def negative_log_p(self, name: str, values: Floats) -> Floats:
        """Negative log p-values `(N,)` of the values `(N,)` of a score; see `NegativeLogP`."""
        if name not in self._normalizers:
            self._normalizers[name] = NegativeLogP(self.reference[name])
        return self._normalizers[name](values)

    def diffguard(self, scores: Columns) -> Floats:
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

    def derive(self, scores: Columns) -> dict[str, Floats]:
        """The combined scores.

        With b the mean negative log p-value of the fused baselines and d the one of `diffguard`,
        `fusion` is (b + d) / 2, or the cascade of stage one and this mean. `fusion/<baseline>` is
        the mean of d and that baseline, and `fusion_baselines` the mean of the baselines to compare
        `fusion` with.

        Args:
            scores: Score -> `(N,)` of the parts of the rule. In a cascade, the scores of the
                diffusion model are not used in stage one and may be NaN there.

        Returns:
            Score -> `(N,)`, higher = more OOD; without fusion if `rule.fused` is empty.
        """
        rule = self.rule
        derived = {DIFFGUARD: self.diffguard(scores)}
        if not rule.fused:
            return derived
        diffguard = self.negative_log_p(DIFFGUARD, derived[DIFFGUARD])
        fusion = (diffguard + self._mean(rule.fused, scores)) / 2
        if rule.cascade is None:
            parts = {name: self.negative_log_p(name, scores[name]) for name in rule.baselines}
            derived[FUSION] = fusion
            derived |= {f"{FUSION}/{name}": (diffguard + part) / 2 for name, part in parts.items()}
        else:
            stage_one = self._mean(rule.cascade.baselines, scores)
            derived[FUSION] = cascade(stage_one, fusion, self.band)
        derived[FUSION_BASELINES] = self._mean(rule.compared, scores)
        return derived

    def in_doubt(self, scores: Columns) -> NDArray[np.bool_]:
        """Whether the fusion of images needs the diffusion model, `(N,)`.

        Args:
            scores: Score -> `(N,)`, at least the baselines of stage one.
        """
        rule = self.rule.cascade
        if rule is None:
            return np.ones(len(next(iter(scores.values()))), dtype=bool)
        return self.band.holds(self._mean(rule.baselines, scores))

    @cached_property
    def band(self) -> Band:
        """Where images are in doubt in the cascade.

        Raises:
            UserError: If a budget needs the network passes of the validation images.
        """
        rule = self.rule.cascade
        assert rule is not None
        stage_one = self._mean(rule.baselines, self.reference)
        if rule.budget is None:
            return Band.of_shares(stage_one, rule.shares)
        if self.passes is None:
            raise UserError(
                "detector.fusion.budget needs the network passes of the ID validation images, "
                "which this detector does not hold: calibrate it again"
            )
        return Band.of_budget(stage_one, self.passes, rule.budget, rule.shares[1])

    def _mean(self, names: Sequence[str], scores: Columns) -> Floats:
        """Mean negative log p-value `(N,)` of some scores."""
        mean: Floats = np.mean([self.negative_log_p(n, scores[n]) for n in names], axis=0)
        return mean
