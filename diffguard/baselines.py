"""Post-hoc detectors that read the classifier alone (pytorch-ood), beside DiffGuard's own score.

All give higher = more OOD.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffguard.classifiers import ClassifierOutput
from diffguard.errors import UserError

LOGIT_BASELINES = ("msp", "mls", "energy", "entropy", "gen")
FEATURE_BASELINES = ("knn", "vim", "mahalanobis", "rmd", "she", "nnguide")

# Those that compute with the weights of the classifier's last layer.
HEAD_BASELINES = ("vim", "she", "nnguide")


@dataclass
class Reference:
    """What the feature baselines are fitted on: ID training images seen by the classifier.

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
        knn_k: Neighbours of KNN (Sun et al., 2022).
        vim_dim: Principal dimensions of ViM (Wang et al., 2022); None takes half of D.

    Raises:
        UserError: For an unknown name, or where what a baseline needs is missing.
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
        # The library takes seconds to import, which `--help` need not wait for.
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
        wanted = [name for name in self.names if name in FEATURE_BASELINES]
        if not wanted:
            return
        if reference is None:
            raise UserError(
                f"baseline {wanted[0]} is fitted on ID training images, but there are none: "
                "name them in data.id.train, or leave it out of detector.baselines"
            )
        features, labels = reference.features.float().cpu(), reference.labels.cpu()
        head = None if head is None else _cpu_copy(head)
        for name in wanted:
            if name in HEAD_BASELINES and head is None:
                raise UserError(
                    f"baseline {name} needs the classifier's last linear layer: name it in "
                    f"classifier.feature_layer, or leave {name} out of detector.baselines"
                )
            if name == "knn" and len(features) < knn_k:
                raise UserError(
                    f"detector.knn_k is {knn_k}, but there are only {len(features)} ID training "
                    "images: lower it"
                )
            detector = _feature_detector(ood, name, features.shape[1], head, knn_k, vim_dim)
            self._features[name] = detector.fit_features(features, labels)

    def score(self, output: ClassifierOutput) -> dict[str, Tensor]:
        """Score a batch.

        Args:
            output: Logits `(N, K)` and features `(N, D)` of the classifier.

        Returns:
            Name -> `(N,)` float64 on the CPU, higher = more OOD, in the order of `names`.
        """
        logits, features = output.logits.float().cpu(), output.features.float().cpu()
        scores: dict[str, Tensor] = {}
        for name in self.names:
            if name in self._logits:
                scores[name] = self._logits[name].predict_logits(logits).double()
            else:
                scores[name] = self._predict(name, features).double()
        return scores

    def _predict(self, name: str, features: Tensor) -> Tensor:
        detector = self._features[name]
        if name not in ("mahalanobis", "rmd"):
            return detector.predict_features(features)
        # Their small matrix products round by a row's place in the batch.
        rows = [detector.predict_features(features[i : i + 1]) for i in range(len(features))]
        return torch.cat(rows)


def check_names(names: Sequence[str]) -> None:
    """Refuse an unknown baseline.

    Raises:
        UserError: Naming it and the known ones.
    """
    known = (*LOGIT_BASELINES, *FEATURE_BASELINES)
    for name in names:
        if name not in known:
            raise UserError(f"baseline {name!r} is not known, expected one of {', '.join(known)}")


def _cpu_copy(head: nn.Linear) -> nn.Linear:
    copy = nn.Linear(head.in_features, head.out_features, bias=True)
    with torch.no_grad():
        copy.weight.copy_(head.weight.float())
        copy.bias.zero_() if head.bias is None else copy.bias.copy_(head.bias.float())
    return copy.requires_grad_(requires_grad=False)


def _feature_detector(
    ood: Any, name: str, width: int, head: nn.Linear | None, knn_k: int, vim_dim: int | None
) -> Any:
    if name == "knn":
        return ood.KNN(None, k=knn_k)
    if name == "mahalanobis":
        return ood.Mahalanobis(None)
    if name == "rmd":
        return ood.RMD(None)
    if head is None:
        raise UserError(f"baseline {name} needs the classifier's last linear layer")
    if name == "vim":
        return ood.ViM(None, d=vim_dim or width // 2, w=head.weight, b=head.bias)
    if name == "she":
        return ood.SHE(None, head)
    return ood.NNGuide(None, head)
