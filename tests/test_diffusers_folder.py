"""Diffusion models as diffusers folders, out and in again."""

import json

import pytest
import torch
from diffusers import DDPMPipeline, DiTTransformer2DModel
from safetensors.torch import load_file, save_file
from tiny_models import tiny_unet

from diffguard.diffusers_folder import label_classes, load_diffusers, save_diffusers
from diffguard.errors import UserError

SCHEDULER = {
    "beta_schedule": "linear",
    "num_train_timesteps": 50,
    "prediction_type": "v_prediction",
}


def dit(classes=3):
    torch.manual_seed(0)
    return DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=1,
        out_channels=2,
        num_layers=1,
        norm_num_groups=4,
        sample_size=8,
        patch_size=4,
        num_embeds_ada_norm=classes,
    ).eval()


NETWORKS = {
    "unet": lambda: tiny_unet(1, 8, 3),
    "unconditional": lambda: tiny_unet(1, 8),
    "transformer": dit,
}


def load(folder, **options):
    sizes = {"image_size": 8, "image_channels": 1, "classifier_classes": 3}
    return load_diffusers(folder, **{**sizes, **options})


@pytest.fixture
def folder(tmp_path):
    """A saved U-Net of three classes, and its weights file."""
    save_diffusers(tmp_path / "model", tiny_unet(1, 8, 3), SCHEDULER)
    return tmp_path / "model"


@pytest.fixture
def weights(folder):
    return folder / "unet" / "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_saved_model_gives_the_same_outputs(tmp_path, kind):
    network = NETWORKS[kind]()
    save_diffusers(tmp_path / "model", network, SCHEDULER)
    denoiser, spec = load(tmp_path / "model")
    denoiser.eval()
    x = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0, 20, 49])
    labels = None if kind == "unconditional" else torch.tensor([0, 2, 3])
    with torch.no_grad():
        expected = network(x, t, class_labels=labels).sample
        assert torch.equal(denoiser.network(x, t, class_labels=labels).sample, expected)
        # A learned variance is left out, and v becomes the noise.
        alpha = denoiser.schedule.alphas_cumprod[t].to(x).view(-1, 1, 1, 1)
        noise = alpha.sqrt() * expected[:, :1] + (1 - alpha).sqrt() * x
        torch.testing.assert_close(denoiser.predict_noise(x, t, labels), noise)
    assert spec.network == type(network).__name__
    assert spec.scheduler["prediction_type"] == "v_prediction"
    assert (spec.num_classes, spec.null_class) == (
        (None, None) if kind == "unconditional" else (3, 3)
    )
    assert not any(key.startswith("_") for key in (*spec.config, *spec.scheduler))


def test_a_unet_is_a_pipeline_that_diffusers_runs(folder):
    pipeline = DDPMPipeline.from_pretrained(folder, local_files_only=True)
    assert pipeline.scheduler.config.num_train_timesteps == 50
    assert not list(folder.rglob("*.bin"))


def test_an_older_folder_is_replaced_in_whole(folder):
    (folder / "old.txt").write_text("old")
    save_diffusers(folder, tiny_unet(1, 8, 3, seed=5), SCHEDULER)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert not (folder / "old.txt").exists()
    fresh = tiny_unet(1, 8, 3, seed=5).state_dict()
    stored = load(folder)[0].network.state_dict()
    assert all(torch.equal(stored[name], value) for name, value in fresh.items())


def test_a_crash_while_writing_leaves_the_old_folder(folder, monkeypatch):
    before = load(folder)[0].network.state_dict()
    monkeypatch.setattr(DDPMPipeline, "save_pretrained", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_diffusers(folder, tiny_unet(1, 8, 3, seed=5), SCHEDULER)
    after = load(folder)[0].network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_options_reach_the_denoiser(folder):
    denoiser, spec = load(folder, image_size=6, image_channels=3, fit="pad", antialias=False)
    assert denoiser.encode(torch.rand(2, 3, 6, 6)).shape == (2, 1, 8, 8)
    assert (spec.fit, spec.antialias, spec.image_size, spec.image_channels) == ("pad", False, 6, 3)


@pytest.mark.parametrize(
    ("network", "config", "classifier", "null", "expected"),
    [
        # A row more than the classifier's classes is that of no label.
        ("UNet2DModel", {"num_class_embeds": 4}, 3, None, (3, 3)),
        # As many rows as classes: no label cannot be said.
        ("UNet2DModel", {"num_class_embeds": 3}, 3, None, (3, None)),
        ("UNet2DModel", {"num_class_embeds": 4}, 3, 0, (3, 0)),
        ("UNet2DModel", {"num_class_embeds": 9}, 3, None, (9, None)),
        ("UNet2DModel", {"num_class_embeds": None}, 3, None, (None, None)),
        ("UNet2DModel", {}, 3, None, (None, None)),
        ("DiTTransformer2DModel", {"num_embeds_ada_norm": 3}, 3, None, (3, 3)),
        ("DiTTransformer2DModel", {"num_embeds_ada_norm": 1000}, 3, None, (1000, 1000)),
    ],
)
def test_which_label_means_none(network, config, classifier, null, expected):
    assert label_classes(network, config, classifier, null) == expected


def _changed(change):
    def spoil(folder, weights):
        tensors = load_file(weights)
        change(tensors)
        save_file(tensors, weights)

    return spoil


def _as_bin(folder, weights):
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()


SPOILED = {
    "no weights": (lambda f, w: w.unlink(), "holds no .safetensors weights"),
    ".bin alone": (_as_bin, "holds no .safetensors weights"),
    "text": (lambda f, w: w.write_text("hello"), "cannot be loaded"),
    "truncated": (lambda f, w: w.write_bytes(w.read_bytes()[:-50]), "cannot be loaded"),
    "a tensor less": (_changed(lambda t: t.pop("conv_in.bias")), r"1 tensors .* \(conv_in.bias\)"),
    "a tensor more": (_changed(lambda t: t.update(x=torch.zeros(1))), r"1 tensors .* \(x\)"),
    "a shape": (
        _changed(lambda t: t.update({"conv_in.bias": torch.zeros(3)})),
        "cannot be loaded.*conv_in.bias",
    ),
    "no scheduler": (
        lambda f, w: (f / "scheduler" / "scheduler_config.json").unlink(),
        "scheduler_config.json cannot be read",
    ),
    "no JSON": (
        lambda f, w: (f / "unet" / "config.json").write_text("{"),
        "config.json cannot be read",
    ),
    "another pipeline": (
        lambda f, w: (f / "unet").rename(f / "vae"),
        "neither unet/config.json nor transformer/config.json",
    ),
    "another network": (
        lambda f, w: (f / "unet" / "config.json").write_text(
            json.dumps({"_class_name": "UNet2DConditionModel"})
        ),
        "cannot be loaded",
    ),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_spoiled_folders_are_refused_in_one_line(folder, weights, kind):
    spoil, said = SPOILED[kind]
    spoil(folder, weights)
    with pytest.raises(UserError, match=said) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_an_absent_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="is no folder: expected a diffusers folder"):
        load(tmp_path / "absent")
