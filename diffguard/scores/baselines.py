"""Post-hoc detectors of a classifier; `baseline_table` lists them.

All scores are higher = more OOD.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from diffguard.batching import in_fixed_batches, padded
from diffguard.errors import UserError
from diffguard.scores.baseline_checks import (
    check_classes,
    check_head_baselines,
    check_neighbors,
)
from diffguard.scores.baseline_table import (
    BASELINES,
    FITTED_BASELINES,
    PARAMETERS,
    VALIDATION_BASELINES,
    Score,
    check_names,
)
from diffguard.scores.reference import Reference

# Kernels process 32 elements at a time and round the remaining ones differently. With a multiple of
# 32 rows nothing remains, for any number of classes.
_ROWS = 32

Fits = Mapping[str, Mapping[str, Tensor]]


class Baselines:
    """Several post-hoc detectors, fitted once.

    Args:
        names: Which ones, of `BASELINES`.
        reference: Features of ID training images; needed by `FITTED_BASELINES`.
        head: The classifier's last linear layer; needed by `HEAD_BASELINES`.
        network: The classifier, images in [0, 1] to logits; needed by those that score images.
        fits: Baseline -> what was fitted on ID validation images; needed by `VALIDATION_BASELINES`.
        parameters: Hyper-parameters, of `PARAMETERS`; others have their defaults.

    Raises:
        UserError: If a name is unknown, an argument that a baseline needs is missing, or a baseline
            cannot be fitted on the reference images.
    """

    def __init__(
        self,
        names: Sequence[str],
        reference: Reference | None = None,
        head: nn.Linear | None = None,
        network: Callable[[Tensor], Tensor] | None = None,
        fits: Fits | None = None,
        **parameters: float | None,
    ) -> None:
        check_names(names)
        self.names = list(names)
        values = {key: row.default for key, row in PARAMETERS.items()} | parameters
        fitted = [name for name in self.names if name in FITTED_BASELINES]
        if fitted and reference is None:
            raise UserError(
                f"baseline {fitted[0]} is fitted on ID training images, but there are none: "
                "give some (reference, or data.id.train), or leave it out of detector.baselines"
            )
        head = None if head is None else _cpu_copy(head)
        check_head_baselines(self.names, head, values)
        if fitted and reference is not None:
            reference = reference.on_cpu()
            self._check_reference(reference, values)
        arguments = {"reference": reference, "head": head, "network": network}
        self._scores: dict[str, Score] = {}
        for name in self.names:
            row = BASELINES[name]
            inputs: dict[str, Any] = {p.key: values[p.key] for p in row.parameters}
            for argument in row.arguments:
                value = (fits or {}).get(name) if argument == "fit" else arguments[argument]
                if value is None:
                    raise UserError(f"baseline {name} cannot be made without `{argument}`")
                inputs[argument] = value
            self._scores[name] = row.make(**inputs)

    def _check_reference(self, reference: Reference, values: Mapping[str, float | None]) -> None:
        if not all(features.isfinite().all() for features, _ in reference.chunks()):
            raise UserError(
                "the classifier's features of the ID training images are not finite: check its "
                "weights and its preprocessing (mean and std)"
            )
        classes = [str(k) for k in range(int(reference.labels.max()) + 1)]
        check_classes(self.names, reference.labels, classes)
        check_neighbors(self.names, values, reference.training_images)

    def score(
        self,
        logits: Tensor,
        features: Tensor,
        images: Tensor | None = None,
        measure: Callable[[str], AbstractContextManager[None]] = lambda _name: nullcontext(),
    ) -> dict[str, Tensor]:
        """Score a batch.

        Args:
            logits: `(N, K)` of the classifier.
            features: `(N, D)` of the classifier, the input of its last layer.
            images: `(N, C, H, W)` in [0, 1] on the classifier's device, for the baselines that
                score images.
            measure: Name -> a context in which the baseline is computed.

        Returns:
            Name -> `(N,)` float64 on the CPU, higher = more OOD, in the order of `names`.
        """
        logits, features = logits.float().cpu(), features.float().cpu()
        count = len(logits)
        features = padded(features, math.ceil(count / _ROWS) * _ROWS)
        scores: dict[str, Tensor] = {}
        for name in self.names:
            kind, score = BASELINES[name].input, self._scores[name]
            with measure(name):
                if kind == "logits":
                    scores[name] = in_fixed_batches(score, logits, _ROWS)
                elif kind != "images":
                    scores[name] = score(features)[:count]
                elif images is None:
                    raise UserError(f"baseline {name} scores images, and there are none")
                else:
                    scores[name] = score(images).cpu()
        return {name: values.double() for name, values in scores.items()}

    @staticmethod
    def can_be_fitted(names: Sequence[str], reference: Reference | None, fits: Fits) -> bool:
        """Whether all images that baselines are fitted on were seen."""
        without_reference = reference is None and any(name in FITTED_BASELINES for name in names)
        absent = [name for name in names if name in VALIDATION_BASELINES and name not in fits]
        return not without_reference and not absent


def _cpu_copy(head: nn.Linear) -> nn.Linear:
    copy = nn.Linear(head.in_features, head.out_features, bias=True)
    with torch.no_grad():
        copy.weight.copy_(head.weight.float())
        copy.bias.zero_() if head.bias is None else copy.bias.copy_(head.bias.float())
    return copy.requires_grad_(requires_grad=False)
