"""Tunes the baselines' hyper-parameters on validation sets, as the grid tunes DiffGuard's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from datamodules.ood import OODDataModule
from diffguard.classifiers.classifier import ClassifierOutput
from diffguard.engine.reproducible import reproducible
from diffguard.methods.reference import classified
from diffguard.methods.scorer import Scorer
from diffguard.scores.baselines import Baselines, Reference
from diffguard_cli.one_standard_error import Column, Ranking, rank


@dataclass(frozen=True)
class HyperParameter:
    """A setting of a baseline and the values to search.

    Attributes:
        key: Its name in the section `detector`.
        values: The values for reference features.
        cost: What should be low among values with the same AUROC: the complexity of the baseline.
    """

    key: str
    values: Callable[[Reference], Sequence[int]]
    cost: Callable[[int], float]


def _neighbors(reference: Reference) -> list[int]:
    counts = [k for k in (1, 5, 10, 20, 50, 100, 200) if k <= len(reference.features)]
    return [round(k / reference.share) for k in counts]


def _dimensions(reference: Reference) -> list[int]:
    width = reference.features.shape[1]
    return sorted({max(1, round(share * width)) for share in (0.125, 0.25, 0.5, 0.75)} - {width})


HYPER_PARAMETERS = {
    # The more neighbors, the smoother the score.
    "knn": HyperParameter("knn_k", _neighbors, cost=lambda k: -k),
    "vim": HyperParameter("vim_dim", _dimensions, cost=lambda dimensions: dimensions),
}


@dataclass(frozen=True)
class Search:
    """The values of a baseline's hyper-parameter.

    Attributes:
        baseline: The baseline.
        key: The hyper-parameter.
        ranking: Its values, ranked by the AUROC of the baseline.
    """

    baseline: str
    key: str
    ranking: Ranking[int]


def search(
    scorer: Scorer,
    data: OODDataModule,
    parameters: Mapping[str, HyperParameter] = HYPER_PARAMETERS,
) -> list[Search]:
    """Score the validation sets with the scorer's baselines, for each of their hyper-parameters.

    The diffusion model is not used. Baselines without a hyper-parameter are left out.

    Args:
        scorer: The calibrated scorer, on its device.
        data: The DataModule.
        parameters: Baseline -> its hyper-parameter.
    """
    names = [name for name in scorer.settings.baselines if name in parameters]
    if not names or scorer.reference is None:
        return []
    outputs = _outputs(scorer, data)
    searches = []
    for name in names:
        parameter = parameters[name]
        options = [
            (value, parameter.cost(value), _score(scorer, name, {parameter.key: value}, outputs))
            for value in parameter.values(scorer.reference)
        ]
        searches.append(Search(name, parameter.key, rank(options)))
    return searches


@reproducible()
def _outputs(scorer: Scorer, data: OODDataModule) -> dict[str, list[ClassifierOutput]]:
    """Set -> the classifier's outputs for its batches."""
    stream = data.stream("validation")
    outputs = {}
    for number, images in enumerate(stream.sets):
        loader = data.stream_loader(stream.only(stream.select[stream.select[:, 0] == number]))
        batches = classified(scorer.models, loader, data.read_size)
        outputs[images.name] = [output for output, _ in batches]
    return outputs


def _score(
    scorer: Scorer,
    name: str,
    values: Mapping[str, Any],
    outputs: Mapping[str, Sequence[ClassifierOutput]],
) -> Column:
    settings = {"knn_k": scorer.settings.knn_k, **values}
    baselines = Baselines([name], scorer.reference, scorer.classifier.head, **settings)
    scores = {
        images: [baselines.score(output.logits, output.features)[name] for output in batches]
        for images, batches in outputs.items()
    }
    return {images: torch.cat(values).numpy() for images, values in scores.items()}
