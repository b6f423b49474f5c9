"""The CIFAR-10 configs: sets, limits and sizes of the networks."""

from pathlib import Path

import pytest
import yaml

import train
from datamodules.ood import OODDataModule
from diffguard.classifiers.build import build_classifier
from diffguard.denoisers.build import build_denoiser
from diffguard_cli import stages
from diffguard_cli.diffusion_spec import diffusion_spec
from diffguard_cli.parser import parse

CONFIGS = Path(__file__).parents[2] / "configs"


def parsed(*overlays):
    argv = [word for name in ("cifar10", *overlays) for word in ("--config", name)]
    argv = [word if word.startswith("--") else str(CONFIGS / f"{word}.yaml") for word in argv]
    parser = train.build_parser()
    config = parser.instantiate(parse(parser, argv))
    config.data = OODDataModule(config.data)
    return config


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def test_the_sets_are_openoods():
    data = parsed().data
    sets = data.sets
    assert sets.name == "cifar10"
    lists = {"train": sets.id.train, "val": sets.id.validation, "test": sets.id.test}
    for part, source in lists.items():
        assert source == f"imglist:benchmark_imglist/cifar10/{part}_cifar10.txt@images_classic"
    assert list(sets.ood.near) == ["cifar100", "tin"]
    assert list(sets.ood.far) == ["mnist", "svhn", "texture", "places365"]
    for name, source in {**sets.ood.near, **sets.ood.far}.items():
        assert source == f"imglist:benchmark_imglist/cifar10/test_{name}.txt@images_classic"
    assert list(sets.ood_validation) == ["val_tin"]
    assert data.num_classes == 10


@pytest.mark.parametrize(
    ("overlay", "limit", "near"),
    [
        ([], 1000, "imglist"),
        (["cifar10_full"], None, "imglist"),
        (["cifar10_cpu"], 1000, "imglist"),
        (["cifar10_torchvision"], 1000, "torchvision"),
    ],
)
def test_overlays_change_only_their_keys(overlay, limit, near):
    data = parsed(*overlay).data
    assert data.config.limit == limit
    assert data.sets.ood.near["cifar100"].startswith(near)
    assert data.config.in_memory


def test_networks_have_the_documented_sizes():
    config = parsed()
    spec = stages.classifier_spec(config.classifier, config.data)
    assert parameters(build_classifier(spec).network) == 11_173_962  # OpenOOD's ResNet-18
    assert config.classifier.label_smoothing == 0
    diffusion = diffusion_spec(config.diffusion, config.data)
    assert parameters(build_denoiser(diffusion).network) < 10_000_000
    assert 0.1 <= config.diffusion.label_dropout <= 0.2
    for stage in (config.classifier, config.diffusion):
        assert (stage.precision, stage.compiled, stage.channels_last) == ("bf16-mixed", True, True)


def test_the_cpu_overlay_is_small_and_needs_no_gpu():
    config = parsed("cifar10_cpu")
    spec = stages.classifier_spec(config.classifier, config.data)
    classifier = build_classifier(spec)
    assert parameters(classifier.network) < 2_100_000
    # Images keep their resolution: a position of a state contains 2×2 pixels.
    diffusion = build_denoiser(diffusion_spec(config.diffusion, config.data))
    assert (diffusion.patch, diffusion.state_size, diffusion.pixel_size) == (2, 16, 32)
    # In bfloat16 both fit into 20 MB.
    assert 2 * parameters(classifier.network) + 2 * parameters(diffusion) < 20e6
    for stage in (config.classifier, config.diffusion):
        assert (stage.precision, stage.compiled) == ("32-true", False)
    assert config.trainer.accelerator == "cpu"


def test_configs_on_the_page_exist():
    page = (CONFIGS.parent / "docs" / "cifar10.md").read_text()
    shipped = {path.name for path in CONFIGS.glob("cifar10[._]*.yaml")}
    assert all(f"configs/{name}" in page for name in shipped)
    config = yaml.safe_load((CONFIGS / "cifar10.yaml").read_text())
    for stage in ("classifier", "diffusion"):
        assert f"{config[stage]['max_epochs']} epochs" in page
