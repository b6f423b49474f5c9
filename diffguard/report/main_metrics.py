"""The metrics of a test by which runs are compared, chosen from those of every score."""

from __future__ import annotations

from collections.abc import Mapping

from diffguard.report.set_metrics import ID, SetMetrics
from diffguard.scores.fusion_rule import DIFFGUARD, FUSION, FUSION_BASELINES

_METRICS = ("auroc", "fpr95_id_positive")


def main_metrics(
    values: Mapping[str, float], metrics: SetMetrics, decision: str
) -> dict[str, float]:
    """AUROC and FPR@95 of the main scores, as means over the groups of OOD sets.

    Args:
        values: The result of `metrics`.
        metrics: The metrics of every score.
        decision: The score that judges images, another main score. The rest are `diffguard`,
            `fusion_baselines` and `fusion`.
    """
    names = metrics.score_names
    groups = [group for group in dict.fromkeys(metrics.groups.values()) if group != ID]
    main = {DIFFGUARD, FUSION_BASELINES, FUSION, decision}
    keys = (
        f"{group}/{metric}/{name}"
        for group in groups
        for metric in _METRICS
        for name in names
        if name in main
    )
    return {key: values[key] for key in keys}
