"""Post-hoc detectors of pytorch-ood, which read only the classifier's outputs.

All scores are higher = more OOD.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor, nn

from diffguard.batching import in_fixed_batches, padded
from diffguard.errors import UserError
from diffguard.scores.baseline_checks import (
    FEATURE_BASELINES,
    check_classes,
    check_head_baselines,
    check_names,
    check_neighbors,
    check_patterns,
)
from diffguard.scores.mahalanobis import Mahalanobis, RelativeMahalanobis

# Kernels process 32 elements at a time and round the remaining ones differently. With a multiple of
# 32 rows nothing remains, for any number of classes.
_ROWS = 32


@dataclass
class Reference:
    """The classifier's features of ID training images, on which feature baselines are fitted.

    Attributes:
        features: `(N, D)` float32.
        labels: `(N,)` int64, true labels.
        share: Share of the ID training images that were chosen for it, in (0, 1].
    """

    features: Tensor
    labels: Tensor
    share: float = 1.0

    @property
    def training_images(self) -> int:
        """Number of ID training images, of which these are a share."""
        return round(len(self.features) / self.share)

    def neighbors(self, knn_k: int) -> int:
        """Neighbors among these images that correspond to `knn_k` among all training images.

        The fewer images are chosen, the farther apart they are: the distance to neighbor k of all
        images is about the distance to neighbor k · share of a share of them (Sun et al., 2022,
        choose k in this proportion).
        """
        return max(1, round(knn_k * self.share))


class Baselines:
    """Several post-hoc detectors, fitted once.

    Args:
        names: Which ones, of `LOGIT_BASELINES` and `FEATURE_BASELINES`.
        reference: ID training features; needed by the feature baselines.
        head: The classifier's last linear layer; needed by ViM, SHE and NNGuide.
        knn_k: Neighbors of KNN (Sun et al., 2022) among all ID training images, see
            `Reference.neighbors`.
        vim_dim: Principal dimensions of ViM (Wang et al., 2022), below D; defaults to half of D.

    Raises:
        UserError: If a name is unknown, an argument that a baseline needs is missing, or a baseline
            cannot be fitted on the reference images.
    """

    def __init__(
        self,
        names: Sequence[str],
        reference: Reference | None = None,
        head: nn.Linear | None = None,
        *,
        knn_k: int,
        vim_dim: int | None = None,
    ) -> None:
        check_names(names)
        self.names = list(names)
        self._features: dict[str, Any] = {}
        # Importing the library takes seconds, for which `--help` should not wait.
        from pytorch_ood import detector as ood

        kinds = {
            "msp": ood.MaxSoftmax,
            "mls": ood.MaxLogit,
            "energy": ood.EnergyBased,
            "entropy": ood.Entropy,
            "gen": ood.GEN,
        }
        self._logits = {name: kinds[name](None) for name in self.names if name in kinds}
        fitted = [name for name in self.names if name in FEATURE_BASELINES]
        if not fitted:
            return
        if reference is None:
            raise UserError(
                f"baseline {fitted[0]} is fitted on ID training images, but there are none: "
                "give some (reference, or data.id.train), or leave it out of detector.baselines"
            )
        features, labels = reference.features.float().cpu(), reference.labels.cpu()
        if not features.isfinite().all():
            raise UserError(
                "the classifier's features of the ID training images are not finite: check its "
                "weights and its preprocessing (mean and std)"
            )
        head = None if head is None else _cpu_copy(head)
        check_head_baselines(self.names, head, vim_dim)
        check_classes(self.names, labels, [str(k) for k in range(int(labels.max()) + 1)])
        for name in fitted:
            if name == "knn":
                check_neighbors(knn_k, reference.training_images)
            neighbors = reference.neighbors(knn_k)
            self._features[name] = _fitted(name, ood, features, labels, head, neighbors, vim_dim)

    def score(self, logits: Tensor, features: Tensor) -> dict[str, Tensor]:
        """Score a batch.

        Args:
            logits: `(N, K)` of the classifier.
            features: `(N, D)` of the classifier, the input of its last layer.

        Returns:
            Name -> `(N,)` float64 on the CPU, higher = more OOD, in the order of `names`.
        """
        logits, features = logits.float().cpu(), features.float().cpu()
        count = len(logits)
        features = padded(features, math.ceil(count / _ROWS) * _ROWS)
        scores: dict[str, Tensor] = {}
        for name in self.names:
            if name in self._logits:
                scores[name] = in_fixed_batches(self._logits[name].predict_logits, logits, _ROWS)
            else:
                scores[name] = self._predict(name, features)[:count]
        return {name: values.double() for name, values in scores.items()}

    def _predict(self, name: str, features: Tensor) -> Tensor:
        detector = self._features[name]
        if name != "knn":
            return detector.predict_features(features)
        # Without a limit, scikit-learn uses all cores instead of torch's number of threads.
        detector.knn.n_jobs = threads = torch.get_num_threads()
        with _thread_pools().limit(limits=threads, user_api="openmp"):
            return detector.predict_features(features)


@cache
def _thread_pools() -> ThreadpoolController:
    """The thread pools of all loaded libraries, including scikit-learn's."""
    return ThreadpoolController()


def _cpu_copy(head: nn.Linear) -> nn.Linear:
    copy = nn.Linear(head.in_features, head.out_features, bias=True)
    with torch.no_grad():
        copy.weight.copy_(head.weight.float())
        copy.bias.zero_() if head.bias is None else copy.bias.copy_(head.bias.float())
    return copy.requires_grad_(requires_grad=False)


def _fitted(
    name: str,
    ood: Any,
    features: Tensor,
    labels: Tensor,
    head: nn.Linear | None,
    neighbors: int,
    vim_dim: int | None,
) -> Any:
    if name == "knn":
        return ood.KNN(None, k=neighbors).fit_features(features, labels)
    if name == "mahalanobis":
        return Mahalanobis(features, labels)
    if name == "rmd":
        return RelativeMahalanobis(features, labels)
    if head is None:
        raise UserError(f"baseline {name} needs the classifier's last linear layer")
    if name == "vim":
        dimensions = vim_dim or features.shape[1] // 2
        detector = ood.ViM(None, d=dimensions, w=head.weight, b=head.bias)
        return detector.fit_features(features, labels)
    if name == "she":
        check_patterns(features, labels, head)
        return ood.SHE(None, head).fit_features(features, labels)
    return ood.NNGuide(None, head).fit_features(features, labels)
