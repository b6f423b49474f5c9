"""The configs of latent diffusion models run with tiny models of the same family."""

import pytest
import torch
import yaml

import train
from diffguard.checkpoint.file import read_checkpoint
from diffguard.classifiers.small_cnn import SmallCNN
from diffguard.denoisers.formats.prompts import encode_prompts
from diffguard.detector import Detector
from diffguard_cli.shipped_configs import shipped_configs
from tests.helpers.every_source import SOURCES, write_every_source
from tests.helpers.read_sets import recorded_sets
from tests.helpers.tiny_configs import RESET, merge, shrink
from tests.helpers.tiny_project import CLASSES, tiny_config, write_data, write_images

# Each config with the ones below it, the family of its diffusion model, and the model's network.
FAMILIES = {
    "imagenet": (["imagenet"], "latent_dit_kl", "DiTTransformer2DModel"),
    "paper_ldm": (["imagenet", "paper_ldm"], "latent_context_vq", "UNet2DConditionModel"),
    "stable_diffusion": (
        ["your_classifier", "stable_diffusion"],
        "stable_diffusion",
        "UNet2DConditionModel",
    ),
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """ID images, and OOD sets of every kind."""
    write_data(tmp_path / "data")
    write_every_source(tmp_path / "data", monkeypatch)
    write_images(tmp_path / "data" / "choice", 4, "noise", 77)
    return tmp_path / "data"


def detector_section(paths):
    """The detector section of configs, a later one on top, for tiny networks."""
    section = {}
    for path in paths:
        section = merge(section, yaml.safe_load(path.read_text(encoding="utf-8"))["detector"])
    return merge(section, shrink(section))


def tiny_argv(paths, root, model, folder):
    """Arguments that combine configs with tiny data and networks."""
    base = tiny_config(root)
    near, *far = SOURCES
    data = {
        **base["data"],
        **RESET["data"],
        "image_size": 16,
        "channels": 3,
        "ood": {"near": {near: SOURCES[near]}, "far": {name: SOURCES[name] for name in far}},
        "ood_validation": {"choice": "folder:choice"},
    }
    above = {
        "data": data,
        "classifier": {
            **RESET["classifier"],
            "kwargs": {"width": 4},
            "ckpt": str(folder / "classifier.pt"),
        },
        "diffusion": {"ckpt": str(model)},
        "detector": detector_section(paths),
        "trainer": base["trainer"],
    }
    torch.manual_seed(0)
    torch.save(SmallCNN(len(CLASSES), 3, width=4).state_dict(), folder / "classifier.pt")
    (folder / "above.yaml").write_text(yaml.safe_dump(above))
    return [word for path in (*paths, folder / "above.yaml") for word in ("--config", str(path))]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_config_of_a_latent_model_is_calibrated_and_scores(
    name, root, models, tmp_path, monkeypatch
):
    configs, family, network = FAMILIES[name]
    paths = [shipped_configs()[config] for config in configs]
    run, model = tmp_path / "run", models(family)
    with monkeypatch.context() as patch:
        sets = recorded_sets(patch, root, ("folder:test", *SOURCES.values()))
        argv = tiny_argv(paths, root, model, tmp_path)
        assert train.main([*argv, "--run_dir", str(run)]) == 0
    # No fit, calibration or choice may see a test image of a set of any kind.
    assert sets == {"shapes_train", "shapes_validation"}
    used = read_checkpoint(run / "detector.ckpt")["settings"]
    assert merge(used, detector_section(paths)) == used
    detector = Detector.load(run / "detector.ckpt")
    denoiser = detector.denoiser
    assert denoiser.has_latents
    assert type(denoiser.network).__name__ == network
    if family == "stable_diffusion":
        prompts = encode_prompts(model, CLASSES, "a photo of a {name}")
        torch.testing.assert_close(denoiser.context.table.detach(), prompts)
    scores = detector.score(torch.rand(2, 3, 16, 16))
    assert scores.shape == (2,)
    assert scores.isfinite().all()
