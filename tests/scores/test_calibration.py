from dataclasses import replace

import numpy as np
import pytest
import torch

from diffguard.errors import UserError
from diffguard.scores.calibration import Calibration
from diffguard.scores.conformal import threshold, threshold_rank
from diffguard.scores.fusion_rule import CascadeRule, FusionRule


def fit(scores, distance, fused, band=None):
    return Calibration.fit(scores, FusionRule(distance, fused, fused, band=band))


@pytest.fixture
def calibration():
    generator = torch.Generator().manual_seed(0)
    names = ("diffguard/l2", "knn", "vim")
    scores = {n: 3 + 2 * torch.randn(100, generator=generator, dtype=torch.float64) for n in names}
    return fit(scores, ["l2"], ["knn", "vim"])


def test_the_threshold_of_a_plain_score_has_the_conformal_rank(calibration):
    for name in ("diffguard/l2", "knn", "vim", "diffguard"):
        for accept, rank in ((0.5, 51), (0.9, 91), (0.95, 96), (0.99, 100)):
            limit = calibration.threshold(name, accept)
            assert (calibration.scores[name] <= limit).sum() == rank


def test_percentile_is_the_share_of_validation_images_below(calibration):
    ordered = calibration.scores["knn"].sort().values
    scores = [float(ordered[24]), float(ordered[0]) - 1, float(ordered[-1])]
    assert calibration.judge("knn", scores, accept=0.9).percentile.tolist() == [25.0, 0.0, 100.0]


def exponential_scores(rng, count):
    """Two distances and a baseline, independent of each other."""
    return {name: rng.exponential(size=count) for name in ("diffguard/a", "diffguard/b", "vim")}


def ideal_fusion(scores):
    """The fusion under the true distributions, which needs no validation images."""
    distance = (scores["diffguard/a"] + scores["diffguard/b"]) / 2
    return (2 * distance - np.log1p(2 * distance) + scores["vim"]) / 2


@pytest.mark.parametrize(("count", "trials"), [(20, 30), (50, 15), (100, 12), (400, 12)])
def test_fusion_accepts_the_requested_share_of_new_id_images(count, trials):
    rng = np.random.default_rng(count)
    differences = []
    for _ in range(trials):
        validation, new = exponential_scores(rng, count), exponential_scores(rng, 4000)
        scores = {name: torch.from_numpy(values) for name, values in validation.items()}
        fitted = fit(scores, ["a", "b"], ["vim"])
        accepted = fitted.derive(new)["fusion"] <= fitted.threshold("fusion", 0.95)
        # The share of the ideal fusion on the same images is known exactly, on average.
        ideal = ideal_fusion(new) <= threshold(ideal_fusion(validation), 0.95)
        differences.append(accepted.mean() - ideal.mean())
    share = threshold_rank(count, 0.95) / (count + 1) + np.mean(differences)
    assert share >= 0.95 - 2 * np.std(differences) / np.sqrt(trials)
    assert share < 0.99


def test_a_cascade_accepts_the_requested_share_of_new_id_images():
    rng = np.random.default_rng(1)
    rule = FusionRule(["a"], ["vim"], ["vim"], cascade=CascadeRule(["vim"], (0.8, 0.99)))
    shares = []
    for _ in range(40):
        validation, new = exponential_scores(rng, 60), exponential_scores(rng, 2000)
        del validation["diffguard/b"]
        fitted = Calibration.fit({n: torch.from_numpy(v) for n, v in validation.items()}, rule)
        shares.append((fitted.derive(new)["fusion"] <= fitted.threshold("fusion", 0.9)).mean())
    assert 0.9 - 2 * np.std(shares) / np.sqrt(len(shares)) < np.mean(shares) < 0.94


def test_a_validation_image_is_normalized_by_the_others(calibration):
    plain = {name: calibration.scores[name] for name in ("diffguard/l2", "knn", "vim")}
    fold = torch.arange(100) % 50 == 7
    others = fit({name: values[~fold] for name, values in plain.items()}, ["l2"], ["knn", "vim"])
    expected = others.derive({name: values[fold].numpy() for name, values in plain.items()})
    assert list(calibration.held_out) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(calibration.held_out[name][fold], values)
    assert calibration.held_out["fusion"].mean() > calibration.scores["fusion"].mean()


def test_fusion_does_not_depend_on_units(calibration):
    scores = {
        n: v.numpy() for n, v in calibration.scores.items() if n in ("diffguard/l2", "knn", "vim")
    }
    scaled = {n: torch.from_numpy(1000 * v - 7) for n, v in scores.items()}
    other = fit(scaled, ["l2"], ["knn", "vim"])
    ours = calibration.derive(scores)
    theirs = other.derive({n: v.numpy() for n, v in scaled.items()})
    assert list(ours) == ["diffguard", "fusion", "fusion/knn", "fusion/vim", "fusion_baselines"]
    ours.pop("diffguard")  # one distance stays as it is
    for name, values in ours.items():
        np.testing.assert_allclose(values, theirs[name], atol=1e-9)


def test_fusion_rises_with_each_part_and_the_baselines_alone_ignore_diffguard(calibration):
    low = {"diffguard/l2": np.array([3.0]), "knn": np.array([3.0]), "vim": np.array([3.0])}
    base = calibration.derive(low)
    for name in low:
        raised = calibration.derive({**low, name: np.array([9.0])})
        assert raised["fusion"] > base["fusion"]
    only = calibration.derive({**low, "diffguard/l2": np.array([99.0])})
    assert only["fusion_baselines"] == base["fusion_baselines"]


def test_the_comparator_leaves_the_fusion_as_it_is(calibration):
    plain = {name: calibration.scores[name] for name in ("diffguard/l2", "knn", "vim")}
    rule = FusionRule(["l2"], ["knn", "vim"], fused=["knn"], comparator=["knn", "vim"])
    scores = Calibration.fit(plain, rule).scores
    same = Calibration.fit(plain, replace(rule, comparator=None)).scores
    both = Calibration.fit(plain, replace(rule, fused=["knn", "vim"], comparator=None)).scores
    assert torch.equal(scores["fusion"], same["fusion"])
    assert torch.equal(scores["fusion_baselines"], both["fusion_baselines"])
    assert not torch.equal(scores["fusion_baselines"], same["fusion_baselines"])


def test_no_fusion_without_fused_baselines():
    calibration = fit({"diffguard/l2": torch.arange(5.0)}, ["l2"], [])
    assert list(calibration.scores) == ["diffguard/l2", "diffguard"]
    assert list(calibration.derive({"diffguard/l2": np.zeros(2)})) == ["diffguard"]


def test_several_distances_are_averaged_as_negative_log_p_values(calibration):
    scores = {f"diffguard/{name}": calibration.scores[name] for name in ("knn", "vim")}
    both = fit(scores, ["knn", "vim"], [])
    parts = [both.fusion.negative_log_p(name, values.numpy()) for name, values in scores.items()]
    np.testing.assert_allclose(both.scores["diffguard"], (parts[0] + parts[1]) / 2)


def test_second_distance_of_a_tandem_decides_doubtful_cases(calibration):
    scores = {f"diffguard/{name}": calibration.scores[name] for name in ("knn", "vim")}
    both = fit(scores, ["knn", "vim"], [], band=(0.4, 0.9))
    first, second = (both.fusion.negative_log_p(name, v.numpy()) for name, v in scores.items())
    result = both.scores["diffguard"].numpy()
    low, high = -np.log(0.6), -np.log(0.1)
    clear = (first < low) | (first > high)
    np.testing.assert_allclose(result[clear], first[clear])
    assert ((result[~clear] >= low) & (result[~clear] <= high)).all()
    order = np.argsort(second[~clear])
    assert (np.diff(result[~clear][order]) >= 0).all()


def test_negative_log_p_counts_the_images_above_and_continues_beyond_them(calibration):
    ordered = calibration.scores["knn"].sort().values.numpy()
    assert calibration.fusion.negative_log_p("knn", ordered[:1] - 1)[0] == 0
    half = calibration.fusion.negative_log_p("knn", ordered[50:51])[0]
    assert half == pytest.approx(-np.log(51 / 101))
    far = calibration.fusion.negative_log_p("knn", ordered[-1] + np.array([1.0, 2.0, 3.0]))
    assert far[1] - far[0] == pytest.approx(far[2] - far[1])
    values = np.linspace(ordered[0] - 1, ordered[-1] + 5, 500)
    grid = calibration.fusion.negative_log_p("knn", values)
    assert (np.diff(grid) >= 0).all()
    knee = np.quantile(ordered, 0.9)
    around = calibration.fusion.negative_log_p("knn", np.array([knee, knee + 1e-9]))
    assert around[1] - around[0] < 1e-6


def test_a_score_that_one_image_alone_varies_has_a_threshold():
    alone = fit({"diffguard/l2": torch.eye(30)[0], "knn": torch.arange(30.0)}, ["l2"], ["knn"])
    assert alone.held_out["fusion/knn"][0] == pytest.approx(np.log(30) / 2, abs=0.01)
    assert np.isfinite(alone.threshold("fusion", 0.9))


def test_small_change_of_a_score_changes_its_negative_log_p_little(calibration):
    values = calibration.scores["knn"].numpy()
    shifted = calibration.fusion.negative_log_p("knn", values * (1 + 1e-9))
    np.testing.assert_allclose(shifted, calibration.fusion.negative_log_p("knn", values), atol=1e-5)


def test_negative_log_p_continues_if_the_highest_scores_are_equal():
    tied = fit({"diffguard/l2": torch.arange(50.0).clamp(max=20)}, ["l2"], [])
    values = tied.fusion.negative_log_p("diffguard/l2", np.array([18.0, 19.0, 19.5, 20.0, 21.0]))
    assert np.isfinite(values).all()
    assert (np.diff(values) > 0).all()


def test_impossible_calibrations_are_refused(calibration):
    with pytest.raises(UserError, match="does not vary"):
        fit({"diffguard/l2": torch.ones(10)}, ["l2"], [])
    with pytest.raises(UserError, match="no score 'odin'"):
        calibration.threshold("odin", 0.9)
