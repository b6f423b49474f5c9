"""Tests of drift between a set of images and the validation images."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffguard.scores import drift
from diffguard.scores.drift import Drift, FeatureSample, compare, energy_test


def normal(count, seed, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 8, generator=generator) + shift


def test_the_statistic_is_the_energy_distance(monkeypatch):
    values, calls = (normal(7, 0), normal(5, 1, shift=1.0)), []

    def permutation_test(data, statistic, **options):
        calls.append((statistic(*data, axis=-1), options["alternative"]))
        return SimpleNamespace(pvalue=0.5)

    monkeypatch.setattr("scipy.stats.permutation_test", permutation_test)
    assert energy_test(*values) == 0.5
    x, y = values
    between = {(a, b): torch.cdist(a, b).mean() for a in values for b in values}
    expected = 2 * between[x, y] - between[x, x] - between[y, y]
    assert calls[0] == (pytest.approx(float(expected), rel=1e-5), "greater")


def test_equal_distributions_are_rejected_at_the_level(monkeypatch):
    monkeypatch.setattr(drift, "_PERMUTATIONS", 99)
    p_values = np.array(
        [energy_test(normal(30, seed), normal(20, 1000 + seed)) for seed in range(80)]
    )
    assert (p_values <= 0.2).mean() == pytest.approx(0.2, abs=0.12)
    assert p_values.mean() == pytest.approx(0.5, abs=0.1)


def test_a_shift_of_features_or_scores_is_found():
    scores, features = np.linspace(0, 1, 200), normal(100, 0)
    assert not compare(scores, scores + 0.001, features, normal(60, 1)).is_found
    drift = compare(scores, scores + 0.001, features, normal(60, 1, shift=0.5))
    assert drift.is_found
    assert drift.features_p == 0.001 < drift.score_p
    assert str(drift).startswith("drift found: p = 1 by the decision score")
    other = compare(scores, scores + 0.3, features, normal(60, 1))
    assert other.is_found
    assert other.score_p < 0.001 < other.features_p


def test_two_tests_share_the_level():
    assert Drift(0.025, 1.0).is_found
    assert not Drift(0.026, 0.026).is_found


def test_a_seed_gives_one_p_value():
    first, second = normal(40, 0), normal(40, 1, shift=0.2)
    assert energy_test(first, second) == energy_test(first, second)


def test_a_sample_is_a_bounded_random_choice_of_all_batches(monkeypatch):
    monkeypatch.setattr(drift, "SAMPLE_SIZE", 50)
    counts = torch.zeros(200)
    for seed in range(40):
        sample = FeatureSample(seed)
        for batch in torch.arange(200.0)[:, None].split(30):
            sample.add(batch)
            assert len(sample.features()) <= 50
        values = sample.features()[:, 0]
        assert values.tolist() == sorted(set(values.tolist()))
        counts[values.long()] += 1
    assert counts.sum() == 40 * 50
    for part in counts.split(50):
        assert part.sum() == pytest.approx(500, abs=80)
