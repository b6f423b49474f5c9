"""Weights from the files that training programs leave, and what is wrong with others."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from diffguard.classifiers.build import build_classifier
from diffguard.classifiers.classifier import Classifier
from diffguard.classifiers.small_cnn import SmallCNN
from diffguard.classifiers.spec import ClassifierSpec
from diffguard.classifiers.weights import load_weights
from diffguard.errors import UserError

CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"


def classifier(classes=3, seed=0, network=None):
    torch.manual_seed(seed)
    return Classifier(network or SmallCNN(classes, 3, width=4), classes).eval()


def weights(seed=1, classes=3):
    return classifier(classes, seed).network.state_dict()


def check_loaded(path, into=None):
    into = into or classifier()
    load_weights(into, path, "small_cnn")
    for name, value in into.network.state_dict().items():
        assert torch.equal(value, weights()[name]), name


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".safetensors"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "net.", "backbone._orig_mod."])
def test_every_format_and_prefix_is_loaded(tmp_path, suffix, prefix):
    state = {prefix + name: value for name, value in weights().items()}
    path = tmp_path / f"w{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    check_loaded(path)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"state": {}, "lr": 0.1}},
        lambda state: {"model_state_dict": state, "loss": torch.tensor(0.1)},
        lambda state: {"model": {"state_dict": state}},
    ],
)
def test_state_dict_is_found_in_common_wrappers(tmp_path, wrap):
    torch.save(wrap(weights()), tmp_path / "w.pt")
    check_loaded(tmp_path / "w.pt")


def test_a_lightning_file_with_callbacks_and_metrics_is_loaded(tmp_path):
    from lightning.pytorch.callbacks import ModelCheckpoint

    state = {f"net.{name}": value for name, value in weights().items()}
    state |= {"criterion.weight": torch.ones(3), "val_acc.tp": torch.zeros(3)}
    content = {"state_dict": state, "callbacks": {ModelCheckpoint: {"best": 1.0}}, "epoch": 2}
    torch.save(content, tmp_path / "last.ckpt")
    check_loaded(tmp_path / "last.ckpt")


class Wrapped(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.model = SmallCNN(classes, 3, width=4)

    def forward(self, x):
        return self.model(x)


def test_a_prefix_can_belong_to_the_network(tmp_path):
    state = {f"model.{name}": value for name, value in weights().items()}
    torch.save(state, tmp_path / "w.pt")
    into = classifier(network=Wrapped(3))
    load_weights(into, tmp_path / "w.pt", "my.Wrapped")
    assert torch.equal(into.network.model.fc.weight, weights()["fc.weight"])


def test_counters_of_batch_norm_may_be_absent(tmp_path):
    state = {k: v for k, v in weights().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "w.pt")
    check_loaded(tmp_path / "w.pt")


def twice():
    return {f"{p}.{k}": v for p in ("model", "ema") for k, v in weights().items()}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (lambda: weights(classes=5), "has 5 classes, but the data 3: give class_names all 5"),
        (
            lambda: {k: v for k, v in weights().items() if "stage2" not in k},
            "10 tensors are missing",
        ),
        (lambda: {**weights(), "extra": torch.ones(1)}, r"1 are left over \(extra\)"),
        (lambda: {**weights(), "fc.weight": torch.ones(3, 99)}, "fc.weight has shape"),
        (
            lambda: build_classifier(ClassifierSpec("timm/test_resnet", 3)).network.state_dict(),
            "arch",
        ),
        (twice, "more than once, below 'model.' and 'ema.'"),
    ],
)
def test_tensors_of_another_network_are_refused(tmp_path, state, message):
    torch.save(state(), tmp_path / "w.pt")
    with pytest.raises(UserError, match=message) as caught:
        load_weights(classifier(), tmp_path / "w.pt", "small_cnn")
    assert str(tmp_path / "w.pt") in str(caught.value)
    assert "\n" not in str(caught.value)


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.mark.parametrize(
    "kind", ["truncated", "malicious", "plain pickle", "whole network", "text"]
)
def test_files_that_are_no_weights_are_refused(tmp_path, kind):
    path, marker = tmp_path / "w.pt", tmp_path / "ran"
    torch.save(weights(), path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-300])
    elif kind == "malicious":
        torch.save({**weights(), "x": Malicious(marker)}, path)
    elif kind == "plain pickle":
        path.write_bytes(pickle.dumps({"fc.weight": Malicious(marker)}))
    elif kind == "whole network":
        torch.save(SmallCNN(3), path)
    else:
        path.write_text("hello")
    with pytest.raises(UserError, match=r"was refused|cannot be read") as caught:
        load_weights(classifier(), path, "small_cnn")
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert not marker.exists()
    if kind == "whole network":
        assert "torch.save(model.state_dict(), path)" in str(caught.value)


def test_openoods_checkpoint_gives_its_logits_on_plain_images():
    info = json.loads((CHECKPOINTS / "openood_resnet18_32x32.json").read_text())
    arrays = np.load(CHECKPOINTS / "openood_resnet18_32x32.npz")
    spec = ClassifierSpec("openood/ResNet18_32x32", 10, {"widths": info["stem_and_layer_widths"]})
    classifier = build_classifier(spec).eval()
    load_weights(classifier, CHECKPOINTS / info["checkpoint"], spec.arch)
    pixels = torch.from_numpy(arrays["img_uint8"])
    if pixels.shape[-1] == 3:
        pixels = pixels.permute(0, 3, 1, 2)
    with torch.no_grad():
        output = classifier.forward_features(pixels / 255)
    torch.testing.assert_close(output.logits, torch.from_numpy(arrays["logits"]), atol=1e-4, rtol=0)
    expected = torch.from_numpy(arrays["features"])
    torch.testing.assert_close(output.features, expected, atol=1e-4, rtol=0)
