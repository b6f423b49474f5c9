"""A score table on its own, as others publish it: without the manifest of its evaluation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from diffguard.errors import UserError
from diffguard.report.calibration_file import read_calibration
from diffguard.report.opponents import comparisons
from diffguard.report.run_files import comparable, read_run
from diffguard.report.scored_run import ScoredRun
from diffguard.score_table.table import ScoreTable
from diffguard.scores.fusion_rule import DIFFGUARD, FUSION

TABLE = "scores.csv"


def has_manifest(path: Path) -> bool:
    """Whether a path is an evaluation folder, whose manifest names the groups of its sets."""
    return os.path.lexists(path / "manifest.json")


def read_scores(path: Path, groups: Mapping[str, str]) -> ScoredRun:
    """Read an evaluation folder, or a score table without a manifest.

    Args:
        path: An evaluation folder, a folder with `scores.csv`, or a score table. The scores of the
            ID validation images are those of a `calibration.csv` beside the table, if there is one.
        groups: Set name -> `id`, `near` or `far`, for a table without a manifest. Sets without a
            group are left out.

    Raises:
        UserError: If a file is missing or damaged, or a table without a manifest needs groups.
    """
    file = path if path.is_file() else path / TABLE
    if has_manifest(path) or not os.path.lexists(file):
        return read_run(path)
    table, remarks = comparable(ScoreTable.read(file))
    names = table.dataset_names
    if not groups or not set(groups) <= set(names):
        raise UserError(
            f"{file} has no manifest.json beside it: give the groups of its sets "
            f"{', '.join(names)}, such as --groups.{names[0]} id --groups.{names[-1]} far"
        )
    return ScoredRun(
        folder=path,
        table=table,
        groups=dict(groups),
        sets={name: {"n": int((table.dataset == code).sum())} for code, name in enumerate(names)},
        seed=0,
        calibration=read_calibration(file.parent),
        settings={},
        absent={},
        cost={},
        headline=[name for name in (DIFFGUARD, FUSION) if name in table.scores],
        comparisons=comparisons(table.scores, None),
        remarks=remarks,
    )
