"""Ranking the bands of a cascade."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffguard.scores.calibration import Calibration
from diffguard.scores.fusion_rule import FUSION
from diffguard.settings.detector import DetectorSettings
from diffguard_cli.bands import rank_bands
from diffguard_cli.rankings import mean_auroc


def test_the_widest_skip_within_one_standard_error_wins():
    rng = np.random.default_rng(2)
    # KNN overlooks 5% of the OOD images, which lie just below 90% of the ID images.
    table = {}
    for name, shift in (("id", 0.0), ("near", 6.0)):
        knn = rng.normal(size=400) + shift
        knn[:20] = 1.2 if shift else knn[:20]
        table[name] = {"knn": knn, "diffguard/l2": rng.normal(size=400) + shift}
    settings = DetectorSettings(
        distances=["l2"], distance=["l2"], baselines=["knn"], fused=["knn"], accept=0.9
    )
    ranking = rank_bands(table, settings, passes=np.full(400, 10.0))
    options = {str(c.choice.band) if c.choice.is_cascade else "mean": c for c in ranking.candidates}
    assert "[0.9, 0.995]" not in options  # at 0.9, KNN alone would decide
    assert options["mean"].cost == (10,)
    assert options["[0.5, 0.995]"].cost == pytest.approx((10 * 0.495,))
    best = ranking.best
    assert ranking.candidates[0].auroc - best.auroc <= best.error
    cheaper = [c for c in ranking.candidates if c.cost < best.cost]
    assert all(ranking.candidates[0].auroc - c.auroc > c.error for c in cheaper)
    assert best.choice.band == [0.85, 0.999]
    # The AUROC is that of an evaluation with this rule.
    chosen = replace(settings, fusion=best.choice)
    id_scores = {name: torch.from_numpy(values) for name, values in table["id"].items()}
    calibration = Calibration.fit(id_scores, chosen.fusion_rule())
    derived = {name: calibration.derive(scores) for name, scores in table.items()}
    assert best.auroc == pytest.approx(mean_auroc(derived, FUSION))


def test_the_upper_end_of_the_band_rises_if_baselines_flag_id_images():
    rng = np.random.default_rng(5)
    # KNN takes three of 400 ID images for the clearest OOD images; DiffGuard knows better.
    table = {
        name: {"knn": rng.normal(size=400) + shift, "diffguard/l2": rng.normal(size=400) + shift}
        for name, shift in (("id", 0.0), ("near", 5.0))
    }
    table["id"]["knn"][:3] = [20.0, 21.0, 22.0]
    table["id"]["diffguard/l2"][:3] = -3.0
    settings = DetectorSettings(distances=["l2"], distance=["l2"], baselines=["knn"], fused=["knn"])
    ranking = rank_bands(table, settings, passes=np.full(400, 10.0))
    assert ranking.best.choice.band[1] == 1.0
    upper = {c.choice.band[1] for c in ranking.candidates if c.choice.is_cascade}
    assert upper == {0.995, 0.999, 1.0}
