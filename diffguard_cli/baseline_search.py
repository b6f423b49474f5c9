"""Tunes the baselines' hyper-parameters on validation sets, as the grid tunes DiffGuard's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from datamodules.ood import OODDataModule
from diffguard.classifiers.classifier import ClassifierOutput
from diffguard.engine.reproducible import reproducible
from diffguard.errors import UserError
from diffguard.methods.items import readable
from diffguard.methods.scorer import Scorer
from diffguard.scores.baseline_table import BASELINES
from diffguard.scores.baselines import Baselines
from diffguard.scores.hyper_parameters import HyperParameter
from diffguard.scores.reference import Reference
from diffguard_cli.one_standard_error import Column, Ranking, rank

HYPER_PARAMETERS = {name: row.parameters for name, row in BASELINES.items() if row.parameters}


def check_searchable(names: Sequence[str]) -> None:
    """Refuse names of baselines without a hyper-parameter.

    Raises:
        UserError: If a name is unknown or its baseline has no hyper-parameter.
    """
    for name in names:
        if name not in HYPER_PARAMETERS:
            raise UserError(
                f"--baselines {name} has no hyper-parameter to search: expected some of "
                f"{', '.join(HYPER_PARAMETERS)}"
            )


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
    ranking: Ranking[float]


@dataclass(frozen=True)
class _Batch:
    """Images of a set with the classifier's output; images are None if no baseline scores them."""

    set: str
    output: ClassifierOutput
    images: torch.Tensor | None


def search(
    scorer: Scorer,
    data: OODDataModule,
    names: Sequence[str],
    parameters: Mapping[str, Sequence[HyperParameter]] = HYPER_PARAMETERS,
) -> list[Search]:
    """Score the validation sets with baselines, for each of their hyper-parameters.

    The diffusion model is not used. Baselines without a hyper-parameter are left out. The second
    hyper-parameter of a baseline is searched with the best value of the first one.

    Args:
        scorer: The calibrated scorer, on its device.
        data: The DataModule.
        names: The baselines; they need not be scored by the scorer.
        parameters: Baseline -> its hyper-parameters.
    """
    names = [name for name in names if name in parameters]
    if not names:
        return []
    head = scorer.classifier.head
    width = 0 if head is None else head.in_features
    # Without reference images, only the number of features limits the values.
    reference = scorer.reference or Reference(torch.empty(0, width), torch.empty(0))
    outputs = list(_batches(scorer, data, with_images=False))
    searches = []
    for name in names:
        values = dict(scorer.settings.baseline_parameters)
        has_images = BASELINES[name].input == "images"
        for parameter in parameters[name]:
            options = []
            for value in parameter.values(reference, scorer.classifier.num_classes):
                # Images of all sets would take much more memory than the outputs.
                batches = _batches(scorer, data, with_images=True) if has_images else outputs
                column = _score(scorer, name, {**values, parameter.key: value}, batches)
                options.append((value, (parameter.cost(value),), column))
            result = Search(name, parameter.key, rank(options))
            values[parameter.key] = result.ranking.best.choice
            searches.append(result)
    return searches


def _batches(scorer: Scorer, data: OODDataModule, *, with_images: bool) -> Iterator[_Batch]:
    """The batches of the validation sets, without unreadable images."""
    stream = data.stream("validation")
    for number, images_set in enumerate(stream.sets):
        loader = data.stream_loader(stream.only(stream.select[stream.select[:, 0] == number]))
        for images, _ in readable(loader):
            images = images.to(scorer.device)
            with reproducible():
                output = scorer.models.classify(images, data.read_size)
            yield _Batch(images_set.name, output, images if with_images else None)


@reproducible()
def _score(
    scorer: Scorer, name: str, values: Mapping[str, float | None], batches: Iterable[_Batch]
) -> Column:
    classifier = scorer.classifier
    baselines = Baselines(
        [name], scorer.reference, classifier.head, classifier, scorer.fits, **values
    )
    scores: dict[str, list[torch.Tensor]] = {}
    for batch in batches:
        output = batch.output
        column = baselines.score(output.logits, output.features, batch.images)[name]
        scores.setdefault(batch.set, []).append(column)
    return {images: torch.cat(parts).numpy() for images, parts in scores.items()}
