"""Pre-trained networks: fetched only when asked for; the hub is replaced here."""

import urllib.error

import huggingface_hub
import pytest
import timm
import torch
import torchvision

from diffguard.classifiers.build import build_classifier
from diffguard.classifiers.spec import ClassifierSpec
from diffguard.errors import UserError

NAME = "torchvision/shufflenet_v2_x0_5"


@pytest.fixture(scope="module")
def published():
    """What the hub would give."""
    torch.manual_seed(0)
    return torchvision.models.get_model("shufflenet_v2_x0_5").state_dict()


@pytest.fixture
def hub(monkeypatch, published):
    from torchvision.models import WeightsEnum

    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_args, **_kwargs: published)


@pytest.fixture
def no_hub(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise urllib.error.URLError("name\nnot known")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    # Its own client asks again and again: it is not reached.
    monkeypatch.delattr(timm.models._builder, "load_state_dict_from_hf")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_args: None)


def test_published_weights_are_loaded(hub, published):
    result = build_classifier(ClassifierSpec(NAME, 1000), pretrained=True).network.state_dict()
    assert all(torch.equal(result[name], value) for name, value in published.items())


def test_other_classes_get_a_new_last_layer_only_if_it_is_trained(hub, published):
    with pytest.raises(UserError, match=r"has 1000 classes, but the data 4: .* add classifier to"):
        build_classifier(ClassifierSpec(NAME, 4), pretrained=True)
    classifier = build_classifier(ClassifierSpec(NAME, 4), pretrained=True, new_head=True).eval()
    assert classifier(torch.rand(2, 3, 64, 64)).shape == (2, 4)
    result = classifier.network.state_dict()
    assert torch.equal(result["conv5.0.weight"], published["conv5.0.weight"])


@pytest.mark.parametrize("arch", [NAME, "timm/test_resnet"])
def test_a_hub_that_cannot_be_reached_is_one_line(no_hub, arch):
    with pytest.raises(
        UserError, match=f"weights of {arch} are not available .*name not known"
    ) as caught:
        build_classifier(ClassifierSpec(arch, 1000), pretrained=True)
    assert "\n" not in str(caught.value)


def test_weights_in_the_cache_need_no_hub(no_hub, monkeypatch, tmp_path):
    network = timm.create_model("test_resnet")
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda _, file: str(tmp_path / file)
    )
    give = lambda *_args, **_kwargs: network.state_dict()  # noqa: E731
    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", give, raising=False)
    result = build_classifier(ClassifierSpec("timm/test_resnet", 1000), pretrained=True).network
    expected = network.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in result.state_dict().items())


def test_nothing_is_downloaded_by_default(no_hub):
    assert build_classifier(ClassifierSpec(NAME, 4)).num_classes == 4
    assert build_classifier(ClassifierSpec("timm/test_resnet", 4)).num_classes == 4


@pytest.mark.parametrize("arch", ["small_cnn", "openood/ResNet50", "my.Net"])
def test_only_libraries_have_pretrained_weights(arch):
    with pytest.raises(UserError, match=r"give its weights in classifier\.ckpt"):
        build_classifier(ClassifierSpec(arch, 3), pretrained=True)
