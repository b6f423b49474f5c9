"""The detector of an evaluation."""

import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest

from diffguard import Detector
from diffguard.checkpoint.file import read_checkpoint
from diffguard.scores.reconstruction import ReconstructionQuality
from diffguard.settings.plain import to_dict
from diffguard.training.trainer_config import TrainerConfig
from diffguard_cli.evaluation_detector import load_detector
from tests.helpers.saved_detector import CLASSIFIER, CONFIG, DIFFUSION, build


def test_a_fallback_to_the_baselines_is_reported(tmp_path, capsys):
    detector, path = build(), tmp_path / "detector.ckpt"
    detector.calibration.quality = ReconstructionQuality(64, label_kept=0.4, resemblance=0.95)
    detector.save(path, CLASSIFIER, DIFFUSION, CONFIG)

    def load(decision):
        """Load the checkpoint by the command, and return the decision and what it prints."""
        settings = replace(detector.settings, decision=decision)
        arguments = SimpleNamespace(
            ckpt=str(path), detector=settings, seed=None, trusted=[], diffusion_model=None,
            trainer=TrainerConfig(),
        )  # fmt: skip
        loaded, differences = load_detector(read_checkpoint(path), arguments)
        assert not differences
        return loaded.decision, capsys.readouterr().err

    figures = "40% keep their predicted class in the reconstruction .* in 95% of all pairs"
    decision, line = load("auto")
    assert decision == "fusion_baselines"
    with pytest.warns(UserWarning, match=f"{figures} .* decides by fusion_baselines") as warned:
        Detector.load(path, settings=to_dict(replace(detector.settings, decision="auto")))
    assert line == f"warning: {warned[0].message}\n"
    assert load("fusion") == ("fusion", "")
    with warnings.catch_warnings(action="error"):
        Detector.load(path)
