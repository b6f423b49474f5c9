"""Results in the form of OpenOOD v1.5: rows of its leaderboard, and the table of its evaluator.

Figures are percentages with two digits, as in OpenOOD's files: a value for one run, mean ±
population standard deviation for several seeds. FPR@95 is the share of ID images flagged when 95%
of OOD images are detected.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, pstdev
from typing import Literal, NotRequired

from typing_extensions import TypedDict

from diffguard.errors import UserError
from diffguard.storage.json_files import read_json
from diffguard.storage.paths import require_file

HEADER = (
    *("Training", "Postprocessor", "Near-OOD_AUROC", "Far-OOD_AUROC", "ID_Accuracy"),
    *("Outlier_Data", "Arch", "Additional_Description"),
)
Metric = Literal["auroc", "aupr_in", "aupr_out", "fpr95_ood_positive"]
# Our names of post-hoc detectors -> OpenOOD's.
POSTPROCESSORS = {
    "msp": "MSP",
    "mls": "MLS",
    "energy": "EBO",
    "gen": "GEN",
    "temperature": "TempScale",
    "odin": "ODIN",
    "mahalanobis": "MDS",
    "mds_pp": "MDS++",
    "rmd": "RMDS",
    "rmd_pp": "RMDS++",
    "klm": "KLM",
    "vim": "VIM",
    "knn": "KNN",
    "dice": "DICE",
    "ash": "ASH",
    "react": "ReAct",
    "scale": "SCALE",
    "she": "SHE",
    "nnguide": "NNGuide",
    "fdbd": "fDBD",
    "nci": "NCI",
    "core": "CORE",
    "diffguard": "DiffGuard",
    "fusion": "DiffGuard fusion",
}
_METRICS: Mapping[str, Metric] = {
    "FPR@95": "fpr95_ood_positive",
    "AUROC": "auroc",
    "AUPR_IN": "aupr_in",
    "AUPR_OUT": "aupr_out",
}
_MEANS = {"near": "nearood", "far": "farood"}


class Row(TypedDict):
    """The figures of a score on an OOD set, or the means of a group."""

    score: str
    dataset: str
    group: str
    auroc: float
    aupr_in: float
    aupr_out: float
    fpr95_ood_positive: float
    n_ood: int


class IdResults(TypedDict):
    """The ID set."""

    dataset: str
    n: int
    accuracy: float


class ImageList(TypedDict):
    """The list that an evaluation read a set from: its version, and its number of images."""

    list: str
    n: int


class Data(TypedDict):
    """The section `data` of the config."""

    limit: NotRequired[int | None]


class Config(TypedDict):
    """The config."""

    data: NotRequired[Data]


class Settings(TypedDict):
    """What is read of the settings."""

    config: NotRequired[Config]
    image_lists: NotRequired[dict[str, ImageList]]


class Results(TypedDict):
    """What is read of `results.json`."""

    rows: list[Row]
    id: IdResults
    settings: Settings


@dataclass(frozen=True)
class Entry:
    """What OpenOOD asks for and results do not contain.

    Attributes:
        training: How the classifier was trained, such as `CrossEntropy`.
        arch: Its architecture, such as `ResNet18`.
        description: Further facts, such as `100 epochs`.
        outlier_data: Whether it was trained with outliers.
    """

    training: str
    arch: str
    description: str
    outlier_data: bool


def read_results(folder: Path) -> Results:
    """Read the results of an evaluation.

    Raises:
        UserError: If `results.json` is missing or damaged.
    """
    results: Results = read_json(require_file(folder / "results.json", "results"), Results)
    return results


def score_names(runs: Sequence[Results], names: Sequence[str]) -> list[str]:
    """The scores to report: those named, by default all but the single distances.

    Raises:
        UserError: If a run lacks one of them.
    """
    every = [list(dict.fromkeys(row["score"] for row in run["rows"])) for run in runs]
    names = names or [name for name in every[0] if "/" not in name]
    for scores in every:
        for name in names:
            if name not in scores:
                raise UserError(f"no score {name!r} in a run: expected one of {', '.join(scores)}")
    return list(names)


def leaderboard(runs: Sequence[Results], names: Sequence[str], entry: Entry) -> str:
    """The rows of scores as CSV, with OpenOOD's header.

    Args:
        runs: The results of one run, or of several seeds, on the same sets.
        names: The scores.
        entry: Facts about the classifier.
    """
    accuracy = _figure([run["id"]["accuracy"] for run in runs])
    rows = [
        [
            entry.training,
            POSTPROCESSORS.get(name, name),
            *(_figure(_values(runs, name, group, "auroc")) for group in _MEANS),
            accuracy,
            "Yes" if entry.outlier_data else "No",
            entry.arch,
            entry.description,
        ]
        for name in names
    ]
    return _csv([HEADER, *rows])


def evaluator_table(runs: Sequence[Results], name: str, sets: Mapping[str, Sequence[str]]) -> str:
    """The figures of a score on each set and their means, as OpenOOD's evaluator writes them.

    The columns are those of its current version, which has no correct classification rates.

    Args:
        runs: The results of one run, or of several seeds.
        name: The score.
        sets: `near` and `far` -> the OOD sets, in OpenOOD's order.
    """
    accuracy = _figure([run["id"]["accuracy"] for run in runs])
    rows = [["", *_METRICS, "ACC"]]
    for group, title in _MEANS.items():
        for dataset in (*sets[group], group):
            cells = [_figure(_values(runs, name, dataset, key)) for key in _METRICS.values()]
            rows.append([title if dataset == group else dataset, *cells, accuracy])
    return _csv(rows)


def _values(runs: Sequence[Results], name: str, dataset: str, metric: Metric) -> list[float]:
    key = (name, dataset)
    rows = [row for run in runs for row in run["rows"] if (row["score"], row["dataset"]) == key]
    return [row[metric] for row in rows]


def _figure(values: Sequence[float]) -> str:
    text = f"{100 * mean(values):.2f}"
    return text if len(values) == 1 else f"{text} ± {100 * pstdev(values):.2f}"


def _csv(rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
