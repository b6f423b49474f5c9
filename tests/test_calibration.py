import numpy as np
import pytest
import torch

from diffguard.calibration import Calibration
from diffguard.errors import UserError


@pytest.fixture
def calibration():
    generator = torch.Generator().manual_seed(0)
    names = ("diffguard", "knn", "vim")
    scores = {n: 3 + 2 * torch.randn(100, generator=generator, dtype=torch.float64) for n in names}
    return Calibration.fit(scores, ["knn", "vim"])


def test_threshold_accepts_the_share_asked_for(calibration):
    for name in calibration.scores:
        for accept in (0.5, 0.9, 0.95, 0.99):
            share = (
                (calibration.scores[name] <= calibration.threshold(name, accept)).double().mean()
            )
            assert share == pytest.approx(accept)


def test_percentile_is_the_share_of_validation_images_below(calibration):
    ordered = calibration.scores["knn"].sort().values
    assert calibration.percentile("knn", float(ordered[24])) == 25.0
    assert calibration.percentile("knn", float(ordered[0]) - 1) == 0.0
    assert calibration.percentile("knn", float(ordered[-1])) == 100.0


def test_fusion_does_not_care_for_units(calibration):
    scores = {
        n: v.numpy() for n, v in calibration.scores.items() if n in ("diffguard", "knn", "vim")
    }
    scaled = {n: torch.from_numpy(1000 * v - 7) for n, v in scores.items()}
    other = Calibration.fit(scaled, ["knn", "vim"])
    ours = calibration.fuse(scores)
    theirs = other.fuse({n: v.numpy() for n, v in scaled.items()})
    assert list(ours) == ["fusion", "fusion/knn", "fusion/vim", "fusion_baselines"]
    for name, values in ours.items():
        np.testing.assert_allclose(values, theirs[name], atol=1e-9)


def test_fusion_rises_with_each_part_and_the_baselines_alone_ignore_diffguard(calibration):
    low = {"diffguard": np.array([3.0]), "knn": np.array([3.0]), "vim": np.array([3.0])}
    base = calibration.fuse(low)
    for name in low:
        raised = calibration.fuse({**low, name: np.array([9.0])})
        assert raised["fusion"] > base["fusion"]
    only = calibration.fuse({**low, "diffguard": np.array([99.0])})
    assert only["fusion_baselines"] == base["fusion_baselines"]


def test_no_fusion_without_parts():
    scores = {"diffguard": torch.arange(5.0)}
    calibration = Calibration.fit(scores, [])
    assert list(calibration.scores) == ["diffguard"]
    assert calibration.fuse({"diffguard": np.zeros(2)}) == {}


def test_interval_of_the_accepted_share_narrows_with_more_images():
    few = Calibration.fit({"diffguard": torch.arange(50.0)}, [])
    many = Calibration.fit({"diffguard": torch.arange(5000.0)}, [])
    low, high = few.accept_interval(0.95)
    assert low < 0.95 < high
    assert many.accept_interval(0.95)[0] > low
    assert many.accept_interval(0.95)[1] < high


def test_what_cannot_be_calibrated_is_refused(calibration):
    with pytest.raises(UserError, match="does not vary"):
        Calibration.fit({"diffguard": torch.ones(10)}, [])
    with pytest.raises(UserError, match="between 0 and 1"):
        calibration.threshold("knn", 1.0)
    with pytest.raises(UserError, match="no score 'odin'"):
        calibration.threshold("odin", 0.9)
