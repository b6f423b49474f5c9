"""Timing of evaluations, and the parts of a calibration."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffguard.methods.depth import fit_early_stop
from diffguard.methods.fit import check_classifier, fit_calibration
from diffguard.methods.reference import TrainingImages, fit_reference
from diffguard.score_table.timing import Work, append_timing, read_timing, read_work
from diffguard.settings.sections import EarlyStopSettings, InversionSettings, SamplerSettings
from diffguard.storage.files import file_hash
from diffguard_cli import scoring_folder
from diffguard_cli.calibrate import readable_scores
from tests.helpers.table_rows import timing_line
from tests.helpers.tiny_detector import CLASSES, build_detector, small_settings

NAMES = ("diffguard/logits_l1", "diffguard/l2", "msp", "knn")


def write(folder, *lines):
    (folder / "timing.jsonl").write_text("".join(lines))


def test_sessions_add_up_and_processes_overlap(tmp_path):
    ranks = [
        timing_line("a", 0, 10, 2.0, 1.0),
        timing_line("a", 1, 30, 5.0, 0.5),
        timing_line("b", 0, 40, 1.0, 0.25),
    ]
    write(tmp_path, *(f"{line}\n" for line in ranks))
    timing = read_timing(tmp_path)
    assert (timing["images"], timing["seconds"]) == (80, 6.0)
    assert timing["fill"] == pytest.approx((10 + 15 + 10) / 80)


@pytest.mark.parametrize("length", [1, 20, -1])
def test_an_incomplete_line_is_ignored(tmp_path, length):
    whole = timing_line("a", images=7)
    write(tmp_path, f"{whole}\n", timing_line("b")[:length])
    assert read_timing(tmp_path) == {"images": 7, "seconds": 2.0, "fill": 1.0}
    # The next session appends to the incomplete line.
    write(
        tmp_path,
        f"{whole}\n",
        timing_line("b")[:length],
        timing_line("c", images=5) + "\n",
        whole + "\n",
    )
    assert read_timing(tmp_path)["images"] == 7 + 5 + 7


def test_work_is_read_back(tmp_path):
    work = [
        Work("classifier", ["msp", "diffguard/l2"], 10, 0.5, 10.0),
        Work("msp", ["msp"], 0, 0.1),
    ]
    timing = json.loads(timing_line("a"))
    append_timing(tmp_path, timing, work)
    append_timing(tmp_path, timing)
    assert read_work(tmp_path) == work
    assert read_timing(tmp_path)["images"] == 20
    write(tmp_path, timing_line("a") + "\n")  # of an earlier version
    assert read_work(tmp_path) == []


def test_no_timing_means_no_images(tmp_path):
    assert read_timing(tmp_path) == {"images": 0, "seconds": 0, "fill": 1.0}
    write(tmp_path, timing_line("a", images=0) + "\n")
    assert read_timing(tmp_path)["fill"] == 1.0


def test_file_hash_depends_on_the_content(tmp_path):
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / name).write_bytes(content)
    first, same, other = (file_hash(tmp_path / name) for name in "abc")
    assert first == same != other
    assert first == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"


def table(count):
    """The part of a score table that calibration reads."""

    class Table(SimpleNamespace):
        def __len__(self):
            return count

    rng = np.random.default_rng(0)
    scores = {name: rng.normal(size=count) for name in NAMES}
    return Table(scores=scores, valid=np.ones(count, dtype=bool))


def test_warning_about_few_images_states_the_accuracy_of_the_threshold():
    lines = []
    calibration = fit_calibration(readable_scores(table(199)), small_settings(), lines.append)
    low, high = calibration.accept_interval(0.95)
    assert len(lines) == 1
    assert lines[0].startswith("warning: with only 199 ID validation images")
    assert f"{low:.0%} to {high:.0%}" in lines[0]
    assert "of new ID images (95% interval) instead of 95%" in lines[0]
    assert len(calibration.scores["fusion"]) == 199


def test_unreadable_images_are_left_out_of_the_calibration():
    with_gap = table(12)
    with_gap.valid[3] = False
    for values in with_gap.scores.values():
        values[3] = np.nan
    calibration = fit_calibration(readable_scores(with_gap), small_settings(), lambda _: None)
    assert len(calibration.scores["diffguard"]) == 11
    assert all(torch.isfinite(values).all() for values in calibration.scores.values())


def test_enough_images_give_no_warning():
    lines = []
    fit_calibration(readable_scores(table(200)), small_settings(), lines.append)
    assert lines == []


def batches(count=20, size=4, torn=()):
    """Batches of grayscale images; an unreadable image is black and has an error."""
    images = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images[list(torn)] = 0
    for begin in range(0, count, size):
        rows = range(begin, min(begin + size, count))
        yield {
            "image": images[begin : begin + size],
            "label": torch.tensor([row % CLASSES for row in rows]),
            "error": ["torn" if row in torn else "" for row in rows],
        }


def test_the_reference_has_all_readable_images(detector):
    torn = (4, 5, 6, 7, 9)
    training = TrainingImages(lambda: 20, lambda _: batches(torn=torn))
    reference = fit_reference(detector.models, training, 8)
    whole = [row for row in range(20) if row not in torn]
    assert reference.labels.tolist() == [row % CLASSES for row in whole]
    images = torch.cat([batch["image"] for batch in batches()])[whole]
    with torch.no_grad():
        expected = detector.classifier.forward_features(images).features
    torch.testing.assert_close(reference.features, expected)
    assert reference.share == 1.0


def test_the_classifier_is_checked_on_readable_images(detector):
    lines = []
    check_classifier(detector.models, batches(torn=(3,)), 8, lines.append)
    assert not lines or "of 19 ID validation images" in lines[0]


@pytest.mark.parametrize(("baselines", "needed"), [([], False), (["msp"], False), (["knn"], True)])
def test_only_feature_baselines_need_a_reference(baselines, needed):
    settings = small_settings(baselines=baselines, fused=[], decision="diffguard")
    assert settings.needs_reference == needed


def early_stop(**changes):
    stop = EarlyStopSettings(thresholds={"psnr": 0.0, "ssim": 0.0}, **changes)
    settings = small_settings(early_stop=stop, inversion=InversionSettings(depth=1.0))
    return build_detector(settings, calibrated=False)


def test_thresholds_are_unchanged_without_a_mean_depth():
    assert fit_early_stop(early_stop().models, None, 8) == {}


@pytest.mark.parametrize("condition", ["null", "label", "guided"])
def test_thresholds_give_the_mean_depth_of_the_configured_inversion(condition):
    inversion = InversionSettings(
        depth=1.0, condition=condition, scale=4.0 if condition == "guided" else 1.0
    )
    settings = small_settings(
        sampler=SamplerSettings(steps=20),
        inversion=inversion,
        early_stop=EarlyStopSettings({"psnr": None, "ssim": None}, mean_depth=0.5),
    )
    detector = build_detector(settings, calibrated=False)
    torn = (3, 11, 30)
    thresholds = fit_early_stop(detector.models, batches(32, 8, torn), 8)
    settings.early_stop.thresholds.update(thresholds)
    images = torch.cat([batch["image"] for batch in batches(32, 8)])
    whole = [row for row in range(32) if row not in torn]
    scored = detector.score_images(images[whole])
    assert np.mean([image.row.stop_step for image in scored]) == pytest.approx(10, abs=0.5)


def test_thresholds_decrease_with_the_mean_depth():
    fits = [
        fit_early_stop(early_stop(mean_depth=d).models, batches(16, 8), 8) for d in (0.3, 0.6, 0.9)
    ]
    assert all(list(thresholds) == ["psnr", "ssim"] for thresholds in fits)
    for name in ("psnr", "ssim"):
        shallow, middle, deep = (thresholds[name] for thresholds in fits)
        assert shallow > middle > deep


def test_a_manifest_of_an_earlier_version_gets_the_present_keys():
    manifest = {"batch_size": 16, "batch_size_asked": "auto", "settings": None}
    assert scoring_folder._upgraded(manifest, 3) == {
        "batch_size": 16,
        "batch_size_setting": "auto",
        "settings": None,
    }


@pytest.mark.parametrize(
    ("settings", "classes", "expected"),
    [({}, 1000, 1000), ({}, 6, 100), ({"gen_classes": 100}, 1000, 100)],
)
def test_gen_in_a_folder_of_an_earlier_version_averaged_over_all_classes(
    settings, classes, expected
):
    manifest = scoring_folder._upgraded({"settings": settings}, classes)
    assert manifest["settings"]["gen_classes"] == expected
