"""Calibration from Python is that of the command line."""

from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from diffguard import Detector, UserError
from diffguard.methods.depth import fit_early_stop
from diffguard.settings.sections import EarlyStopSettings
from tests.helpers.tiny_detector import CLASSES, build_detector, small_settings

IMAGES = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(5))
LABELS = torch.arange(20) % CLASSES
pytestmark = pytest.mark.filterwarnings("ignore:with only", "ignore:the classifier")


def loader(count=20):
    return DataLoader(TensorDataset(IMAGES[:count], LABELS[:count]), batch_size=6)


def labeled_files(folder):
    """Paths with the number of their folder, as a list of pairs."""
    classes = sorted(folder.iterdir())
    return [(path, label) for label, name in enumerate(classes) for path in sorted(name.iterdir())]


def uncalibrated(detector, **changes):
    """The same models and settings before calibration."""
    parts = replace(detector.parts, calibration=None, reference=None, **changes)
    return Detector(**vars(parts))


def test_calibration_is_that_of_the_command_line(run_folder, data_root):
    expected = Detector.load(run_folder / "detector.ckpt")
    detector = uncalibrated(expected)
    training = labeled_files(data_root / "train")
    result = detector.calibrate(
        labeled_files(data_root / "validation"), reference=training, batch_size=8
    )
    assert result is detector
    assert detector.settings == expected.settings
    assert torch.equal(detector.reference.features, expected.reference.features)
    assert torch.equal(detector.reference.labels, expected.reference.labels)
    assert detector.calibration.rule == expected.calibration.rule
    assert detector.calibration.scores.keys() == expected.calibration.scores.keys()
    for name, values in detector.calibration.scores.items():
        assert torch.equal(values, expected.calibration.scores[name]), name


def test_a_detector_that_was_loaded_is_saved_again(run_folder, tmp_path):
    detector = Detector.load(run_folder / "detector.ckpt")
    detector.save(tmp_path / "again.ckpt")
    contents = [
        torch.load(path, weights_only=True)
        for path in (run_folder / "detector.ckpt", tmp_path / "again.ckpt")
    ]
    features = [content["calibration"]["features"] for content in contents]
    assert len(features[0]) == 24
    assert torch.equal(*features)
    for key in ("settings", "image", "seed", "config", "libraries"):
        assert contents[0][key] == contents[1][key]
    for model in ("classifier", "diffusion"):
        assert contents[0][model]["spec"] == contents[1][model]["spec"]
    again = Detector.load(tmp_path / "again.ckpt")
    assert torch.equal(again(IMAGES), detector(IMAGES))


def test_early_stop_is_fitted_and_accept_is_kept():
    stop = EarlyStopSettings(thresholds={"psnr": None}, mean_depth=0.5)
    detector = uncalibrated(build_detector(calibrated=False))
    detector = Detector(
        detector.classifier,
        detector.denoiser,
        small_settings(early_stop=stop, decision="diffguard", reference_images=10),
        image_size=8,
        image_channels=1,
    )
    batch = {"image": IMAGES, "label": LABELS, "error": [""] * 20}
    thresholds = fit_early_stop(detector.models, [batch], 64)
    detector.calibrate(loader(), reference=loader(), accept=0.8)
    assert detector.settings.early_stop.thresholds == thresholds
    assert detector.settings.accept == 0.8
    verdicts = detector.predict(IMAGES)
    # The threshold of 20 images has rank 17, the next whole number above 21 · 0.8.
    assert int(verdicts.is_ood.sum()) == 3
    # The features of the first calibration serve the second.
    detector.calibrate(loader(15))
    assert len(detector.reference.labels) == 10
    assert detector.reference.share == 0.5


def test_what_is_missing_is_named_and_a_failure_changes_nothing():
    detector = uncalibrated(build_detector())
    with pytest.raises(UserError, match=r"baselines msp, knn are not fitted: call detector\.cal"):
        detector.score(IMAGES, name="msp")
    with pytest.raises(UserError, match="baseline knn is fitted on ID training images: give a"):
        detector.calibrate(loader())
    with pytest.raises(UserError, match=r"score .* does not vary"):
        detector.calibrate([(IMAGES[:1].expand(5, -1, -1, -1), LABELS[:5])], reference=loader())
    assert detector.calibration is None
    assert detector.reference is None
    with pytest.raises(UserError, match="only a calibrated detector can be saved"):
        detector.save("x.ckpt")
    with pytest.raises(UserError, match="batch_size must be a whole number"):
        detector.calibrate(loader(), batch_size=0)
    detector.calibrate(loader(), reference=loader())
    with pytest.raises(UserError, match="nothing states how to build it again"):
        detector.save("x.ckpt")


def test_few_images_give_a_warning_and_progress_can_be_turned_off(capsys):
    detector = uncalibrated(build_detector())
    with pytest.warns(UserWarning, match="^with only 20 ID validation images, the threshold"):
        detector.calibrate(loader(), reference=loader())
    assert "calibrate: done after 0:0" in capsys.readouterr().err
    detector.calibrate(loader(), progress=False)
    assert capsys.readouterr() == ("", "")
