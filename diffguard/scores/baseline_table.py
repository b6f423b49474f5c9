"""The table of post-hoc baselines: what each needs, what makes it, and what there is to tune.

All of them score higher = more OOD. `docs/baselines.md` and `diffguard baselines` show this table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import neg
from typing import Literal

from torch import Tensor

from diffguard.errors import UserError
from diffguard.scores.activation_baselines import Dice, ash, react, scale
from diffguard.scores.core import ConfidenceAndResidual
from diffguard.scores.feature_baselines import BoundaryDistance, NNGuide, nci, she, vim
from diffguard.scores.gradient_baselines import Odin
from diffguard.scores.hyper_parameters import (
    HyperParameter,
    activation_shares,
    class_counts,
    dimensions,
    listed,
    neighbor_counts,
)
from diffguard.scores.logit_baselines import (
    PosteriorDivergence,
    are_posteriors,
    fit_klm,
    fit_temperature,
    from_library,
    gen,
    is_temperature,
    temperature,
)
from diffguard.scores.mahalanobis import Mahalanobis, RelativeMahalanobis
from diffguard.scores.neighbors import NeighborDistance

Score = Callable[[Tensor], Tensor]
Input = Literal["logits", "features", "activations", "images"]
Argument = Literal["reference", "head", "network", "fit"]


@dataclass(frozen=True)
class ValidationFit:
    """What a baseline is fitted to on ID validation images.

    Attributes:
        make: Logits `(N, K)` and labels `(N,)` of these images to named tensors.
        accepts: Whether tensors are a result of `make` for a number of classes K.
    """

    make: Callable[[Tensor, Tensor], dict[str, Tensor]]
    accepts: Callable[[Mapping[str, Tensor], int], bool]


@dataclass(frozen=True)
class Baseline:
    """A post-hoc detector.

    Attributes:
        paper: Authors and year.
        input: What it scores, a batch at a time; activations are features that it changes before
            the classifier's last layer.
        make: Makes the function from inputs to scores `(B,)`, of the arguments below and the
            hyper-parameters.
        arguments: What `make` takes: features of ID training images (`reference`), the last linear
            layer (`head`), the classifier (`network`), or what was fitted on ID validation images
            (`fit`).
        per_class: Whether it needs a reference image of each class.
        parameters: Its hyper-parameters.
        validation: What is fitted on ID validation images.
    """

    paper: str
    input: Input
    make: Callable[..., Score]
    arguments: tuple[Argument, ...] = ()
    per_class: bool = False
    parameters: tuple[HyperParameter, ...] = ()
    validation: ValidationFit | None = None


# Earlier versions accepted the first two beside any baselines. The last one is set in checkpoints
# of earlier versions, whose baselines a user may replace.
_NEVER_IDLE = ("knn_k", "vim_dim", "gen_classes")
_REMOVED = activation_shares(0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
_TRAINED: tuple[Argument, ...] = ("reference", "head")

BASELINES: dict[str, Baseline] = {
    "msp": Baseline("Hendrycks and Gimpel, 2017", "logits", partial(from_library, "MaxSoftmax")),
    "mls": Baseline("Hendrycks et al., 2022", "logits", partial(from_library, "MaxLogit")),
    "energy": Baseline("Liu et al., 2020", "logits", partial(from_library, "EnergyBased")),
    "entropy": Baseline("Chan et al., 2021", "logits", partial(from_library, "Entropy")),
    "gen": Baseline(
        "Liu et al., 2023",
        "logits",
        gen,
        parameters=(HyperParameter("gen_classes", 100, 1, None, class_counts, cost=neg),),
    ),
    "temperature": Baseline(
        "Guo et al., 2017",
        "logits",
        temperature,
        ("fit",),
        validation=ValidationFit(fit_temperature, is_temperature),
    ),
    "klm": Baseline(
        "Hendrycks et al., 2022",
        "logits",
        PosteriorDivergence,
        ("fit",),
        validation=ValidationFit(fit_klm, are_posteriors),
    ),
    "knn": Baseline(
        "Sun et al., 2022",
        "features",
        NeighborDistance,
        ("reference",),
        parameters=(HyperParameter("knn_k", 50, 1, None, neighbor_counts, cost=neg),),
    ),
    "vim": Baseline(
        "Wang et al., 2022",
        "features",
        vim,
        _TRAINED,
        parameters=(HyperParameter("vim_dim", None, 1, None, dimensions),),
    ),
    "mahalanobis": Baseline(
        "Lee et al., 2018", "features", Mahalanobis, ("reference",), per_class=True
    ),
    "rmd": Baseline(
        "Ren et al., 2021", "features", RelativeMahalanobis, ("reference",), per_class=True
    ),
    "mds_pp": Baseline(
        "Mueller and Hein, 2025",
        "features",
        partial(Mahalanobis, unit=True),
        ("reference",),
        per_class=True,
    ),
    "rmd_pp": Baseline(
        "Mueller and Hein, 2025",
        "features",
        partial(RelativeMahalanobis, unit=True),
        ("reference",),
        per_class=True,
    ),
    "she": Baseline("Zhang et al., 2023", "features", she, _TRAINED, per_class=True),
    "nnguide": Baseline("Park et al., 2023", "features", NNGuide, _TRAINED),
    "fdbd": Baseline("Liu and Qin, 2024", "features", BoundaryDistance, _TRAINED),
    "nci": Baseline(
        "Liu and Qin, 2025",
        "features",
        nci,
        _TRAINED,
        parameters=(
            HyperParameter("nci_alpha", 0.0, 0, None, listed(0.0, 0.001, 0.01, 0.05, 0.1, 0.25)),
        ),
    ),
    "core": Baseline(
        "Yang et al., 2026", "features", ConfidenceAndResidual, _TRAINED, per_class=True
    ),
    "react": Baseline(
        "Sun et al., 2021",
        "activations",
        react,
        _TRAINED,
        parameters=(
            HyperParameter(
                "react_percentile", 0.9, 0, 1, listed(0.85, 0.9, 0.95, 0.99), cost=neg, above=True
            ),
        ),
    ),
    "ash": Baseline(
        "Djurisic et al., 2023",
        "activations",
        ash,
        ("head",),
        parameters=(HyperParameter("ash_percentile", 0.65, 0, 1, _REMOVED),),
    ),
    "scale": Baseline(
        "Xu et al., 2024",
        "activations",
        scale,
        ("head",),
        parameters=(HyperParameter("scale_percentile", 0.85, 0, 1, _REMOVED),),
    ),
    "dice": Baseline(
        "Sun and Li, 2022",
        "features",
        Dice,
        _TRAINED,
        parameters=(HyperParameter("dice_sparsity", 0.9, 0, 1, listed(0.1, 0.3, 0.5, 0.7, 0.9)),),
    ),
    "odin": Baseline(
        "Liang et al., 2018",
        "images",
        Odin,
        ("network",),
        parameters=(
            HyperParameter("odin_temperature", 1000.0, 1, None, listed(1.0, 10.0, 100.0, 1000.0)),
            HyperParameter("odin_step", 0.0014, 0, 1, listed(0.0, 0.0014, 0.0028)),
        ),
    ),
}

PARAMETERS = {
    parameter.key: parameter for row in BASELINES.values() for parameter in row.parameters
}
"""All hyper-parameters by key."""


def baselines_with(argument: Argument) -> list[str]:
    """The baselines whose maker takes an argument."""
    return [name for name, row in BASELINES.items() if argument in row.arguments]


FITTED_BASELINES = baselines_with("reference")
"""Baselines that are fitted on the features of ID training images."""

HEAD_BASELINES = baselines_with("head")
"""Baselines that use the weights of the classifier's last layer."""

CLASS_BASELINES = [name for name, row in BASELINES.items() if row.per_class]
"""Baselines that are fitted class by class."""

VALIDATION_BASELINES = baselines_with("fit")
"""Baselines that are fitted on ID validation images."""


def check_names(names: Sequence[str]) -> None:
    """Refuse an unknown baseline.

    Raises:
        UserError: If there is one; names it and the available ones.
    """
    for name in names:
        if name not in BASELINES:
            raise UserError(
                f"baseline {name!r} is not known, expected one of {', '.join(BASELINES)}"
            )


def idle_keys(names: Sequence[str]) -> dict[str, str]:
    """The hyper-parameters without effect, each with what it would need.

    Args:
        names: The baselines in use.
    """
    return {
        parameter.key: f"baseline {name}, which detector.baselines lacks"
        for name, row in BASELINES.items()
        for parameter in row.parameters
        if name not in names and parameter.key not in _NEVER_IDLE
    }
