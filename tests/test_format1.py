"""A detector.ckpt of the first release still loads and gives the same scores."""

import re

import pytest
import torch

from diffguard.checkpoint.file import read_checkpoint
from diffguard.detector import Detector
from diffguard.settings.plain import with_guidance
from tests.helpers.format1 import FOLDER, NOISY, fixed_images, results


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("format1_free", "stored"),
        ("format1_classifier", "stored"),
        ("format1_classifier", "noisy"),
    ],
)
def test_an_old_checkpoint_gives_the_same_results(name, variant):
    path = FOLDER / f"{name}.ckpt"
    settings = None
    if variant == "noisy":
        settings = with_guidance(read_checkpoint(path)["settings"], "classifier", NOISY)
    detector, images = Detector.load(path, settings=settings), fixed_images()
    recorded = results(name)[variant]
    # Other processors and versions of PyTorch sum in another order: the scores can only be the
    # recorded bits if the version and the classifier's outputs are.
    logits = detector.models.classify(images, 8).logits
    version = read_checkpoint(path)["libraries"]["torch"]
    exact = torch.__version__.split("+")[0] == version.split("+")[0]
    exact = exact and torch.equal(logits, torch.tensor(recorded["logits"]))
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-4, "atol": 1e-5}

    rows = [image.row for image in detector.score_images(images, batch_size=8)]
    for field in ("prediction", "stop_step", "network_passes"):
        assert [getattr(row, field) for row in rows] == [row[field] for row in recorded["rows"]]
    names = {
        re.sub(r"\bssim$", "ssim_reflect", name): name for name in recorded["rows"][0]["scores"]
    }
    assert list(rows[0].scores) == list(names)
    for row, expected in zip(rows, recorded["rows"], strict=True):
        assert row.probability == pytest.approx(expected["probability"], rel=1e-6)
        for score, before in names.items():
            value = expected["scores"][before]
            torch.testing.assert_close(row.scores[score], value, **tolerance, msg=score)
    verdicts = detector.predict(images, batch_size=8)
    assert verdicts.percentile.tolist() == recorded["percentile"]
    assert verdicts.p_value.tolist() == recorded["p_value"]
    assert verdicts.is_ood.tolist() == recorded["is_ood"]


def test_renamed_distances_keep_their_meaning(tmp_path):
    content = read_checkpoint(FOLDER / "format1_free.ckpt")
    assert content["version"] == 4
    assert content["settings"]["distances"] == ["logits_l1", "feature_cosine", "l2", "ssim_reflect"]
    assert content["settings"]["distance"] == ["feature_cosine", "unguided/ssim_reflect"]
    assert list(content["settings"]["early_stop"]["thresholds"]) == ["psnr", "ssim_reflect"]
    assert content["config"]["detector"]["unguided"] == ["ssim_reflect", "l2"]
    assert {"diffguard/ssim_reflect", "diffguard/unguided/ssim_reflect"} <= set(
        content["calibration"]["scores"]
    )
    # In a current file, `ssim` keeps its meaning.
    content["settings"]["distances"].append("ssim")
    torch.save(content, tmp_path / "today.ckpt")
    assert read_checkpoint(tmp_path / "today.ckpt")["settings"] == content["settings"]
