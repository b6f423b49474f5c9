"""Ranks the bands of a cascade by AUROC and network passes on validation sets."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from diffguard.scores.fusion import Fusion
from diffguard.scores.fusion_rule import FUSION
from diffguard.settings.detector import DetectorSettings
from diffguard.settings.fusion import FusionSettings
from diffguard_cli.one_standard_error import Ranking, rank
from diffguard_cli.rankings import Table

# Shares of the ID validation images below the two ends of the band.
LOWER_SHARES = (0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
UPPER_SHARES = (0.995, 0.999, 1.0)


def rank_bands(
    table: Table, settings: DetectorSettings, passes: np.ndarray
) -> Ranking[FusionSettings]:
    """Rank the `mean` of all parts and cascades by `fusion`; the cost is the passes per ID image.

    Nothing is scored again: a cascade combines the scores of a table.

    Args:
        table: Scores of all images of the validation sets; no image skipped the diffusion model.
        settings: The detector's settings, with the chosen `distance` and `fused`.
        passes: `(n,)` network passes of the n ID validation images.
    """
    # With a lower end at or above `accept`, the baselines alone would decide at the threshold.
    lower_shares = [low for low in LOWER_SHARES if low < settings.accept]
    bands = [[low, high] for low, high in itertools.product(lower_shares, UPPER_SHARES)]
    options = [FusionSettings(), *(FusionSettings("cascade", band) for band in bands)]
    reference = next(iter(table.values()))
    ranked = []
    for option in options:
        cascade = option.cascade_rule([n for n in settings.fused if n in settings.baselines])
        rule = replace(settings.fusion_rule(), cascade=cascade)
        fusion = Fusion.of_parts({name: reference[name] for name in rule.parts}, rule)
        column = {name: fusion.derive(scores)[FUSION] for name, scores in table.items()}
        cost = float(np.mean(passes * fusion.in_doubt(reference)))
        ranked.append((option, (cost,), column))
    return rank(ranked)
