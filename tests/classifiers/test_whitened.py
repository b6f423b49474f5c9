"""The classifier whose first layer whitens: what the layer computes, and when it is set."""

import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch.nn import functional as F

from diffguard.classifiers.build import build_classifier
from diffguard.classifiers.cam import forward_cam
from diffguard.classifiers.classifier import Classifier
from diffguard.classifiers.spec import ClassifierSpec
from diffguard.classifiers.whitened import WhitenedCNN
from diffguard.training.settings import ClassifierTraining
from lightning_modules.checkpoint_io import last_checkpoint
from lightning_modules.classifier import ClassifierModule
from tests.helpers import tiny_training as tiny

pytestmark = pytest.mark.filterwarnings("ignore:.*exists and is not empty")


def network(channels=3, classes=5, widths=(4, 6, 8)):
    torch.manual_seed(0)
    return WhitenedCNN(classes, channels, widths)


@pytest.mark.parametrize(("channels", "side"), [(1, 9), (3, 32), (3, 40)])
def test_images_become_logits(channels, side):
    model = network(channels).eval()
    assert model(torch.rand(3, channels, side, side)).shape == (3, 5)
    assert model.fc.in_features == 8


def test_whitened_patches_are_uncorrelated_and_of_one_size():
    generator = torch.Generator().manual_seed(0)
    images = 4 * torch.rand(40, 3, 9, 9, generator=generator)
    images[:, 1] = 0.7 * images[:, 0] + 0.3 * images[:, 1]
    model = network()
    model.init_from_images(images)
    seen = F.conv2d(images, model.whiten.weight).transpose(0, 1).flatten(1)
    half = len(seen) // 2
    torch.testing.assert_close(torch.cov(seen[:half]), torch.eye(half), rtol=0, atol=0.05)
    assert torch.equal(seen[:half], -seen[half:])


def test_a_constant_image_gives_finite_logits():
    model = network()
    model.init_from_images(torch.zeros(2, 3, 8, 8))
    assert model.whiten.weight.isfinite().all()


def test_a_config_builds_it():
    spec = ClassifierSpec("whitened_cnn", 4, {"widths": [4, 4, 8]}, channels=1)
    classifier = build_classifier(spec)
    output = classifier.forward_features(torch.rand(2, 1, 32, 32))
    assert (output.logits.shape, output.features.shape) == ((2, 4), (2, 8))
    assert classifier.head is classifier.network.fc
    # Features and last layer give the logits: what ViM assumes.
    torch.testing.assert_close(classifier.head(output.features), output.logits)
    logits, maps = forward_cam(classifier, torch.rand(2, 1, 32, 32))
    assert maps.shape[1:] == (8, 3, 3)
    assert logits.requires_grad


def test_training_sets_the_filters_once_and_leaves_them(tmp_path):
    def run(folder, **options):
        classifier = Classifier(network(1, 3, (4, 8)), 3, channels=1, std=[0.5])
        module = ClassifierModule(classifier, ClassifierTraining(lr=0.01))
        trainer = tiny.trainer(tmp_path / folder, **options)
        resumed = last_checkpoint(tmp_path / folder)
        trainer.fit(module, tiny.train_loader(), tiny.val_loader(), ckpt_path=resumed)
        return trainer

    whole = run("whole")
    first = next(iter(tiny.train_loader()))["image"]
    expected = network(1, 3, (4, 8))
    expected.init_from_images(first / 0.5)
    assert torch.equal(
        whole.lightning_module.classifier.network.whiten.weight, expected.whiten.weight
    )
    with pytest.raises(tiny.CrashError):
        run("parts", callbacks=[tiny.Crash(2)])
    tiny.assert_same_training(whole, run("parts"))


def test_all_processes_begin_with_the_network_of_the_first(tmp_path, monkeypatch):
    first = network(1, 3, (4, 8)).state_dict()
    monkeypatch.setattr(SingleDeviceStrategy, "broadcast", lambda _self, _state: first)
    classifier = Classifier(network(1, 3, (4, 8)), 3, channels=1)
    module = ClassifierModule(classifier, ClassifierTraining(lr=0.01))
    trainer = tiny.trainer(tmp_path, max_steps=1)
    trainer.fit(module, tiny.train_loader(), tiny.val_loader())
    assert torch.equal(module.classifier.network.whiten.weight, first["whiten.weight"])
