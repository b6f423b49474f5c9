"""What the stages of a cascade decide, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffguard.report.scored_run import ScoredRun
from diffguard.report.selective import share
from diffguard.score_table.rows import BASELINES_STAGE, DIFFUSION_STAGE
from diffguard.scores.fusion_rule import FUSION


def stage_results(run: ScoredRun) -> list[dict[str, Any]]:
    """The section `stages` of `results.json`; empty without a cascade.

    Returns:
        A row for each set and stage: `dataset`, `group`, `stage`, the number `n` of images that the
        stage decides and their `share` of the set, the shares `accepted` and `flagged` of the set
        that it accepts and flags at the threshold of `fusion` (None without thresholds), and the
        mean `network_passes` of its images (None if it decides none).
    """
    table, limit = run.table, run.threshold_of(FUSION)
    if not _is_cascade(run):
        return []
    results = []
    for name, group in run.groups.items():
        rows = table.rows(name)
        flags = None if limit is None else table.scores[FUSION][rows] > limit
        for stage in (BASELINES_STAGE, DIFFUSION_STAGE):
            mask = table.stage[rows] == stage
            passes = table.network_passes[rows][mask]
            results.append(
                {
                    "dataset": name,
                    "group": group,
                    "stage": stage,
                    "n": int(mask.sum()),
                    "share": share(mask),
                    "accepted": None if flags is None else share(mask & ~flags),
                    "flagged": None if flags is None else share(mask & flags),
                    "network_passes": float(passes.mean()) if len(passes) else None,
                }
            )
    return results


def id_cost(run: ScoredRun, id_set: str) -> dict[str, float]:
    """Mean network passes of the ID images, and the budget if there is one; only of a cascade."""
    if not _is_cascade(run):
        return {}
    passes = run.table.network_passes[run.table.rows(id_set)]
    cost = {"network_passes_per_id_image": float(passes.mean())}
    settings: Any = run.settings
    for key in ("config", "detector", "fusion"):
        settings = settings.get(key, {}) if isinstance(settings, Mapping) else {}
    budget = settings.get("budget") if isinstance(settings, Mapping) else None
    return cost if budget is None else {**cost, "network_passes_budget": float(budget)}


def stage_notes(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Notes below the table: the stages of each set, and the passes of an ID image."""
    rows, notes = results["stages"], []
    for name in dict.fromkeys(row["dataset"] for row in rows):
        stages = [row for row in rows if row["dataset"] == name]
        parts = "; ".join(map(_stage_text, stages))
        notes.append(("Cascade", f"{name}, by {FUSION}: {parts}"))
    cost = results["cost"]
    if "network_passes_per_id_image" in cost:
        text = f"{cost['network_passes_per_id_image']:.4g} network passes per ID image"
        if "network_passes_budget" in cost:
            text += f", budget {cost['network_passes_budget']:g} (met on ID validation images)"
        notes.append(("Cascade", text))
    return notes


def _is_cascade(run: ScoredRun) -> bool:
    """Whether images skipped the diffusion model."""
    return bool((run.table.stage == BASELINES_STAGE).any())


def _stage_text(row: Mapping[str, Any]) -> str:
    text = f"stage {row['stage']} decides {row['share']:.1%}"
    if row["flagged"] is not None:
        text += f" ({row['accepted']:.1%} accepted, {row['flagged']:.1%} flagged)"
    if row["network_passes"] is not None:
        text += f", {row['network_passes']:.4g} passes"
    return text
