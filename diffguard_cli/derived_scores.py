"""The derived scores of a merged table: `diffguard` and its fusions.

They follow from the other scores and the calibration. The tables of processes do not hold them, so
that changed settings of the fusion apply to existing scores.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from diffguard.methods.scorer import Scorer
from diffguard.score_table.rewrite import write_table
from diffguard.score_table.rows import BASELINES_STAGE, DIFFUSION_STAGE
from diffguard.score_table.table import ScoreTable
from diffguard.settings.score_names import baseline_score_names, complete_score_names
from diffguard.settings.selection import Selection


def add_derived(path: Path, scorer: Scorer, selection: Selection) -> None:
    """Add the derived scores to a merged table, and leave out those that are not selected.

    The table does not depend on what earlier runs in the folder have computed: images that the
    baselines decide have no scores of the diffusion model.

    Args:
        path: `scores.csv`.
        scorer: The calibrated scorer.
        selection: The scores of the table.

    Raises:
        UserError: If the table is damaged or cannot be written.
    """
    calibration, table = scorer.require_calibration(), ScoreTable.read(path, partial=True)
    names, complete = selection.names, complete_score_names(scorer.settings)
    if selection.skip == "all":
        complete = baseline_score_names(scorer.settings)
    valid = np.flatnonzero(table.valid)
    plain = {name: values[valid] for name, values in table.scores.items()}
    clear = valid[~scorer.in_doubt(plain, selection)]
    has_stages = selection.skip == "all" or calibration.rule.cascade is not None
    scores = {name: np.full(len(table), np.nan) for name in names}
    columns = {**plain, **calibration.derive(plain)}
    for name in names:
        scores[name][valid] = columns[name]
    # Clear images look alike, whether or not they were scored by the diffusion model.
    for name in set(names) - set(complete):
        scores[name][clear] = np.nan
    stage, stop_step = table.stage.copy(), table.stop_step.copy()
    passes = table.network_passes.copy()
    stage[valid], stage[clear] = DIFFUSION_STAGE, BASELINES_STAGE
    stop_step[clear], passes[clear] = -1, 0
    table = replace(table, scores=scores, stage=stage, stop_step=stop_step, network_passes=passes)
    write_table(table, path, has_stages=has_stages)
