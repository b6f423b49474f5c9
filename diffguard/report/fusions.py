"""Fusions of the scores of an evaluation folder, without its detector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from diffguard.errors import UserError
from diffguard.report.scored_run import ScoredRun
from diffguard.scores.fusion import Fusion
from diffguard.scores.fusion_rule import FUSION, FusionRule


def add_fusions(run: ScoredRun, fusions: Mapping[str, Sequence[str]]) -> ScoredRun:
    """Add fusions of scores: the mean of their negative log p-values on ID validation images.

    Args:
        run: The scored run, with its calibration.
        fusions: Name -> the scores to fuse. The new score is called `fusion/<name>`; its AUROC is
            compared with the AUROC of each of them.

    Returns:
        The run with the new columns.

    Raises:
        UserError: If a name is taken, a score or its calibration is missing, or fewer than two
            scores are named.
    """
    scores = dict(run.table.scores)
    references = {name: values.numpy() for name, values in run.calibration.items()}
    fusion = Fusion(references, FusionRule())
    comparisons = list(run.comparisons)
    for name, members in fusions.items():
        column = f"{FUSION}/{name}"
        if column in scores:
            raise UserError(f"there is a score {column!r} already: choose another name than {name}")
        if len(set(members)) < 2 or len(set(members)) < len(members):
            raise UserError(f"fusion {name!r} needs two or more different scores, got {members}")
        for member in members:
            _check_fusible(run, member)
        parts = [fusion.negative_log_p(member, scores[member]) for member in members]
        scores[column] = np.mean(parts, axis=0)
        comparisons += [(column, member) for member in members]
    return replace(
        run,
        table=replace(run.table, scores=scores),
        headline=[*run.headline, *(f"{FUSION}/{name}" for name in fusions)],
        comparisons=comparisons,
        settings={**run.settings, "fusions": {n: list(members) for n, members in fusions.items()}}
        if fusions
        else run.settings,
    )


def _check_fusible(run: ScoredRun, name: str) -> None:
    if name not in run.table.scores:
        raise UserError(
            f"there is no score {name!r} to fuse: expected one of {', '.join(run.table.scores)}"
        )
    if name not in run.calibration:
        raise UserError(
            f"fusion normalizes {name!r} by its scores of the ID validation images, which are "
            "missing: put calibration.csv beside scores.csv, or start the evaluation with its "
            "checkpoint again, which writes it without scoring again"
        )
