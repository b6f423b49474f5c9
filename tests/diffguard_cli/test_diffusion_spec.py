"""A diffusion network that does not take the images is refused before training."""

from types import SimpleNamespace

import pytest

import train
from diffguard.errors import UserError
from diffguard_cli.config import DiffusionConfig
from diffguard_cli.diffusion_spec import check_network
from tests.helpers.tiny_project import tiny_config, write_config

KWARGS = {
    **tiny_config("")["diffusion"]["kwargs"],
    "block_out_channels": [8, 8],
    "down_block_types": ["DownBlock2D"] * 2,
    "up_block_types": ["UpBlock2D"] * 2,
}
DIT = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8, "patch_size": 2}


def check(kwargs, size=8, channels=1, **changes):
    names = ["a", "b", "c"]
    data = SimpleNamespace(image_size=size, channels=channels, num_classes=3, class_names=names)
    check_network(DiffusionConfig(kwargs=kwargs, **changes), data)


def test_networks_that_take_the_images_pass():
    check(KWARGS)
    check(KWARGS | {"sample_size": 16}, size=11)
    check(KWARGS | {"out_channels": 6}, channels=3)
    check(DIT, network="DiTTransformer2DModel")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"sample_size": 7}, "a side of 7: expected a multiple of 2"),
        ({"sample_size": 0}, "sample_size must be a whole number of at least 1, got 0"),
        ({"sample_size": -1}, "sample_size must be a whole number of at least 1, got -1"),
        ({"sample_size": [8, 8]}, "sample_size must be a whole number"),
        ({"in_channels": 2}, "the diffusion model takes 2 channels"),
        ({"in_channels": 3}, "takes 3 channels and returns 1, expected 3"),
        ({"norm_num_groups": 3}, "cannot be built"),
        ({"block_out_channels": []}, "cannot be built"),
    ],
)
def test_networks_that_do_not_are_refused_in_one_line(kwargs, message):
    with pytest.raises(UserError, match=message) as caught:
        check(KWARGS | kwargs)
    assert "\n" not in str(caught.value)


def test_a_patch_must_divide_the_side():
    with pytest.raises(UserError, match=r"a side of 7|patch_size must divide"):
        check(DIT, size=7, network="DiTTransformer2DModel")


def test_the_network_is_checked_before_the_classifier_is_trained(tmp_path, data_root, monkeypatch):
    monkeypatch.setattr("diffguard_cli.stages.train_classifier", None)
    kwargs = {"kwargs": KWARGS | {"sample_size": 7}}
    config = write_config(tmp_path / "tiny.yaml", data_root, diffusion=kwargs)
    with pytest.raises(UserError, match="a side of 7"):
        train.main(["--config", str(config), "--run_dir", str(tmp_path / "run")])
