"""Data and classifier are checked before training."""

from types import SimpleNamespace

import pytest

from datamodules.config import DataConfig, IDSets
from datamodules.ood import OODDataModule
from diffguard.errors import UserError
from diffguard.settings.detector import DetectorSettings
from diffguard_cli.checks import check_data, check_untrained, report_assumptions
from diffguard_cli.config import ClassifierConfig
from tests.helpers.tiny_project import write_data


@pytest.fixture
def project(tmp_path):
    root = write_data(tmp_path)
    lines = []

    def run(id=None, **options):
        data = OODDataModule(
            DataConfig(
                id or IDSets("folder:train", "folder:validation"),
                root=str(root),
                image_size=8,
                **options,
            )
        )
        return SimpleNamespace(data=data, say=lines.append)

    return SimpleNamespace(root=root, run=run, lines=lines)


def write_list(root, name, labels):
    lines = [f"train/dots/{i:03}.png {label}\n" for i, label in enumerate(labels)]
    (root / name).write_text("".join(lines))
    return f"imglist:{name}@"


def settings(*baselines, **options):
    return DetectorSettings(baselines=list(baselines), fused=[], decision="diffguard", **options)


def test_valid_data_print_nothing(project):
    check_data(project.run(), settings("msp", "mahalanobis", "she"))
    check_data(project.run(), None)
    assert project.lines == []


def test_error_of_a_label_beyond_the_classes_names_the_source(project):
    train = write_list(project.root, "train.txt", [0, 1, 2])
    validation = write_list(project.root, "validation.txt", [0, 1, 3])
    with pytest.raises(UserError, match=r"data\.id\.validation \(imglist:validation.* label 3"):
        check_data(project.run(IDSets(train, validation)), None)


def test_classes_without_images_are_reported(project):
    run = project.run(class_names=["dots", "left", "right", "round"])
    check_data(run, settings("msp", "knn", knn_k=36))
    assert "1 of 4 classes have no ID train images: round" in project.lines[0]
    assert "validation images" in project.lines[1]
    with pytest.raises(UserError, match=r"mahalanobis need .* 1 of 4 classes have none \(round\)"):
        check_data(run, settings("mahalanobis"))
    with pytest.raises(UserError, match="knn_k is 37, but there are only 36 ID training images"):
        check_data(run, settings("msp", "knn", knn_k=37))
    with pytest.raises(UserError, match=r"raise detector\.reference_images"):
        check_data(project.run(), settings("she", reference_images=2))


def test_a_single_class_is_refused(project):
    train = write_list(project.root, "train.txt", [0, 0])
    with pytest.raises(UserError, match="have one class"):
        check_data(project.run(IDSets(train)), None)


def test_an_unsuitable_architecture_is_refused(project):
    run, config = project.run(), ClassifierConfig(kwargs={"width": 4})
    check_untrained(run, config, settings("vim"))
    check_untrained(run, config, None)
    with pytest.raises(UserError, match=r"vim_dim is 9999"):
        check_untrained(run, config, settings("vim", vim_dim=9999))
    config = ClassifierConfig(
        arch="timm/vit_tiny_patch16_224", kwargs={"depth": 1}, size=[64, 64], channels=3
    )
    with pytest.raises(UserError, match=r"fails on images of 64 × 64"):
        check_untrained(run, config, settings("msp"))


def test_assumptions_are_printed(project):
    report_assumptions(project.run(), ClassifierConfig(arch="my.Net"))
    report_assumptions(project.run(), ClassifierConfig())
    assert len(project.lines) == 1
    assert "no normalization is published for my.Net" in project.lines[0]
