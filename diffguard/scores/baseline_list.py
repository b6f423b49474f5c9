"""The table of baselines as text, for the documentation and the command line."""

from __future__ import annotations

import torch

from diffguard.scores.baseline_table import BASELINES, Baseline
from diffguard.scores.hyper_parameters import HyperParameter
from diffguard.scores.reference import Reference

HEADER = ("name", "needs", "hyper-parameters: default; values to search", "paper")
EXAMPLE_IMAGES, EXAMPLE_WIDTH, EXAMPLE_CLASSES = 10_000, 2_048, 1_000
"""Reference images, features and classes for which the values to search are listed."""


def baseline_rows() -> list[list[str]]:
    """A row of cells for each baseline, in the order of `HEADER`."""
    shape = (EXAMPLE_IMAGES, EXAMPLE_WIDTH)
    # Values depend on the shape alone.
    reference = Reference(torch.empty(shape, device="meta"), torch.empty(0))
    return [
        [name, ", ".join(_needs(row)), _described(row.parameters, reference), row.paper]
        for name, row in BASELINES.items()
    ]


def _needs(row: Baseline) -> list[str]:
    words = {
        "reference": "ID training images" + (" of each class" if row.per_class else ""),
        "head": "linear last layer",
        "network": "gradients",
        "fit": "ID validation images",
    }
    return [row.input, *(words[argument] for argument in row.arguments)]


def _described(parameters: tuple[HyperParameter, ...], reference: Reference) -> str:
    lines = []
    for parameter in parameters:
        values = parameter.values(reference, EXAMPLE_CLASSES)
        text = ", ".join(f"{value:g}" for value in values)
        default = "half of the features" if parameter.default is None else f"{parameter.default:g}"
        lines.append(f"{parameter.key}: {default}; {text}")
    return " · ".join(lines)
