"""Specs that were read from a file shape networks and do nothing else."""

import pytest
import torch
from torch import nn

from diffguard.classifiers.build import build_classifier
from diffguard.classifiers.spec import ClassifierSpec
from diffguard.denoisers.build import build_denoiser
from diffguard.denoisers.spec import DiffusionSpec
from diffguard.errors import UserError
from diffguard.storage.arguments import check_values
from diffguard.storage.sizes import trial
from diffguard.storage.trust import _announce, import_class
from tests.helpers.tiny_models import UNET

OUTSIDE = {"pretrained_cfg_overlay": {"url": "file:///etc/hostname"}, "cache_dir": "."}


@pytest.mark.parametrize(
    ("arch", "kwargs"),
    [
        ("timm/resnet18", {"pretrained": True}),
        ("timm/resnet18", OUTSIDE),
        ("timm/resnet18", {"pretrained_cfg": {"file": "/etc/hostname"}}),
        ("timm/resnet18", {"checkpoint_path": "weights"}),
        ("timm/resnet18", {"checkpoint_path": ""}),
        ("timm/resnet18", {"features_only": True}),
        ("timm/resnet18", {"out_indices": [1]}),
        ("timm/resnet18", {"scriptable": True}),
        ("timm/resnet18", {"act_layer": "os.system"}),
        ("timm/resnet18", {"act_layer": "runs/a"}),
        ("timm/resnet18", {"block_args": {"a": 1}}),
        ("timm/resnet18", {"no_such": 1}),
        ("timm/tf_efficientnet_b0_ap", {"cache_dir": "here"}),
        ("torchvision/resnet18", {"weights": "DEFAULT"}),
        ("torchvision/resnet18", {"weights_backbone": "DEFAULT"}),
        ("torchvision/resnet18", {"progress": True}),
        ("torchvision/resnet18", {"width_per_group": float("nan")}),
        ("torchvision/resnet18", {"width_per_group": 10**9}),
        ("torchvision/vit_b_16", {"image_size": 8000}),
        ("openood/ResNet50", {"weights": "DEFAULT"}),
        ("small_cnn", {"width": "a b"}),
        ("torch.nn.Linear", {"in_features": [[[[[[1]]]]]], "out_features": 1}),
        ("diffguard.scores.perceptual.LPIPS", {"weights": "here"}),
    ],
)
def test_arguments_that_reach_outside_the_network_need_consent(arch, kwargs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="cannot be") as caught:
        build_classifier(ClassifierSpec(arch, 3, kwargs))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arch",
    [
        "timm/hf-hub:stranger/model",
        "timm/local-dir:here",
        "timm/../resnet18",
        "torchvision/fcn_resnet50",
        "torchvision/quantized_resnet18",
        "hub/stranger/model",
    ],
)
def test_libraries_build_only_their_own_classifiers(arch):
    with pytest.raises(UserError, match=r"cannot be built|is not known"):
        build_classifier(ClassifierSpec(arch, 3))


@pytest.mark.parametrize(
    ("arch", "kwargs"),
    [
        ("timm/resnet18", {"drop_path_rate": 0.1, "global_pool": "avg", "cardinality": 1}),
        ("timm/vit_tiny_patch16_224", {"img_size": 32, "depth": 2, "class_token": True}),
        ("timm/test_efficientnet", {"drop_rate": 0.1, "bn_eps": 1e-5}),
        ("torchvision/googlenet", {"aux_logits": False, "init_weights": False}),
        ("torchvision/mobilenet_v3_small", {"dropout": 0.1}),
        ("torchvision/vit_b_16", {"image_size": 32}),
        ("openood/ResNet18_32x32", {}),
    ],
)
def test_arguments_of_a_network_are_taken(arch, kwargs):
    with torch.device("meta"):
        assert build_classifier(ClassifierSpec(arch, 3, kwargs)).num_classes == 3


def test_consent_is_given_by_the_whole_name():
    spec = ClassifierSpec("timm/resnet18", 3, {"block_args": {"no_such": 1}})
    for trusted in ("timm/resnet18.a", "timm/resnet", ["timm/resnet"]):
        with pytest.raises(UserError, match=r"say so with --trusted timm/resnet18$"):
            build_classifier(spec, trusted=trusted)
    for trusted in ("timm/resnet18", ["timm/resnet18"]):
        with pytest.raises(UserError, match="unexpected keyword argument 'no_such'"):
            build_classifier(spec, trusted=trusted)
    with pytest.raises(UserError, match="named by a checkpoint"):
        import_class("os.path", "os.path.join")


def test_a_class_of_the_users_is_named_when_its_code_runs(caplog):
    _announce.cache_clear()
    import_class("tests.helpers.stranger.Stranger", "tests.helpers.stranger.Stranger")
    assert "runs the code of class tests.helpers.stranger.Stranger" in caplog.text


@pytest.mark.parametrize(
    "changes",
    [
        {"layers_per_block": 900_000},
        {"block_out_channels": [900_000]},
        {"sample_size": 20_000},
        {"sample_size": 10**9},
        {"act_fn": "a/b"},
        {"down_block_types": ["x.y"]},
    ],
)
def test_diffusion_networks_of_absurd_size_take_no_memory(changes):
    config = {**UNET, "norm_num_groups": 1, **changes}
    with pytest.raises(UserError) as caught:
        build_denoiser(DiffusionSpec("UNet2DModel", config, {}, 8, 1))
    assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit_are_refused_before_memory_is_taken():
    spec = ClassifierSpec("small_cnn", 3, {"width": 3000})
    with pytest.raises(UserError, match="do not fit the classifier"):
        build_classifier(spec, state={"fc.weight": torch.zeros(3, 4)})


def test_a_trial_leaves_random_numbers_and_hooks_as_they_were():
    torch.manual_seed(0)
    expected = nn.Linear(2, 3).weight
    torch.manual_seed(0)
    assert trial(lambda: nn.Sequential(nn.Linear(2, 3), nn.Dropout()), "it")[0].weight.is_meta
    assert torch.equal(nn.Linear(2, 3).weight, expected)
    with pytest.raises(UserError, match="more than 20,000 layers"):
        trial(lambda: nn.ModuleList(nn.Identity() for _ in range(60_000)), "it")
    assert len(nn.ModuleList(nn.Identity() for _ in range(60_000))) == 60_000


def test_config_values_are_accepted_or_refused():
    check_values("it", {"a": 1, "b": None, "c": [True, 0.5, "silu"], "d": "gelu-approximate"})
    for value in ({}, "a b", "../x", "http:x", float("inf"), 10**7, [[[[[["x"]]]]]], ["/"]):
        with pytest.raises(UserError, match="it sets key"):
            check_values("it", {"key": value})
