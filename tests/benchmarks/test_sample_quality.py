"""Figures of a model card: distances in a classifier's features, and the sheet."""

import json
import shutil

import pytest
import torch
from PIL import Image

from benchmarks import sample_quality
from diffguard.detector import Detector
from diffguard.errors import UserError
from tests.helpers.tiny_models import tiny_classifier

pytestmark = pytest.mark.filterwarnings("ignore:Metric `.*Distance` will save:UserWarning")


def batches(images):
    labels = torch.zeros(len(images), dtype=torch.int64)
    return iter(list(zip(images.split(20), labels.split(20), strict=True)))


def test_distances_grow_with_the_difference_of_the_sets():
    classifier = tiny_classifier(3, channels=1, seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    real, other = torch.rand(2, 80, 1, 8, 8, generator=generator)
    comparison = sample_quality.Comparison(classifier, batches(real), 60)
    same = comparison.compare(batches(real))
    assert same["images"] == 80
    assert same["fid"] == pytest.approx(0.0, abs=1e-3)
    alike, dark = comparison.compare(batches(other)), comparison.compare(batches(0.1 * real))
    assert same["fid"] < alike["fid"] < dark["fid"]
    assert alike["kid"] < dark["kid"]
    assert comparison.compare(batches(other)) == alike
    share = float((classifier(other).argmax(1) == 0).float().mean())
    assert alike["classified_as_labeled"] == pytest.approx(share)


def test_samples_are_balanced_over_the_classes_and_reproducible(detector):
    how = {"steps": 4, "scale": 1.5, "seed": 1}
    drawn = list(sample_quality.sampled_images(detector, 12, 5, **how))
    assert [len(labels) for _, labels in drawn] == [5, 5, 2]
    assert torch.cat([labels for _, labels in drawn]).bincount().tolist() == [4, 4, 4]
    again = list(sample_quality.sampled_images(detector, 12, 5, **how))
    for (first, _), (second, _) in zip(drawn, again, strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(drawn[0][0], drawn[1][0])


def test_the_command_writes_figures_and_a_sheet(run_folder, data_root, tmp_path, capsys):
    # A model may be chosen by these figures, so test images must not be read.
    for part in ("train", "validation"):
        shutil.copytree(data_root / part, tmp_path / "data" / part)
    options = ["--root", str(tmp_path / "data")]
    options += ["--samples", "12", "--steps", "4", "--batch_size", "6", "--device", "cpu"]
    ckpt = str(run_folder / "detector.ckpt")
    assert sample_quality.main([ckpt, *options, "--output", str(tmp_path)]) == 0
    figures = json.loads((tmp_path / "quality.json").read_text())
    assert figures["samples"]["images"] == figures["training images"]["images"] == 12
    assert figures["training images"]["fid"] < figures["samples"]["fid"]
    assert figures["how"]["steps"] == 4
    assert "| 12 samples |" in capsys.readouterr().out
    with Image.open(tmp_path / "samples.png") as sheet:
        assert min(sheet.size) > 100


def test_a_model_without_classes_is_refused(run_folder, monkeypatch):
    load = Detector.from_checkpoint

    def unconditional(content):
        detector = load(content)
        detector.denoiser.num_classes = None
        return detector

    monkeypatch.setattr(Detector, "from_checkpoint", unconditional)
    with pytest.raises(UserError, match="has no classes"):
        sample_quality.main([str(run_folder / "detector.ckpt"), "--device", "cpu"])
