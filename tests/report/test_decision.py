"""What verdicts guarantee, in one sentence."""

import pytest
import torch

from diffguard.report.decision import Decision
from diffguard.scores.calibration import Calibration
from diffguard.settings.decision import has_exact_guarantee
from diffguard.settings.sections import EarlyStopSettings
from tests.helpers.tiny_detector import small_settings

CALIBRATION = Calibration({"msp": torch.arange(99, dtype=torch.float64)})
SOURCE = "the distribution of the 99 ID validation images"


def test_an_exact_guarantee_is_stated():
    assert Decision("msp", 0.95, is_exact=True).guarantee(CALIBRATION) == (
        f"Guarantee: if new ID images follow {SOURCE}, at least 95% of them are accepted on "
        "average, and 90.0% to 98.3% with a probability of 95%."
    )
    assert Decision("msp", 0.95, 0.1, is_exact=True).guarantee(CALIBRATION) == (
        f"Guarantee: if the ID images follow {SOURCE}, at most 10% of the flagged images are ID "
        "on average."
    )


def test_the_guarantee_of_a_fitted_score_is_approximate():
    start = "Approximate guarantee, because fusion is fitted to the validation images:"
    assert Decision("fusion", 0.95).guarantee(CALIBRATION) == (
        f"{start} if new ID images follow {SOURCE}, about 95% of them are accepted on average, "
        "and 90.0% to 98.3% with a probability of about 95%."
    )
    assert Decision("fusion", 0.95, 0.1).guarantee(CALIBRATION) == (
        f"{start} if the ID images follow {SOURCE}, at most about 10% of the flagged images are "
        "ID on average."
    )


@pytest.mark.parametrize(
    ("name", "changes", "exact"),
    [
        ("msp", {}, True),
        ("klm", {"baselines": ["msp", "klm"], "fused": ["msp"]}, False),
        ("temperature", {"baselines": ["msp", "temperature"], "fused": ["msp"]}, False),
        ("diffguard", {}, True),
        ("diffguard/l2", {}, True),
        ("diffguard", {"distance": ["l2", "logits_l1"]}, False),
        ("fusion", {}, False),
        ("fusion/msp", {}, False),
        ("fusion_baselines", {}, False),
        ("diffguard", {"early_stop": EarlyStopSettings({"psnr": None}, 0.5)}, False),
        ("msp", {"early_stop": EarlyStopSettings({"psnr": None}, 0.5)}, True),
        ("diffguard", {"early_stop": EarlyStopSettings({"psnr": 20.0})}, True),
    ],
)
def test_the_guarantee_is_exact_for_scores_that_are_not_fitted(name, changes, exact):
    assert has_exact_guarantee(small_settings(**changes), name) == exact
