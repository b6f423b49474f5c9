"""What each score costs: network passes and milliseconds per image, as measured in a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffguard.score_table.table import ScoreTable
from diffguard.score_table.timing import CLASSIFIER, Work, read_timing, read_work

COSTS = ("classifier_passes", "gradients", "diffusion_passes", "milliseconds")


def read_cost(
    folder: Path, table: ScoreTable, parts: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Images per second, fill of the batches and `score_costs` of an evaluation folder.

    Args:
        folder: The folder.
        table: Its score table.
        parts: Derived score -> the plain scores that it needs.

    Raises:
        UserError: If the recorded times are damaged.
    """
    timing = read_timing(folder)
    if not timing["seconds"]:
        return {}
    speed, images = timing["images"] / timing["seconds"], int(np.count_nonzero(table.valid))
    costs = score_costs(list(table.scores), images, read_work(folder), parts)
    return {"images_per_second": speed, "batch_fill": timing["fill"], **costs}


def score_costs(
    scores: Sequence[str], images: int, work: Sequence[Work], parts: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """The cost of each score, as if it were the only one.

    Work that several parts of a score share counts once. Images that were scored in sessions whose
    work was not recorded, such as those of a process that was killed, do not count.

    Args:
        scores: The scores.
        images: Images that have scores.
        work: The work of all processes and sessions.
        parts: Derived score -> the plain scores that it needs.

    Returns:
        `scores`: a row for each score whose work was recorded, with `score` and `COSTS`: means per
        image of the classifier's forward passes and gradients, of the passes of the diffusion
        model, and of the milliseconds of one process. `classifier_milliseconds`: those of the
        classifier's pass that all scores share. Empty if no work was recorded.
    """
    rows = []
    for score in scores:
        plain = set(parts.get(score, [score]))
        needed = [part for part in work if plain & set(part.needed_by)]
        count = min(images, sum(part.images for part in needed))
        if count and plain <= {name for part in needed for name in part.needed_by}:
            totals = {name: sum(getattr(part, name) for part in needed) for name in COSTS[:3]}
            totals["milliseconds"] = 1000 * sum(part.seconds for part in needed)
            rows.append({"score": score, **{name: v / count for name, v in totals.items()}})
    if not rows:
        return {}
    shared = [part for part in work if part.part == CLASSIFIER]
    seconds, count = sum(part.seconds for part in shared), sum(part.images for part in shared)
    return {"classifier_milliseconds": 1000 * seconds / count, "scores": rows}


def costs_of(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Score -> its row in `results["cost"]["scores"]`; empty if the run did not record them."""
    return {row["score"]: row for row in results["cost"].get("scores", ())}


def cost_text(value: float) -> str:
    """A number of passes or milliseconds, for a table."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
