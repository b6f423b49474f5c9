"""The network that is rebuilt from a spec is the one that a library builds with its weights."""

import pytest
import timm
import torch
import torchvision
from torchvision.models import WeightsEnum

from diffguard.classifiers.build import build_classifier, library_builder
from diffguard.classifiers.library import timm_model
from diffguard.classifiers.preprocessing import assumptions, published_preprocessing
from diffguard.classifiers.spec import ClassifierSpec, resolve_spec
from diffguard.classifiers.weights import load_weights
from diffguard.errors import UserError
from diffguard.storage.rebuilding import WithoutWeights, first_difference
from diffguard.storage.sizes import trial

CLASSIFIERS = torchvision.models.list_models(module=torchvision.models)


def parameters(model):
    return min(w.meta["num_params"] for w in torchvision.models.get_model_weights(model))


# The smallest network of each file of torchvision; the others are built by the same code.
SMALLEST = {
    torchvision.models.get_model_builder(model).__module__: model
    for model in sorted(CLASSIFIERS, key=parameters, reverse=True)
}


@pytest.fixture
def no_values(monkeypatch):
    """Published weights without values: what is loaded is not looked at."""
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_args, **_kwargs: {})
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda *_args, **_kwargs: None)


@pytest.mark.parametrize("model", CLASSIFIERS)
@pytest.mark.filterwarnings("ignore")
def test_networks_of_torchvision_are_rebuilt_to_fit_their_weights(model, no_values):
    seen = []
    for weights in torchvision.models.get_model_weights(model):
        spec = ClassifierSpec(
            f"torchvision/{model}.{weights.name}", len(weights.meta["categories"] or range(1000))
        )
        result = resolve_spec(spec)
        assert result.size == [weights.transforms().crop_size[0]] * 2
        assert result.size[0] == result.kwargs.get("image_size", result.size[0])
        assert resolve_spec(result) == result
        if result.kwargs in seen or not (result.kwargs or model in SMALLEST.values()):
            continue
        seen.append(result.kwargs)
        with WithoutWeights():
            expected = torchvision.models.get_model(model, weights=weights)
        rebuilt = trial(library_builder(result), model)
        assert first_difference(rebuilt, expected) is None


@pytest.mark.parametrize("classes", [5, 1000])
@pytest.mark.parametrize("model", ["googlenet", "inception_v3", "vit_b_16.IMAGENET1K_SWAG_E2E_V1"])
@pytest.mark.filterwarnings("ignore")
def test_a_pretrained_network_is_the_rebuilt_one(model, classes, no_values):
    spec = resolve_spec(ClassifierSpec(f"torchvision/{model}", classes))
    with WithoutWeights():
        pretrained = build_classifier(spec, pretrained=True, new_head=True)
        rebuilt = build_classifier(spec, resolved=True)
    assert first_difference(pretrained.network, rebuilt.network) is None


SAMPLE = ["test_vit", "test_resnet", "test_efficientnet", "vit_tiny_patch16_224", "resnetv2_50"]


@pytest.mark.parametrize("name", [*SAMPLE, "tf_efficientnet_b0_ns", "vit_base_patch16_384"])
@pytest.mark.filterwarnings("ignore")
def test_networks_of_timm_are_rebuilt_to_fit_their_weights(name, monkeypatch):
    monkeypatch.setattr(timm.models._builder, "load_pretrained", lambda *_args, **_kwargs: None)
    monkeypatch.setattr("diffguard.classifiers.pretrained._ask_hub", lambda *_args: None)
    spec = ClassifierSpec(f"timm/{name}", 1000)
    classes = timm.get_pretrained_cfg(timm_model(name)).num_classes
    spec = resolve_spec(ClassifierSpec(f"timm/{name}", classes))
    with WithoutWeights():
        expected = timm.create_model(name, pretrained=True)
        pretrained = build_classifier(spec, pretrained=True)
        rebuilt = build_classifier(spec, resolved=True)
    assert first_difference(pretrained.network, expected) is None
    assert first_difference(rebuilt.network, expected) is None
    assert spec.size == list(expected.pretrained_cfg["input_size"][1:])


def test_weights_without_a_last_layer_are_refused():
    spec = ClassifierSpec("torchvision/vgg16.IMAGENET1K_FEATURES", 1000)
    with pytest.raises(UserError, match="IMAGENET1K_FEATURES have no last layer"):
        build_classifier(spec, pretrained=True)


def test_a_difference_is_detected():
    def network(**changes):
        kwargs = {"weights": None, "init_weights": False, "aux_logits": False, **changes}
        with WithoutWeights():
            return torchvision.models.googlenet(**kwargs)

    assert first_difference(network(), network()) is None
    assert first_difference(network(), network(transform_input=True)) == "transform_input"
    assert first_difference(network(), network(num_classes=3)) == "fc.bias"
    assert first_difference(network(), network(aux_logits=True)).startswith("aux")


def test_a_library_that_adds_an_argument_of_its_own_is_refused(monkeypatch, no_values):
    plain = torchvision.models.get_model

    def surprising(name, *, weights=None, **kwargs):
        network = plain(name, weights=weights, **kwargs)
        if weights is not None:
            network.maxpool.padding = 0
        return network

    monkeypatch.setattr(torchvision.models, "get_model", surprising)
    with pytest.raises(UserError, match=r"differs in maxpool\.padding from one that is built"):
        build_classifier(ClassifierSpec("torchvision/resnet18", 1000), pretrained=True)


def test_the_file_may_hold_heads_of_training(tmp_path):
    kwargs = {"init_weights": False, "aux_logits": True}
    torch.save(
        torchvision.models.googlenet(num_classes=3, **kwargs).state_dict(), tmp_path / "g.pt"
    )
    classifier = build_classifier(
        ClassifierSpec("torchvision/googlenet", 3, {"init_weights": False})
    )
    load_weights(classifier, tmp_path / "g.pt", "torchvision/googlenet")
    assert classifier.network.transform_input
    assert classifier.network.aux1 is None


@pytest.mark.parametrize("old", sorted(timm.models.get_deprecated_models()))
def test_old_names_of_timm_mean_the_new_ones(old):
    new = timm.models.get_deprecated_models()[old]
    try:
        expected = timm.get_pretrained_cfg(new)
    except RuntimeError:  # timm maps it to a tag that it has removed
        with pytest.raises(UserError, match=f"classifier timm/{old} cannot be built"):
            published_preprocessing(f"timm/{old}", {}, 1000, 3)
        return
    assert expected is not None
    result = published_preprocessing(f"timm/{old}", {}, 1000, 3)
    assert result == published_preprocessing(f"timm/{new}", {}, 1000, 3)
    assert result.size == expected.input_size[1:]


@pytest.mark.parametrize(
    "arch",
    [
        "torchvision/fcn_resnet50",
        "torchvision/quantized_resnet50",
        "torchvision/raft_small",
        "timm/hf-hub:timm/resnet18.a1_in1k",
        "timm/local-dir:/tmp",
        "timm/no_such",
    ],
)
@pytest.mark.parametrize("resolved", [False, True])
def test_networks_outside_the_library_are_refused(arch, resolved):
    with pytest.raises(
        UserError, match=r"no classifier of that name|unknown model|is not the name of a model"
    ):
        build_classifier(ClassifierSpec(arch, 1000), resolved=resolved)


def test_assumptions_are_one_line():
    assert assumptions("torchvision/resnet18", 7, 3, None) is None
    assert assumptions("timm/test_resnet", 7, 3, None) is None
    assert assumptions("openood/ResNet18_32x32", 10, 3, None) is None
    assert assumptions("small_cnn", 7, 1, None) is None
    assert "3 channels: with 1" in assumptions("timm/test_resnet", 7, 1, None)
    for arch in ("my.Net", "openood/ResNet18_32x32"):
        assert f"no normalization is published for {arch}" in assumptions(arch, 7, 3, None)
        assert assumptions(arch, 7, 3, [0.5]) is None
