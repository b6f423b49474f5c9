"""The detector of an evaluation."""

import warnings
from types import SimpleNamespace

import pytest

from diffguard import Detector
from diffguard.checkpoint.file import read_checkpoint
from diffguard.scores.reconstruction import ReconstructionQuality
from diffguard.settings.plain import from_dict
from diffguard.training.trainer_config import TrainerConfig
from diffguard_cli.evaluation_detector import load_detector
from tests.helpers.saved_detector import CLASSIFIER, CONFIG, DIFFUSION, build


@pytest.fixture
def path(tmp_path):
    """The file of a detector that reconstructs ID images poorly."""
    detector, path = build(), tmp_path / "detector.ckpt"
    detector.calibration.quality = ReconstructionQuality(64, label_kept=0.4, resemblance=0.95)
    detector.save(path, CLASSIFIER, DIFFUSION, {**CONFIG, "trainer": {}})
    return path


@pytest.fixture
def load(path, capsys):
    """Loads the detector as an evaluation does; returns its decision and what is printed."""

    def load(decision="fusion", precision="32-true"):
        content = read_checkpoint(path)
        arguments = SimpleNamespace(
            ckpt=str(path), seed=None, trusted=[], diffusion_model=None,
            detector=from_dict({**content["settings"], "decision": decision}),
            trainer=TrainerConfig(precision=precision),
        )  # fmt: skip
        detector, differences = load_detector(content, arguments)
        assert not differences
        return detector.decision, capsys.readouterr().err

    return load


def test_a_fallback_to_the_baselines_is_reported(path, load):
    figures = "40% keep their predicted class in the reconstruction .* in 95% of all pairs"
    decision, line = load("auto")
    assert decision == "fusion_baselines"
    with pytest.warns(UserWarning, match=f"{figures} .* decides by fusion_baselines") as warned:
        Detector.load(path, settings={**read_checkpoint(path)["settings"], "decision": "auto"})
    assert line == f"warning: {warned[0].message}\n"
    assert load("fusion") == ("fusion", "")
    with warnings.catch_warnings(action="error"):
        Detector.load(path)


def test_another_precision_than_that_of_the_calibration_is_reported(load):
    for precision in ("32", "32-true"):
        assert load(precision=precision)[1] == ""
    line = load(precision="bf16-mixed")[1]
    assert line.startswith("note: the detector was calibrated in 32-true and scores in bf16-mixed ")
    assert line.count("\n") == 1
