"""Conformal p-values, thresholds and discoveries."""

import numpy as np
import pytest

from diffguard.errors import UserError
from diffguard.scores.conformal import (
    accepted_interval,
    as_percent,
    judge,
    needed_images,
    threshold,
    threshold_rank,
)


@pytest.mark.parametrize("count", [19, 20, 57, 100])
@pytest.mark.parametrize("accept", [0.07, 0.5, 0.9, 0.95])
def test_an_image_is_ood_if_its_p_value_is_at_most_the_share_to_flag(count, accept):
    # Ties between validation images, and images that equal them.
    rng = np.random.default_rng(count)
    reference, scores = rng.integers(0, 30, count), rng.integers(-2, 33, 500)
    judgment = judge(reference, scores, accept=accept)
    p_values = [(1 + (reference >= score).sum()) / (count + 1) for score in scores]
    assert judgment.p_value.tolist() == p_values
    flags = [p * (count + 1) <= (1 - accept) * (count + 1) + 1e-9 for p in p_values]
    assert judgment.is_ood.tolist() == flags
    assert judgment.is_ood.tolist() == (scores > threshold(reference, accept)).tolist()
    shares = [100 * (reference <= score).mean() for score in scores]
    assert judgment.percentile == pytest.approx(shares)


def test_the_rank_of_the_threshold_is_exact():
    assert [threshold_rank(99, accept) for accept in (0.07, 0.57, 0.95, 0.99)] == [7, 57, 95, 99]
    assert threshold_rank(19, 0.95) == 19
    assert threshold_rank(400, 0.95) == 381


@pytest.mark.parametrize(("accept", "needed"), [(0.95, 19), (0.99, 99), (0.999, 999), (0.5, 1)])
def test_a_share_that_needs_more_images_is_refused_with_their_number(accept, needed):
    assert needed_images(accept) == needed
    assert threshold_rank(needed, accept) == needed
    with pytest.raises(UserError, match=f"takes at least {needed} ID validation images"):
        threshold_rank(needed - 1, accept)


def test_the_interval_is_that_of_the_accepted_share():
    rng = np.random.default_rng(0)
    shares = np.sort(rng.random((4000, 60)), axis=1)[:, threshold_rank(60, 0.9) - 1]
    assert accepted_interval(60, 0.9) == pytest.approx(
        tuple(np.quantile(shares, [0.025, 0.975])), abs=0.01
    )
    low, high = accepted_interval(5000, 0.9)
    assert accepted_interval(60, 0.9)[0] < low < 0.9 < high < accepted_interval(60, 0.9)[1]


def test_few_of_the_images_flagged_at_a_false_discovery_rate_are_id():
    rng = np.random.default_rng(0)
    shares, flagged = [], 0
    for _ in range(300):
        ident, ood = rng.normal(size=90), rng.normal(4, 1, 10)
        is_ood = judge(rng.normal(size=500), np.r_[ident, ood], accept=0.95, fdr=0.2).is_ood
        shares.append(is_ood[:90].sum() / max(1, is_ood.sum()))
        flagged += is_ood[90:].sum()
    assert 0.14 < np.mean(shares) < 0.2  # the rate times the share of ID images, 0.18
    assert flagged > 0.8 * 3000


def test_no_image_is_flagged_if_all_are_id_nor_if_there_is_none():
    reference = np.arange(100.0)
    assert not judge(reference, reference, accept=0.95, fdr=0.1).is_ood.any()
    assert judge(reference, [], accept=0.95, fdr=0.1).is_ood.tolist() == []
    assert judge(reference, [200.0], accept=0.95, fdr=0.1).is_ood.tolist() == [True]


def test_impossible_shares_are_refused():
    with pytest.raises(UserError, match="accepted share must lie between 0 and 1, got 1"):
        threshold(np.arange(9), 1.0)
    with pytest.raises(UserError, match="false discovery rate must lie between 0 and 1, got 0"):
        judge(np.arange(9), [1.0], accept=0.5, fdr=0.0)
    with pytest.raises(UserError, match=r"rate of 0\.05 takes at least 19 ID validation images"):
        judge(np.arange(18), [], accept=0.5, fdr=0.05)
    judge(np.arange(19), [], accept=0.5, fdr=0.05)


def test_percentages_keep_their_digits():
    assert [as_percent(share) for share in (0.95, 0.999, 0.07)] == ["95%", "99.9%", "7%"]
