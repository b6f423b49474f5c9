import numpy as np
import pytest

from diffguard.scores.cascade import Band, cascade

RNG = np.random.default_rng(0)


def test_the_band_lies_between_quantiles_of_the_validation_images():
    band = Band.of_shares(np.arange(101.0), (0.8, 0.95))
    assert band == Band(80.0, 95.0)
    assert band.holds(np.array([79.9, 80.0, 95.0, 95.1])).tolist() == [False, True, True, False]


def test_a_budget_opens_the_widest_band_that_it_pays_for():
    reference, passes = np.arange(1.0, 11.0), np.array([9.0] * 5 + [10.0, 20.0, 30.0, 40.0, 50.0])
    # Nine of ten images lie below the upper end; the ninth takes 40 passes, the eighth 30, ….
    for budget, low in ((4.0, 9.0), (6.99, 9.0), (7.0, 8.0), (10.0, 6.0), (1000.0, 1.0)):
        assert Band.of_budget(reference, passes, budget, 0.95).low == low
    assert Band.of_budget(reference, passes, 3.9, 0.95).is_empty


def test_images_of_equal_score_enter_a_budget_together():
    reference, passes = np.array([0.0, 1.0, 1.0, 1.0, 2.0]), np.full(5, 10.0)
    assert Band.of_budget(reference, passes, 7.9, 1.0) == Band(2.0, 2.0)
    assert Band.of_budget(reference, passes, 8.0, 1.0) == Band(1.0, 2.0)


@pytest.mark.parametrize("band", [Band(1.0, 2.0), Band(0.0, 3.0), Band(1.5, 1.5)])
def test_the_score_never_falls_if_a_part_rises(band):
    values = np.array([0.0, 0.5, 1.0, np.nextafter(1.0, 2), 1.5, 2.0, 2.5, 3.0, 40.0])
    for distance in values:
        # The fusion of a baseline with a distance; both rise along the axes.
        fixed_distance = cascade(values, (values + distance) / 2, band)
        assert (np.diff(fixed_distance) >= 0).all()
        fixed_baseline = np.full(len(values), distance)
        assert (np.diff(cascade(fixed_baseline, (fixed_baseline + values) / 2, band)) >= 0).all()


def test_clear_images_need_no_fusion_and_enclose_those_in_doubt():
    stage_one, fusion = RNG.exponential(size=1000), RNG.exponential(size=1000) * 100
    band = Band.of_shares(stage_one, (0.8, 0.99))
    doubtful = band.holds(stage_one)
    score = cascade(stage_one, fusion, band)
    without = cascade(stage_one, np.where(doubtful, fusion, np.nan), band)
    assert np.array_equal(score, without)
    low, high = score[stage_one < band.low], score[stage_one > band.high]
    assert low.max() < score[doubtful].min() <= score[doubtful].max() < high.min()
    order = np.argsort(fusion[doubtful])
    assert (np.diff(score[doubtful][order]) > 0).all()
