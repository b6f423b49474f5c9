"""Post-hoc detectors of pytorch-ood, which read only the classifier's outputs.

All scores are higher = more OOD.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor, nn

from diffguard.batching import in_fixed_batches, padded
from diffguard.errors import UserError
from diffguard.scores.mahalanobis import Mahalanobis, RelativeMahalanobis

LOGIT_BASELINES = ("msp", "mls", "energy", "entropy", "gen")
FEATURE_BASELINES = ("knn", "vim", "mahalanobis", "rmd", "she", "nnguide")

# Baselines that use the weights of the classifier's last layer.
HEAD_BASELINES = ("vim", "she", "nnguide")
# Baselines that are fitted class by class.
CLASS_BASELINES = ("mahalanobis", "rmd", "she")

# Kernels process 32 elements at a time and round the remaining ones differently. With a multiple of
# 32 rows nothing remains, for any number of classes.
_ROWS = 32


@dataclass
class Reference:
    """The classifier's features of ID training images, on which feature baselines are fitted.

    Attributes:
        features: `(N, D)` float32.
        labels: `(N,)` int64, true labels.
    """

    features: Tensor
    labels: Tensor


class Baselines:
    """Several post-hoc detectors, fitted once.

    Args:
        names: Which ones, of `LOGIT_BASELINES` and `FEATURE_BASELINES`.
        reference: ID training features; needed by the feature baselines.
        head: The classifier's last linear layer; needed by ViM, SHE and NNGuide.
        knn_k: Neighbors of KNN (Sun et al., 2022).
        vim_dim: Principal dimensions of ViM (Wang et al., 2022), below D; None takes half of D.

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
        knn_k: int = 50,
        vim_dim: int | None = None,
    ) -> None:
        check_names(names)
        self.names = list(names)
        self._logits: dict[str, Any] = {}
        self._features: dict[str, Any] = {}
        # Importing the library takes seconds, for which `--help` should not wait.
        from pytorch_ood import detector as ood

        makers: dict[str, Callable[[], Any]] = {
            "msp": lambda: ood.MaxSoftmax(None),
            "mls": lambda: ood.MaxLogit(None),
            "energy": lambda: ood.EnergyBased(None),
            "entropy": lambda: ood.Entropy(None),
            "gen": lambda: ood.GEN(None),
        }
        for name in self.names:
            if name in LOGIT_BASELINES:
                self._logits[name] = makers[name]()
        fitted = [name for name in self.names if name in FEATURE_BASELINES]
        if not fitted:
            return
        if reference is None:
            raise UserError(
                f"baseline {fitted[0]} is fitted on ID training images, but there are none: "
                "name them in data.id.train, or leave it out of detector.baselines"
            )
        features, labels = reference.features.float().cpu(), reference.labels.cpu()
        if not features.isfinite().all():
            raise UserError(
                "the classifier's features of the ID training images are not finite: check its "
                "weights, classifier.mean and classifier.std"
            )
        head = None if head is None else _cpu_copy(head)
        check_head_baselines(self.names, head, vim_dim)
        check_classes(self.names, labels, [str(k) for k in range(int(labels.max()) + 1)])
        for name in fitted:
            if name == "knn":
                check_neighbors(knn_k, len(features))
            self._features[name] = _fitted(name, ood, features, labels, head, knn_k, vim_dim)

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


def check_names(names: Sequence[str]) -> None:
    """Refuse an unknown baseline.

    Raises:
        UserError: If there is one; names it and the available ones.
    """
    baselines = (*LOGIT_BASELINES, *FEATURE_BASELINES)
    for name in names:
        if name not in baselines:
            raise UserError(
                f"baseline {name!r} is not known, expected one of {', '.join(baselines)}"
            )


def check_head_baselines(names: Sequence[str], head: nn.Linear | None, vim_dim: int | None) -> None:
    """Refuse baselines that do not fit the classifier's last layer.

    Raises:
        UserError: If there are any; names the baseline or the setting.
    """
    for name in names:
        if name in HEAD_BASELINES and head is None:
            raise UserError(
                f"baseline {name} needs the classifier's last linear layer: name it in "
                f"classifier.feature_layer, or leave {name} out of detector.baselines"
            )
    if "vim" in names and head is not None and (vim_dim or 0) >= head.in_features:
        raise UserError(
            f"detector.vim_dim is {vim_dim}, but the classifier has {head.in_features} features: "
            "expected fewer dimensions than features; null takes half of them"
        )


def check_classes(names: Sequence[str], labels: Tensor, class_names: Sequence[str]) -> None:
    """Refuse baselines that are fitted class by class if a class has no reference image.

    Args:
        names: The baselines in use.
        labels: `(N,)` int64, classes of the reference images.
        class_names: Names of all classes.

    Raises:
        UserError: Naming the baselines and the classes.
    """
    affected = [name for name in names if name in CLASS_BASELINES]
    present = set(labels.tolist())
    empty = [name for k, name in enumerate(class_names) if k not in present]
    if affected and empty:
        raise UserError(
            f"baselines {', '.join(affected)} need a reference image of each class, but "
            f"{len(empty)} of {len(class_names)} classes have none ({', '.join(empty[:3])}): raise "
            "detector.reference_images, add images of them to data.id.train, or leave "
            f"{', '.join(affected)} out of detector.baselines"
        )


def check_neighbors(knn_k: int, images: int) -> None:
    """Refuse a baseline `knn` with more neighbors than reference images.

    Args:
        knn_k: Neighbors.
        images: Reference images.

    Raises:
        UserError: If there are too few images.
    """
    if images < knn_k:
        raise UserError(
            f"detector.knn_k is {knn_k:,}, but there are only {images:,} ID training images: lower "
            "it"
        )


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
    knn_k: int,
    vim_dim: int | None,
) -> Any:
    if name == "knn":
        return ood.KNN(None, k=knn_k).fit_features(features, labels)
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
        _check_patterns(features, labels, head)
        return ood.SHE(None, head).fit_features(features, labels)
    return ood.NNGuide(None, head).fit_features(features, labels)


def _check_patterns(features: Tensor, labels: Tensor, head: nn.Linear) -> None:
    """SHE averages the reference images of each class that the classifier recognizes."""
    right = set(labels[head(features).argmax(1) == labels].tolist())
    empty = [str(k) for k in range(head.out_features) if k not in right]
    if empty:
        raise UserError(
            "baseline she needs a correctly classified reference image of each class, but "
            f"{len(empty)} of {head.out_features} classes have none (numbers "
            f"{', '.join(empty[:3])}, counted from 0): raise detector.reference_images, or leave "
            "she out of detector.baselines"
        )
